"""The display of a search: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from shoal.app.terminal import REFRESH, Lines, Live, is_terminal
from shoal.tuning.board import endings, headline, renderable, text

_FIRST, _LONGEST = 5.0, 60.0  # seconds between two plain lines on what runs: they grow


class Display(Lines):
    """Plain lines: ends of trials, what runs every now and then, the table at the end."""

    def __init__(self) -> None:
        self._status: Mapping[str, Any] | None = None
        self._next, self._step = time.monotonic() + _FIRST, _FIRST

    def show(self, status: Mapping[str, Any]) -> None:
        """Take the newest status."""
        self._status = status
        if time.monotonic() >= self._next:
            self._step = min(2 * self._step, _LONGEST)
            self._next = time.monotonic() + self._step
            self.say("  ".join(headline(dict(status))[:1] + endings(dict(status))[:1]))

    def end(self) -> None:
        """Print the whole table."""
        if self._status is not None:
            self.say(text(dict(self._status)))


class LiveDisplay(Display):
    """A table at the bottom of a terminal; what is said scrolls above it."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = Live(self._draw, REFRESH / 2, transient=True)

    def show(self, status: Mapping[str, Any]) -> None:
        """Take the newest status; the next refresh shows it."""
        self._status = status

    def end(self) -> None:
        """Leave the whole table as plain lines."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
            super().end()

    def _draw(self, width: int) -> Any:
        if self._status is None:
            return "starting"
        return renderable(dict(self._status), width)


def create_display() -> Display:
    """A live display if stdout is a terminal, else a plain one."""
    return LiveDisplay() if is_terminal(sys.stdout) else Display()
