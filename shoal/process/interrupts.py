"""Ctrl-C and its like, noted when they come and raised where everything is whole.

Python raises KeyboardInterrupt between any two instructions: during a change of the replay buffer,
in a Numba kernel (which turns it into SystemError), in a callback of JAX's (which swallows it),
during ``ray.init`` (which leaves processes behind). Inside ``deferred`` a signal is only noted, and
``check`` raises KeyboardInterrupt at the next safe point: between two env steps, two updates, or
two looks at workers.

1. The first signal ends the run at the next safe point. What keeps it waiting is printed after a
   second or two.
2. The second is raised at once in an environment that does not come back; anywhere else it says
   what is being waited for.
3. The third ends the process as if this module were not there.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from shoal.process.tracebacks import is_user_code, spot

SPEAK = 1.5  # seconds before the console says what an interrupt waits for
_SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ENVS = os.path.join(_PACKAGE, "envs") + os.sep


@dataclass
class _State:
    received: int | None = None  # the first signal
    due: bool = False  # it has not been raised yet
    deferred: int = 0  # blocks of ``deferred`` around the present line
    shielded: int = 0  # and of ``shielded``
    before: dict[int, Any] = field(default_factory=dict)  # handlers that ours replaced
    listening: bool = False  # for a whole command, not only inside ``deferred``
    unraisable: Callable[[Any], Any] = sys.unraisablehook  # that ours replaced


_state = _State()


def check() -> None:
    """A safe point: raises KeyboardInterrupt if a signal has come."""
    if _state.due and not _state.shielded and _in_main_thread():
        _state.due = False
        raise KeyboardInterrupt


def dismiss() -> None:
    """What a signal was to end has ended by itself."""
    _state.due = False


def received() -> int | None:
    """The first signal that came, if any."""
    return _state.received


def exit_code() -> int:
    """Exit code of a command that was interrupted."""
    return 128 + (_state.received or signal.SIGINT)


def behind(error: BaseException) -> bool:
    """Whether an error is what became of an interrupt on its way: SystemError in Numba, say."""
    found: BaseException | None = error
    for _ in range(99):
        if found is None or isinstance(found, KeyboardInterrupt):
            return found is not None
        found = found.__cause__ or found.__context__
    return False


@contextmanager
def deferred() -> Iterator[None]:
    """Signals in here are raised by ``check``; the last chance is the end of the block.

    Outside of a command it is SIGINT alone, and only where Python's own handler stands and this is
    the main thread; who handles it otherwise is left alone.
    """
    handler = signal.getsignal(signal.SIGINT) if _in_main_thread() else None
    if _state.listening and _in_main_thread():
        _state.deferred += 1
        try:
            yield
        finally:
            _state.deferred -= 1
        if not _state.deferred:
            check()
    elif handler is not signal.default_int_handler:
        yield
    else:
        try:
            _state.received, _state.due = None, False
            _state.before[signal.SIGINT] = handler
            signal.signal(signal.SIGINT, _handle)
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
            _state.before.clear()
        check()


@contextmanager
def shielded() -> Iterator[None]:
    """``check`` raises nothing in here, where a run is brought to its end."""
    _state.shielded += 1
    try:
        yield
    finally:
        _state.shielded -= 1


@contextmanager
def held() -> Iterator[None]:
    """The system keeps a command's signals back in here, and from all threads that begin in here.

    For compiled code that replaces our handlers; they are to stand again at the end of the block.
    """
    with _mask("SIG_BLOCK"):
        yield


@contextmanager
def free() -> Iterator[None]:
    """Inside of ``held``: processes that are started in here can be ended by signals."""
    with _mask("SIG_UNBLOCK"):
        yield


@contextmanager
def _mask(how: str) -> Iterator[None]:
    if not (_state.listening and _in_main_thread() and hasattr(signal, "pthread_sigmask")):
        yield
        return
    before = signal.pthread_sigmask(getattr(signal, how), _state.before)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def listen() -> None:
    """From here on note SIGINT, SIGTERM and SIGHUP; outside of ``deferred`` raise them at once.

    Those that the process ignores (under nohup, or in the background) stay ignored.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            _state.before[number] = signal.signal(number, _handle)
    _state.received, _state.due, _state.listening = None, False, True
    _state.unraisable, sys.unraisablehook = sys.unraisablehook, _unraisable


def _unraisable(args: Any) -> None:
    """An interrupt in a destructor or a callback, which nobody can catch, is due elsewhere."""
    if not isinstance(args.exc_value, KeyboardInterrupt):
        _state.unraisable(args)


def finish() -> None:
    """From here on the process ends: signals change nothing, but for the third."""
    _state.deferred += 1


@contextmanager
def listening() -> Iterator[None]:
    """``listen`` in here, unless that is done already; handlers are as before afterwards."""
    if _state.listening or not _in_main_thread():
        yield
        return
    try:
        listen()
        yield
    finally:
        for number, handler in _state.before.items():
            signal.signal(number, handler)
        _state.before.clear()
        _state.received, _state.due, _state.listening = None, False, False
        sys.unraisablehook = _state.unraisable


def is_listening() -> bool:
    """Whether a command notes the signals, so that no library may handle them."""
    return _state.listening


def listen_again() -> None:
    """After a library that puts handlers of its own in place of ours, in compiled code perhaps."""
    if _state.listening and _in_main_thread():
        for number in _state.before:
            signal.signal(number, _handle)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _handle(number: int, frame: FrameType | None) -> None:
    state = _state
    first = state.received is None
    if first:
        state.received, state.due = number, True
    else:  # the next one is not ours any more
        for each, before in state.before.items():
            signal.signal(each, signal.SIG_DFL if state.listening else before)
    if state.listening and not state.deferred:  # still due, for it may be swallowed on its way
        raise KeyboardInterrupt
    if first:
        # Not ``threading.Thread``: its locks may be held by what this signal interrupted.
        _thread.start_new_thread(_speak, ())
    elif state.due and _in_environment(frame):
        state.due = False
        raise KeyboardInterrupt
    elif state.due:
        _say(f"waiting for {_place(frame)}; once more ends at once, without a checkpoint")
    else:
        _say("saving the checkpoint; once more ends at once, without it")


def _speak() -> None:
    """Say what the first signal waits for, if it still does."""
    time.sleep(SPEAK)
    if _state.due:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        stop = "; Ctrl-C again stops it there" if _in_environment(frame) else ""
        _say(f"interrupted: waiting for {_place(frame)}{stop}")


def _say(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())


def _in_environment(frame: FrameType | None) -> bool:
    """Whether this is in an environment: what it leaves half done is undone by a rollback."""
    while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_ENVS)


def _place(frame: FrameType | None) -> str:
    """The innermost line that is the user's or Shoal's."""
    while frame is not None:
        name = frame.f_code.co_filename
        if is_user_code(name) or name.startswith(_PACKAGE):
            return spot(name, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return "a library"


def _in_child() -> None:
    """A process that an environment forks from this one takes signals as it would without us."""
    for number, handler in _state.before.items():
        signal.signal(number, handler)
    _state.before.clear()
    _state.received, _state.due, _state.listening = None, False, False
    _state.deferred = _state.shielded = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
