"""ARS with two workers, from a policy that stays as it is: how fast perturbations are evaluated.

CartPole-v1 begins with a policy whose episodes all last 500 env steps, HalfCheetah-v5 with zeros
(1,000 env steps always). So env steps and evaluations per second are in proportion, here and in
``peer_sb3_ars.py``, which has the same settings.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import BALANCING, DIRECTIONS, SIGMA, measure

import shoal


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for at least")
    args = parser.parse_args()
    with shoal.Trainer(
        "ars",
        args.env,
        directions=DIRECTIONS,
        sigma=SIGMA,
        lr=1e-12,
        normalise_obs=False,
        evaluation_share=0.0,
        envs_per_worker=16,
        workers=args.workers,
        report_every=1,
    ) as trainer:
        if args.env == "CartPole-v1":
            state = trainer.learner.get_state()
            w = np.array(BALANCING, np.float32)
            state["params"]["pi/out/w"] = np.stack([-w, w], axis=1)
            trainer.learner.set_state(state)
        done = 0

        def update() -> int:
            nonlocal done
            before, done = done, trainer.train()["trained_steps"]
            return done - before

        measure(update, args.seconds, ("shoal", "ray"), warmup=2.0)


if __name__ == "__main__":
    main()
