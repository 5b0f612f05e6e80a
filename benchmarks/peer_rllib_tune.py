"""The grid of three step sizes of `tune_slides.py` with RLlib's PPO, under Ray Tune, by itself.

Its settings are RLlib's own, but that it samples in the trial's process, as Shoal does.
"""

from __future__ import annotations

import json
import sys
import time

begun = time.perf_counter()

from ray import init, tune  # noqa: E402
from ray.rllib.algorithms.ppo import PPOConfig  # noqa: E402
from ray.tune import CheckpointConfig, RunConfig  # noqa: E402


def main() -> None:
    seconds, steps = float(sys.argv[1]), int(sys.argv[2])
    init(include_dashboard=False, log_to_driver=False)
    config = (
        PPOConfig()
        .environment("CartPole-v0")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .training(lr=tune.grid_search([0.01, 0.001, 0.0001]))
    )
    stop = {
        "env_runners/episode_return_mean": 200,
        "env_runners/num_env_steps_sampled_lifetime": steps,
        "time_total_s": seconds,
    }
    results = tune.Tuner(
        "PPO",
        param_space=config,
        run_config=RunConfig(
            stop=stop, verbose=0, checkpoint_config=CheckpointConfig(checkpoint_at_end=True)
        ),
    ).fit()
    trials = []
    for result in results:
        runners = (result.metrics or {}).get("env_runners", {})
        trials.append(
            {
                "lr": result.config["lr"] if isinstance(result.config, dict) else result.config.lr,
                "return": runners.get("episode_return_mean"),
                "env_steps": runners.get("num_env_steps_sampled_lifetime"),
                "seconds": (result.metrics or {}).get("time_total_s"),
            }
        )
    print(json.dumps({"seconds": time.perf_counter() - begun, "trials": trials}))


if __name__ == "__main__":
    main()
