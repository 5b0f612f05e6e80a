"""RecurrentPPO of sb3-contrib under the pair's settings, its environments in this process."""

from __future__ import annotations

from common import RECURRENT, SETTINGS, arguments, measure_sb3, sb3_settings
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn


def main() -> None:
    args = arguments()
    settings = sb3_settings(RECURRENT["steps"], RECURRENT["minibatch"])
    settings["policy_kwargs"] |= {"activation_fn": nn.Tanh, "lstm_hidden_size": RECURRENT["cell"]}
    envs = make_vec_env(args.env, n_envs=SETTINGS["envs"], seed=0)
    model = RecurrentPPO("MlpLstmPolicy", envs, device="cpu", **settings)
    measure_sb3(model, args.seconds, ("sb3-contrib", "stable-baselines3", "torch"))


if __name__ == "__main__":
    main()
