"""The driver's share of Ape-X's data path: ``python benchmarks/datapath.py ENV``.

Two workers of eight environments feed two replay shards, and nothing is learned. Fragments go from
worker to shard, so this process hands on references and reads what was earned. Printed as one line
of JSON: the CPU time of this process (all of its threads, Ray's too) by the wall clock, env steps
and fragments a second, and the bytes of observations that a second of them holds.

``python benchmarks/run.py --only datapath`` measures Pong and CartPole.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from math import prod
from time import perf_counter, process_time

import shoal
from shoal.plans.async_replay import AsyncReplay

WARM = 5.0  # seconds that are not measured
IMAGES, NUMBERS = 200_000, 4_000_000  # capacity: more env steps than are sampled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for")
    args = parser.parse_args()
    capacity = IMAGES if args.env.startswith("ALE/") else NUMBERS
    replay = {"capacity": capacity, "warmup": capacity, "alpha": 0.6}
    plan = AsyncReplay(shards=2)
    with shoal.Trainer("ape-x", args.env, workers=2, plan=plan, seed=0, replay=replay) as trainer:
        begun = perf_counter()
        while perf_counter() - begun < WARM:
            trainer.train()
        first, wall, cpu = trainer.train()["env_steps"], perf_counter(), process_time()
        while perf_counter() - wall < args.seconds:
            last = trainer.train()["env_steps"]
        cpu, wall = process_time() - cpu, perf_counter() - wall
        rollout = trainer.config.rollout
        leaves = trainer.model.spaces.leaves
        row = sum(leaf.dtype.itemsize * prod(leaf.shape) for leaf in leaves)
    steps = (last - first) / wall
    found = {
        "env": args.env,
        "driver_share": round(cpu / wall, 4),
        "steps_per_s": round(steps, 1),
        "fragments_per_s": round(steps / rollout.fragment_length / rollout.envs_per_worker, 2),
        "mb_per_s": round(steps * row / 1e6, 2),
        "seconds": round(wall, 1),
        "versions": {name: version(name) for name in ("shoal", "ray")},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
