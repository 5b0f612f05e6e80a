"""A Shoal trainer as a trainable of Ray Tune's: what runs in a trial's process.

Checkpoints are Shoal's own, reports are Shoal's reports, and the settings are always those that
Tune has for the trial: nothing that a checkpoint says of settings is read.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from ray import tune
from ray.exceptions import RayError

from shoal.config.config import Config
from shoal.config.settings import to_dict
from shoal.errors import ShoalError
from shoal.process import machine
from shoal.process.tracebacks import describe
from shoal.systems.configure import differences, settable
from shoal.trainer import Trainer

SEARCH = "~search"  # key of a trial's configuration under which the Search is; others are settings
ERROR = "error.json"  # in a trial's folder: what ended it
IN_PLACE = ("sync_samples", "sync_replay", "async_samples")  # plans that leave nothing behind
LAST = 10  # episodes whose returns go along with each report, for tests of a difference


class ShoalTrial(tune.Trainable):
    """One trial. Its process may be given one trial after the other."""

    def setup(self, config: dict[str, Any]) -> None:
        logging.getLogger("ray").setLevel(logging.WARNING)
        self._trainer: Trainer | None = None
        search = config[SEARCH]
        sys.path += [path for path in search.paths if path not in sys.path]
        resources = self.trial_resources
        if resources is not None:
            machine.limit(int(resources.head_cpus))
        self._take(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        self._take(config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        """The settings of the trial that this process has now; the trainer comes with its state."""
        self._refuse_ended()
        with self._noting():
            search = config[SEARCH]
            chosen = {name: x for name, x in config.items() if name != SEARCH}
            self._wanted: Config = search.config(chosen, number(self.trial_id))
        self._fresh = True  # whether the trainer is to begin anew with these settings
        self._saved = perf_counter()

    def _refuse_ended(self) -> None:
        """An error in the user's code, or in the settings, would only come again."""
        found = self._folder / ERROR
        if found.is_file():
            raise ShoalError(json.loads(found.read_text(encoding="utf-8"))["what"], str(found))

    @property
    def _folder(self) -> Path:
        storage: Any = self._storage
        return Path(storage.trial_fs_path)

    def step(self) -> dict[str, Any]:
        with self._noting():
            if self._fresh:
                self._begin()
            trainer = self._trainer
            assert trainer is not None
            report = dict(trainer.train())
        if report["return_mean"] is None:
            report["return_mean"] = float("nan")  # Tune's schedulers pass over these
        report["last_returns"] = [x for x, _ in trainer.recorder.episodes][-LAST:]
        report["done"] = trainer.stopped_by() is not None
        every = self._wanted.checkpointing
        due = perf_counter() - self._saved >= every.every_seconds
        if due and not report["done"]:
            report["should_checkpoint"] = True
        return report

    def _begin(self) -> None:
        """A new trainer, in the place of that of an earlier trial."""
        self.cleanup()
        wanted = self._wanted
        self._trainer = Trainer(wanted, wanted.env if callable(wanted.env) else None)
        self._fresh = False

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        with self._noting():
            if self._trainer is None or self._fresh:
                self._begin()
            assert self._trainer is not None
            self._trainer.save(checkpoint_dir, keep=1)
        self._saved = perf_counter()

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from a checkpoint, this trial's or another's, with this trial's settings."""
        with self._noting():
            trainer = self._trainer
            changes = {} if trainer is None else differences(trainer.config, self._wanted)
            if trainer is not None and to_dict(trainer.config.env) == to_dict(self._wanted.env):
                changes.pop("env", None)  # a callable that was sent twice is no other
            if trainer is None or not (
                self._wanted.plan.name in IN_PLACE
                and all(settable(self._wanted, path) for path in changes)
            ):
                self._begin()
            else:
                trainer.set(**_with_stops(changes, self._wanted))
            assert self._trainer is not None
            self._trainer.load(checkpoint)
        self._fresh, self._saved = False, perf_counter()

    def cleanup(self) -> None:
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            trainer.stop()

    def _noting(self) -> _Noting:
        return _Noting(self)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        search = config[SEARCH]
        chosen = {name: x for name, x in config.items() if name != SEARCH}
        return tune.PlacementGroupFactory(bundles(search.config(chosen)))


class _Noting:
    """Writes the first error of a trial to its folder, as a user is to read it."""

    def __init__(self, trial: ShoalTrial) -> None:
        self._trial = trial

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception | SystemExit) and not isinstance(error, RayError):
            note_error(self._trial._folder, error)
            self._trial.cleanup()
            if not isinstance(error, ShoalError):  # whatever it is, Tune must be able to read it
                raise ShoalError(f"{type(error).__name__}: {error}") from None


def note_error(folder: Path, error: BaseException) -> None:
    """Write what ended a trial, unless something did before."""
    if not (folder / ERROR).exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = describe(error)
        what = text.partition("\n")[0].removeprefix("ConfigError: ")
        (folder / ERROR).write_text(json.dumps({"what": what, "text": text}), encoding="utf-8")


def _with_stops(changes: Mapping[str, Any], wanted: Config) -> dict[str, Any]:
    """The changes; all stops among them, if any is: those that are not given no longer hold."""
    if not any(path.startswith("stop.") for path in changes):
        return dict(changes)
    stops = {f"stop.{name}": x for name, x in to_dict(wanted.stop).items() if x is not None}
    return {k: x for k, x in changes.items() if not k.startswith("stop.")} | stops


def number(trial_id: str) -> int | None:
    """The number of a trial that a grid or random draws made; None of one that a searcher made."""
    tail = trial_id.rpartition("_")[2]
    return int(tail) if "_" in trial_id and tail.isdecimal() else None


def bundles(config: Config) -> list[dict[str, float]]:
    """What a trial uses: one CPU for the trainer, and those of its workers."""
    rollout, cluster = config.rollout, config.cluster
    alone = rollout.workers == 0 or cluster.in_process
    each = 1.0 if cluster.cpus_per_worker is None else cluster.cpus_per_worker
    return [{"CPU": 1.0}] + [{"CPU": each}] * (0 if alone or not each else rollout.workers)


os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
