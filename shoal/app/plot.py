"""Draws the returns of runs against env steps and against seconds, a row for each environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.app.folder import CONFIG, read_progress
from shoal.errors import ShoalError

ndarray = npt.NDArray[Any]
POINTS = 200  # of a line that is a mean over seeds
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
# Settings in which runs of one line may differ.
_INCIDENTAL = ("shoal", "seed", "stop", "checkpointing", "report_every", "evaluation")
# 97.5 % points of Student's t for 1, 2, ... degrees of freedom; beyond the last, by expansion.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Line:
    """Returns of one run, or the mean over several, against env steps or seconds."""

    x: ndarray  # [P] float64, ascending: env steps, or seconds
    mean: ndarray  # [P] float64
    low: ndarray | None = None  # [P] 95 % confidence interval of the mean; None for a single run
    high: ndarray | None = None


@dataclass(frozen=True)
class Curve:
    """Runs that differ only in their seeds, drawn as one line."""

    label: str
    steps: Line
    seconds: Line
    env: str = ""
    short: str = ""  # the label without the environment
    evaluation: Line | None = None  # of the greedy policy, against env steps
    evaluation_s: Line | None = None  # the same against seconds


@dataclass(frozen=True)
class _Run:
    """Reports of one run as arrays of one length, without those that had no return yet."""

    config: Mapping[str, Any]
    steps: ndarray
    seconds: ndarray
    returns: ndarray
    evaluated: tuple[ndarray, ndarray, ndarray]  # the same of evaluations: steps, seconds, returns


def plot(folders: Sequence[Path], out: Path) -> list[str]:
    """Draw the runs into the file ``out``; returns one line of text for each line drawn.

    Raises ShoalError for a folder that is no run or has no returns yet, and for a file that cannot
    be written.
    """
    curves = gather(folders)
    check_picture(out)
    write_picture(_figure(curves), out)
    return [
        f"{curve.label}: return {curve.steps.mean[-1]:.1f} at {curve.steps.x[-1]:,.0f} env steps"
        for curve in curves
    ]


def check_picture(out: Path) -> None:
    """Raise ShoalError for a file that is no picture by its name."""
    suffixes = (".png", ".pdf", ".svg")
    if out.suffix not in suffixes:
        what = f"a picture ends in {', '.join(suffixes)}, not {out.suffix or 'nothing'!r}"
        raise ShoalError(what, str(out), f"write to {out.with_suffix('.png')}")


def write_picture(figure: Any, out: Path) -> None:
    """Write a figure to a file. Raises ShoalError if that cannot be done."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)
    except OSError as error:
        what = f"the picture cannot be written: {error.strerror or error}"
        raise ShoalError(what, str(out), "give another -o FILE") from error


def gather(folders: Sequence[Path]) -> list[Curve]:
    """The lines to draw, in the order of the folders; runs that differ only by seed are one."""
    groups = [[_read(folder) for folder in group] for group in grouped(folders)]
    curves = []
    for runs, label in zip(groups, _labels(groups), strict=True):
        steps = _line([(run.steps, run.returns) for run in runs])
        seconds = _against_seconds(runs, steps)
        env = _name(runs[0].config["env"])
        short = label.replace(f" on {env}", "", 1)
        evaluated = [run.evaluated for run in runs]
        both = [_evaluations([(e[i], e[2]) for e in evaluated]) for i in (0, 1)]
        curves.append(Curve(label, steps, seconds, env, short, *both))
    return curves


def grouped(folders: Sequence[Path]) -> list[list[Path]]:
    """The folders, those of runs that differ only by seed together."""
    groups: dict[str, list[Path]] = {}
    for folder in dict.fromkeys(folders):
        settings = {k: v for k, v in _read(folder).config.items() if k not in _INCIDENTAL}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(folder)
    return list(groups.values())


def _against_seconds(runs: Sequence[_Run], steps: Line) -> Line:
    """Their line against seconds.

    If one run had ended before another began to report, as on a machine with other work, it is the
    line against env steps at the seconds that these took on the average.
    """
    curves = [(run.seconds, run.returns) for run in runs]
    if max(x[0] for x, _ in curves) <= min(x[-1] for x, _ in curves):
        return _line(curves)
    x = np.mean([np.interp(steps.x, run.steps, run.seconds) for run in runs], 0)
    return Line(x, steps.mean, steps.low, steps.high)


def _evaluations(curves: Sequence[tuple[ndarray, ndarray]]) -> Line | None:
    """Their line, if all runs were evaluated and have a stretch in common."""
    if any(not len(x) for x, _ in curves):
        return None
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if start > end:
        return None
    own = min((x for x, _ in curves), key=len)  # few points, and none between them
    return _line(curves, own[(own >= start) & (own <= end)])


def _read(folder: Path) -> _Run:
    every = read_progress(folder)
    reports = [r for r in every if r["return_mean"] is not None]
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not {"system", "env", "seed"} <= config.keys():
            raise ValueError("it lacks system, env or seed")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"this is no run folder: {CONFIG} cannot be read ({reason})"
        raise ShoalError(what, str(folder), "give the folder of a run") from error
    if not reports:
        what = "this run has no returns to draw: no episode has ended yet"
        raise ShoalError(what, str(folder), "let it train for longer, or leave it out")
    columns = [
        np.array([r[k] for r in reports], float) for k in ("env_steps", "wall_s", "return_mean")
    ]
    found = {  # a report repeats the newest evaluation until there is another
        r["evaluation/env_steps"]: (r["wall_s"], r["evaluation/return_mean"])
        for r in reversed(every)
        if r.get("evaluation/return_mean") is not None
    }
    at = sorted(found)
    seconds, returns = (np.array([found[x][i] for x in at], float) for i in (0, 1))
    steps, wall_s, mean = columns
    return _Run(config, steps, wall_s, mean, (np.array(at, float), seconds, returns))


def _line(curves: Sequence[tuple[ndarray, ndarray]], grid: ndarray | None = None) -> Line:
    """The mean over runs and its interval by Student's t, over the range that all runs cover.

    Runs report at different times, so each is interpolated linearly to a common grid.
    """
    if len(curves) == 1:
        return Line(*curves[0])
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if start > end:
        what = f"these {len(curves)} runs differ by seed only, but have no stretch in common"
        raise ShoalError(what, None, "draw them apart, or let the shortest go on: shoal resume")
    grid = np.linspace(start, end, POINTS) if grid is None else grid
    y = np.stack([np.interp(grid, x, returns) for x, returns in curves])
    mean, n = y.mean(0), len(curves)
    half = _student(n - 1) * y.std(0, ddof=1) / np.sqrt(n)
    return Line(grid, mean, mean - half, mean + half)


def _student(df: int) -> float:
    """The 97.5 % point of Student's t (Abramowitz and Stegun 26.7.5 beyond the table)."""
    if df <= len(_T):
        return _T[df - 1]
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / df + second / df**2 + third / df**3


def _labels(groups: Sequence[Sequence[_Run]]) -> list[str]:
    """System, environment and number of seeds; and settings if two labels would be equal."""
    flat = [flatten(runs[0].config) for runs in groups]
    names = [
        f"{_name(f['system'])} on {_name(runs[0].config['env'])}"
        for f, runs in zip(flat, groups, strict=True)
    ]
    labels = []
    for own, name, runs in zip(flat, names, groups, strict=True):
        alike = [f for f, other in zip(flat, names, strict=True) if other == name]
        keys = [k for k in own if k.partition(".")[0] not in _INCIDENTAL]
        differing = [f"{k}={own[k]}" for k in keys if any(f.get(k) != own[k] for f in alike)]
        seeds = {run.config["seed"] for run in runs}
        many = f"{len(runs)} seeds" if len(seeds) == len(runs) else f"{len(runs)} runs"
        labels.append(
            ", ".join([name, *differing, many if len(runs) > 1 else f"seed {min(seeds)}"])
        )
    return labels


def _name(env: Any) -> str:
    """The name of an environment, from any form of its configuration."""
    return str(env.get("id", env.get("object", env)) if isinstance(env, dict) else env)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as {"a.b": value}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _figure(curves: Sequence[Curve]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    envs = list(dict.fromkeys(curve.env for curve in curves))
    alone = len(envs) == 1
    height = 4.2 + 0.22 * len(curves) if alone else 3.4 * len(envs)
    figure = Figure(figsize=(10, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(envs), 2, sharey="row", squeeze=False)
    for env, (left, right) in zip(envs, rows, strict=True):
        _panels([curve for curve in curves if curve.env == env], left, right, alone)
        if not alone:
            left.set_title(env.replace("$", r"\$"), loc="left", fontsize=10)
            left.legend(frameon=False, fontsize=8)
    shaded = any(curve.steps.low is not None for curve in curves)
    notes = ["shaded: 95 % confidence interval of the mean over seeds"] if shaded else []
    if any(curve.evaluation is not None for curve in curves):
        notes.append("with points: the greedy policy, evaluated while it trained")
    title = "; ".join(notes) or None
    if alone:
        figure.legend(loc="outside lower center", frameon=False, title=title, ncols=1)
    elif title:
        figure.supxlabel(title, fontsize=9)
    return figure


def _panels(curves: Sequence[Curve], left: Any, right: Any, alone: bool) -> None:
    """The lines of one environment, against env steps and against seconds."""
    for i, curve in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        dashes = _DASHES[i // len(COLOURS) % len(_DASHES)]
        both = ((left, curve.steps, curve.evaluation), (right, curve.seconds, curve.evaluation_s))
        for axes, line, evaluation in both:
            label = (curve.label if alone else curve.short).replace("$", r"\$")  # no formulas
            own = label if axes is left else None
            axes.plot(line.x, line.mean, dashes, color=colour, linewidth=1.6, label=own)
            if line.low is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
            if evaluation is not None:
                every = max(len(evaluation.x) // 20, 1)
                points = {"marker": "o", "markersize": 3, "markevery": every, "linewidth": 0.9}
                axes.plot(evaluation.x, evaluation.mean, dashes, color=colour, **points)
    left.set_ylabel("return, mean of the last 100 episodes" if alone else "return")
    left.set_xlabel("env steps")
    right.set_xlabel("seconds")
    left.xaxis.set_major_formatter(counted)
    for axes in (left, right):
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.02)
        axes.set_xlim(left=0)


def counted(value: float, position: int) -> str:
    from shoal.app.console import count

    return count(value)
