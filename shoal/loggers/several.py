"""The loggers of a run: which ones there are, and how a run goes on without one that fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, cut, did_you_mean
from shoal.loggers.apart import Apart
from shoal.loggers.base import Begun, Logger, Report
from shoal.loggers.tensorboard import TensorBoard
from shoal.process.tracebacks import frames_of, is_user_code

NAMES = ("tensorboard", "wandb", "mlflow")
DEFAULT = ("tensorboard",)
FILE = "loggers.json"  # in the run folder: which services have the run, and under which id
_METHODS = ("begin", "report", "video", "end")
Log = str | Logger | Sequence[str | Logger] | None


def chosen(log: Log) -> list[str | Logger]:
    """The loggers that were asked for: names, or objects; "none" and None are no logger.

    Raises ConfigError for a name that is unknown, for an object that is no logger, and for a
    package that is missing.
    """
    given: Iterable[Any] = [log] if isinstance(log, str) or not isinstance(log, Sequence) else log
    names: list[Any] = []
    for each in given:
        names += each.split(",") if isinstance(each, str) else [each]
    found = [x.strip() if isinstance(x, str) else x for x in names]
    found = [x for x in found if x not in (None, "none", "")]
    for logger in found:
        if isinstance(logger, str):
            _check_name(logger)
        elif isinstance(logger, type) or not isinstance(logger, Logger):
            lacks = ", ".join(name for name in _METHODS if not hasattr(logger, name))
            why = f"it has no {lacks}" if lacks else "it is a class: make an object of it"
            raise ConfigError(f"log={logger!r} is no logger: {why}", None, "see shoal.Logger")
    return found


def _check_name(name: str) -> None:
    if name not in NAMES:
        hint = did_you_mean(name, NAMES)
        raise ConfigError(f"there is no logger {name!r}", None, f"{hint}known: {', '.join(NAMES)}")
    if name != "tensorboard" and find_spec(name) is None:
        what = f"log={name!r} needs a package that is not installed"
        raise ConfigError(what, None, f'pip install "shoal[{name}]"')


def saved(folder: Path) -> list[str]:
    """The names of the loggers that a run began with."""
    names = _read(folder).get("log", DEFAULT)
    return [name for name in names if name in NAMES]


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Loggers:
    """All loggers of a run as one, which never raises once the run has begun.

    Args:
        log: see ``chosen``.
        folder: of the run.
        say: prints a line.
    """

    def __init__(self, log: Log, folder: Path, say: Callable[[str], None]) -> None:
        self._say = say
        self._ids: dict[str, str] = {}
        self.failed: dict[str, str] = {}  # the first error of each that is left out now
        known = _read(folder).get("ids", {})
        self._all: dict[str, Logger] = {}
        for each in chosen(log):
            name = each if isinstance(each, str) else type(each).__name__
            same = sum(other.partition(" ")[0] == name for other in self._all)
            self._all[f"{name} {same + 1}" if same else name] = _make(each, known)

    def begin(self, run: Begun) -> None:
        """Begin with all of them. Raises ConfigError if one cannot."""
        every, self._all = self._all, {}
        for name, logger in every.items():
            try:
                logger.begin(run)
            except Exception as error:
                self.end({})  # of those that have begun
                what = f"the logger {name} cannot begin: {_cause(error)}"
                fix = "see to that, or leave it out (--log, log=...)"
                raise ConfigError(what, None, fix) from error
            self._all[name] = logger
            service = logger.logger if isinstance(logger, Apart) else None
            if (own := getattr(service, "run_id", None)) is not None:
                self._ids[name] = own

    def to_save(self) -> dict[str, Any] | None:
        """The content of FILE: names, and ids of the run; None for the default loggers."""
        named = [name for name in self._all if name in NAMES]
        return None if tuple(named) == DEFAULT else {"log": named, "ids": self._ids}

    def begin_anew(self, run: Begun) -> None:
        """Write new files: those of before are gone, with the run folder."""
        for name, logger in list(self._all.items()):
            if isinstance(logger, TensorBoard):
                self._call(name, "begin", run)

    def report(self, report: Report) -> None:
        """Hand a report to all of them."""
        for name in list(self._all):
            self._call(name, "report", report["env_steps"], report)

    def video(self, env_steps: int, path: Path) -> None:
        """Hand a film to all of them."""
        for name in list(self._all):
            self._call(name, "video", env_steps, path)

    def end(self, summary: Report) -> None:
        """The end of all of them, once."""
        for name in list(self._all):
            self._call(name, "end", summary)
        self._all.clear()

    def _call(self, name: str, method: str, *arguments: Any) -> None:
        try:
            getattr(self._all[name], method)(*arguments)
        except Exception as error:
            self.failed[name] = cut(_cause(error))
            del self._all[name]
            self._say(
                f"the logger {name} is left out from here on: {self.failed[name]}; "
                f"the run folder has all reports"
            )


def _make(logger: str | Logger, ids: Any) -> Logger:
    if not isinstance(logger, str):
        return logger
    if logger == "tensorboard":
        return TensorBoard()
    from shoal.loggers.services import MLflow, WandB

    own = ids.get(logger) if isinstance(ids, dict) else None
    return Apart((WandB if logger == "wandb" else MLflow)(own))


def _cause(error: Exception) -> str:
    """An error on one line, with the line of the user's logger that it came from."""
    users = [f for f in frames_of(error) if is_user_code(f[0])]
    place = f" ({users[-1][0]}:{users[-1][1]})" if users else ""
    return f"{type(error).__name__}: {error}{place}"
