"""Shoal's PPO with an LSTM under the pair's settings; a row of a minibatch is a whole fragment."""

from __future__ import annotations

from common import RECURRENT, SETTINGS, arguments, measure

import shoal


def main() -> None:
    args = arguments()
    network = shoal.Network(
        hidden=tuple(SETTINGS["hidden"]),
        activation="tanh",
        shared=False,
        memory="lstm",
        memory_size=RECURRENT["cell"],
    )
    algorithm = shoal.PPO(
        lr=SETTINGS["lr"],
        gamma=SETTINGS["gamma"],
        lambda_=SETTINGS["lambda"],
        clip=SETTINGS["clip"],
        entropy_coef=SETTINGS["entropy_coef"],
        value_coef=SETTINGS["value_coef"],
        max_grad_norm=SETTINGS["max_grad_norm"],
        epochs=SETTINGS["epochs"],
        minibatch_size=RECURRENT["minibatch"],
        chunk=RECURRENT["steps"],
        network=network,
    )
    with shoal.Trainer(
        algorithm,
        args.env,
        envs_per_worker=SETTINGS["envs"],
        fragment_length=RECURRENT["steps"],
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
    main()
