"""What a run says while it runs: one live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from shoal.config import Stop
from shoal.values import is_number

REFRESH = 5.0  # times a second that the live line is drawn
_FIRST, _SECOND, _LONGEST = 1.0, 5.0, 30.0  # seconds between plain lines: they grow
_WINDOW = 3.0  # seconds that the rates of the live line look back on
_BOUND = {"env": "env-bound", "act": "policy-bound", "learn": "learner-bound"}


def shares(report: Mapping[str, Any]) -> dict[str, float]:
    """Where the time of a report went: env, act, learn and other, adding up to 1."""
    parts = {name: float(report.get(f"time/{name}") or 0.0) for name in _BOUND}
    return parts | {"other": max(1.0 - sum(parts.values()), 0.0)}


def bottleneck(report: Mapping[str, Any]) -> str:
    """What the run would gain most from making faster."""
    parts = shares(report)
    return _BOUND[max(_BOUND, key=parts.__getitem__)]


def nearest_stop(
    stop: Stop, report: Mapping[str, Any], first_return: float | None, seconds: float
) -> tuple[float, str]:
    """The fraction done, in [0, 1], and the name of the stop that is nearest; ``(0, "")`` of none.

    Progress towards a return is counted from the first return that the run reported.
    """
    done: list[tuple[float, str]] = [(0.0, "")]
    mean, wanted = report.get("return_mean"), stop.return_mean
    if wanted is not None:
        fraction = 0.0
        if mean is not None and first_return is not None:
            way = wanted - first_return
            fraction = (mean - first_return) / way if way > 0 else float(mean >= wanted)
        done.append((fraction, f"return {wanted:g}"))
    if stop.env_steps is not None:
        done.append((report.get("env_steps", 0) / stop.env_steps, f"{count(stop.env_steps)} steps"))
    if stop.seconds is not None:
        done.append((seconds / stop.seconds, duration(stop.seconds)))
    fraction, name = max(done[1:] or done)
    return min(max(fraction, 0.0), 1.0), name


def count(number: float) -> str:
    """A count in few characters: 950, 21.4k, 1M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """12.3s below a minute, else 1m05s or 2h03m."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes}m{round(seconds) % 60:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def value(number: Any) -> str:
    """A return as text; "-" where there is none yet."""
    return f"{number:.1f}" if is_number(number) else "-"


class Recent:
    """Rates over the newest reports together: one alone covers too little not to flicker."""

    def __init__(self, wall_s: float, env_steps: int) -> None:
        zero = dict.fromkeys((*_BOUND, "other"), 0.0)
        self._sums = deque([(wall_s, env_steps, zero)])  # each up to the end of a report

    def add(self, report: Mapping[str, Any]) -> None:
        wall_s, _, parts = self._sums[-1]
        seconds = report["wall_s"] - wall_s
        parts = {name: parts[name] + x * seconds for name, x in shares(report).items()}
        self._sums.append((report["wall_s"], report["env_steps"], parts))

    def forget(self, seconds: float) -> None:
        """Drop what lies further back than that."""
        while len(self._sums) > 2 and self._sums[1][0] <= self._sums[-1][0] - seconds:
            self._sums.popleft()

    def clear(self) -> None:
        """Begin anew after the newest report."""
        self._sums = deque([self._sums[-1]])

    def report(self) -> dict[str, Any]:
        """Steps per second and time shares, under the names that reports have for them."""
        (before, earlier, old), (now, later, new) = self._sums[0], self._sums[-1]
        seconds = max(now - before, 1e-9)
        times = {f"time/{name}": (new[name] - old[name]) / seconds for name in _BOUND}
        return {"steps_per_s": (later - earlier) / seconds, **times}


def pieces(
    stop: Stop, report: Mapping[str, Any], first_return: float | None, seconds: float
) -> list[str]:
    """The parts of a status line, the most important first."""
    fraction, name = nearest_stop(stop, report, first_return, seconds)
    parts = " ".join(f"{k} {x:.0%}" for k, x in shares(report).items())
    return [
        f"{fraction:4.0%} of {name}" if name else "",
        f"return {value(report['return_mean'])}",
        f"{count(report['steps_per_s'])} steps/s",
        duration(seconds),
        bottleneck(report),
        f"{count(report['env_steps'])} steps",
        f"{count(report['episodes'])} episodes",
        parts,
    ]


class Console:
    """Plain lines on stdout: the first report after a second, then ever fewer, and the last one.

    A console that can no longer be written to (a closed pipe, a terminal that is gone) falls
    silent: the run goes on, since all that it says stands in its folder too.
    """

    def __init__(self) -> None:
        self._stop = Stop()
        self._first_return: float | None = None
        self._report: Mapping[str, Any] | None = None
        self._recent = Recent(0.0, 0)
        self._shown = True
        self._next = _FIRST
        self._begun, self._before = time.monotonic(), 0.0

    def begin(self, stop: Stop, first_return: float | None, wall_s: float, env_steps: int) -> None:
        """A run begins, or goes on after so many seconds and env steps."""
        self._stop, self._first_return = stop, first_return
        self._recent = Recent(wall_s, env_steps)
        self._begun, self._before = time.monotonic(), wall_s

    def say(self, text: str) -> None:
        """One or more lines, as they are."""
        try:
            print(text, flush=True)
        except OSError:
            silence()

    def report(self, report: Mapping[str, Any]) -> None:
        """The newest report; shown when it is time to."""
        self._take(report)
        elapsed = time.monotonic() - self._begun
        if elapsed >= self._next:
            self._next = elapsed + min(max(elapsed, _SECOND), _LONGEST)
            self._line()

    def end(self) -> None:
        """The last report, if it was not shown."""
        if not self._shown:
            self._line()

    def _take(self, report: Mapping[str, Any]) -> None:
        if self._first_return is None:
            self._first_return = report["return_mean"]
        self._recent.add(report)
        self._shown = False
        self._report = report

    def _pieces(self) -> tuple[float, list[str]]:
        """The fraction done, and the parts of the status line."""
        seconds = self._before + time.monotonic() - self._begun
        if self._report is None:
            fraction, _ = nearest_stop(self._stop, {}, None, seconds)
            return fraction, [f"starting  {duration(seconds - self._before)}"]
        report = {**self._report, **self._recent.report()}
        fraction, _ = nearest_stop(self._stop, report, self._first_return, seconds)
        return fraction, pieces(self._stop, report, self._first_return, seconds)

    def _line(self) -> None:
        self.say("  ".join(filter(None, self._pieces()[1])))
        self._shown = True
        self._recent.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()


class LiveConsole(Console):
    """One line at the foot of a terminal, redrawn five times a second by a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Any = None
        self._terminal: Any = None

    def begin(self, stop: Stop, first_return: float | None, wall_s: float, env_steps: int) -> None:
        """A run begins: the line appears."""
        from rich.console import Console as Terminal
        from rich.live import Live

        super().begin(stop, first_return, wall_s, env_steps)
        self._terminal = Terminal(highlight=False)
        self._live = Live(
            console=self._terminal,
            get_renderable=self._draw,
            refresh_per_second=REFRESH,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()

    def report(self, report: Mapping[str, Any]) -> None:
        """The newest report; shown with the next refresh."""
        self._take(report)
        self._recent.forget(_WINDOW)

    def end(self) -> None:
        """The line stays as it is, and the cursor comes back."""
        live, self._live = self._live, None
        if live is not None:
            try:
                live.stop()
            except OSError:
                silence()

    def _draw(self) -> Any:
        """As much of the line as the terminal is wide."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        width = self._terminal.width
        bar = 10 if width < 100 else 24
        fraction, parts = self._pieces()
        line = ""
        for part in filter(None, parts):
            longer = f"{line}  {part}" if line else part
            if bar + 1 + len(longer) >= width:
                break
            line = longer
        row = Table.grid(padding=(0, 1))
        done = ProgressBar(1.0, fraction, width=bar, complete_style="cyan", finished_style="green")
        row.add_row(done, line)
        return row


def create() -> Console:
    """The console that fits where stdout goes."""
    live = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return LiveConsole() if live else Console()


def silence() -> None:
    """Send what stdout still gets nowhere, so that leaving the process does not fail over it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
