"""A whole run from Python: what ``shoal train`` and ``shoal resume`` do on the command line."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from shoal.app import folder as folders
from shoal.app import loop
from shoal.app.console import Console, Silent, create_console
from shoal.config.config import Config, Stop
from shoal.config.settings import to_dict
from shoal.errors import ConfigError
from shoal.loggers.several import DEFAULT, Log, chosen, saved
from shoal.process import interrupts
from shoal.systems.configure import configure, refuse_impossible
from shoal.trainer import Trainer
from shoal.tuning.lineage import SCHEDULE

if TYPE_CHECKING:
    from shoal.policy import Policy, Team

DEFAULT_STEPS = 1_000_000  # env steps of a run that was given no stop


@dataclass(frozen=True)
class Result:
    """What a run left behind. ``summary`` is what its summary.json holds."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def stopped_by(self) -> str:
        """What ended it: "return", "steps" or "seconds"."""
        return str(self.summary["stopped_by"])

    @property
    def return_mean(self) -> float | None:
        """The mean return of its last 100 training episodes; None if no episode has ended."""
        mean: float | None = self.summary["return_mean"]
        return mean

    @property
    def env_steps(self) -> int:
        """Env steps that it sampled."""
        return int(self.summary["env_steps"])

    def reports(self) -> list[dict[str, Any]]:
        """All its reports, in order: the lines of progress.jsonl."""
        return folders.read_progress(self.folder)

    def policy(self, **objects: Any) -> Policy | Team:
        """The trained policy; see ``shoal.load`` for what it takes if code was the user's own."""
        from shoal.policy import load

        policy: Policy | Team = load(self.folder, **objects)
        return policy

    def __repr__(self) -> str:
        mean = "no return" if self.return_mean is None else f"return {self.return_mean:.4g}"
        return f"<Result: {mean} after {self.env_steps:,} env steps, {self.folder}>"


def run(
    system: str | Config | Any = None,
    env: str | Callable[..., Any] | None = None,
    *,
    out: str | Path | None = None,
    log: Log = DEFAULT,
    quiet: bool = False,
    config: Mapping[str, Any] | str | Path | None = None,
    plan: Any = None,
    tuned: bool = False,
    trust: bool = False,
    stop_return: float | None = None,
    stop_steps: int | None = None,
    stop_seconds: float | None = None,
    **fields: Any,
) -> Result:
    """Train in a run folder, as ``shoal train`` does; returns what it left there.

    ``run("ppo", "CartPole-v1", stop_return=475)`` prints progress, keeps reports, checkpoints and a
    summary, and writes for TensorBoard. Without a stop it ends after 1,000,000 env steps.

    Args:
        out: the run folder (default runs/SYSTEM-ENV-SEED-TIME); it must be new or empty.
        log: "tensorboard", "wandb", "mlflow", a ``shoal.Logger``, several of them, or None.
        quiet: print nothing.

    Everything else is as for ``Trainer``.

    Raises what ``Trainer`` raises, ConfigError for a folder that is taken and for a logger that
    cannot begin, and the error that ended training. After Ctrl-C it saves a checkpoint, then raises
    KeyboardInterrupt; after SIGTERM or SIGHUP SystemExit. ``resume`` goes on.
    """
    given = {"stop_return": stop_return, "stop_steps": stop_steps, "stop_seconds": stop_seconds}
    fields |= {name: x for name, x in given.items() if x is not None}
    made = configure(
        system, env, config, fields, plan=plan, use_tuned=tuned, final=False, trust=trust
    )
    made, default_stop = with_stop(made)
    refuse_impossible(made)
    where = None if out is None else Path(out)
    console = Silent() if quiet else create_console()
    code, folder = start(made, env, where, log, console, default_stop)
    return _result(code, folder)


def resume(
    folder: str | Path,
    env: str | Callable[..., Any] | None = None,
    *,
    log: Log | EllipsisType = ...,
    quiet: bool = False,
    network: Any = None,
    algorithm: Any = None,
    plan: Any = None,
    trust: bool = False,
    **fields: Any,
) -> Result:
    """Go on with a run in its folder, as ``shoal resume`` does; returns what it left there.

    ``log``: as in ``run``; by default those named loggers that the run began with. Everything else
    as in ``Trainer.restore``.
    """
    own = {"env": env, "network": network, "algorithm": algorithm, "plan": plan}
    console = Silent() if quiet else create_console()
    found, run_folder, _, _ = folders.find(str(folder), parts=())
    code = go_on(found, run_folder, own, trust, fields, log, console)
    return _result(code, run_folder or found)


def with_stop(config: Config) -> tuple[Config, bool]:
    """A configuration that ends, and whether its stop is the default one."""
    if config.stop != Stop():
        return config, False
    return replace(config, stop=Stop(env_steps=DEFAULT_STEPS)), True


def start(
    config: Config,
    env: Any,
    out: Path | None,
    log: Log,
    console: Console,
    default_stop: bool = False,
    changes: list[Any] | None = None,
) -> tuple[int, Path]:
    """A new run: its exit code and its folder. ``changes`` are those of a schedule."""
    log = chosen(log)
    with interrupts.listening(), interrupts.deferred(), loop.warnings_on(console):
        folder = folders.claim_new(default_out(config)) if out is None else folders.claim(out)
        try:
            with Trainer(config, env if callable(env) else None) as trainer:
                if changes is not None:
                    replayed = {"config": to_dict(config), "schedule": changes}
                    folders.write_json(folder / SCHEDULE, replayed)
                with folders.locked(folder):
                    console.say(loop.header(trainer, folder, default_stop))
                    return loop.train(trainer, folder, console, None, log), folder
        except BaseException:
            if not folders.has_trained(folder):  # so that the same command can be given again
                shutil.rmtree(folder, ignore_errors=True)
            raise


def go_on(
    path: Path,
    folder: Path | None,
    own: Mapping[str, Any],
    trust: bool,
    fields: Mapping[str, Any],
    log: Log | EllipsisType,
    console: Console,
) -> int:
    """A run that goes on from the checkpoint at ``path``: its exit code. ``own``: see restore."""
    if folder is None:
        fix = f'go on in Python: shoal.Trainer.restore("{path}")'
        raise ConfigError("this checkpoint is in no run folder", str(path), fix)
    log = chosen(saved(folder) if isinstance(log, EllipsisType) else log)
    with (
        interrupts.listening(),
        interrupts.deferred(),
        loop.warnings_on(console),
        folders.locked(folder),
        Trainer.restore(path, **own, trust=trust, **fields) as trainer,
    ):
        _refuse_met(trainer, folder)
        console.say(loop.header(trainer, folder))
        kept = folders.take_up(folder, path, trainer.run.counters.env_steps)
        return loop.train(trainer, folder, console, kept, log)


def _refuse_met(trainer: Trainer, folder: Path) -> None:
    """Raise ConfigError if a stop condition already holds; the fix is a later stop."""
    met, stop = trainer.stopped_by(), trainer.config.stop
    if met is None:
        return
    steps, seconds = trainer.run.counters.env_steps, trainer.recorder.wall_s
    what, later = {
        "return": (f"{loop.judged(trainer)} {stop.return_mean}", ("--stop-steps", 2 * steps)),
        "steps": (f"{stop.env_steps} env steps", ("--stop-steps", 2 * steps)),
        "seconds": (f"{stop.seconds} seconds", ("--stop-seconds", 2 * math.ceil(seconds))),
    }[met]
    fix = f"stop later: {loop.command(trainer.config, 'resume', str(folder), *map(str, later))}"
    raise ConfigError(f"the run has met its stop already: {what}", str(folder), fix)


def default_out(config: Config) -> Path:
    """Where a run goes if nobody says: runs/SYSTEM-ENV-SEED-TIME."""
    env = config.env if isinstance(config.env, str) else to_dict(config.env).get("id", "env")
    if ".py:" in str(env):
        env = Path(str(env)).name
    plain = re.sub(r"[^\w.]+", "-", str(env))
    return Path("runs", f"{config.system}-{plain}-{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}")


def _result(code: int, folder: Path) -> Result:
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if code:
        raise SystemExit(code)
    summary = json.loads((folder / folders.SUMMARY).read_text(encoding="utf-8"))
    return Result(folder, summary)
