"""A run: the loop around a trainer that shows, keeps and saves what happens."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from shoal.algorithms.fixed import RANDOM
from shoal.app.console import Console, Silent, count, duration, value
from shoal.app.folder import (
    CHECKPOINT,
    CONFIG,
    SUMMARY,
    Report,
    started_at,
)
from shoal.app.keeper import Keeper, now
from shoal.checkpoint.files import BEST
from shoal.config.config import Config
from shoal.config.settings import named, to_dict
from shoal.config.trust import asks, of_env
from shoal.evaluating import opponent
from shoal.loggers.several import DEFAULT
from shoal.loggers.several import Log as Wanted
from shoal.nets.array_net import describe_inputs
from shoal.process import interrupts
from shoal.replay.settings import size
from shoal.trainer import OFFLINE_EPISODES, Trainer
from shoal.tuning.lineage import Replayed

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
    ``several.chosen``. Whatever ends the run, there is a checkpoint of the last whole update (if
    there was one) and a summary. An error is raised again after that.

    Raises ConfigError if a logger cannot begin.
    """
    started = now()
    if kept is not None:
        started = started_at(folder) or started
        (folder / SUMMARY).unlink(missing_ok=True)
    keeper = Keeper(trainer, folder, console, kept is not None, log)
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


def _loop(trainer: Trainer, console: Console, keeper: Keeper) -> tuple[str, BaseException | None]:
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
