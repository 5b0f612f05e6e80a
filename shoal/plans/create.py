"""How a run begins: its counters, its random generator and its replay buffer."""

from __future__ import annotations

import numpy as np

from shoal.algorithms.base import Model
from shoal.config.config import Config
from shoal.errors import ConfigError
from shoal.fleet.base import Fleet, results
from shoal.plans.pool import Pool
from shoal.plans.run import Run
from shoal.replay.demos import read
from shoal.replay.local import LocalReplay
from shoal.replay.settings import demo_bytes, layout_for
from shoal.spaces.view import View
from shoal.trajectory import Episodes


def create_run(config: Config, model: Model, fleet: Fleet) -> Run:
    """A run of this configuration on these workers.

    Raises ConfigError if this machine cannot hold its replay buffer.
    """
    rollout, replay, algorithm = config.rollout, config.replay, config.algorithm
    slots = max(rollout.workers, 1) * rollout.envs_per_worker
    rng = np.random.default_rng([config.seed, 0])
    run = Run(algorithm, rng, config.stop.env_steps, model=model, slots=slots, replay=replay)
    if config.self_play.pool:
        run.pool = Pool(config.self_play)
    if run.remembers:
        stacks = results(fleet.map("get_stacks"))[0]
        if replay.demonstrated:
            run.demos = _demonstrations(config, model, fleet)
        fitted = replay, algorithm, model, stacks
        run.replay_bytes = layout_for(*fitted, slots, run.demos).nbytes(replay.capacity, slots)
        run.replay_bytes += demo_bytes(*fitted, run.demos)
        if config.plan.replays:
            run.local_replay = LocalReplay(*fitted, slots, run.counters, run.demos)
    return run


def _demonstrations(config: Config, model: Model, fleet: Fleet) -> Episodes:
    """All episodes of the run's demonstrations; not read yet, if they are held in turn.

    Raises DemoError if they do not fit, and ConfigError for an algorithm that records more.
    """
    if records := config.algorithm.records(model):
        raise ConfigError(
            f"{type(config.algorithm).__name__} learns from what it records when it acts "
            f"({', '.join(records)}), which demonstrations do not hold",
            None,
            "leave replay.demos out",
        )
    rollout, own = config.rollout, results(fleet.map("get_spaces"))[0]
    view = View(rollout.hide, rollout.previous)
    clip = results(fleet.map("get_reward_clip"))[0]
    found = read(str(config.replay.demos), own, view, clip=clip)
    return list(found) if config.replay.demo_capacity is None else found
