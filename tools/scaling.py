"""How evolution scales: ``python -m tools.scaling`` measures a generation, and simulates others.

With up to 8,192 workers; drawn in ``docs/evolution-scaling.png``. ``--simulate`` takes the
measurements that ``docs/evolution-scaling.json`` holds.

Times are of the CPU, so that other work on the machine does not spoil them.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pickle
from functools import partial
from pathlib import Path
from time import process_time, sleep
from typing import Any

import numpy as np

import shoal
from shoal.config.config import Cluster
from shoal.fleet.create import create
from shoal.fleet.dispatch import Dispatcher
from shoal.fleet.evaluator import Evaluating, Evaluation, Evaluator, Job
from shoal.fleet.group import heads
from shoal.fleet.sample import Sample
from shoal.learners.evolver import Evolver, Recipe
from shoal.plans.evolution import ROUNDS
from shoal.systems.configure import configure

DOCS = Path(__file__).resolve().parent.parent / "docs"
ENV, DIRECTIONS, HIDDEN = "Humanoid-v5", 5_000, (256, 256)  # humanoid.json of the paper's code
FANOUT = 64
WORKERS = (1, 2, 4, 8, 18, 36, 72, 144, 288, 576, 1024, 1440, 2048, 4096, 8192)
PAPER = {18: 657.0, 1440: 10.0}  # minutes to a return of 6,000, Salimans et al. 2017, section 4.2
RLLIB = {8192: 3.7}  # Liang et al. 2018, section 5


class Nothing(Evaluating):
    """Evaluates at once: what is left is the cost of a call."""

    def __init__(self, directions: int, index: int, restart: int) -> None:
        like = {"theta": np.zeros(4, np.float32)}
        super().__init__(Evolver(shoal.ES(directions=directions), like, 0, 1000, pairs=1))

    def _evaluated(self, job: Job, chunk: int) -> Evaluation:
        return Evaluation(
            chunk, job.version, Sample({}, 2, 2, job.version, [], {}), np.zeros((1, 2))
        )


def settings(**fields: Any) -> Any:
    network = shoal.Network(hidden=HIDDEN)
    return configure("es", ENV, None, {"directions": DIRECTIONS, "network": network, **fields})


def measure() -> dict[str, float]:
    """Seconds of the CPU, and bytes, of the parts of a generation."""
    config = settings(envs_per_worker=2)
    member = Evaluator(config, 0)
    learner = member.learner
    theta = learner.theta()
    weights = np.random.default_rng(0).normal(size=DIRECTIONS).astype(np.float32)
    norm = {f"norm/obs/{k}": np.ones(348, np.float32) for k in ("mean", "std")}
    recipe = Recipe(weights, 0.01, norm)
    job = Job(0, (0,), 0.02, None, 0, (recipe,))
    start, steps = process_time(), 0
    lengths = []
    for chunk in range(60):
        (found,) = member.evaluate(Job(0, (chunk,), 0.02, None))
        steps += found.sample.env_steps
        lengths += found.lengths.reshape(-1).tolist()
    step_s = (process_time() - start) / steps
    start = process_time()
    learner.evolve(recipe)
    recombine_s = process_time() - start
    start = process_time()
    for _ in range(20):
        np.copyto(np.empty_like(theta), theta)
    copy_s = (process_time() - start) / 20
    member.close()
    return {
        "parameters": int(theta.size),
        "theta_bytes": int(theta.nbytes),
        "recipe_bytes": recipe.nbytes,
        "job_bytes": len(pickle.dumps(job._replace(recipes=()), 5)),
        "job_with_recipe_bytes": len(pickle.dumps(job, 5)),
        "result_bytes": len(pickle.dumps([found], 5)),
        "step_s": step_s,
        "first_length_mean": float(np.mean(lengths)),
        "first_length_std": float(np.std(lengths)),
        "recombine_s": recombine_s,
        "copy_s": copy_s,
        **call_cost(recipe),
    }


def call_cost(recipe: Recipe) -> dict[str, float]:
    """What a call of a Ray member costs the process that makes it, with and without a recipe."""
    n = 400
    make = partial(Nothing, n)
    fleet, close = create(make, 2, Cluster(cpus_per_worker=0.0))
    try:
        dispatcher = Dispatcher(fleet)
        dispatcher.publish(
            Evolver(
                shoal.ES(directions=n), {"theta": np.zeros(4, np.float32)}, 0, 1000, pairs=1
            ).get_state(),
            0,
            send=True,
        )
        list(dispatcher.gather(Job(0, tuple(range(n)), 0.02, None)))
        sleep(0.5)
        start = process_time()
        for _ in range(5):
            list(dispatcher.gather(Job(0, tuple(range(n)), 0.02, None)))
        call_s = (process_time() - start) / (5 * n)
    finally:
        close()
    job = Job(0, (0,), 0.02, None, 0, (recipe,))
    start = process_time()
    for _ in range(200):
        pickle.loads(pickle.dumps(job, 5))
    return {"call_s": call_s, "serialise_recipe_s": (process_time() - start) / 200}


# ----------------------------------------------------------------------------- simulation


def generation(
    m: dict[str, float], workers: int, lengths: np.ndarray, rebuild: bool, fanout: int
) -> dict[str, float]:
    """Seconds of the parts of one generation, with that many workers.

    The root hands out chunks of pairs to its members, one after the other: each call costs it
    ``call_s``, and the first of a member also what the recipe or the weights cost. A group does the
    same for its own members. A worker plays its episodes.
    """
    size = heads(workers, fanout)
    groups = [workers * (i + 1) // size - workers * i // size for i in range(size)]
    told = m["serialise_recipe_s"] if rebuild else m["copy_s"]
    rebuilt = m["recombine_s"] if rebuild else m["copy_s"]
    pairs = lengths.reshape(-1, 2).sum(1) * m["step_s"]
    if size == workers:
        evaluated = serve(pairs, [rebuilt] * workers, m["call_s"], told)
    else:
        # The root gives each group a part of its share at a time, as the plan does.
        queue: list[tuple[float, int]] = []
        at, end, root = 0, 0.0, 0.0
        first = [True] * size
        for i in range(size):
            root += m["call_s"] + told
            heapq.heappush(queue, (root, i))
        ends = [0.0] * size
        while at < len(pairs):
            now, i = heapq.heappop(queue)
            part = pairs[at : at + groups[i] * max(len(pairs) // (ROUNDS * size * groups[i]), 1)]
            at += len(part)
            ready = [rebuilt if first[i] else 0.0] * groups[i]
            spent = serve(part, ready, m["call_s"], told if first[i] else 0.0)
            first[i] = False
            ends[i] = now + spent
            root = max(root, ends[i]) + m["call_s"]
            heapq.heappush(queue, (root, i))
            end = max(end, ends[i])
        evaluated = end + size * m["call_s"]
    ideal = pairs.sum() / workers
    return {
        "ideal": ideal,
        "evaluate": evaluated,
        "recombine": m["recombine_s"],
        "total": evaluated + m["recombine_s"],
    }


def serve(pairs: np.ndarray, ready: list[float], call_s: float, told: float) -> float:
    """Seconds until one process has had all pairs evaluated by members that are ``ready`` then."""
    server, end = 0.0, 0.0
    free = [(0.0, i) for i in range(len(ready))]
    heapq.heapify(free)
    fresh = [True] * len(ready)
    for pair in pairs:
        at, i = heapq.heappop(free)
        server = max(server, at) + call_s + (told if fresh[i] else 0.0)
        done = server + (ready[i] if fresh[i] else 0.0) + float(pair)
        fresh[i] = False
        end = max(end, done)
        heapq.heappush(free, (done, i))
    return end


def simulate(m: dict[str, float]) -> dict[str, Any]:
    """A generation of short episodes (a first one) and of long ones (1,000 env steps)."""
    rng = np.random.default_rng(0)
    mean, std = m["first_length_mean"], m["first_length_std"]
    spread = np.log1p((std / mean) ** 2)
    short = np.maximum(rng.lognormal(np.log(mean) - spread / 2, spread**0.5, 2 * DIRECTIONS), 1.0)
    cases = {
        "short episodes": (short, True, FANOUT),
        "long episodes": (np.full(2 * DIRECTIONS, 1000.0), True, FANOUT),
        "long episodes, weights sent": (np.full(2 * DIRECTIONS, 1000.0), False, FANOUT),
        "long episodes, no tree": (np.full(2 * DIRECTIONS, 1000.0), True, 10**6),
    }
    return {
        name: {n: generation(m, n, lengths, rebuild, fanout) for n in WORKERS}
        for name, (lengths, rebuild, fanout) in cases.items()
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """Speed-up over one worker against the number of workers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 5.0), layout="constrained")
    axes.plot(WORKERS, WORKERS, color="0.7", lw=1, label="ideal")
    styles = ("C0-", "C1-", "C1--", "C1:")
    for (name, rows), style in zip(found.items(), styles, strict=True):
        speed = [rows[n]["ideal"] * n / rows[n]["total"] for n in WORKERS]
        axes.plot(WORKERS, speed, style, label=f"simulated, {name}")
    base = 18
    for points, label, marker in ((PAPER, "Salimans et al. 2017", "s"), (RLLIB, "RLlib", "o")):
        speed = [base * PAPER[base] / minutes for minutes in points.values()]
        axes.plot(list(points), speed, f"k{marker}", mfc="none", label=f"{label}, reported")
    axes.axvline(DIRECTIONS, color="0.85", lw=1)
    axes.text(DIRECTIONS * 0.93, 1.3, "one pair a worker", rotation=90, color="0.5", ha="right")
    axes.set(xscale="log", yscale="log", xlabel="workers (cores)", ylabel="speed-up over one")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--simulate", action="store_true", help="do not measure anew")
    args = parser.parse_args()
    file = DOCS / "evolution-scaling.json"
    measured = json.loads(file.read_text())["measured"] if args.simulate else measure()
    found = simulate(measured)
    file.write_text(json.dumps({"measured": measured, "simulated": found}, indent=1) + "\n")
    draw(found, DOCS / "evolution-scaling.png")
    for name, rows in found.items():
        print(name)
        for n, row in rows.items():
            share = row["ideal"] / row["total"]
            print(f"  {n:>5} workers: {row['total']:9.3f} s, {share:.0%} of ideal")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
