"""How a run begins: its counters, its random generator and its replay buffer."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.algorithms.base import Model
from shoal.config.config import Config
from shoal.errors import ConfigError
from shoal.fleet.base import Fleet, results
from shoal.plans.policy_replay import PolicyReplay
from shoal.plans.pool import Pool
from shoal.plans.run import Run
from shoal.replay.counts import Replayed
from shoal.replay.demos import read
from shoal.replay.local import LocalReplay
from shoal.replay.settings import demo_bytes, layout_for
from shoal.spaces.view import View
from shoal.trajectory import Episodes


def create_run(config: Config, model: Model, fleet: Fleet) -> Run:
    """A run of this configuration on these workers.

    Raises ConfigError if this machine cannot hold its replay buffer.
    """
    replay, algorithm = config.replay, config.algorithm
    rng = np.random.default_rng([config.seed, 0])
    slots: Any = {} if algorithm.parts else 1
    run = Run(algorithm, rng, config.stop.env_steps, model=model, replay=replay, slots=slots)
    if config.self_play.pool:
        run.pool = Pool(config.self_play)
    if run.remembers:
        _add_replay(config, run, fleet)
    return run


def _add_replay(config: Config, run: Run, fleet: Fleet) -> None:
    """The run's replay buffer, or one for each policy; here, if the plan ``replays``."""
    replay, algorithm, model = config.replay, config.algorithm, run.model
    (stacks, own), workers = results(fleet.map("get_layout"))[0], max(config.rollout.workers, 1)
    if not algorithm.parts:
        run.slots = own * workers
        if replay.demonstrated:
            run.demos = _demonstrations(config, model, fleet)
        fitted = replay, algorithm, model, stacks
        rows = layout_for(*fitted, run.slots, run.demos)
        run.replay_bytes = rows.nbytes(replay.capacity, run.slots)
        run.replay_bytes += demo_bytes(*fitted, run.demos)
        if config.plan.replays:
            run.local_replay = LocalReplay(*fitted, run.slots, run.counters, run.demos)
        return
    run.slots = {name: slots * workers for name, slots in own.items()}
    found: dict[str, LocalReplay] = {}
    for name, part in algorithm.parts.items():
        of_one = replay, part, model[name], stacks[name], run.slots[name]
        rows = layout_for(*of_one, taken=run.replay_bytes)
        run.replay_bytes += rows.nbytes(replay.capacity, run.slots[name])
        if config.plan.replays:
            found[name] = LocalReplay(*of_one, Replayed())
    if found:
        run.local_replay = PolicyReplay(found, run.counters)


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
