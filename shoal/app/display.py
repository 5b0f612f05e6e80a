"""The display of a search: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from shoal.app.console import REFRESH, silence
from shoal.tuning.board import endings, headline, renderable, text

_FIRST, _LONGEST = 5.0, 60.0  # seconds between two plain lines on what runs: they grow


class Display:
    """Plain lines on stdout: ends of trials, what runs every now and then, the table at the end."""

    def __init__(self) -> None:
        self._status: Mapping[str, Any] | None = None
        self._next, self._step = time.monotonic() + _FIRST, _FIRST

    def say(self, line: str) -> None:
        """Print one line."""
        try:
            print(line, flush=True)
        except OSError:
            silence()

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()


class LiveDisplay(Display):
    """A table at the bottom of a terminal; what is said scrolls above it."""

    def __init__(self) -> None:
        from rich.console import Console as Terminal
        from rich.live import Live

        super().__init__()
        self._terminal = Terminal(highlight=False)
        self._live: Any = Live(
            console=self._terminal,
            get_renderable=self._draw,
            refresh_per_second=REFRESH / 2,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()

    def show(self, status: Mapping[str, Any]) -> None:
        """Take the newest status; the next refresh shows it."""
        self._status = status

    def end(self) -> None:
        """Leave the whole table as plain lines."""
        live, self._live = self._live, None
        if live is not None:
            try:
                live.stop()
            except OSError:
                silence()
            super().end()

    def _draw(self) -> Any:
        if self._status is None:
            return "starting"
        return renderable(dict(self._status), self._terminal.width)


def create_display() -> Display:
    """A live display if stdout is a terminal, else a plain one."""
    live = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return LiveDisplay() if live else Display()
