"""Multi-agent PPO of RLlib: one policy for all agents of a PettingZoo environment."""

from __future__ import annotations

from importlib import import_module

from common import AGENTS, arguments
from peer_rllib import measured, settings
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune.registry import register_env


def main() -> None:
    args = arguments()
    module = import_module(args.env.removeprefix("pettingzoo:").replace("/", "."))
    register_env("agents", lambda _: ParallelPettingZooEnv(module.parallel_env()))
    config = (
        settings(AGENTS["steps"])
        .environment("agents")
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, *_, **__: "shared")
    )
    measured(config, args.seconds, ("ray", "torch", "pettingzoo", "mpe2"))


if __name__ == "__main__":
    main()
