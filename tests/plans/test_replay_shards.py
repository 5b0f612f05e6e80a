"""Does the memory of `async_replay` keep the declared ratio while its shards are slow or empty?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.dqn import DQN
from shoal.config.config import Replay
from shoal.fleet.sample import Sample
from shoal.fleet.store import Served
from shoal.nets.factory import build
from shoal.plans.async_replay import AsyncReplay, Memory
from shoal.plans.base import Run
from shoal.spaces.gym import GymSpaces
from tests.worlds import LINEAR

FRAGMENT, WORKERS = 32, 2


def memory(shards: int = 1, slack: int = 4, warmup: int = 1000) -> Memory:
    """Of two workers; batches of 64 and 8 transitions for each env step: a gradient step each 8."""
    algorithm = DQN(network=LINEAR)
    run = Run(algorithm, np.random.default_rng(0), None, replay=Replay(warmup=warmup))
    run.model = algorithm.model(GymSpaces(Box(-1, 1, (2,)), Discrete(2)), build)
    fleet: Any = SimpleNamespace(size=WORKERS, map=lambda verb: [(i, {}) for i in range(WORKERS)])
    return Memory(fleet, run, AsyncReplay(shards=shards, slack=slack))


def sampled(memory: Memory, workers: tuple[int, ...] = (0, 1)) -> int:
    """Env steps that these workers bring until they have to wait, 100,000 at most."""
    steps = 0
    while memory.may_sample() and steps < 100_000:
        for worker in workers:
            memory.hand_on(worker, Sample({}, FRAGMENT, FRAGMENT, 0, [], {}))
            steps += FRAGMENT
    return steps


def answered(memory: Memory, index: int, restart: int = 0) -> int:
    """A shard answers for all that it was given; returns the gradient steps drawn for."""
    side, steps = memory.sides[index], 0
    while side.given:
        given = side.given[0]
        held = sum(given.steps) + side.size
        drawn: Any = None
        if given.draws:
            drawn = SimpleNamespace(rows=np.zeros(64 * given.draws))
            steps += given.draws
        served = Served(given.number, restart, sum(given.steps), held, float(held), drawn)
        memory.take(index, served)
    return steps


def test_workers_wait_for_a_shard_that_has_not_answered_yet() -> None:
    """At the warm-up and the slack: 1000 env steps, and 8 for each of 5 gradient steps."""
    made = memory()
    assert 1000 + 8 * 5 <= sampled(made) < 1000 + 8 * 5 + WORKERS * FRAGMENT
    made.ask(0)  # handed over, and still not answered
    assert sampled(made) == 0


def test_what_was_stored_beyond_the_warm_up_is_trained_on() -> None:
    made = memory()
    stored = sampled(made)
    made.ask(0)
    answered(made, 0)
    learned = 0
    for _ in range(300):
        made.ask(0)
        steps = answered(made, 0)
        learned += steps
        made._run.counters.replayed_steps += 64 * steps
        stored += sampled(made)
    assert learned > 1000
    assert 8 * (stored - 1000) - 64 * learned <= 8 * (8 * 5 + 3 * WORKERS * FRAGMENT)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_shard_that_holds_nothing_holds_up_nobody(empty: int) -> None:
    made, other = memory(shards=2), 1 - empty
    sampled(made, (other,))
    made.ask(other)
    answered(made, other)
    made.ask(empty)
    made.ask(other)
    assert answered(made, other) > 0
