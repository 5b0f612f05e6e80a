"""How any error is reported: Shoal's, a user's, or one from another process."""

from __future__ import annotations

import linecache
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

from shoal.errors import ShoalError, cut

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MAX_FRAMES = 6
_CARRIED = "_shoal_frames"  # where an exception from another process keeps its traceback
_COMMAND = "_shoal_command"  # where it keeps the command that reproduces it
_COPIED = re.compile(r".*/working_dir_files/_ray_pkg_\w+/")
_ADVICE = "_shoal_advice"  # and what to do about it
IN_PROCESS = "to see it in one process: Trainer(..., in_process=True)"  # a note for Python


def describe(exc: BaseException, command: str | None = None) -> str:
    """An error in at most 25 lines; the first three say what is wrong, where, and what to do.

    "Where" is the user's own line: the innermost frame outside Shoal, site-packages and the
    standard library. Notes (`exc.add_note`) follow, then `command` (or that of `reproducible`),
    which shows the error in one process, then the user's frames of the traceback.
    """
    frames = _frames(exc)
    users = [frame for frame in frames if is_user_code(frame.filename)]
    command = command or getattr(exc, _COMMAND, None)
    notes = [cut(str(note)) for note in getattr(exc, "__notes__", [])]
    known = ("JAX_TRACEBACK_FILTERING", *([IN_PROCESS] if command else []))  # of no use here
    notes = [note for note in notes if not any(text in note for text in known)]
    lines = [cut(f"{type(exc).__name__}: {_message(exc)}".removesuffix(": "))]
    lines.append(f"  where: {_where(exc, users, frames)}")
    lines.append(f"  to do: {_to_do(exc, frames, notes)}")  # it takes the note that it tells
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


def frames_of(exc: BaseException) -> list[tuple[str, int, str, str]]:
    """(file, line, function, source) of an error's calls: what `carry` takes over a border."""
    return [(f.filename, f.lineno or 0, f.name, f.line or "") for f in _frames(exc)]


def carry(exc: BaseException, frames: list[tuple[str, int, str, str]]) -> None:
    """Attach the traceback that an error had in another process."""
    summaries = [
        traceback.FrameSummary(here(name), line, function, line=source)
        for name, line, function, source in frames
    ]
    setattr(exc, _CARRIED, summaries)


def here(filename: str) -> str:
    """The file of this folder that another node was sent a copy of, where it is one."""
    own = os.path.abspath(_COPIED.sub("", filename))
    return own if _COPIED.match(filename) and os.path.exists(own) else filename


def advise(exc: BaseException, fix: str) -> None:
    """Say what to do about an error, whatever its type."""
    if isinstance(exc, ShoalError):
        exc.fix = fix
        exc.args = (exc.what, exc.where, fix)
    else:
        setattr(exc, _ADVICE, fix)


def reproducible(exc: BaseException, command: str) -> None:
    """Attach the command that shows the error in one process."""
    setattr(exc, _COMMAND, command)


def is_user_code(filename: str) -> bool:
    """Whether a file is neither Shoal's, nor an installed package's, nor the standard library's."""
    if filename.startswith("<"):
        return filename.startswith(("<stdin", "<string", "<ipython"))
    if filename.endswith(".pyx") and not os.path.isabs(filename):  # of an extension module
        return False
    path = os.path.abspath(filename)
    if not os.path.isabs(filename) and not os.path.exists(path):
        return False  # "numpy/random/_generator.pyx": source of an installed extension module
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
    carried: list[traceback.FrameSummary] | None = getattr(exc, _CARRIED, None)
    if carried is not None:
        return carried
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
    if isinstance(exc, ShoalError | MemoryError) and not users:
        return "the settings of this run (no code of yours was running)"
    outside = [f for f in frames if not os.path.abspath(f.filename).startswith(_PACKAGE)]
    candidates = users or outside or frames
    if not candidates:
        return "unknown (the error carries no traceback)"
    frame = candidates[-1]
    return spot(frame.filename, frame.lineno, frame.name, frame.line)


def _to_do(exc: BaseException, frames: list[traceback.FrameSummary], notes: list[str]) -> str:
    fix: str | None = exc.fix if isinstance(exc, ShoalError) else getattr(exc, _ADVICE, None)
    if fix is not None:
        return cut(fix)
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        return f"{sys.executable} -m pip install {exc.name.partition('.')[0]}"
    if _raised_below_user(frames) or isinstance(exc, ShoalError):
        return f"correct the line above ({notes.pop(0)})" if notes else "correct the line above"
    if isinstance(exc, MemoryError):
        return (
            "lower the setting that takes the memory: replay.capacity, rollout.envs_per_worker, "
            "rollout.fragment_length, or the sizes of the network"
        )
    return "this looks like a fault of Shoal: please report it together with this text"


def _raised_below_user(frames: list[traceback.FrameSummary]) -> bool:
    """Whether a line of the user's failed, and not Shoal, which such a line had called."""
    for frame in reversed(frames):
        if is_user_code(frame.filename):
            return True
        if os.path.abspath(frame.filename).startswith(_PACKAGE):
            return False
    return False


def spot(filename: str, line: int | None, function: str, source: str | None = None) -> str:
    """A line of a stack as `file:line in function: source`; a source not given is looked up."""
    source = source or linecache.getline(filename, line or 0).strip()
    return cut(f"{_place(filename, line)} in {function}" + (f": {source}" if source else ""))


def _place(filename: str, line: int | None) -> str:
    shown = filename
    if not filename.startswith("<"):
        relative = os.path.relpath(filename)
        shown = filename if relative.startswith("..") else relative
    return f"{shown}:{line}"
