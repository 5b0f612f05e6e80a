"""Does the ledger of `async_replay` keep the declared ratio while its shards are slow or empty?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.dqn import DQN
from shoal.config.replay import Replay
from shoal.fleet.replay_shard import Exchanged
from shoal.fleet.sample import Sample
from shoal.nets.factory import build
from shoal.plans.run import Run
from shoal.plans.shard_ledger import ShardLedger
from shoal.spaces.gym import GymSpaces
from tests.worlds import LINEAR

FRAGMENT, WORKERS = 32, 2


def ledger(shards: int = 1, slack: int = 4, warmup: int = 1000) -> ShardLedger:
    """Of two workers; batches of 64 and 8 transitions for each env step: a gradient step each 8."""
    algorithm = DQN(network=LINEAR)
    run = Run(algorithm, np.random.default_rng(0), None, replay=Replay(warmup=warmup))
    run.model = algorithm.model(GymSpaces(Box(-1, 1, (2,)), Discrete(2)), build)
    fleet: Any = SimpleNamespace(size=WORKERS)
    return ShardLedger(fleet, run, shards, slack, fused=16, stacks={})


def sampled(ledger: ShardLedger, workers: tuple[int, ...] = (0, 1)) -> int:
    """Env steps that these workers bring until they have to wait, 100,000 at most."""
    steps = 0
    while ledger.may_sample() and steps < 100_000:
        for worker in workers:
            ledger.add(worker, Sample({}, FRAGMENT, FRAGMENT, 0, [], {}))
            steps += FRAGMENT
    return steps


def answered(ledger: ShardLedger, index: int, restart: int = 0) -> int:
    """A shard answers for all that it was exchange; returns the gradient steps drawn for."""
    account, steps = ledger.accounts[index], 0
    while account.pending:
        exchange = account.pending[0]
        held = sum(exchange.steps) + account.held
        drawn: Any = None
        if exchange.draws:
            drawn = SimpleNamespace(rows=np.zeros(64 * exchange.draws))
            steps += exchange.draws
        answer = Exchanged(exchange.number, restart, sum(exchange.steps), held, float(held), drawn)
        ledger.take(index, answer)
    return steps


def test_workers_wait_for_a_shard_that_has_not_answered_yet() -> None:
    """At the warm-up and the slack: 1000 env steps, and 8 for each of 5 gradient steps."""
    made = ledger()
    assert 1000 + 8 * 5 <= sampled(made) < 1000 + 8 * 5 + WORKERS * FRAGMENT
    made.exchange(0)  # handed over, and still not answered
    assert sampled(made) == 0


def test_what_was_stored_beyond_the_warm_up_is_trained_on() -> None:
    made = ledger()
    stored = sampled(made)
    made.exchange(0)
    answered(made, 0)
    learned = 0
    for _ in range(300):
        made.exchange(0)
        steps = answered(made, 0)
        learned += steps
        made.run.counters.replayed_steps += 64 * steps
        stored += sampled(made)
    assert learned > 1000
    assert 8 * (stored - 1000) - 64 * learned <= 8 * (8 * 5 + 3 * WORKERS * FRAGMENT)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_shard_that_holds_nothing_holds_up_nobody(empty: int) -> None:
    made, other = ledger(shards=2), 1 - empty
    sampled(made, (other,))
    made.exchange(other)
    answered(made, other)
    made.exchange(empty)
    made.exchange(other)
    assert answered(made, other) > 0
