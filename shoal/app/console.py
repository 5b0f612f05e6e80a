"""The console of a run: one live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from shoal.app.terminal import REFRESH, Lines, Live, StatusLine, is_terminal
from shoal.config.bounds import is_number
from shoal.config.config import Stop

_FIRST, _SECOND, _LONGEST = 1.0, 5.0, 30.0  # seconds between plain lines: they grow
_WINDOW = 3.0  # seconds that the rates of the live line look back on
_BOUND = {
    "env": "env-bound",
    "policy": "policy-bound",
    "gradient": "gradient-bound",
    "learn": "learner-bound",
    "transfer": "transfer-bound",
}
_OWN = re.compile(r"worker/(\d+)/(env|act|postprocess|gradient)")  # shares of each worker's time


def sides(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How the workers and the learner's process spent the time of a report; each adds up to 1.

    If they take turns in one process, there is one entry, named "".
    """
    if not report.get("concurrency"):
        return {"": _whole(_sampling(report, "time") | _learning(report))}
    idle, wait = _share(report, "time/idle"), _share(report, "time/wait")
    return {
        "workers": _whole(_sampling(report, "time") | {"idle": idle}),
        "learner": _whole(_learning(report) | {"wait": wait}),
    }


def bottleneck(report: Mapping[str, Any]) -> str:
    """The part whose speed bounds the run."""
    path = critical(report)
    return _BOUND[max(path, key=path.__getitem__)]


def critical(report: Mapping[str, Any]) -> dict[str, float]:
    """The learner's time, with its waiting replaced by what it waited for.

    With concurrent workers, that is the work of the busiest one. Waiting beyond the busy time of
    that worker counts as transfer: both waited for data.
    """
    wait, learning = _share(report, "time/wait"), _learning(report)
    if not report.get("concurrency"):
        return _sampling(report, "time") | learning
    own = {name.group(1) for name in map(_OWN.fullmatch, report) if name}
    workers = [_sampling(report, f"worker/{i}") for i in own] or [_sampling(report, "time")]
    busiest = max(workers, key=lambda parts: sum(parts.values()))
    busy = sum(busiest.values())
    part = min(wait, busy) / max(busy, 1e-9)
    moved = learning["transfer"] + max(wait - busy, 0.0)
    return {k: x * part for k, x in busiest.items()} | learning | {"transfer": moved}


def _share(report: Mapping[str, Any], name: str) -> float:
    return float(report.get(name) or 0.0)


def _sampling(report: Mapping[str, Any], who: str) -> dict[str, float]:
    return {
        "env": _share(report, f"{who}/env"),
        "policy": _share(report, f"{who}/act") + _share(report, f"{who}/postprocess"),
        "gradient": _share(report, f"{who}/gradient"),
    }


def _learning(report: Mapping[str, Any]) -> dict[str, float]:
    moved = _share(report, "time/transfer") + _share(report, "time/broadcast")
    return {"learn": _share(report, "time/learn"), "transfer": moved}


def _whole(parts: dict[str, float]) -> dict[str, float]:
    """The parts above 0, and "other" for the rest up to 1."""
    total = max(sum(parts.values()), 1.0)
    parts = {name: x / total for name, x in parts.items() if x > 0.0}
    return parts | {"other": max(1.0 - sum(parts.values()), 0.0)}


def nearest_stop(
    stop: Stop, report: Mapping[str, Any], first_return: float | None, seconds: float
) -> tuple[float, str]:
    """The fraction done, in [0, 1], and the name of the nearest stop; ``(0, "")`` without one.

    Progress towards a return starts at the first return that the run reported; it is that of the
    newest evaluation, where there are any.
    """
    done: list[tuple[float, str]] = [(0.0, "")]
    wanted, evaluated = stop.return_mean, report.get("evaluation/return_mean")
    mean = report.get("return_mean") if evaluated is None else evaluated
    if wanted is not None:
        fraction = 0.0
        if mean is not None and first_return is not None:
            way = wanted - first_return
            fraction = (mean - first_return) / way if way > 0 else float(mean >= wanted)
        of = "return" if evaluated is None else "evaluation return"
        done.append((fraction, f"{of} {wanted:g}"))
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
    """A return as text; "-" if there is none yet."""
    return f"{number:.1f}" if is_number(number) else "-"


class Recent:
    """Rates over the newest reports together, since those of a single one flicker."""

    def __init__(self, wall_s: float, env_steps: int) -> None:
        start: dict[str, float] = {}
        self._sums = deque([(wall_s, env_steps, start)])  # each up to the end of a report

    def add(self, report: Mapping[str, Any]) -> None:
        wall_s, _, sums = self._sums[-1]
        seconds = report["wall_s"] - wall_s
        rates = {k: x * seconds for k, x in report.items() if _is_rate(k)}
        sums = sums | {k: sums.get(k, 0.0) + x for k, x in rates.items()}
        self._sums.append((report["wall_s"], report["env_steps"], sums))

    def forget(self, seconds: float) -> None:
        """Drop reports that are older than ``seconds``."""
        while len(self._sums) > 2 and self._sums[1][0] <= self._sums[-1][0] - seconds:
            self._sums.popleft()

    def clear(self) -> None:
        """Start again after the newest report."""
        self._sums = deque([self._sums[-1]])

    def report(self) -> dict[str, Any]:
        """Steps per second, lag and shares of the time, under the names that reports use."""
        (before, earlier, old), (now, later, new) = self._sums[0], self._sums[-1]
        seconds = max(now - before, 1e-9)
        rates = {k: (x - old.get(k, 0.0)) / seconds for k, x in new.items()}
        return {"steps_per_s": (later - earlier) / seconds, **rates}


def _is_rate(name: str) -> bool:
    """Whether an entry of a report is a mean over its seconds."""
    return name.startswith("time/") or name == "policy_lag_mean" or bool(_OWN.fullmatch(name))


def pieces(
    stop: Stop, report: Mapping[str, Any], first_return: float | None, seconds: float
) -> list[str]:
    """The parts of a status line, most important first."""
    fraction, name = nearest_stop(stop, report, first_return, seconds)
    lag, restarts = report.get("policy_lag_mean", 0.0), report.get("worker_restarts", 0)
    return [
        f"{fraction:4.0%} of {name}" if name else "",
        f"return {value(report['return_mean'])}",
        _evaluated(report),
        f"{count(report['steps_per_s'])} steps/s",
        duration(seconds),
        bottleneck(report),
        f"{restarts} restart{'s' * (restarts > 1)}" if restarts else "",
        f"lag {lag:.1f}" if lag or report.get("concurrency") else "",
        f"{count(report['env_steps'])} steps",
        f"{count(report['episodes'])} episodes",
        *(_shown(name, parts) for name, parts in sides(report).items()),
    ]


def _evaluated(report: Mapping[str, Any]) -> str:
    mean = report.get("evaluation/return_mean")
    return "" if mean is None else f"evaluation {value(mean)}"


def _shown(name: str, parts: Mapping[str, float]) -> str:
    shown = " ".join(f"{part} {x:.0%}" for part, x in parts.items() if x >= 0.005)
    return f"{name}: {shown}" if name else shown


class Console(Lines):
    """Plain lines: a report after a second, then ever fewer, and the last one."""

    def __init__(self) -> None:
        self._stop = Stop()
        self._first_return: float | None = None
        self._report: Mapping[str, Any] | None = None
        self._evaluated: dict[str, Any] = {}  # what the newest evaluation found
        self._recent = Recent(0.0, 0)
        self._shown = True
        self._next = _FIRST
        self._begun, self._before = time.monotonic(), 0.0

    def begin(self, stop: Stop, first_return: float | None, wall_s: float, env_steps: int) -> None:
        """Start a run, or continue one after ``wall_s`` seconds and ``env_steps``."""
        self._stop, self._first_return = stop, first_return
        self._recent = Recent(wall_s, env_steps)
        self._begun, self._before = time.monotonic(), wall_s

    def report(self, report: Mapping[str, Any]) -> None:
        """Take the newest report, and print it if a line is due."""
        self._take(report)
        elapsed = time.monotonic() - self._begun
        if elapsed >= self._next:
            self._next = elapsed + min(max(elapsed, _SECOND), _LONGEST)
            self._line()

    def end(self) -> None:
        """Print the last report if it was not printed yet."""
        if not self._shown:
            self._line()

    def _take(self, report: Mapping[str, Any]) -> None:
        if self._first_return is None:
            self._first_return = report["return_mean"]
        self._recent.add(report)
        self._shown = False
        self._evaluated |= {k: x for k, x in report.items() if k.startswith("evaluation/")}
        self._report = self._evaluated | dict(report)

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


class Silent(Console):
    """Prints nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def report(self, report: Mapping[str, Any]) -> None:
        """Nothing."""


class LiveConsole(Console):
    """One line at the bottom of a terminal, redrawn five times a second by its own thread."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None

    def begin(self, stop: Stop, first_return: float | None, wall_s: float, env_steps: int) -> None:
        """Start a run: the line appears."""
        super().begin(stop, first_return, wall_s, env_steps)
        self._live = Live(self._draw, REFRESH)

    def report(self, report: Mapping[str, Any]) -> None:
        """Take the newest report; the next refresh shows it."""
        self._take(report)
        self._recent.forget(_WINDOW)

    def end(self) -> None:
        """Leave the line as it is, and show the cursor again."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _draw(self, width: int) -> Any:
        """As much of the line as fits the terminal."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

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


def create_console() -> Console:
    """A live console if stdout is a terminal, else a plain one."""
    return LiveConsole() if is_terminal(sys.stdout) else Console()


def progress(episodes: int) -> Callable[[int, int], None] | None:
    """Shows how far an evaluation is, on stderr; None if nobody watches.

    Called with the number of episodes that have ended, and env steps.
    """
    if not is_terminal(sys.stderr):
        return None
    line = StatusLine(wait=1.0)

    def show(ended: int, env_steps: int) -> None:
        if ended == episodes:
            line.end()
        else:
            line.show(f"{ended} of {episodes} episodes  {count(env_steps)} env steps")

    return show
