"""What evaluation while training costs: ``python benchmarks/evaluation.py [--every 50000]``.

IMPALA with two workers on CartPole-v1, with and without an evaluation of 10 episodes every 50,000
env steps, in turn; each goes on from the same checkpoint of a policy that keeps the pole up, with a
learning rate that changes nothing, so that every evaluation has 5,000 env steps, the most there
can be. Env steps per second are over ``--steps`` env steps, after ``WARMUP`` that are not counted.
Told are all measurements, their medians, and the part of the rate that evaluation takes. The target
is at most 5 %.

Prints one line of JSON and writes it to benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from shoal.process.machine import cpus
from shoal.trainer import Trainer

WARMUP = 100_000  # env steps
LONGEST = 5_000_000  # env steps until there is a policy
TARGET = 0.05
RESULTS = Path(__file__).with_name("results") / "evaluation.json"


def trained(root: Path) -> Path:
    """A checkpoint of a policy whose episodes last 500 env steps, or nearly."""
    with Trainer("impala", "CartPole-v1", workers=2, tuned=True) as trainer:
        while trainer.run.counters.env_steps < LONGEST:
            good = (trainer.train()["return_mean"] or 0.0) >= 300
            if good and trainer.evaluate(10)["return_mean"] >= 490:
                return trainer.save(root)
    raise RuntimeError(f"no policy with a return of 490 within {LONGEST:,} env steps")


def measured(path: Path, steps: int, every: int | None) -> dict[str, Any]:
    """Env steps per second of a run that goes on from there; and what was evaluated."""
    with Trainer.restore(
        path, lr=1e-12, evaluate_every=every, stop_steps=10**9, report_every=2000
    ) as trainer:
        counters, returns = trainer.run.counters, list[float]()
        begin = counters.env_steps + WARMUP
        while counters.env_steps < begin:
            trainer.train()
        begun, begin = perf_counter(), counters.env_steps
        while counters.env_steps < begin + steps:
            report = trainer.train()
            if "evaluation/return_mean" in report:
                returns.append(report["evaluation/return_mean"])
        seconds = perf_counter() - begun
        return {
            "steps_per_s": round((counters.env_steps - begin) / seconds, 1),
            "seconds": round(seconds, 3),
            "evaluations": len(returns),
            "lowest_return": min(returns, default=None),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=50_000, help="env steps of an evaluation")
    parser.add_argument("--steps", type=int, default=1_500_000, help="env steps measured")
    parser.add_argument("--repeat", type=int, default=5, help="times that each is measured")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file for the result")
    args = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        path = trained(Path(folder))
        for i in range(args.repeat):
            for which in ("with", "without") if i % 2 else ("without", "with"):
                every = args.every if which == "with" else None
                runs[which].append(measured(path, args.steps, every))
                print(which, runs[which][-1], flush=True)
    rates = {which: median(run["steps_per_s"] for run in runs[which]) for which in runs}
    result = {
        "system": "impala",
        "env": "CartPole-v1",
        "workers": 2,
        "every": args.every,
        "episodes": 10,
        "steps": args.steps,
        "steps_per_s": rates,
        "cost": round(1 - rates["with"] / rates["without"], 4),
        "target": TARGET,
        "runs": runs,
        "cpus": cpus(),
        "versions": {name: version(name) for name in ("shoal", "ray", "jax", "numpy", "gymnasium")},
    }
    text = json.dumps(result)
    args.out.write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)


if __name__ == "__main__":
    main()
