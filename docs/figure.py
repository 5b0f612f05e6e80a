"""Draws ``data-path.png``: the way of an observation, and the way of a weight.

``python docs/figure.py`` writes it beside this file. A box names the code that it stands for as
``module:name``; a test asks that all of these exist.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

OUT = Path(__file__).with_name("data-path.png")
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


BOXES = {
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
OBSERVATION = ("env", "act", "trajectory", "postprocess", "plan", "label", "loss")
STORED = ("plan", "replay", "label")
WEIGHT = ("loss", "optimiser", "weights", "publish", "set", "act")
PROCESSES = (("worker (NumPy)", -0.5, 3.5), ("driver: plan, fleet and learner", 3.5, 6.5))
WIDTH, HEIGHT = 0.8, 0.46


def draw(out: Path = OUT) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    figure, axes = plt.subplots(figsize=(13, 5.2), dpi=110)
    for name, left, right in PROCESSES:
        area = FancyBboxPatch(
            (left + 0.04, 0.55),
            right - left - 0.08,
            2.95,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor="#fafafa",
            edgecolor="#bbbbbb",
            linestyle="--",
        )
        axes.add_patch(area)
        axes.text((left + right) / 2, 3.6, name, ha="center", fontsize=11, color="#555555")
    for box in BOXES.values():
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
    for path, colour, style in (
        (OBSERVATION, "#1f5fa8", "-"),
        (STORED, "#1f5fa8", ":"),
        (WEIGHT, "#b03a2e", "-"),
    ):
        for start, end in pairwise(path):
            a, b = BOXES[start], BOXES[end]
            axes.add_patch(
                FancyArrowPatch(
                    _edge(a, b),
                    _edge(b, a),
                    arrowstyle="-|>",
                    mutation_scale=14,
                    color=colour,
                    linestyle=style,
                    linewidth=1.8,
                )
            )
    axes.text(0.5, 2.42, "an observation", color="#1f5fa8", fontsize=11)
    axes.text(2.1, 1.08, "a weight", color="#b03a2e", fontsize=11)
    axes.set_xlim(-0.55, 6.55)
    axes.set_ylim(0.5, 3.8)
    axes.axis("off")
    figure.savefig(out, bbox_inches="tight")
    plt.close(figure)


def _edge(a: Box, b: Box) -> tuple[float, float]:
    """Where the arrow from one box to another leaves the first."""
    if abs(a.x - b.x) >= abs(a.y - b.y):
        return a.x + (WIDTH / 2 if b.x > a.x else -WIDTH / 2), a.y
    return a.x, a.y + (HEIGHT / 2 if b.y > a.y else -HEIGHT / 2 - 0.16)


if __name__ == "__main__":
    draw()
