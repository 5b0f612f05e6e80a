"""Watches a search from within Ray Tune's loop: keeps its folder, and shows it."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, time
from typing import Any, TextIO

from ray.tune import Callback
from ray.tune.experiment import Trial

from shoal.app.folder import CONFIG, PROGRESS, finite, read_progress, write_json
from shoal.config.settings import to_dict
from shoal.errors import ConfigError
from shoal.process import interrupts
from shoal.tuning.board import STATUS, Row, Status, best_of, row, settings_text, varying
from shoal.tuning.search import Search
from shoal.tuning.trial import ERROR, SEARCH, note_error, number

EVERY = 1.0  # seconds between two looks that are written down
_STATES = {
    Trial.PENDING: "waiting",
    Trial.RUNNING: "running",
    Trial.PAUSED: "paused",
    Trial.TERMINATED: "done",
    Trial.ERROR: "error",
}


class Watch(Callback):
    """Writes each trial's folder and the status of all; ``display`` shows what is new.

    Args:
        searches: the experiments.
        folder: of them all.
        display: has ``say(line)`` and ``show(status)``.
        cpus: that there are.
        before: seconds of earlier sittings of a search that goes on.
    """

    def __init__(
        self,
        searches: Sequence[Search],
        folder: Path,
        display: Any,
        cpus: float,
        rows: Sequence[Row] = (),
        before: float = 0.0,
    ) -> None:
        self._tune, self._folder, self._display = searches[0].tune, folder, display
        self._total = sum(x.tune.samples * x.grid for x in searches)
        self._cpus, self._before, self._begun = cpus, before, monotonic()
        self._best: dict[str, float] = {
            r["folder"]: r["best"] for r in rows if r["best"] is not None
        }
        self._last: dict[str, dict[str, Any]] = {}
        self._files: dict[str, TextIO] = {}
        self._states: dict[str, str] = {r["folder"]: r["state"] for r in rows}
        self._looked = self._due = 0.0
        self.interrupted = self._asked = False
        self.trials: list[Any] = []

    # ------------------------------------------------------------ what Tune tells

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        folder = place(trial)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_config(trial)
        self._take_up(trial)
        self._soon()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        folder = str(place(trial))
        if folder not in self._files:
            self._files[folder] = (Path(folder) / PROGRESS).open("a", encoding="utf-8")
        own = ("config", "last_returns", "should_checkpoint", "done")
        report = {k: x for k, x in result.items() if k not in own}
        file = self._files[folder]
        file.write(json.dumps(finite(report), default=str) + "\n")
        file.flush()
        score = result.get(self._tune.metric)
        self._last[folder] = report
        if isinstance(score, int | float) and score == score:
            better = max if self._tune.mode == "max" else min
            self._best[folder] = better(self._best.get(folder, score), score)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._closed(trial)
        self._soon()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._closed(trial)
        if not (place(trial) / ERROR).exists():  # its process could not write it
            note_error(place(trial), RuntimeError(_end_of(trial)))
        self._soon()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not (place(trial) / ERROR).exists():
            name = trial_name(trial)
            self._display.say(
                f"trial {name}: {_end_of(trial)}; it goes on from its last checkpoint"
            )

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.trials = trials
        if monotonic() >= self._due:
            self._look(trials)
        try:
            interrupts.check()
        except KeyboardInterrupt:
            self.interrupted = True
        if self.interrupted and not self._asked:
            self._asked = True
            signal.raise_signal(signal.SIGUSR1)  # by which Tune is asked to end, its state saved

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self.trials = trials

    # ------------------------------------------------------------ what is kept

    def _write_config(self, trial: Any) -> None:
        """The configuration that `shoal train --config` repeats this trial with."""
        search, chosen = settings_of(trial)
        try:
            config = search.config(chosen, number(trial.trial_id))
        except ConfigError:  # the trial says so itself
            return
        write_json(place(trial) / CONFIG, to_dict(config))

    def _take_up(self, trial: Any) -> None:
        """Drop what a trial reported after the checkpoint of its own that it goes on from."""
        result, folder = trial.latest_checkpoint_result, place(trial)
        if not (folder / PROGRESS).is_file():
            return
        if result is not None and "copied_" in Path(result.checkpoint.path).name:
            return
        at = 0 if result is None else int((result.metrics or {}).get("env_steps", 0))
        reports = read_progress(folder)
        kept = [report for report in reports if report["env_steps"] <= at]
        if len(kept) < len(reports):
            self._closed(trial)
            beside = folder / f".{PROGRESS}"
            beside.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
            beside.replace(folder / PROGRESS)

    def _closed(self, trial: Any) -> None:
        file = self._files.pop(str(place(trial)), None)
        if file is not None:
            file.close()

    def _soon(self) -> None:
        """A trial has begun or ended: look earlier."""
        self._due = min(self._due, self._looked + EVERY / 4)

    def _look(self, trials: list[Any]) -> None:
        """Write the status, say which trials have come to an end, and show the rest."""
        self._looked = monotonic()
        self._due = self._looked + EVERY
        status = self.status(trials)
        write_json(self._folder / STATUS, status)
        names = varying(status["trials"])
        for each in status["trials"]:
            before = self._states.get(each["folder"])
            if each["state"] != before and each["state"] in ("done", "error"):
                told = each["error"] or (
                    f"{self._tune.metric} {each['last']:.1f} at {each['env_steps']:,} env steps"
                    if each["last"] is not None
                    else "no episode has ended"
                )
                line = f"trial {each['trial']} {each['state']}: {told}"
                self._display.say(f"{line}  {settings_text(each, names)}".rstrip())
            self._states[each["folder"]] = each["state"]
        self._display.show(status)

    def status(self, trials: list[Any]) -> Status:
        """The status as a tree of plain values."""
        rows = sorted((self._row(trial) for trial in trials), key=lambda x: x["trial"])
        asked = sum(
            trial.placement_group_factory.required_resources.get("CPU", 0.0)
            for trial in trials
            if trial.status == Trial.RUNNING
        )
        best = best_of(rows, self._tune.mode)
        return {
            "folder": str(self._folder),
            "time": time(),
            "seconds": self._before + monotonic() - self._begun,
            "cpus": [asked, self._cpus],
            "total": max(self._total, len(rows)),
            "metric": self._tune.metric,
            "mode": self._tune.mode,
            "best": None if best is None else best["trial"],
            "trials": rows,
        }

    def _row(self, trial: Any) -> Row:
        search, chosen = settings_of(trial)
        folder = place(trial)
        report = self._last.get(str(folder)) or trial.last_result or {}
        last = report.get(self._tune.metric)
        error = folder / ERROR
        failed = trial.status == Trial.ERROR and error.is_file()
        what = json.loads(error.read_text(encoding="utf-8"))["what"] if failed else None
        running = trial.status == Trial.RUNNING
        return row(
            {
                "trial": trial_name(trial),
                "id": trial.trial_id,
                "experiment": search.name,
                "state": _STATES[trial.status],
                "settings": to_dict(search.given(chosen)),
                "pid": report.get("pid") if running else None,
                "node": report.get("node_ip"),
                "seconds": float(report.get("time_total_s") or 0.0),
                "env_steps": int(report.get("env_steps") or 0),
                "last": last if isinstance(last, int | float) and last == last else None,
                "best": self._best.get(str(folder)),
                "error": what,
                "error_file": str(error) if failed else None,
                "folder": str(folder),
            }
        )

    def close(self) -> None:
        """Write the end down."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._look(self.trials)


def place(trial: Any) -> Path:
    """The folder of a trial."""
    return Path(trial.storage.trial_fs_path)


def trial_name(trial: Any) -> str:
    """The name of a trial in its experiment: its number, or what its searcher called it."""
    found = number(trial.trial_id)
    return str(trial.trial_id) if found is None else f"{found:05d}"


def settings_of(trial: Any) -> tuple[Search, dict[str, Any]]:
    """What is searched, and the settings of a trial in it."""
    config = dict(trial.config)
    search = config.pop(SEARCH)
    return search, config


def _end_of(trial: Any) -> str:
    """What Ray says of the end of a trial's process."""
    path = trial.error_file
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines() if path else []
    except OSError:
        lines = []
    found = [line.strip() for line in lines if "exit" in line.lower() or "died" in line.lower()]
    return "its process has ended" + (f" ({found[-1]})" if found else "")
