"""Shoal's prioritised replay at a capacity of 100,000: draw, gather, new priorities.

The "env" is the batch size, and an "env step" one such round, in this and the peers' scripts: rows
of 8 floats, an action, a reward; alpha 0.6, beta 0.4.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import measure

from shoal.replay.buffer import Buffer
from shoal.replay.layout import Column, Layout

CAPACITY, ROUNDS = 100_000, 500


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", type=int, help="batch size")
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure for at least")
    args = parser.parse_args()
    rng, steps = np.random.default_rng(0), 1000
    layout = Layout({"obs": Column((8,), np.dtype(np.float32))}, Column((), np.dtype(np.int32)))
    buffer = Buffer(layout, 1, CAPACITY, alpha=0.6)
    no, yes = np.zeros((steps, 1), bool), np.ones((steps, 1), bool)
    last = rng.standard_normal((1, 1, 8), np.float32)
    for _ in range(CAPACITY // steps):
        obs = np.concatenate([last, rng.standard_normal((steps, 1, 8), np.float32)])
        last = obs[-1:]
        action, reward = np.zeros((steps, 1), np.int32), rng.random((steps, 1))
        priority = rng.random((steps, 1)) + 1e-3
        buffer.add(slice(0, 1), {"obs": obs}, action, reward, no, no, yes, {}, priority)
    new = rng.random(args.env) + 1e-3

    def update() -> int:
        for _ in range(ROUNDS):
            drawn = buffer.draw(rng.random((1, args.env)), 0.4)
            buffer.set_priorities(drawn.rows, new)
        return ROUNDS

    measure(update, args.seconds, ("shoal", "numba"))


if __name__ == "__main__":
    main()
