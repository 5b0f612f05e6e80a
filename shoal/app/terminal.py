"""Terminals: plain lines, a live part at the bottom, and whether somebody watches at all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

REFRESH = 5.0  # times a second that something live is drawn


class Lines:
    """Plain lines on stdout, the last of them where a ``with`` block ends.

    If stdout can no longer be written to (a closed pipe or terminal), it falls silent and the run
    goes on: its folder holds the same.
    """

    def say(self, text: str) -> None:
        """Print one or more lines."""
        try:
            print(text, flush=True)
        except OSError:
            silence()

    def end(self) -> None:
        """Print what is left to be said."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()


class Live:
    """The bottom of a terminal, redrawn by a thread of its own; what is printed scrolls above it.

    Args:
        draw: what to show, as Rich renders it, given the terminal's width.
        per_second: times that it is drawn.
        transient: whether it disappears in the end.
    """

    def __init__(
        self, draw: Callable[[int], Any], per_second: float, *, transient: bool = False
    ) -> None:
        from rich.console import Console
        from rich.live import Live as Drawn

        terminal = Console(highlight=False)
        self._drawn = Drawn(
            console=terminal,
            get_renderable=lambda: draw(terminal.width),
            refresh_per_second=per_second,
            transient=transient,
            redirect_stderr=is_terminal(sys.stderr),
        )
        self._drawn.start()

    def stop(self) -> None:
        """Draw it a last time, and show the cursor again."""
        try:
            self._drawn.stop()
        except OSError:
            silence()


class StatusLine:
    """One line on stderr that each new one overwrites; nothing if nobody watches.

    Args:
        wait: seconds before the first.
    """

    def __init__(self, wait: float = 0.0) -> None:
        self._watched = is_terminal(sys.stderr)
        self._due = time.monotonic() + wait

    def show(self, text: str) -> None:
        """Write it, if the line has stood long enough to be read."""
        now = time.monotonic()
        if self._watched and now >= self._due:
            print(f"\r{text:<79}", end="\r", file=sys.stderr, flush=True)
            self._due = now + 1.0 / REFRESH

    def end(self, text: str = "") -> None:
        """Leave this text, or an empty line."""
        if self._watched:
            print(f"\r{text:<79}", end="\n" if text else "\r", file=sys.stderr, flush=True)


def is_terminal(stream: TextIO) -> bool:
    """Whether what is written there can be drawn over."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def silence() -> None:
    """Redirect stdout to nowhere, so that flushing it at exit cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
