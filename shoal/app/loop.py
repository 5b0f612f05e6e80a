"""A run: the loop around a trainer that shows, keeps and saves what happens."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from shoal import __version__
from shoal.algorithms.fixed import RANDOM
from shoal.app.console import Console, Silent, count, duration, value
from shoal.app.folder import (
    CHECKPOINT,
    CONFIG,
    SUMMARY,
    Log,
    Report,
    finite,
    locked,
    started_at,
    write_config,
    write_json,
    write_video,
)
from shoal.checkpoint.files import BEST, best_result
from shoal.config.config import Config
from shoal.config.settings import named, to_dict
from shoal.config.trust import asks, of_env
from shoal.errors import cut
from shoal.evaluating import Best, opponent
from shoal.loggers.base import Begun
from shoal.loggers.several import DEFAULT, Loggers
from shoal.loggers.several import FILE as LOGGERS
from shoal.loggers.several import Log as Wanted
from shoal.nets.array_net import describe_inputs
from shoal.process import interrupts
from shoal.process.machine import cpus, system
from shoal.replay.settings import size
from shoal.trainer import OFFLINE_EPISODES, Trainer
from shoal.tuning.lineage import Replayed

_PACKAGES = ("numpy", "gymnasium", "jax", "torch", "ray")


# ------------------------------------------------------------------ warnings


class _Handler(logging.Handler):
    """Log records as lines of a console."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.say(record.getMessage())


@contextmanager
def warnings_on(console: Console) -> Iterator[None]:
    """Warnings of the fleet appear on this console, also above a live line.

    They go where Python's logging sends them if the console prints nothing.
    """
    if isinstance(console, Silent):
        yield
        return
    log, handler = logging.getLogger("shoal"), _Handler(console)
    log.addHandler(handler)
    before, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


# ------------------------------------------------------------------ the run


def train(
    trainer: Trainer,
    folder: Path,
    console: Console,
    kept: list[Report] | None = None,
    log: Wanted = DEFAULT,
) -> int:
    """Train until a stop condition, a signal or an error ends it; returns the exit code.

    ``kept`` are the reports of a run that goes on; None is a new one. ``log``: the loggers, see
    ``several.wanted``. Whatever ends the run, there is a checkpoint of the last whole update (if
    there was one) and a summary. An error is raised again after that.

    Raises ConfigError if a logger cannot begin.
    """
    started = _now()
    if kept is not None:
        started = started_at(folder) or started
        (folder / SUMMARY).unlink(missing_ok=True)
    keeper = _Keeper(trainer, folder, console, kept is not None, log)
    returns = [r["return_mean"] for r in kept or [] if r["return_mean"] is not None]
    wall_s, env_steps = trainer.recorder.wall_s, trainer.run.counters.env_steps
    with interrupts.listening(), interrupts.deferred():
        console.begin(trainer.config.stop, returns[0] if returns else None, wall_s, env_steps)
        stopped_by, failure = _loop(trainer, console, keeper)

        with interrupts.shielded():
            console.end()
            failure = keeper.end(stopped_by, failure, started)
            stopped_by = "error" if failure is not None else stopped_by
            console.say(_farewell(trainer, folder, stopped_by, keeper.saved))
            interrupts.dismiss()
        code = interrupts.exit_code() if stopped_by == "interrupt" else 0
    if failure is not None:
        raise failure
    return code


def _loop(trainer: Trainer, console: Console, keeper: _Keeper) -> tuple[str, BaseException | None]:
    """Reports until the end; what ended them, and the error if it was one."""
    begun, before, recorder = perf_counter(), trainer.recorder.wall_s, trainer.recorder
    stopped_by: str | None

    replayed = Replayed(keeper.folder)

    def between() -> None:
        replayed.apply(trainer)
        reported, recorder.wall_s = recorder.wall_s, before + perf_counter() - begun
        keeper.save_if_due()
        recorder.wall_s = reported  # the report counts its own seconds

    try:
        while (stopped_by := trainer.stopped_by()) is None:
            replayed.apply(trainer)
            report = trainer.train(between)
            keeper.keep(report)
            console.report(report)
            keeper.keep_evaluation(report)
            if "offline/return_mean" in report:
                console.say(_offline(report))
            keeper.save_if_due()
            recorder.wall_s = before + perf_counter() - begun  # logging and saving take time too
    except KeyboardInterrupt:
        return "interrupt", None
    except (Exception, SystemExit) as error:  # an environment may call sys.exit
        return "error", error
    finally:
        recorder.wall_s = before + perf_counter() - begun
    return stopped_by, None


def _offline(report: Report) -> str:
    """What came of learning from demonstrations alone."""
    mean, std = report["offline/return_mean"], report["offline/return_std"]
    return (
        f"{report['gradient_steps']:,} gradient steps on demonstrations alone: return "
        f"{value(mean)} +- {value(std)} over {OFFLINE_EPISODES} episodes; sampling begins"
    )


def _evaluation(report: Report, best: bool, episodes: int) -> str:
    """What an evaluation found."""
    found = {name: report[f"evaluation/{name}"] for name in ("return_mean", "return_std")}
    return (
        f"evaluation at {report['evaluation/env_steps']:,} env steps: return "
        f"{value(found['return_mean'])} +- {value(found['return_std'])}, length "
        f"{report['evaluation/length_mean']:.1f}, {episodes} episode{'s' * (episodes > 1)}"
        + (", the best so far" if best else "")
    )


class _Keeper:
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
        if (known := self._loggers.to_remember()) is not None:
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
            self._loggers.end(summary)
            if self._loggers.failed:
                summary["failed_loggers"] = self._loggers.failed
            write_json(self._folder / SUMMARY, summary)

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
            "ended": _now(),
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _farewell(trainer: Trainer, folder: Path, stopped_by: str, checkpoint: bool) -> str:
    """How it ended, where everything lies, and what to do next."""
    stop, counters, seconds = trainer.config.stop, trainer.run.counters, trainer.recorder.wall_s
    why = {
        "return": f"reached {judged(trainer)} {stop.return_mean or 0:g}",
        "steps": f"reached {stop.env_steps or 0:,} env steps",
        "seconds": f"ran for {duration(stop.seconds or 0)}",
        "interrupt": "interrupted",
        "error": "ended by an error",
    }[stopped_by]
    reached = value(trainer.recorder.return_mean())
    lines = [
        f"{why}: return {reached} after {counters.env_steps:,} env steps and "
        f"{counters.episodes:,} episodes in {duration(seconds)} "
        f"({count(counters.env_steps / max(seconds, 1e-9))} steps/s)",
        f"run folder: {folder}",
    ]
    if trainer.evaluations.best is not None:
        best = trainer.evaluations.best
        where = folder / CHECKPOINT / BEST
        found = f"return {value(best.return_mean)} at {best.env_steps:,} env steps"
        lines.insert(1, f"best evaluation: {found}, kept in {where}")
    stats = trainer.fleet.stats
    if stats.restarts:
        lost = f"{stats.lost_calls} call{'s' * (stats.lost_calls != 1)} lost with them"
        lines.insert(1, f"workers replaced: {sum(stats.restarts.values())} ({lost})")
    if not checkpoint:
        again = command(trainer.config, "train", "--config", str(folder / CONFIG))
        nothing = "nothing was learned yet, so there is no checkpoint"
        unsaved = "what was learned could not be saved"
        lines.append(unsaved if counters.gradient_steps else nothing)
        lines.append(f"begin it anew with: {again}")
    elif stopped_by in ("interrupt", "error"):
        lines.append(f"go on with: {command(trainer.config, 'resume', str(folder))}")
    else:
        which = [] if trainer.evaluations.best is None else ["--best"]
        lines.append(f"next: {command(trainer.config, 'evaluate', str(folder), *which)}")
    return "\n".join(lines)


def command(config: Config, *words: str) -> str:
    """A command to copy. It names an environment that is code: that is imported only if named."""
    name, saved = named(config.env), to_dict(config)
    if of_env(name) is not None:
        words += (name,) if words[0] == "train" else ("--env", name)
    if asks({**saved, "env": ""}):
        words += ("--trust",)
    return shlex.join(["shoal", *words])


def judged(trainer: Trainer) -> str:
    """Which return stop_return is about."""
    return "evaluation return" if trainer.evaluations.evaluates else "return"


def header(trainer: Trainer, folder: Path, default_stop: bool = False) -> str:
    """What is about to run: one line; what ends it and where it is kept: another."""
    config = trainer.config
    stop = config.stop
    ends = [f"{judged(trainer)} {stop.return_mean:g}"] if stop.return_mean is not None else []
    ends += [f"{stop.env_steps:,} env steps"] if stop.env_steps is not None else []
    ends += [f"{stop.seconds:g} seconds"] if stop.seconds is not None else []
    default = " (the default: no --stop-... was given)" if default_stop else ""
    memory = ""
    if trainer.run.replay_bytes:
        rows = f"{config.replay.capacity:,} env steps"
        kept = "" if trainer.saves_replay else ", not saved: a resumed run fills it anew"
        memory = f"replay buffer of {rows}, {size(trainer.run.replay_bytes)}{kept}\n"
    shown = f"{trainer.view}\n" if trainer.view else ""
    seen = "".join(f"{line}\n" for line in _inputs(trainer))
    shown += memory + _evaluates(config)
    return (
        f"{config.system} on {config.env}: {type(config.algorithm).__name__} under "
        f"{config.plan.name}, learner {_learner(trainer)}, "
        f"{_workers(config)}, seed {config.seed}\n"
        f"{seen}{shown}until {' or '.join(ends)}{default}; run folder {folder}"
    )


def _evaluates(config: Config) -> str:
    """What is evaluated and filmed, and when."""
    settings, against, parts = config.evaluation, opponent(config), []
    if settings.every is not None:
        who = "a random player" if against == RANDOM else "self_play.opponent"
        whom = "" if against is None else f" against {who}"
        number = f"{settings.episodes} episode{'s' * (settings.episodes > 1)}"
        parts.append(f"evaluation of {number}{whom} every {settings.every:,}")
    if settings.video_every is not None:
        parts.append(f"film of an episode every {settings.video_every:,}")
    return f"{', '.join(parts)} env steps\n" if parts else ""


def _inputs(trainer: Trainer) -> list[str]:
    """What networks see, if that needs to be said; of each policy."""
    algorithm, spaces = trainer.config.algorithm, trainer.spaces
    if not algorithm.parts:
        return list(describe_inputs(algorithm.network, trainer.model.spaces))
    return [
        f"{name}: {type(part).__name__}"
        + "".join(f"; {line}" for line in describe_inputs(part.network, spaces[name]))
        for name, part in algorithm.parts.items()
    ]


def _workers(config: Config) -> str:
    """How many environments there are, and where."""
    rollout, cluster = config.rollout, config.cluster
    workers, envs = rollout.workers, f"{rollout.envs_per_worker} environments"
    if workers:
        envs = f"{workers} worker{'s' * (workers > 1)} of {envs}"
    if not workers or cluster.in_process:
        return f"{envs} in this process"
    where = f"the cluster {cluster.joined}" if cluster.joined else "this machine (Ray)"
    return f"{envs} on {where}"


def _learner(trainer: Trainer) -> str:
    """Which learner, and why "auto" took it."""
    name = trainer.framework
    if name == "auto":
        return "numpy (nothing is differentiated)"
    device = getattr(trainer.learner, "device", "cpu")
    where = "" if device == "cpu" else f" on {device}"
    return f"{name}{_why(trainer, name)}{where}"


def _why(trainer: Trainer, name: str) -> str:
    if trainer.config.learner != "auto" or trainer.config.algorithm.parts:
        return ""
    net = trainer.model.net
    if net.framework is not None:
        why = "what the network is written in"
    elif name == "torch":
        why = "faster at convolutions"
    else:
        why = "compiles whole updates"
    return f" (auto: {why})"
