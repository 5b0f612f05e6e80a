"""PPO of stable-baselines3 under the pair's settings, its environments in this process.

``DummyVecEnv`` is what it advises for environments as cheap as these.
"""

from __future__ import annotations

from common import ROWS, SETTINGS, arguments, measure
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn


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
        policy_kwargs={"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": nn.Tanh},
        device="cpu",
        seed=0,
    )

    def update() -> int:
        model.learn(ROWS, reset_num_timesteps=False)
        return ROWS

    measure(update, args.seconds, ("stable-baselines3", "torch"))


if __name__ == "__main__":
    main()
