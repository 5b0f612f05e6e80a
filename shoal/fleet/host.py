"""What runs in a worker's process: an actor that holds one member of a fleet.

This file is imported by a process before anything else of Shoal is, and sets what must be set
before NumPy is loaded.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB", "NUMBA")  # ..._NUM_THREADS


class Host:
    """Makes a member and calls its verbs, one at a time.

    The member is made by the thread that calls it later, for some simulators belong to the thread
    that made them. ``progress`` is answered by another, while a call is running.
    """

    def __init__(self, name: str, paths: Sequence[str]) -> None:
        for library in THREADS:
            os.environ[f"{library}_NUM_THREADS"] = "1"
        # JAX would claim three quarters of a GPU's memory, which belongs to the learner.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        sys.path[:] = [*sys.path, *(path for path in paths if path not in sys.path)]
        self._name, self._restart = name, 0
        self._member: Any = None
        self._doing = "when it started"
        self._thread: int | None = None
        tell_of_exits(_write_down)

    def start(self, make: bytes, index: int, restart: int) -> Any:
        """Make the member. Returns None, or a ``Failure``."""
        self._thread, self._restart = threading.get_ident(), restart
        try:
            from ray import cloudpickle

            self._member = cloudpickle.loads(make)(index, restart)
        except BaseException as error:  # SystemExit too: that is what an environment raised
            return self._failure(error)
        return None

    def call(self, what: tuple[str, tuple[Any, ...]], weights: Any = None, version: int = 0) -> Any:
        """Give the member the weights, if any came along, and call it.

        ``what`` is a verb and its arguments: Ray's cost is for each argument of a call.
        """
        from shoal.fleet.parcel import posted

        verb, args = what
        self._thread, self._doing = threading.get_ident(), f"during {verb!r}"
        try:
            if weights is not None:
                self._member.set_weights(weights, version)
            with posted():
                return getattr(self._member, verb)(*args)
        except BaseException as error:
            return self._failure(error)

    def progress(self) -> tuple[int, list[str]]:
        """How far the running call has come (env steps so far), and where it is right now."""
        frame = sys._current_frames().get(self._thread or 0)
        lines = [] if frame is None else traceback.format_stack(frame)
        return getattr(self._member, "beat", 0), lines

    def _failure(self, error: BaseException) -> Any:
        from shoal.fleet.failure import Failure

        again = f", restarted {self._restart} times" if self._restart else ""
        return Failure.of(error, f"in {self._name} (process {os.getpid()}{again}), {self._doing}")

    def __repr__(self) -> str:
        return self._name  # Ray marks with it what the process prints


def tell_of_exits(tell: Callable[[int], None]) -> None:
    """Call ``tell`` before ``os._exit`` ends this process: afterwards nobody can ask it.

    Processes forked from this one may well end like that.
    """
    leave, here = os._exit, os.getpid()

    def reported(status: int) -> Any:
        if os.getpid() == here:
            tell(status)
        leave(status)

    os._exit = reported


def _write_down(status: int) -> None:
    os.write(2, f"Fatal: os._exit({status})\n".encode())
    faulthandler.dump_traceback(all_threads=False)
