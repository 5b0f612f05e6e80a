"""Tianshou's prioritised replay; see shoal_buffer.py."""

from __future__ import annotations

import argparse

import numpy as np
from common import measure
from tianshou.data import Batch, PrioritizedReplayBuffer

CAPACITY, ROUNDS = 100_000, 500


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", type=int, help="batch size")
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure for at least")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    buffer = PrioritizedReplayBuffer(CAPACITY, alpha=0.6, beta=0.4)
    for _ in range(CAPACITY):
        buffer.add(
            Batch(
                obs=rng.standard_normal(8).astype(np.float32),
                act=0,
                rew=0.5,
                terminated=False,
                truncated=False,
                obs_next=rng.standard_normal(8).astype(np.float32),
                info={},
            )
        )
    new = rng.random(args.env) + 1e-3

    def update() -> int:
        for _ in range(ROUNDS):
            _, indices = buffer.sample(args.env)
            buffer.update_weight(indices, new)
        return ROUNDS

    measure(update, args.seconds, ("tianshou", "numba"))


if __name__ == "__main__":
    main()
