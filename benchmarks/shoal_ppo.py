"""Shoal's PPO under the pair's settings."""

from __future__ import annotations

from common import SETTINGS, arguments, measure

import shoal


def main() -> None:
    args = arguments()
    network = shoal.Network(hidden=tuple(SETTINGS["hidden"]), activation="tanh", shared=False)
    algorithm = shoal.PPO(
        lr=SETTINGS["lr"],
        gamma=SETTINGS["gamma"],
        lambda_=SETTINGS["lambda"],
        clip=SETTINGS["clip"],
        entropy_coef=SETTINGS["entropy_coef"],
        value_coef=SETTINGS["value_coef"],
        max_grad_norm=SETTINGS["max_grad_norm"],
        epochs=SETTINGS["epochs"],
        minibatch_size=SETTINGS["minibatch"],
        network=network,
    )
    with shoal.Trainer(
        algorithm,
        args.env,
        envs_per_worker=SETTINGS["envs"],
        fragment_length=SETTINGS["steps"],
        seed=0,
    ) as trainer:
        done = 0

        def update() -> int:
            nonlocal done
            before, done = done, trainer.train()["env_steps"]
            return done - before

        measure(update, args.seconds, ("shoal", "jax"))


if __name__ == "__main__":
    main()
