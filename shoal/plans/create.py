"""How a run begins: its counters, its random generator and its replay buffer."""

from __future__ import annotations

import numpy as np

from shoal.algorithms.base import Model
from shoal.config.config import Config
from shoal.fleet.base import Fleet, results
from shoal.plans.run import Run
from shoal.replay.local import LocalReplay
from shoal.replay.settings import layout_for


def create_run(config: Config, model: Model, fleet: Fleet) -> Run:
    """A run of this configuration on these workers.

    Raises ConfigError if this machine cannot hold its replay buffer.
    """
    rollout, replay, algorithm = config.rollout, config.replay, config.algorithm
    slots = max(rollout.workers, 1) * rollout.envs_per_worker
    rng = np.random.default_rng([config.seed, 0])
    run = Run(algorithm, rng, config.stop.env_steps, model=model, slots=slots, replay=replay)
    if run.remembers:
        stacks = results(fleet.map("get_stacks"))[0]
        fitted = replay, algorithm, model, stacks, slots
        run.replay_bytes = layout_for(*fitted).nbytes(replay.capacity, slots)
        if config.plan.replays:
            run.local_replay = LocalReplay(*fitted, run.counters)
    return run
