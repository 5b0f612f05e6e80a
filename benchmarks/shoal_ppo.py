"""Shoal's PPO under the pair's settings."""

from __future__ import annotations

import argparse
from typing import Any

from common import SETTINGS, arguments, measure

import shoal


def measured(
    args: argparse.Namespace, steps: int, network: dict[str, Any], workers: int = 0, **fields: Any
) -> None:
    """Measure PPO with fragments of ``steps``, and more settings of its network and its own.

    ``workers`` processes share the copies of the environment; 0: this process has them.
    """
    algorithm = shoal.PPO(
        lr=SETTINGS["lr"],
        gamma=SETTINGS["gamma"],
        lambda_=SETTINGS["lambda"],
        clip=SETTINGS["clip"],
        entropy_coef=SETTINGS["entropy_coef"],
        value_coef=SETTINGS["value_coef"],
        max_grad_norm=SETTINGS["max_grad_norm"],
        epochs=SETTINGS["epochs"],
        network=shoal.Network(
            hidden=tuple(SETTINGS["hidden"]), activation="tanh", shared=False, **network
        ),
        **fields,
    )
    with shoal.Trainer(
        algorithm,
        args.env,
        envs_per_worker=SETTINGS["envs"] // max(workers, 1),
        workers=workers,
        fragment_length=steps,
        report_every=1,
        seed=0,
    ) as trainer:
        done = 0

        def update() -> int:
            nonlocal done
            before, done = done, trainer.train()["env_steps"]
            return done - before

        measure(update, args.seconds, ("shoal", "jax"))


if __name__ == "__main__":
    measured(arguments(), SETTINGS["steps"], {}, minibatch_size=SETTINGS["minibatch"])
