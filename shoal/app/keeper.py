"""What a run leaves in its folder while it trains, and who else is told.

Reports, checkpoints when they are due, the best policy, films, and the summary at the end.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from shoal import __version__
from shoal.app.console import Console, value
from shoal.app.folder import (
    CHECKPOINT,
    CONFIG,
    SUMMARY,
    Log,
    Report,
    finite,
    locked,
    write_config,
    write_json,
    write_video,
)
from shoal.checkpoint.files import best_result
from shoal.config.settings import to_dict
from shoal.errors import cut
from shoal.evaluating import Best
from shoal.loggers.base import Begun
from shoal.loggers.several import FILE as LOGGERS
from shoal.loggers.several import Log as Wanted
from shoal.loggers.several import Loggers
from shoal.process.machine import cpus, system
from shoal.trainer import Trainer

_PACKAGES = ("numpy", "gymnasium", "jax", "torch", "ray")


def _evaluation(report: Report, best: bool, episodes: int) -> str:
    """What an evaluation found."""
    found = {name: report[f"evaluation/{name}"] for name in ("return_mean", "return_std")}
    return (
        f"evaluation at {report['evaluation/env_steps']:,} env steps: return "
        f"{value(found['return_mean'])} +- {value(found['return_std'])}, length "
        f"{report['evaluation/length_mean']:.1f}, {episodes} episode{'s' * (episodes > 1)}"
        + (", the best so far" if best else "")
    )


class Keeper:
    """Writes the run folder: configuration, reports, checkpoints when they are due, summary."""

    def __init__(
        self, trainer: Trainer, folder: Path, console: Console, resumed: bool, log: Wanted
    ) -> None:
        self._trainer, self._folder, self._console = trainer, folder, console
        self.folder = folder
        # What was taken is written down, not "auto": elsewhere that might mean another.
        self._config = {**to_dict(trainer.config), "learner": trainer.framework}
        changed = write_config(folder, self._config)
        env_steps = trainer.run.counters.env_steps
        self._loggers = Loggers(log, folder, console.say)
        self._log = Log(folder)
        self._begun = Begun(folder, self._config, env_steps if resumed else None)
        self._loggers.begin(self._begun)
        if (known := self._loggers.to_save()) is not None:
            write_json(folder / LOGGERS, known)
        # Env steps at the newest checkpoint. It holds the configuration too: changed, it is to be
        # written again.
        self._at = env_steps if resumed and not changed else None
        self._time, self._reports = perf_counter(), 0
        self.saved = resumed  # whether there is a checkpoint at all
        self._locks = ExitStack()
        evaluations = trainer.evaluations
        if evaluations.evaluates:  # the best is what lies in the folder, whatever came after
            kept = best_result(folder / CHECKPOINT)
            evaluations.best = None if kept is None else Best(*kept)
        self._best, self._filmed = evaluations.best, evaluations.video

    def keep(self, report: Report) -> None:
        """Write a report down."""
        self._reports += 1
        self._see_after_folder()
        self._log.write(report)
        self._loggers.report(report)

    def keep_evaluation(self, report: Report) -> None:
        """Keep the policy of the best evaluation, and the newest film; say what was found."""
        evaluations = self._trainer.evaluations
        if evaluations.video is not None and evaluations.video is not self._filmed:
            self._filmed = evaluations.video
            env_steps, film = evaluations.video
            self._loggers.video(env_steps, write_video(self._folder, env_steps, film))
        best = evaluations.best
        if best is not None and best is not self._best:
            if not self.saved:  # the best is beside those that a run can go on from
                self._save()
            self._trainer.save_best(self._folder / CHECKPOINT)
            self._best = best
        if (at := report.get("evaluation/env_steps")) is not None:
            found = best is not None and best.env_steps == at
            episodes = self._trainer.config.evaluation.episodes
            self._console.say(_evaluation(report, found, episodes))

    def save_if_due(self) -> None:
        """Save if enough time or reports have passed since the last time.

        Time passes within a report too: how long that is does not matter.
        """
        limits = self._trainer.config.checkpointing
        every = limits.every_iterations
        elapsed = perf_counter() - self._time
        if elapsed >= limits.every_seconds or (every is not None and self._reports >= every):
            self._save()

    def end(
        self, stopped_by: str, failure: BaseException | None, started: str
    ) -> BaseException | None:
        """Write what a run leaves behind; the error that ended it, or the first one here."""

        def summarise() -> None:
            ended_by = "error" if failure is not None else stopped_by
            summary = _summary(self._trainer, ended_by, failure, started)
            write_json(self._folder / SUMMARY, summary)  # first, as a service may take its time
            self._loggers.end(summary)
            if self._loggers.failed:
                failed = {"failed_loggers": self._loggers.failed}
                write_json(self._folder / SUMMARY, {**summary, **failed})

        lost: dict[str, Exception] = {}
        for what, write in (
            ("log", self._see_after_folder),
            ("log", self._log.close),
            ("checkpoint", self._save_last),
            ("summary", summarise),
            ("lock", self._locks.close),
        ):
            try:
                write()
            except Exception as error:
                if failure is None:
                    failure = error
                else:
                    lost.setdefault(what, error)
        if lost and failure is not None:
            explained = isinstance(failure.__cause__, OSError)  # as a disk that is full
            why = "" if explained else f": {next(iter(lost.values()))}"
            failure.add_note(f"the {' and the '.join(lost)} could not be written either{why}")
        return failure

    def _see_after_folder(self) -> None:
        """Make the run folder anew if somebody has deleted or moved it."""
        if not (self._folder / CONFIG).is_file():
            self._console.say(f"the run folder is gone, and is written anew: {self._folder}")
            self._folder.mkdir(parents=True, exist_ok=True)
            self._locks.enter_context(locked(self._folder))  # the first lock went with the folder
            write_config(self._folder, self._config)
            self._log.begin_anew()
            self._loggers.begin_anew(replace(self._begun, env_steps=None))
            self._at, self.saved = None, False
            self._best, evaluations = None, self._trainer.evaluations
            if evaluations.best is not None and evaluations.best.weights is None:
                evaluations.best = None  # its policy was in the folder, and nowhere else

    def _save_last(self) -> None:
        """Save the end of the run, if anything was learned."""
        counters = self._trainer.run.counters
        if counters.gradient_steps and counters.env_steps != self._at:
            self._save()

    def _save(self) -> None:
        self._see_after_folder()
        self._trainer.save(self._folder / CHECKPOINT)
        self._at, self.saved = self._trainer.run.counters.env_steps, True
        self._time, self._reports = perf_counter(), 0


def _summary(
    trainer: Trainer, stopped_by: str, failure: BaseException | None, started: str
) -> dict[str, Any]:
    counters, recorder, config = trainer.run.counters, trainer.recorder, trainer.config
    error = {} if failure is None else {"error": cut(f"{type(failure).__name__}: {failure}")}
    return finite(
        {
            "stopped_by": stopped_by,
            **error,
            "return_mean": recorder.return_mean(),
            **_best(trainer),
            "env_steps": counters.env_steps,
            "wall_s": recorder.wall_s,
            "steps_per_s": counters.env_steps / max(recorder.wall_s, 1e-9),
            "episodes": counters.episodes,
            "gradient_steps": counters.gradient_steps,
            "system": config.system,
            "env": to_dict(config.env),
            "seed": config.seed,
            "learner": trainer.framework,
            "started": started,
            "ended": now(),
            "versions": _versions(),
            "machine": {"cpus": cpus(), "system": system()},
        }
    )


def _best(trainer: Trainer) -> dict[str, Any]:
    """What the summary says of evaluations."""
    evaluations, best = trainer.evaluations, trainer.evaluations.best
    found: dict[str, Any] = {"evaluation/return_mean": evaluations.return_mean}
    if best is not None:
        found["evaluation/best"] = {"return_mean": best.return_mean, "env_steps": best.env_steps}
    return found if evaluations.evaluates else {}


def _versions() -> dict[str, str]:
    """Of Python, of Shoal, and of those packages that the run made use of."""
    loaded = {name: sys.modules[name] for name in _PACKAGES if name in sys.modules}
    own = {"python": sys.version.split()[0], "shoal": __version__}
    return own | {name: str(module.__version__) for name, module in loaded.items()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
