"""Multi-agent PPO of RLlib: one policy for all agents of a PettingZoo environment.

``--workers`` env runners share its copies; 0: all are in this process.
"""

from __future__ import annotations

from importlib import import_module

from common import AGENTS, SETTINGS, with_workers
from peer_rllib import measured, settings
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env


def main() -> None:
    args = with_workers()
    module = import_module(args.env.removeprefix("pettingzoo:").replace("/", "."))
    register_env("agents", lambda _: ParallelPettingZooEnv(module.parallel_env()))
    config = (
        settings(AGENTS["steps"])
        .environment("agents")
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, *_, **__: "shared")
    )
    if args.workers:
        copies = SETTINGS["envs"] // args.workers
        config.env_runners(num_env_runners=args.workers, num_envs_per_env_runner=copies)
    measured(config, args.seconds, ("ray", "torch", "pettingzoo", "mpe2"))


if __name__ == "__main__":
    main()
