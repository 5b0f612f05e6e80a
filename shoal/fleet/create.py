"""Which fleet a run takes, and how its workers are made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from shoal.config.config import Config
from shoal.errors import is_user_code, place_of
from shoal.fleet.base import Fleet
from shoal.fleet.local import LocalFleet
from shoal.fleet.worker import Worker
from shoal.learners.base import preload


def worker(config: Config, env: Any, index: int, restart: int) -> Worker:
    """A worker of the kind that the plan needs, in whatever process this runs."""
    if config.plan.learns_on_workers:
        from shoal.fleet.learning import LearningWorker  # it brings a learning framework along

        return LearningWorker(config, index, env, restart)
    return Worker(config, index, env, restart)


def create(config: Config, env: Any) -> tuple[Fleet, Callable[[], None]]:
    """The workers of a run, and what to call when it is over.

    ``rollout.workers`` processes, or this one where that is 0 or ``cluster.in_process`` is set.
    Raises ConfigError where the machine or cluster cannot hold them.
    """
    make = partial(worker, config, env)
    workers, cluster = config.rollout.workers, config.cluster
    if workers == 0 or cluster.in_process:
        fleet = LocalFleet(make, max(workers, 1))
        return fleet, fleet.close
    from shoal.fleet.cluster import connect, cpus_per_worker

    preload(config.learner)
    connection = connect(cluster, workers, config.plan.learns_on_workers, _own_code(env))
    from shoal.fleet.ray import RayFleet

    try:
        cpus = cpus_per_worker(cluster, workers)
        remote = RayFleet(make, workers, cluster, cpus)
    except BaseException:
        connection.close()
        raise

    def close() -> None:
        remote.close()
        connection.close()

    return remote, close


def _own_code(env: Any) -> bool:
    """Whether an environment is the user's own, so that other nodes may not have it."""
    if isinstance(env, str):
        return ":" in env
    if not callable(env):
        return False
    place = place_of(env) or place_of(getattr(env, "__init__", env))
    return place is not None and is_user_code(place.rpartition(":")[0])
