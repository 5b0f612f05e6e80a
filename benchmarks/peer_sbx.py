"""PPO of sbx (the JAX sister of stable-baselines3) under the pair's settings."""

from __future__ import annotations

import jax.numpy as jnp
from common import SETTINGS, arguments, measure_sb3, sb3_settings
from sbx import PPO
from stable_baselines3.common.env_util import make_vec_env


def main() -> None:
    args = arguments()
    settings = sb3_settings(SETTINGS["steps"], SETTINGS["minibatch"])
    settings["policy_kwargs"]["activation_fn"] = jnp.tanh
    model = PPO("MlpPolicy", make_vec_env(args.env, n_envs=SETTINGS["envs"], seed=0), **settings)
    measure_sb3(model, args.seconds, ("sbx-rl", "jax"))


if __name__ == "__main__":
    main()
