"""Learning curves: ``python -m tools.curves RUN...`` keeps runs in ``results/curves.json``.

Runs of one system become its entry; a seed replaces its earlier run. Then the pictures of the
systems' pages (``docs/systems/NAME.png``) and of the front page (``docs/overview.png``) are drawn
anew from that file. Without arguments it does only that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tools.results import names

ROOT = Path(__file__).resolve().parent.parent
FILE, DOCS = ROOT / "results" / "curves.json", ROOT / "docs"
POINTS = 60  # of a curve that is kept
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHOWN = ("ppo", "impala", "a3c", "dqn", "c51", "ars")  # on the front page
TASK = "CartPole-v1"


def keep(folders: Iterable[Path]) -> None:
    """Add runs to the file."""
    known: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        reports = [json.loads(x) for x in (folder / "progress.jsonl").read_text().splitlines()]
        _, env = names(config)
        entry = known.setdefault(config["system"], {"env": env, "command": "", "runs": {}})
        entry["command"], entry["env"] = _command(config, env), env
        entry["keys"] = sorted({k for r in reports for k in r if k.startswith("learn/")})
        entry["runs"][str(config["seed"])] = {
            "training": _thinned(reports, "env_steps", "return_mean"),
            "evaluation": _thinned(reports, "evaluation/env_steps", "evaluation/return_mean"),
        }
    FILE.write_text(json.dumps(known, indent=None, separators=(",", ":"), sort_keys=True) + "\n")


def _command(config: Mapping[str, Any], env: str) -> str:
    """The command that such a run was started with, but for its seed."""
    tuned = "" if config["system"] == "ppo" else " --tuned"
    name, _, hidden = env.partition(", hide ")
    hide = f" --hide {hidden}" if hidden else ""
    workers = config["rollout"]["workers"]
    beside = f" --workers {workers}" if workers else ""
    every = f" --evaluate-every {config['evaluation']['every']}"
    return f"shoal train {name} --system {config['system']}{tuned}{hide}{beside}{every}"


def _thinned(reports: list[dict[str, Any]], x: str, y: str) -> list[list[float]]:
    """[[env steps], [returns]] at most POINTS of each, the last included."""
    pairs = {r[x]: r[y] for r in reports if r.get(x) is not None and r.get(y) is not None}
    steps = sorted(pairs)
    picked = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).astype(int))
    kept = [steps[i] for i in picked] if steps else []
    return [[float(s) for s in kept], [round(float(pairs[s]), 2) for s in kept]]


def draw() -> None:
    """All pictures."""
    import matplotlib

    matplotlib.use("Agg")
    known = json.loads(FILE.read_text())
    for name, entry in known.items():
        _one(name, entry)
    _overview(known)


def _axes(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.set_xlabel("env steps")


def _mean(runs: Iterable[list[list[float]]]) -> tuple[Any, Any]:
    """The mean over runs; one that has ended, because it was good enough, stays where it was."""
    runs = [run for run in runs if run[0]]
    if not runs:
        return np.zeros(0), np.zeros(0)
    x = np.linspace(max(r[0][0] for r in runs), max(r[0][-1] for r in runs), 200)
    return x, np.mean([np.interp(x, run[0], run[1]) for run in runs], 0)


def _one(name: str, entry: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained", dpi=110)
    ax = figure.subplots()
    for kind, dash in (("training", "-"), ("evaluation", "--")):
        runs = [run[kind] for run in entry["runs"].values()]
        for run in runs:
            ax.plot(*run, dash, color=COLOURS[0], alpha=0.25, lw=1)
        ax.plot(*_mean(runs), dash, color=COLOURS[0], lw=2, label=kind)
    _axes(ax)
    ax.set_ylabel("return")
    ax.set_title(f"{name}, {entry['env']}", fontsize=10)
    ax.legend(frameon=False)
    figure.savefig(DOCS / "systems" / f"{name}.png")


def _overview(known: Mapping[str, Any]) -> None:
    """Learning curves beside the table of algorithms and plans."""
    from matplotlib.figure import Figure

    from shoal.systems.table import matrix

    figure = Figure(figsize=(12, 4.2), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    for name, colour in zip(SHOWN, COLOURS, strict=False):
        if name in known and known[name]["env"] == TASK:
            runs = [run["evaluation"] for run in known[name]["runs"].values()]
            x, y = _mean(runs)
            left.plot([*x, 1e6], [*y, y[-1]], color=colour, lw=2, label=name)
    _axes(left)
    left.set_xlim(0, 100_000)
    left.set_ylabel("return of the greedy policy")
    left.set_title(f"{TASK}, mean of three seeds", fontsize=11)
    left.legend(frameon=False)
    pairs = matrix()
    columns = list(dict.fromkeys(algorithm for algorithm, *_ in pairs))
    rows = list(dict.fromkeys(plan for _, plan, *_ in pairs))
    right.set_xlim(0, len(columns))
    right.set_ylim(len(rows), 0)
    for algorithm, plan, name, reason in pairs:
        x, y = columns.index(algorithm), rows.index(plan)
        colour = "#eeeeee" if reason else "#0072B2" if name else "#bcd7ea"
        right.add_patch(_box(x, y, colour))
        if name:
            size = 7 if len(name) < 7 else 5.2
            right.text(x + 0.5, y + 0.5, name, ha="center", va="center", color="w", fontsize=size)
    right.set_xticks([i + 0.5 for i in range(len(columns))], columns, rotation=35, fontsize=8)
    right.set_yticks([i + 0.5 for i in range(len(rows))], rows, fontsize=8)
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    right.set_title("every algorithm under every plan that fits it", fontsize=11)
    figure.savefig(DOCS / "overview.png")


def _box(x: float, y: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x + 0.03, y + 0.05), 0.94, 0.9, color=colour, lw=0)


def main() -> None:
    keep(map(Path, sys.argv[1:]))
    draw()


if __name__ == "__main__":
    main()
