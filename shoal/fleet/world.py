"""The environments of a member of the fleet, as its policy sees them."""

from __future__ import annotations

from typing import Any

from shoal.algorithms.base import Algorithm
from shoal.config.config import Config
from shoal.envs import VectorEnv, make, seen
from shoal.envs.agents import ALL
from shoal.errors import ConfigError
from shoal.process.machine import cpus
from shoal.spaces.base import Spaces
from shoal.spaces.view import View


def make_world(config: Config, env: Any, index: int, seed: int) -> tuple[VectorEnv, Spaces]:
    """Member ``index``'s copies of the environment under the run's view, and its own spaces.

    ``env`` takes the place of the configuration's, if it is not None.
    """
    rollout = config.rollout
    world = make(
        config.env if env is None else env,
        rollout.envs_per_worker,
        kwargs=rollout.env_kwargs,
        seed=seed,
        threads=cpus() if rollout.workers == 0 else 1,
        worker=index,
        central=[ALL] if config.algorithm.central else [],
        max_agents=rollout.max_agents,
        plays=config.algorithm.plays,
    )
    if config.algorithm.central and View(rollout.hide, rollout.previous):
        world.close()
        raise ConfigError(
            "rollout.hide and rollout.previous do not go together with algorithm.central",
            None,
            "leave one of them out",
        )
    if world.agents:
        refuse_agents(config.algorithm, world)
    return seen(world, View(rollout.hide, rollout.previous)), world.spaces


def refuse_agents(algorithm: Algorithm, world: VectorEnv) -> None:
    """Close the environment and raise ConfigError for what does not learn from several agents."""
    needs, whole = algorithm.needs, getattr(algorithm, "whole_episodes", False)
    why = next(
        (
            why
            for found, why in (
                ("returns" in needs, "learns from the returns of one agent"),
                (whole, "learns from whole episodes, and those of agents do not end together"),
            )
            if found
        ),
        None,
    )
    if why is not None:
        world.close()
        raise ConfigError(
            f"{type(algorithm).__name__} {why}, but {world.id!r} has "
            f"{len(world.agents)} agents: {', '.join(world.agents)}",
            None,
            "take another algorithm, for example ppo, impala, dqn or sac",
        )
