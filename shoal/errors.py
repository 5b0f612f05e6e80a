"""What is wrong, where, and what to do about it: Shoal's own errors, and how any error is told."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MAX_FRAMES = 6


class ShoalError(Exception):
    """An error that Shoal itself raises; `str()` is up to three lines.

    Args:
        what: what is wrong, in one sentence with the numbers.
        where: the user's file and line, the config key, the file on disk.
        fix: what to do about it; a command where there is one.
    """

    exit_code = 1

    def __init__(self, what: str, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)  # as `args`, so that the error survives a process border
        self.what, self.where, self.fix = what, where, fix

    def locate(self, where: str | None) -> None:
        """Add the file and line, which are known further out than the fault."""
        if where is not None:
            self.where = where if self.where is None else f"{self.where} ({where})"
            self.args = (self.what, self.where, self.fix)

    def __str__(self) -> str:
        lines = [cut(self.what)]
        if self.where is not None:
            lines.append(f"  where: {cut(self.where)}")
        if self.fix is not None:
            lines.append(f"  to do: {cut(self.fix)}")
        return "\n".join(lines)


class ConfigError(ShoalError):
    """A setting that is unknown, of the wrong type or impossible; found before anything starts."""

    exit_code = 2


class SpaceError(ShoalError):
    """An observation or action space that Shoal does not support, or that does not fit."""


class EnvError(ShoalError):
    """An environment that cannot be made, or that breaks Gymnasium's contract."""


class NetworkError(ShoalError):
    """A network that cannot be built for these spaces, or whose output does not fit."""


class CheckpointError(ShoalError):
    """A checkpoint that is damaged, hostile, of another version or of another environment."""


def cut(text: str, limit: int = 400) -> str:
    """`text` on one line, with what exceeds `limit` characters counted instead of shown."""
    text = " ".join(text[: 20 * limit].split()) + (" ..." if len(text) > 20 * limit else "")
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text) - limit}+ more)"


def describe(exc: BaseException, command: str | None = None) -> str:
    """Tells an error in at most 25 lines; the first three are what is wrong, where, what to do.

    "Where" is the user's own line: the innermost frame outside Shoal, site-packages and the
    standard library. Notes (`exc.add_note`) follow, then `command`, which reproduces the error in
    one process, then the user's frames of the traceback.
    """
    frames = _frames(exc)
    users = [frame for frame in frames if is_user_code(frame.filename)]
    notes = [cut(str(note)) for note in getattr(exc, "__notes__", [])]
    lines = [cut(f"{type(exc).__name__}: {_message(exc)}".removesuffix(": "))]
    lines.append(f"  where: {_where(exc, users, frames)}")
    lines.append(f"  to do: {_to_do(exc, notes, users)}")
    lines += [f"  note: {note}" for note in notes[:4]]
    if command is not None:
        lines.append(f"  reproduce: {command}")
    if users:
        lines.append("Your code, innermost call last:")
        dropped = len(users) - _MAX_FRAMES
        if dropped > 0:
            lines.append(f"  ... {dropped} calls left out ...")
        for frame in users[-_MAX_FRAMES:]:
            lines.append(f"  {_place(frame.filename, frame.lineno)} in {frame.name}")
            if frame.line:
                lines.append(f"    {cut(frame.line, 160)}")
    return "\n".join(lines)


def place_of(function: Callable[..., Any]) -> str | None:
    """`file:line` where a function is defined; None for one that is not written in Python."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return None if code is None else _place(code.co_filename, code.co_firstlineno)


def is_user_code(filename: str) -> bool:
    """Whether a file is neither Shoal's, nor an installed package's, nor the standard library's."""
    if filename.startswith("<"):
        return filename.startswith(("<stdin", "<string", "<ipython"))
    path = os.path.abspath(filename)
    parts = path.split(os.sep)
    installed = "site-packages" in parts or "dist-packages" in parts
    return not installed and not path.startswith((_PACKAGE, *_python_folders()))


@cache
def _python_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "scripts")}
    return tuple(form + os.sep for f in folders for form in {f, os.path.realpath(f)})


def _frames(exc: BaseException, depth: int = 0) -> list[traceback.FrameSummary]:
    """Frames of the error and of what caused it; last those that tell where the fault is.

    That is the cause, but for an error that the user's own line raised: there it is that line.
    """
    own = list(traceback.extract_tb(exc.__traceback__))
    if isinstance(exc, SyntaxError) and exc.filename and exc.lineno:
        text = linecache.getline(exc.filename, exc.lineno)
        own.append(traceback.FrameSummary(exc.filename, exc.lineno, "<source>", line=text))
    cause = exc.exceptions[0] if isinstance(exc, BaseExceptionGroup) else exc.__cause__
    if cause is None or depth > 9:
        return own
    raised_by_user = own and is_user_code(own[-1].filename) and not isinstance(exc, ShoalError)
    caused = _frames(cause, depth + 1)
    return caused + own if raised_by_user else own + caused


def _message(exc: BaseException) -> str:
    if isinstance(exc, ShoalError):
        return exc.what
    try:
        return str(exc)
    except Exception as broken:  # a user's __str__ that itself fails must not hide the error
        return f"(its message cannot be shown: {type(broken).__name__})"


def _where(
    exc: BaseException,
    users: list[traceback.FrameSummary],
    frames: list[traceback.FrameSummary],
) -> str:
    if isinstance(exc, ShoalError) and exc.where is not None:
        return cut(exc.where)
    if isinstance(exc, ShoalError) and not users:
        return "the settings of this run (no code of yours was running)"
    outside = [f for f in frames if not os.path.abspath(f.filename).startswith(_PACKAGE)]
    candidates = users or outside or frames
    if not candidates:
        return "unknown (the error carries no traceback)"
    frame = candidates[-1]
    source = f": {frame.line}" if frame.line else ""
    return cut(f"{_place(frame.filename, frame.lineno)} in {frame.name}{source}")


def _to_do(exc: BaseException, notes: list[str], users: list[traceback.FrameSummary]) -> str:
    if isinstance(exc, ShoalError) and exc.fix is not None:
        return cut(exc.fix)
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        return f"{sys.executable} -m pip install {exc.name.partition('.')[0]}"
    if users or isinstance(exc, ShoalError):
        hint = f" ({notes[0]})" if notes else ""
        return f"correct the line above{hint}"
    return "this looks like a fault of Shoal: please report it together with this text"


def _place(filename: str, line: int | None) -> str:
    shown = filename
    if not filename.startswith("<"):
        relative = os.path.relpath(filename)
        shown = filename if relative.startswith("..") else relative
    return f"{shown}:{line}"
