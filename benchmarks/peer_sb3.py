"""PPO of stable-baselines3 under the pair's settings, its environments in this process.

``DummyVecEnv`` is what it advises for environments as cheap as these.
"""

from __future__ import annotations

from common import SETTINGS, arguments, measure_sb3, sb3_settings
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn


def main() -> None:
    args = arguments()
    settings = sb3_settings(SETTINGS["steps"], SETTINGS["minibatch"])
    settings["policy_kwargs"]["activation_fn"] = nn.Tanh
    envs = make_vec_env(args.env, n_envs=SETTINGS["envs"], seed=0)
    model = PPO("MlpPolicy", envs, device="cpu", **settings)
    measure_sb3(model, args.seconds, ("stable-baselines3", "torch"))


if __name__ == "__main__":
    main()
