"""Draws a search: all its trials, what the best had in common, and who copied whom."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shoal.app.folder import PROGRESS, read_progress
from shoal.app.plot import COLOURS, counted
from shoal.config.bounds import is_number
from shoal.errors import ShoalError
from shoal.tuning.board import (
    Row,
    Status,
    best_of,
    read_status,
    settings_text,
    short,
    shown,
    varying,
)
from shoal.tuning.lineage import Entry, lineage, ways

PANELS = 6  # settings that are drawn against the return, at most
TOP = 0.25  # of the trials: what they have in common is marked
_GREY = "#bbbbbb"


def draw(folder: Path, lineage_of: bool = False) -> tuple[Any, list[str]]:
    """A figure of a search's trials, or of its lineage, and what it shows in lines of text.

    Raises ShoalError for a folder that holds none, and where there is nothing to draw yet.
    """
    status = read_status(folder)
    found = _lineage(folder, status) if lineage_of else _trials(status)
    return found


# ------------------------------------------------------------------ trials


def _trials(status: Status) -> tuple[Any, list[str]]:
    rows = [row for row in status["trials"] if is_number(row["best"])]
    if not rows:
        what = "no trial of this search has a return yet"
        raise ShoalError(what, status["folder"], "wait for the first episodes")
    names = varying(rows)
    main = _varies_most(rows, names)
    drawn = names[:PANELS]
    figure = _figure(9.5, 4.2 + 2.1 * math.ceil(len(drawn) / 3))
    parts = figure.subfigures(
        2 if drawn else 1,
        1,
        height_ratios=[4.2, 2.1 * math.ceil(len(drawn) / 3)] if drawn else None,
    )
    top = parts[0] if drawn else parts
    axes = top.subplots()
    colour = _colours(rows, main)
    for row in rows:
        for x, y in _lines(row, status["metric"], _entries(status)):
            axes.plot(x, y, color=colour(row), linewidth=1.3)
    _plain(axes, "env steps", _named(status["metric"]))
    axes.xaxis.set_major_formatter(counted)
    if main is not None:
        _legend(top, axes, rows, main, names)
    if drawn:
        _panels(parts[1], status, rows, drawn)
    best = best_of(rows, status["mode"])
    assert best is not None
    told = settings_text(best, names)
    lines = [f"{len(rows)} trials; best: {best['trial']}, {status['metric']} {best['best']:.1f}"]
    return figure, [lines[0] + (f" with {told}" if told else ""), *_common(status, rows, names)]


def _panels(part: Any, status: Status, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Each setting against the best return; the best trials are filled."""
    top = {row["folder"] for row in _top(status, rows)}
    grid = part.subplots(math.ceil(len(names) / 3), 3, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        values = [row["settings"].get(name) for row in rows]
        x, ticks = _positions(values)
        face = [COLOURS[1] if row["folder"] in top else "white" for row in rows]
        axes.scatter(
            x, [row["best"] for row in rows], s=26, c=face, edgecolors=COLOURS[1], linewidths=0.9
        )
        if ticks is not None:
            axes.set_xticks(range(len(ticks)), ticks)
            axes.set_xlim(-0.5, len(ticks) - 0.5)
        elif _is_log(values):
            axes.set_xscale("log")
        _plain(axes, short(name, names), "")
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"best {_named(status['metric'])}")
    part.suptitle(f"filled: the best {len(top)} of {len(rows)}", fontsize=9)


def _common(status: Status, rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """What the settings of the best trials have in common, a line for each setting."""
    top = _top(status, rows)
    lines = []
    for name in names:
        values = [row["settings"].get(name) for row in top]
        if all(is_number(x) for x in values):
            told = f"{min(values):.4g} to {max(values):.4g}"
        else:
            told = ", ".join(sorted({_text(x) for x in values}))
        lines.append(f"{short(name, names)} of the best {len(top)}: {told}")
    return lines


def _top(status: Status, rows: Sequence[Row]) -> list[Row]:
    sign = -1.0 if status["mode"] == "max" else 1.0
    ordered = sorted(rows, key=lambda row: sign * row["best"])
    return ordered[: max(round(len(rows) * TOP), 1)]


def _varies_most(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """The setting that takes the most values; of those alike, that of the widest range."""

    def spread(name: str) -> tuple[int, float]:
        values = [row["settings"].get(name) for row in rows]
        numbers = [float(x) for x in values if is_number(x)]
        low, high = min(numbers, default=1.0), max(numbers, default=1.0)
        wide = math.log(high / low) if low > 0 else (high - low)
        return len({_text(x) for x in values}), wide

    return max(names, key=spread, default=None)


def _colours(rows: Sequence[Row], name: str | None) -> Any:
    """The colour of a trial by the value of a setting."""
    if name is None:
        return lambda row: COLOURS[0]
    values = [row["settings"].get(name) for row in rows]
    if not _is_range(values):
        order = sorted({_text(x) for x in values}, key=lambda x: (len(x), x))
        return lambda row: COLOURS[order.index(_text(row["settings"].get(name))) % len(COLOURS)]
    norm, map_ = _scale(values)
    return lambda row: (
        map_(norm(row["settings"][name])) if is_number(row["settings"].get(name)) else _GREY
    )


def _scale(values: Sequence[Any]) -> tuple[Any, Any]:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    numbers = [float(x) for x in values if is_number(x)]
    kind = LogNorm if _is_log(values) else Normalize
    return kind(min(numbers), max(numbers)), colormaps["viridis"]


def _legend(part: Any, axes: Any, rows: Sequence[Row], name: str, names: Sequence[str]) -> None:
    values = [row["settings"].get(name) for row in rows]
    if _is_range(values):
        from matplotlib.cm import ScalarMappable

        norm, map_ = _scale(values)
        part.colorbar(ScalarMappable(norm, map_), ax=axes, label=short(name, names), pad=0.02)
        return
    from matplotlib.lines import Line2D

    colour = _colours(rows, name)
    found = {shown(row["settings"].get(name)): colour(row) for row in rows}
    handles = [
        Line2D([], [], color=c, label=f"{short(name, names)}={x}") for x, c in sorted(found.items())
    ]
    axes.legend(handles=handles, frameon=False, fontsize=8)


def _is_range(values: Sequence[Any]) -> bool:
    """Whether these values get a colour scale: too many different numbers for a colour each."""
    numbers = {float(x) for x in values if is_number(x)}
    return len(numbers) > len(COLOURS) or (len(numbers) > 4 and _is_log(values))


def _is_log(values: Sequence[Any]) -> bool:
    numbers = [float(x) for x in values if is_number(x)]
    return bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) > 20


def _positions(values: Sequence[Any]) -> tuple[list[float], list[str] | None]:
    """Where to draw values; names of the places if they are no numbers."""
    if all(is_number(x) for x in values):
        return [float(x) for x in values], None
    order = sorted({_text(x) for x in values})
    return [float(order.index(_text(x))) for x in values], order


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# ------------------------------------------------------------------ lineage


def _lineage(folder: Path, status: Status) -> tuple[Any, list[str]]:
    entries = _entries(status)
    if not entries:
        what = "nobody has copied anybody in this search"
        raise ShoalError(what, str(folder), "draw its trials: leave --lineage out")
    names, members = list(entries[0]["new"]), status["trials"]
    figure = _figure(9.5, 3.0 + 2.0 * len(names))
    grid = figure.subplots(1 + len(names), 1, sharex=True, squeeze=False)[:, 0]
    for i, row in enumerate(members):
        colour = COLOURS[i % len(COLOURS)]
        grid[0].plot([], [], color=colour, label=row["trial"])
        for x, y in _lines(row, status["metric"], entries):
            grid[0].plot(x, y, color=colour, linewidth=1.3)
        for axes, name in zip(grid[1:], names, strict=True):
            found = ((a, b, value) for a, b, value in ways(entries, row, name) if is_number(value))
            for start, end, value in found:
                axes.plot([start, end], [value, value], color=colour, linewidth=1.6)
    for entry in entries:
        ends = entry["recipient_time"], entry["time"]
        _arrow(grid[0], ends, (entry["recipient_score"], entry["donor_score"]))
        for axes, name in zip(grid[1:], names, strict=True):
            _arrow(axes, ends, (entry["old"][name], entry["new"][name]))
    _plain(grid[0], "", _named(status["metric"]))
    for axes, name in zip(grid[1:], names, strict=True):
        if _is_log([entry[k][name] for entry in entries for k in ("old", "new")]):
            axes.set_yscale("log")
        _plain(axes, "", short(name, names))
    grid[-1].set_xlabel("env steps")
    grid[-1].xaxis.set_major_formatter(counted)
    if len(members) <= len(COLOURS):
        title = "member; an arrow leads from where a copy was made to what was copied"
        figure.legend(loc="outside lower center", frameon=False, ncols=len(members), title=title)
    rows = {row["id"]: row for row in members}
    said = [_said(entry, rows, names) for entry in entries]
    return figure, [f"{len(entries)} exploits among {len(members)} members", *said]


def _entries(status: Status) -> list[dict[str, Any]]:
    """The lineage of a search; empty if it is no population."""
    folders = {Path(row["folder"]).parent for row in status["trials"]}
    return [entry for folder in sorted(folders) for entry in lineage(folder)]


def _said(entry: dict[str, Any], rows: dict[str, Row], names: Sequence[str]) -> str:
    who, whom = (
        rows[entry[k]]["trial"] if entry[k] in rows else entry[k] for k in ("recipient", "donor")
    )
    changes = ", ".join(
        f"{short(n, names)} {_number(entry['old'][n])} -> {_number(entry['new'][n])}" for n in names
    )
    scores = f"{entry['recipient_score']:.1f} against {entry['donor_score']:.1f}"
    return f"{who} copied {whom} at {entry['time']:,} env steps ({scores}): {changes}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if is_number(value) else _text(value)


def _arrow(axes: Any, x: tuple[float, float], y: tuple[Any, Any]) -> None:
    """From what a member was to what it copied, if both are numbers."""
    if all(map(is_number, y)):
        style = {
            "arrowstyle": "->",
            "color": "#555555",
            "linewidth": 0.9,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", (x[1], y[1]), (x[0], y[0]), arrowprops=style)


# ------------------------------------------------------------------ shared


def _lines(
    row: Row, metric: str, entries: Sequence[Entry]
) -> Iterator[tuple[list[float], list[float]]]:
    """A trial's env steps and values, in stretches between the copies that it made."""
    path = Path(row["folder"])
    reports = read_progress(path) if (path / PROGRESS).is_file() else []
    copied = [e["recipient_time"] for e in entries if e["recipient"] == row["id"]]
    x: list[float] = []
    y: list[float] = []
    for report in reports:
        if x and (report["env_steps"] <= x[-1] or x[-1] in copied):
            yield x, y
            x, y = [], []
        if is_number(report.get(metric)):
            x, y = [*x, report["env_steps"]], [*y, report[metric]]
    yield x, y


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _named(metric: str) -> str:
    return "return" if metric == "return_mean" else metric


def _plain(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
