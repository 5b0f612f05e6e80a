"""The environments of a member of the fleet, as its policy sees them."""

from __future__ import annotations

from typing import Any

from shoal.config.config import Config
from shoal.envs import VectorEnv, make, seen
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
    )
    return seen(world, View(rollout.hide, rollout.previous)), world.spaces
