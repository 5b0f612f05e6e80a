"""stable-baselines3's DQN on CartPole-v1, SAC elsewhere: a gradient step for each env step."""

from __future__ import annotations

from typing import Any

import gymnasium
from common import arguments, measure
from stable_baselines3 import DQN, SAC

STEPS = 500  # env steps of one measured update


def main() -> None:
    args = arguments()
    env = gymnasium.make(args.env)
    every: dict[str, Any] = {
        "train_freq": 1,
        "gradient_steps": 1,
        "learning_starts": 100,
        "seed": 0,
    }
    model: Any
    if args.env == "CartPole-v1":
        kwargs = {"net_arch": [64, 64]}
        model = DQN("MlpPolicy", env, batch_size=64, policy_kwargs=kwargs, **every)
    else:
        kwargs = {"net_arch": [256, 256]}
        model = SAC("MlpPolicy", env, batch_size=256, policy_kwargs=kwargs, **every)

    def update() -> int:
        model.learn(STEPS, reset_num_timesteps=False)
        return STEPS

    measure(update, args.seconds, ("stable-baselines3", "torch"))


if __name__ == "__main__":
    main()
