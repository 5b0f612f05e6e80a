"""Shoal's DQN on CartPole-v1, or SAC elsewhere: one gradient step for each env step.

DQN: one environment, batches of 64, two 64x64 layers. SAC: one environment, batches of 256, two
256x256 layers. As in ``peer_sb3_replay.py`` and ``peer_sbx_replay.py``.
"""

from __future__ import annotations

import argparse
from typing import Any

from common import measure

import shoal

DQN: dict[str, Any] = {
    "batch_size": 64,
    "replay_ratio": 64.0,
    "network": {"hidden": [64, 64]},
    "fragment_length": 64,
}
SAC: dict[str, Any] = {"batch_size": 256, "replay_ratio": 256.0, "fragment_length": 32}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure for at least")
    args = parser.parse_args()
    system, settings = ("dqn", DQN) if args.env == "CartPole-v1" else ("sac", SAC)
    settings = {**settings, "envs_per_worker": 1, "warmup": 1000, "precision": args.precision}
    with shoal.Trainer(system, args.env, seed=0, **settings) as trainer:
        done = 0

        def update() -> int:
            """Env steps of a report, once as many gradient steps go with them."""
            nonlocal done
            before, done = done, trainer.train()["gradient_steps"]
            return done - before

        measure(update, args.seconds, ("shoal", trainer.framework), warmup=3.0)


if __name__ == "__main__":
    main()
