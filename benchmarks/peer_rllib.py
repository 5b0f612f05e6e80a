"""PPO of RLlib (its new API stack) under the pair's settings, in one process as the others.

Where the environment has a vector form of its own it steps that, as Shoal does.
"""

from __future__ import annotations

import gymnasium
import ray
from common import SETTINGS, arguments, measure
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig


def settings(steps: int) -> PPOConfig:
    """The pair's settings, with fragments of ``steps`` env steps of each copy."""
    return (
        PPOConfig()
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=SETTINGS["envs"],
            rollout_fragment_length=steps,
        )
        .learners(num_learners=0)
        .training(
            train_batch_size_per_learner=SETTINGS["envs"] * steps,
            minibatch_size=SETTINGS["minibatch"],
            num_epochs=SETTINGS["epochs"],
            lr=SETTINGS["lr"],
            gamma=SETTINGS["gamma"],
            lambda_=SETTINGS["lambda"],
            clip_param=SETTINGS["clip"],
            vf_clip_param=float("inf"),
            use_kl_loss=False,
            entropy_coeff=SETTINGS["entropy_coef"],
            vf_loss_coeff=SETTINGS["value_coef"],
            grad_clip=SETTINGS["max_grad_norm"],
            grad_clip_by="global_norm",
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=SETTINGS["hidden"], fcnet_activation="tanh", vf_share_layers=False
            )
        )
        .debugging(seed=0)
    )


def measured(config: PPOConfig, seconds: float, packages: tuple[str, ...]) -> None:
    """Measure whole iterations; Ray runs in between."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    algorithm = config.build_algo()
    done = 0

    def update() -> int:
        nonlocal done
        result = algorithm.train()
        before, done = done, int(result["env_runners"]["num_env_steps_sampled_lifetime"])
        return done - before

    measure(update, seconds, packages)
    algorithm.stop()
    ray.shutdown()


def main() -> None:
    args = arguments()
    native = gymnasium.spec(args.env).vector_entry_point is not None
    mode = "vector_entry_point" if native else "sync"
    config = settings(SETTINGS["steps"]).environment(args.env)
    config.env_runners(gym_env_vectorize_mode=mode)
    measured(config, args.seconds, ("ray", "torch"))


if __name__ == "__main__":
    main()
