"""RecurrentPPO of sb3-contrib under the pair's settings, its environments in this process."""

from __future__ import annotations

from common import RECURRENT, SETTINGS, arguments, measure
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn


def main() -> None:
    args = arguments()
    hidden = SETTINGS["hidden"]
    rows = SETTINGS["envs"] * RECURRENT["steps"]
    model = RecurrentPPO(
        "MlpLstmPolicy",
        make_vec_env(args.env, n_envs=SETTINGS["envs"], seed=0),
        n_steps=RECURRENT["steps"],
        batch_size=RECURRENT["minibatch"],
        n_epochs=SETTINGS["epochs"],
        learning_rate=SETTINGS["lr"],
        gamma=SETTINGS["gamma"],
        gae_lambda=SETTINGS["lambda"],
        clip_range=SETTINGS["clip"],
        ent_coef=SETTINGS["entropy_coef"],
        vf_coef=SETTINGS["value_coef"],
        max_grad_norm=SETTINGS["max_grad_norm"],
        policy_kwargs={
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation_fn": nn.Tanh,
            "lstm_hidden_size": RECURRENT["cell"],
        },
        device="cpu",
        seed=0,
    )

    def update() -> int:
        model.learn(rows, reset_num_timesteps=False)
        return rows

    measure(update, args.seconds, ("sb3-contrib", "stable-baselines3", "torch"))


if __name__ == "__main__":
    main()
