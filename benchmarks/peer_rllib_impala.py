"""IMPALA of RLlib (its new API stack): two env runners of eight environments, a local learner.

Fragments and batches are its own defaults (50 env steps, 500 rows). Its driver waits up to 10 ms
for samples, the best of 0 to 50 ms: by default it does not wait but spins, and on two busy cores
nothing at all may then come for half a minute. Where the environment has a vector form of its own
it steps that, as Shoal does; Atari goes through its own preprocessing (84x84, grey, four frames)
and the Nature CNN. What is counted is what it sampled.

``--first`` only waits for the first result that has sampled anything, however short the time.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import gymnasium
import ray
from common import SETTINGS, measure
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

WAIT = 0.01  # seconds


def atari(config: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    import ale_py
    from ray.rllib.env.wrappers.atari_wrappers import wrap_atari_for_new_api_stack

    gymnasium.register_envs(ale_py)
    env = gymnasium.make(config["id"], frameskip=1)
    return wrap_atari_for_new_api_stack(env, dim=84, frameskip=4, framestack=4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure for at least")
    parser.add_argument("--first", action="store_true", help="end after a first result")
    args = parser.parse_args()
    images = args.env.startswith("ALE/")
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    register_env("atari", atari)
    if images:
        native = False
        network = DefaultModelConfig(
            conv_filters=[[32, 8, 4], [64, 4, 2], [64, 3, 1]],
            head_fcnet_hiddens=[512],
            vf_share_layers=True,
        )
    else:
        native = gymnasium.spec(args.env).vector_entry_point is not None
        network = DefaultModelConfig(
            fcnet_hiddens=SETTINGS["hidden"], fcnet_activation="tanh", vf_share_layers=False
        )
    config = (
        IMPALAConfig()
        .environment("atari" if images else args.env, env_config={"id": args.env} if images else {})
        .env_runners(
            num_env_runners=2,
            num_envs_per_env_runner=8,
            gym_env_vectorize_mode="vector_entry_point" if native else "sync",
        )
        .learners(num_learners=0)
        .training(timeout_s_sampler_manager=WAIT)
        .rl_module(model_config=network)
        .reporting(min_time_s_per_iteration=0 if args.first else 2)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    done = 0

    def update() -> int:
        nonlocal done
        result = algorithm.train()
        sampled = result.get("num_env_steps_sampled_lifetime", done)  # none at first
        before, done = done, int(sampled)
        return done - before

    if args.first:
        while not (steps := update()):
            pass
        print(json.dumps({"first": steps}), flush=True)
    else:
        measure(update, args.seconds, ("ray", "torch"), warmup=8.0)
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
