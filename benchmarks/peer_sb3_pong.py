"""PPO of stable-baselines3 on Atari: eight environments, 128 env steps, 4 epochs, minibatch 256.

Its own Atari wrappers (84x84, grey, four frames) and its CnnPolicy, which is the Nature CNN.
"""

from __future__ import annotations

import argparse

import ale_py
import gymnasium
from common import measure_sb3
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure for at least")
    args = parser.parse_args()
    gymnasium.register_envs(ale_py)
    env = make_atari_env(args.env, n_envs=8, seed=0, env_kwargs={"frameskip": 1})
    model = PPO(
        "CnnPolicy",
        VecFrameStack(env, n_stack=4),
        n_steps=128,
        batch_size=256,
        n_epochs=4,
        learning_rate=2.5e-4,
        clip_range=0.1,
        ent_coef=0.01,
        device="cpu",
        seed=0,
    )

    measure_sb3(model, args.seconds, ("stable-baselines3", "torch", "ale-py"))


if __name__ == "__main__":
    main()
