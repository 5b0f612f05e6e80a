"""Which fleet a run takes, and how its workers are made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from shoal.algorithms.base import Differentiable
from shoal.config.config import Cluster, Config
from shoal.envs.registry import entries, register
from shoal.errors import ConfigError
from shoal.fleet.base import Fleet, Make
from shoal.fleet.failure import sendable
from shoal.fleet.group import Place, tree
from shoal.fleet.team import Team
from shoal.fleet.worker import Worker
from shoal.learners.choose import preload
from shoal.process.tracebacks import is_user_code, place_of


def worker(known: Any, config: Config, env: Any, index: int, restart: int) -> Any:
    """A worker of the kind that the plan needs, in whatever process this runs.

    ``known`` are the entries of Gymnasium's registry that this process may lack.
    """
    register(known)
    several: Any = Team if config.algorithm.parts else Worker
    return (config.plan.member() or several)(config, index, env, restart)


def create_fleet(config: Config, env: Any) -> tuple[Fleet, Callable[[], None]]:
    """The workers of a run, and what to call when it is over.

    ``rollout.workers`` processes, or this one where that is 0 or ``cluster.in_process`` is set.
    Raises ConfigError where the machine or cluster cannot hold them, and for a GPU if they learn.
    """
    workers, cluster = config.rollout.workers, config.cluster
    on_gpus = config.device.startswith("cuda") and learns(config.plan)
    if on_gpus and not config.plan.collective:
        raise ConfigError(
            f"device={config.device!r}: under {config.plan.name} every worker computes gradients, "
            "on its own CPU",
            None,
            "leave device out, or take allreduce, whose workers have a GPU each, or a plan whose "
            "learner is in this process, as sync_samples",
        )
    if on_gpus and config.device != "cuda":
        what = f"device={config.device!r}: under {config.plan.name} every worker has its own GPU"
        raise ConfigError(what, None, "device='cuda'")
    if workers == 0 or cluster.in_process:
        make: Make = partial(worker, (), config, env)
        return create(make, max(workers, 1), cluster, fanout=config.plan.fanout, local=True)
    known = registered(env)
    if isinstance(config.algorithm, Differentiable):
        preload(config.learner)
    return create(
        partial(worker, known, config, env),
        workers,
        cluster,
        fanout=config.plan.fanout,
        learns=learns(config.plan),
        gpus=1.0 if on_gpus else 0.0,
        own_code=_own_code(env) or any(_own_code(entry.entry_point) for entry in known),
    )


def create(
    make: Make,
    workers: int,
    cluster: Cluster,
    *,
    fanout: int | None = None,
    local: bool = False,
    learns: bool = False,
    gpus: float = 0.0,
    own_code: bool = False,
) -> tuple[Fleet, Callable[[], None]]:
    """A fleet of that many members, and what to call when it is no longer needed.

    ``fanout``: members that one process calls at most; None is no limit. ``local``: all of them in
    this process, in turn. ``gpus``: that each reserves. The rest as for ``fleet.cluster.connect``,
    which also says what it raises; ConfigError too if there are not as many GPUs.
    """
    fanout = workers if fanout is None else fanout
    if local:
        fleet = tree(Place(cluster), make, workers, fanout)
        return fleet, fleet.close
    from shoal.fleet.cluster import check_gpus, connect, cpus_per_worker

    connection = connect(cluster, workers, learns, own_code)
    try:
        check_gpus(workers * gpus)
        place = Place(cluster, cpus_per_worker(cluster, workers), gpus)
        remote = tree(place, make, workers, fanout)
    except BaseException:
        connection.close()
        raise

    def close() -> None:
        remote.close()
        connection.close()

    return remote, close


def learns(plan: Any) -> bool:
    """Whether a plan's workers hold a learner of their own."""
    from shoal.fleet.learning import LearningWorker

    return issubclass(plan.member() or Worker, LearningWorker)


def beside(config: Config) -> int:
    """Workers that sample on this machine's CPUs while the learner takes its gradient steps."""
    cluster, plan = config.cluster, config.plan
    waits = plan.exact or ("replay" in config.algorithm.needs and not learns(plan))
    elsewhere = cluster.in_process or cluster.joined is not None
    return 0 if waits or elsewhere else config.rollout.workers


def registered(env: Any) -> tuple[Any, ...]:
    """What this process's registry says of an id, to be sent to the workers.

    Raises ConfigError if it cannot be sent: it holds a file, a lock or the like.
    """
    found = entries(env)
    try:
        sendable(found, {})
    except ConfigError as error:
        raise ConfigError(
            f"the environment {env!r} is registered with something that cannot be sent to other "
            f"processes: {error.__cause__}",
            None,
            "register it at the top of a module, and name that module too: "
            f"env='module:{env}'; or use rollout.workers=0",
        ) from error
    return found


def _own_code(env: Any) -> bool:
    """Whether an environment is the user's own, so that other nodes may not have it."""
    if isinstance(env, str):
        module = sys.modules.get(env.partition(":")[0])
        return ":" in env and (
            module is None or is_user_code(getattr(module, "__file__", "") or "")
        )
    if not callable(env):
        return False
    place = place_of(env) or place_of(getattr(env, "__init__", env))
    return place is not None and is_user_code(place.rpartition(":")[0])
