"""A logger in a thread of its own, so that a service that is slow or away holds nothing up."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

from shoal.errors import ShoalError
from shoal.loggers.base import Begun, Logger, Report

EVERY = 5.0  # seconds between two reports that a service is sent
BEHIND = 8  # calls that may wait for it before reports are left out
DEADLINE = 30.0  # seconds that the end of a run waits for it


class Apart:
    """Calls the methods of ``logger`` in a thread; ``begin`` in the caller's own.

    Of several reports within five seconds the newest is handed on, with the keys that only older
    ones have. What the logger raises is raised by the next call here.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue()
        self._error: Exception | None = None
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._next = 0.0  # when the next report may be handed on
        self._thread = threading.Thread(target=self._work, name="logger", daemon=True)

    def begin(self, run: Begun) -> None:
        """See ``Logger``."""
        self.logger.begin(run)
        self._thread.start()

    def report(self, env_steps: int, report: Report) -> None:
        """See ``Logger``."""
        self._raise()
        earlier = {} if self._pending is None else self._pending[1]
        self._pending = env_steps, {**earlier, **report}
        now = time.monotonic()
        if now >= self._next and self._calls.qsize() < BEHIND:
            self._next = now + EVERY
            self._hand_on()

    def video(self, env_steps: int, path: Path) -> None:
        """See ``Logger``."""
        self._raise()
        self._calls.put(("video", (env_steps, path)))

    def end(self, summary: Report) -> None:
        """See ``Logger``. Raises ShoalError if the logger is not ready within 30 seconds."""
        if self._thread.is_alive():
            self._hand_on()
            self._calls.put(("end", (summary,)))
            self._calls.put(None)
            self._thread.join(DEADLINE)
        self._raise()
        if self._thread.is_alive():
            what = f"it was not ready {DEADLINE:.0f} seconds after the end of the run"
            raise ShoalError(what, None, "the run folder has all reports")

    def _hand_on(self) -> None:
        if self._pending is not None:
            self._calls.put(("report", self._pending))
            self._pending = None

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            name, arguments = call
            try:
                getattr(self.logger, name)(*arguments)
            except Exception as error:
                self._error = error
                return
