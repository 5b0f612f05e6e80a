"""A run folder: what is in it, who may write to it, and how a run that goes on finds it.

::

    config.json      the configuration, and the version of Shoal
    progress.jsonl   one report a line
    events.out...    the same for TensorBoard, unless ``log`` says otherwise
    loggers.json     which other loggers there are, and their ids of the run
    checkpoint/      numbered by env steps; see ``shoal.checkpoint.files``
    checkpoint/best  the policy of the best evaluation while training
    videos/          films of single episodes, numbered by env steps
    summary.json     how the run ended; missing while it runs, or when it was killed
    evaluation.json  what ``shoal evaluate`` last found
"""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from shoal import __version__
from shoal.checkpoint import files as checkpoint
from shoal.checkpoint.files import BEST, best_result
from shoal.config.trust import asks
from shoal.errors import ConfigError, ShoalError

Report = dict[str, Any]
CONFIG, PROGRESS, SUMMARY = "config.json", "progress.jsonl", "summary.json"
EVALUATION, CHECKPOINT, LOCK, VIDEOS = "evaluation.json", "checkpoint", ".lock", "videos"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk


def is_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / CONFIG).is_file() or (folder / CHECKPOINT).is_dir()


def has_trained(folder: Path) -> bool:
    """Whether a run there has come as far as anything that is worth keeping."""
    log = folder / PROGRESS
    reported = log.exists() and log.stat().st_size > 0
    return reported or (folder / CHECKPOINT).exists() or (folder / SUMMARY).exists()


def claim(folder: Path) -> Path:
    """Make the folder of a new run; its absolute path, as an environment may change the folder.

    Raises ConfigError if it cannot be made, or is not empty.
    """
    folder, fix = folder.absolute(), "give another --out"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            if is_run(folder):
                resume = f"shoal resume {shlex.quote(str(folder))}"
                fix += f", or go on with the run that is there: {resume}"
            raise ConfigError("the output folder is not empty", str(folder), fix)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        what = f"the output folder cannot be written: {reason}"
        raise ConfigError(what, str(folder), fix) from error
    return folder


def claim_new(folder: Path) -> Path:
    """``folder``, or where it is taken the first free of folder-2, folder-3, ...; made."""
    name, n = folder.name, 1
    while folder.exists():
        n += 1
        folder = folder.with_name(f"{name}-{n}")
    return claim(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process trains in this folder meanwhile. Raises ConfigError when one does already.

    The operating system takes the lock back however this process ends.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            "another process is training in this folder", str(folder), "wait for its end"
        ) from error
    with lock:
        lock.release()  # it counts: `with` has taken it once more
        yield


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    _write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_video(folder: Path, env_steps: int, film: bytes) -> Path:
    """Write a film whole or not at all; returns its path."""
    path = folder / VIDEOS / f"{env_steps}.mp4"
    with _blamed(path):
        path.parent.mkdir(exist_ok=True)
    _write(path, film)
    return path


def _write(path: Path, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _blamed(path):
            beside.write_bytes(data)
            os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """An error of the file system in here is one of this file's."""
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        raise ShoalError(
            f"{path.name} cannot be written: {error.strerror or error}",
            str(path.parent),
            "make room on the disk" if full else "make the folder writable",
        ) from error


def write_config(folder: Path, config: Mapping[str, Any]) -> bool:
    """Write config.json, unless it says the same already; whether it did not."""
    new = {"shoal": __version__, **config}
    path = folder / CONFIG
    changed = bool(read_json(path) != new)
    if changed:
        write_json(path, new)
    return changed


def read_json(path: Path) -> Any:
    """What the file holds; None where there is no such file, or none that can be understood."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_progress(folder: Path) -> list[Report]:
    """The reports of a run; a line that a kill cut off is not one.

    Raises ShoalError where there is no such file, or a line of it cannot be understood.
    """
    path = folder / PROGRESS
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"this is no run folder: {PROGRESS} cannot be read ({reason})"
        raise ShoalError(what, str(folder), "give the folder of a run") from error
    reports = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is cut off
        try:
            report = json.loads(line)
            if not {"env_steps", "wall_s", "return_mean"} <= report.keys():
                raise ValueError("no report of a run")
        except (ValueError, AttributeError) as error:
            what = f"a report cannot be understood: {error}"
            raise ShoalError(what, f"{path}:{number}", "delete that line") from error
        reports.append(report)
    return reports


def take_up(folder: Path, checkpoint: Path, env_steps: int) -> list[Report]:
    """Drop the reports of what came after the checkpoint at ``env_steps``; returns the others.

    ``checkpoint`` is the run folder, or one checkpoint in it that is not the newest: the newer ones
    are then put aside, since the run takes another course from here; so is a newer best one.
    """
    root = checkpoint.parent
    if root.name == CHECKPOINT:
        newer = [x for x in root.glob("[0-9]*") if int(x.name) > int(checkpoint.name)]
        best = best_result(root)
        newer += [root / BEST] if best is not None and best[1] > env_steps else []
        for other in newer:
            os.replace(other, other.with_name(f"aside-{other.name}-{time.time_ns()}"))
    path = folder / PROGRESS
    if not path.exists():
        return []
    kept = [report for report in read_progress(folder) if report["env_steps"] <= env_steps]
    _write(path, "".join(map(_line, kept)))
    return kept


def _line(report: Mapping[str, Any]) -> str:
    return json.dumps(finite(report)) + "\n"


def finite(report: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows neither NaN nor infinity: null stands for them."""
    return {
        k: None if isinstance(x, float) and not math.isfinite(x) else x for k, x in report.items()
    }


class Log:
    """Keeps every report in progress.jsonl. Raises ShoalError for what cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._path, self._failed = folder / PROGRESS, False
        self._open()

    def _open(self) -> None:
        with _blamed(self._path):
            self._lines: TextIO = self._path.open("a", encoding="utf-8")

    def begin_anew(self) -> None:
        """Go on in a new file: the earlier one is gone, with its folder."""
        with suppress(OSError):
            self._lines.close()
        self._open()

    def write(self, report: Report) -> None:
        self._failed = True
        with _blamed(self._path):
            self._lines.write(_line(report))
            self._lines.flush()
        self._failed = False

    def close(self) -> None:
        """The end of the file; what could not be written before has been an error already."""
        try:
            with _blamed(self._path):
                self._lines.close()
        except ShoalError:
            if not self._failed:
                raise


def started_at(folder: Path) -> str | None:
    """When the run began that is being resumed, where its summary says so."""
    summary = read_json(folder / SUMMARY)  # a run that was killed left none
    return summary.get("started") if isinstance(summary, dict) else None


def find(
    given: str, parts: Collection[str]
) -> tuple[Path, Path | None, dict[str, Any], dict[str, Any]]:
    """What was named, the run folder that it belongs to (if any), and the checkpoint there.

    The meta of the checkpoint, and these ``parts`` of its state.
    """
    path = Path(given).absolute()
    if (path / CONFIG).is_file() and not (path / CHECKPOINT).is_dir():
        trust = " --trust" if asks(read_json(path / CONFIG)) else ""
        fix = f"begin it anew: shoal train --config {shlex.quote(str(path / CONFIG))}{trust}"
        raise ConfigError("the run ended before its first checkpoint", str(path), fix)
    state, meta = checkpoint.load(path, parts)
    near = (path, *path.resolve().parents[:2])
    return path, next((p for p in near if (p / CONFIG).is_file()), None), meta, state
