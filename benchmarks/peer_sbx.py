"""PPO of sbx (the JAX sister of stable-baselines3) under the pair's settings."""

from __future__ import annotations

import jax.numpy as jnp
from common import ROWS, SETTINGS, arguments, measure
from sbx import PPO
from stable_baselines3.common.env_util import make_vec_env


def main() -> None:
    args = arguments()
    hidden = SETTINGS["hidden"]
    model = PPO(
        "MlpPolicy",
        make_vec_env(args.env, n_envs=SETTINGS["envs"], seed=0),
        n_steps=SETTINGS["steps"],
        batch_size=SETTINGS["minibatch"],
        n_epochs=SETTINGS["epochs"],
        learning_rate=SETTINGS["lr"],
        gamma=SETTINGS["gamma"],
        gae_lambda=SETTINGS["lambda"],
        clip_range=SETTINGS["clip"],
        ent_coef=SETTINGS["entropy_coef"],
        vf_coef=SETTINGS["value_coef"],
        max_grad_norm=SETTINGS["max_grad_norm"],
        policy_kwargs={"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": jnp.tanh},
        seed=0,
    )

    def update() -> int:
        model.learn(ROWS, reset_num_timesteps=False)
        return ROWS

    measure(update, args.seconds, ("sbx-rl", "jax"))


if __name__ == "__main__":
    main()
