"""cpprb's prioritised replay; see shoal_buffer.py."""

from __future__ import annotations

import argparse

import numpy as np
from common import measure
from cpprb import PrioritizedReplayBuffer

CAPACITY, ROUNDS = 100_000, 500


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", type=int, help="batch size")
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure for at least")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    fields = {
        "obs": {"shape": 8, "dtype": np.float32},
        "act": {"dtype": np.int32},
        "rew": {"dtype": np.float32},
        "next_obs": {"shape": 8, "dtype": np.float32},
        "done": {"dtype": np.float32},
    }
    buffer = PrioritizedReplayBuffer(CAPACITY, fields, alpha=0.6)
    buffer.add(
        obs=rng.standard_normal((CAPACITY, 8)),
        act=np.zeros(CAPACITY),
        rew=rng.random(CAPACITY),
        next_obs=rng.standard_normal((CAPACITY, 8)),
        done=np.zeros(CAPACITY),
        priorities=rng.random(CAPACITY) + 1e-3,
    )
    new = rng.random(args.env) + 1e-3

    def update() -> int:
        for _ in range(ROUNDS):
            drawn = buffer.sample(args.env, 0.4)
            buffer.update_priorities(drawn["indexes"], new)
        return ROUNDS

    measure(update, args.seconds, ("cpprb",))


if __name__ == "__main__":
    main()
