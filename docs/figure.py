"""Draws ``data-path.png``, the way of an observation and of a weight, and ``qt-opt.png``.

``python docs/figure.py`` writes them beside this file. A box names the code that it stands for as
``module:name``; a test asks that all of these exist.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
BLUE, RED = "#1f5fa8", "#b03a2e"
COLOURS = {  # by folder
    "envs": "#d9ead3",
    "fleet": "#cfe2f3",
    "algorithms": "#fff2cc",
    "trajectory": "#eeeeee",
    "replay": "#ead1dc",
    "learners": "#f4cccc",
    "ops": "#f4cccc",
    "plans": "#d9d2e9",
}


class Box(NamedTuple):
    """A box of the figure."""

    x: float
    y: float
    title: str
    text: str
    code: str  # module:name


class Way(NamedTuple):
    """Arrows from box to box, and what goes there."""

    boxes: tuple[str, ...]
    colour: str = BLUE
    style: str = "-"
    text: str = ""
    at: tuple[float, float] = (0.0, 0.0)


class Figure(NamedTuple):
    """Boxes, the arrows between them, and the processes that they are in (name, left, right)."""

    boxes: dict[str, Box]
    ways: tuple[Way, ...]
    processes: tuple[tuple[str, float, float], ...]
    lowest: float = 0.5
    highest: float = 3.8


DATA_PATH = {
    "env": Box(0, 2, "environment", "steps B slots", "shoal.envs.base:VectorEnv.step"),
    "act": Box(1, 2, "act", "action and records", "shoal.algorithms.base:Algorithm.act"),
    "trajectory": Box(2, 2, "trajectory", "T steps of B slots", "shoal.trajectory:Trajectory"),
    "postprocess": Box(
        3,
        2,
        "postprocess",
        "trajectory to batch",
        "shoal.algorithms.base:Differentiable.postprocess",
    ),
    "plan": Box(4, 2, "plan", "who waits for whom", "shoal.plans.base:Plan.run"),
    "replay": Box(4.5, 3, "replay buffer", "if the plan replays", "shoal.replay.buffer:Buffer"),
    "label": Box(5, 2, "label", "once for an update", "shoal.algorithms.base:Differentiable.label"),
    "loss": Box(6, 2, "loss", "each gradient step", "shoal.algorithms.base:Differentiable.loss"),
    "optimiser": Box(
        6, 1, "optimiser", "gradient to step", "shoal.ops.optimisers:Optimiser.update"
    ),
    "weights": Box(5, 1, "weights", "with a version", "shoal.learners.base:Learner.weights"),
    "publish": Box(4, 1, "publish", "put once for all", "shoal.fleet.base:Fleet.publish"),
    "set": Box(1, 1, "set_weights", "with the next call", "shoal.fleet.worker:Worker.set_weights"),
}
QT_OPT = {
    "sample": Box(0, 3.3, "worker", "acts by CEM", "shoal.fleet.worker:Worker.sample_apart"),
    "online": Box(1.4, 2.6, "online", "buffer of fresh steps", "shoal.replay.buffer:Buffer"),
    "mixture": Box(
        1.4, 1.8, "mixture", "of both, row by row", "shoal.replay.demonstrated:Demonstrated.draw"
    ),
    "offline": Box(1.4, 1.0, "off-policy", "buffer of the log", "shoal.replay.buffer:Buffer"),
    "log": Box(1.4, 0.2, "log", "read in turn", "shoal.replay.demonstrated:Log.read"),
    "label": Box(2.8, 1.8, "updater", "labels by CEM", "shoal.fleet.updater:Updater.label"),
    "train": Box(4.2, 1.8, "train buffer", "age limit", "shoal.plans.label_ledger:LabelLedger.due"),
    "learner": Box(5.3, 1.8, "learner", "gradient steps", "shoal.learners.base:Learner.update"),
    "lagged": Box(5.3, 1.0, "lagged", "two copies", "shoal.learners.base:Learner.lagged"),
    "weights": Box(5.3, 3.3, "weights", "with a version", "shoal.learners.base:Learner.weights"),
}
FIGURES = {
    "data-path.png": Figure(
        DATA_PATH,
        (
            Way(
                ("env", "act", "trajectory", "postprocess", "plan", "label", "loss"),
                text="an observation",
                at=(0.5, 2.42),
            ),
            Way(("plan", "replay", "label"), style=":"),
            Way(
                ("loss", "optimiser", "weights", "publish", "set", "act"),
                RED,
                text="a weight",
                at=(2.1, 1.08),
            ),
        ),
        (("worker (NumPy)", -0.5, 3.5), ("driver: plan, fleet and learner", 3.5, 6.5)),
    ),
    "qt-opt.png": Figure(
        QT_OPT,
        (
            Way(("sample", "online", "mixture"), text="env steps", at=(0.72, 3.02)),
            Way(("log", "offline", "mixture")),
            Way(("mixture", "label", "train", "learner"), text="rows", at=(1.95, 1.86)),
            Way(("learner", "weights"), RED),
            Way(("weights", "sample"), RED, text="weights, now and then", at=(2.5, 3.36)),
            Way(("learner", "lagged"), RED),
            Way(("lagged", "label"), RED, text="networks of version k", at=(3.55, 1.0)),
        ),
        (
            ("workers", -0.5, 0.7),
            ("replay shards", 0.7, 2.1),
            ("updaters", 2.1, 3.5),
            ("driver: plan and learner", 3.5, 5.9),
        ),
        lowest=-0.35,
        highest=4.0,
    ),
}
WIDTH, HEIGHT = 0.8, 0.46


def draw(name: str, out: Path | None = None) -> None:
    """Draw a figure of that name; beside this file, or elsewhere."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    drawn = FIGURES[name]
    figure, axes = plt.subplots(figsize=(13, 5.2), dpi=110)
    for process, left, right in drawn.processes:
        area = FancyBboxPatch(
            (left + 0.04, drawn.lowest + 0.05),
            right - left - 0.08,
            drawn.highest - drawn.lowest - 0.35,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor="#fafafa",
            edgecolor="#bbbbbb",
            linestyle="--",
        )
        axes.add_patch(area)
        middle = (left + right) / 2
        axes.text(middle, drawn.highest - 0.2, process, ha="center", fontsize=11, color="#555555")
    for box in drawn.boxes.values():
        folder = box.code.split(":")[0].split(".")[1]
        corner = box.x - WIDTH / 2, box.y - HEIGHT / 2
        axes.add_patch(
            FancyBboxPatch(
                corner,
                WIDTH,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=COLOURS[folder],
                edgecolor="#444444",
            )
        )
        axes.text(box.x, box.y + 0.1, box.title, ha="center", va="center", weight="bold")
        axes.text(box.x, box.y - 0.08, box.text, ha="center", va="center", fontsize=7.5)
        home = box.code.split(":")[0].removeprefix("shoal.").replace(".", "/") + ".py"
        axes.text(
            box.x, box.y - 0.32, home, ha="center", va="center", fontsize=7, family="monospace"
        )
    for way in drawn.ways:
        for start, end in pairwise(way.boxes):
            a, b = drawn.boxes[start], drawn.boxes[end]
            axes.add_patch(
                FancyArrowPatch(
                    _edge(a, b),
                    _edge(b, a),
                    arrowstyle="-|>",
                    mutation_scale=14,
                    color=way.colour,
                    linestyle=way.style,
                    linewidth=1.8,
                )
            )
        axes.text(*way.at, way.text, color=way.colour, fontsize=11)
    lefts, rights = [x[1] for x in drawn.processes], [x[2] for x in drawn.processes]
    axes.set_xlim(min(lefts) - 0.05, max(rights) + 0.05)
    axes.set_ylim(drawn.lowest, drawn.highest)
    axes.axis("off")
    figure.savefig(out or HERE / name, bbox_inches="tight")
    plt.close(figure)


def _edge(a: Box, b: Box) -> tuple[float, float]:
    """Where the arrow from one box to another leaves the first."""
    if abs(a.x - b.x) >= abs(a.y - b.y):
        return a.x + (WIDTH / 2 if b.x > a.x else -WIDTH / 2), a.y
    return a.x, a.y + (HEIGHT / 2 if b.y > a.y else -HEIGHT / 2 - 0.16)


if __name__ == "__main__":
    for each in FIGURES:
        draw(each)
