"""An exception on its way from the process that raised it to the one that made the call."""

from __future__ import annotations

import importlib.util
import os
import socket
from dataclasses import dataclass
from typing import Any

from shoal.errors import ConfigError, cut
from shoal.process.tracebacks import IN_PROCESS, advise, carry, frames_of


@dataclass
class Failure:
    """An exception in a form that every process can read: itself where that is possible."""

    error: bytes | None  # serialised; None where it cannot be
    kind: bytes | None  # its type alone, which often can
    name: str  # of its type
    text: str
    notes: list[str]
    frames: list[tuple[str, int, str, str]]
    module: str | None = None  # that was not found there
    node: str = ""  # where "there" is

    @classmethod
    def of(cls, error: BaseException, where: str) -> Failure:
        """Of an exception just caught; ``where`` it happened is added to its notes."""
        frames = frames_of(error)
        error.add_note(where)
        notes = [str(note) for note in error.__notes__]
        text = _text(error)
        return cls(
            _serialised(error, text),
            _serialised(type(error)),
            type(error).__name__,
            text,
            notes,
            frames,
            _missing(error),
            f"{socket.gethostname()} (process {os.getpid()})",
        )

    def revive(self) -> BaseException:
        """The exception, of its own type; of a new one of that name where that cannot travel."""
        from ray import cloudpickle

        error: BaseException | None = None
        if self.error is not None:
            try:
                error = cloudpickle.loads(self.error)
            except Exception as missing:  # its class's module is not here
                self.notes.append(f"its type could not be found in this process: {missing}")
        if error is None:
            error = self._rebuilt()
        if self.module is not None and _is_here(self.module):
            advise(
                error,
                f"put {self.module!r} where {self.node} finds it, as this process does: install it "
                "there, or start the run in the folder that holds it, which is sent along",
            )
        error.add_note(IN_PROCESS)
        carry(error, self.frames)
        return error

    def _rebuilt(self) -> BaseException:
        """One of the same type that its constructor has never seen, with the same message."""
        from ray import cloudpickle

        kind: Any = RuntimeError
        if self.kind is not None:
            try:
                kind = cloudpickle.loads(self.kind)
            except Exception as missing:
                self.notes.append(f"its type could not be found in this process: {missing}")
        error = _uninitialised(kind, self.name, self.text)
        for note in self.notes:
            error.add_note(note)
        return error


def sendable(make: Any, parts: dict[str, Any]) -> bytes:
    """``make``, serialised. Raises ConfigError with the one of its ``parts`` that cannot be."""
    from ray import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(make)
    except Exception as error:
        failed = [f"{name} {_name(part)}" for name, part in parts.items() if not _travels(part)]
        raise ConfigError(
            f"{failed[0] if failed else 'something in the configuration'} cannot be sent to other "
            f"processes: {cut(str(error), 200)}",
            None,
            "give an environment as module:Class or as a function at the top of a module, which "
            "opens what it needs when it is called; or use rollout.workers=0",
        ) from error
    return data


def _serialised(what: Any, text: str | None = None) -> bytes | None:
    """As bytes from which the same can be made again, with that ``text``; else None.

    Some exceptions can be written, but not be made from their arguments, or say something else
    then.
    """
    from ray import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(what)
        back = cloudpickle.loads(data)
        same = text is None or (type(back).__name__, str(back)) == (type(what).__name__, text)
    except Exception:
        return None
    return data if same else None


def _travels(part: Any) -> bool:
    from ray import cloudpickle

    try:
        cloudpickle.dumps(part)
    except Exception:
        return False
    return True


def _name(part: Any) -> str:
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}:{named.__qualname__}"


def _uninitialised(kind: Any, name: str, text: str) -> BaseException:
    """An exception of this type, or of one derived from it, that has this name and this text."""
    named: Any = type(name, (kind,), {"__module__": kind.__module__, "__str__": lambda self: text})
    try:
        error: BaseException = named.__new__(named, text)
        plain: BaseException = kind.__new__(kind, text)
    except Exception:  # its type makes none without its own arguments
        return _uninitialised(RuntimeError, name, text)
    return plain if kind.__name__ == name and _text(plain) == text else error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # a user's __str__ that itself fails must not hide the error
        return f"(its message cannot be shown: {type(broken).__name__})"


def _missing(error: BaseException) -> str | None:
    """The module that was not found, where that is what it was."""
    found: BaseException | None = error
    for _ in range(9):
        if isinstance(found, ModuleNotFoundError):
            return found.name
        found = None if found is None else found.__cause__
    return None


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
