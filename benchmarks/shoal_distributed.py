"""Shoal with workers: IMPALA on two of them, or PPO on Pong in one process.

``--system impala`` samples with two workers of eight environments; ``--system ppo`` takes eight
environments, 128 env steps each, 4 epochs of minibatches of 256, as ``peer_sb3_pong.py`` does.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import measure

import shoal

SETTINGS: dict[str, dict[str, Any]] = {
    "impala": {"workers": 2, "envs_per_worker": 8},
    "ppo": {
        "envs_per_worker": 8,
        "fragment_length": 128,
        "epochs": 4,
        "minibatch_size": 256,
        "lr": 2.5e-4,
        "entropy_coef": 0.01,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--system", default="impala", choices=tuple(SETTINGS))
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure for at least")
    args = parser.parse_args()
    settings = dict(SETTINGS[args.system])
    if args.system == "impala" and args.env.startswith("ALE/"):
        settings |= {"fragment_length": 20, "rmsprop_eps": 0.01, "lr": 6e-4}
    with shoal.Trainer(
        args.system, args.env, precision=args.precision, seed=0, **settings
    ) as trainer:
        done = 0

        def update() -> int:
            nonlocal done
            before, done = done, trainer.train()["trained_steps"]
            return done - before

        measure(update, args.seconds, ("shoal", "ray", trainer.framework), warmup=5.0)


if __name__ == "__main__":
    main()
