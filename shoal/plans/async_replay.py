"""Distributed replay: workers sample, shards store, the learner learns, each at its own speed.

Ape-X's plan (Horgan et al. 2018, arXiv:1803.00933, Figure 1 and Algorithms 1 and 2). Fragments go
from worker to shard without a look at them in this process, which hands on references to all that
is not small; what is drawn comes from shards to the learner, and priorities go back. The declared
ratio of transitions trained on to env steps sampled holds on the average: the learner waits for
what it has not earned, and workers wait if it falls behind.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from shoal.config.bounds import setting
from shoal.fleet.base import Fleet, merge
from shoal.fleet.sample import Sample
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run
from shoal.plans.shard_ledger import ShardLedger
from shoal.replay.local import minibatches, with_noise


class Sampling:
    """When workers sample, and when they are given weights."""

    def __init__(
        self, fleet: Fleet, learner: Learner, tally: Tally, ledger: ShardLedger, sync_every: int
    ) -> None:
        self._fleet, self._learner, self._tally, self._ledger = fleet, learner, tally, ledger
        self._sync_every = sync_every
        self._since: dict[int, int] = {}  # env steps of each worker since it was given weights
        self._published = learner.version

    def next(self, worker: int) -> tuple[Any, ...] | None:
        """The arguments of a worker's next call; None while it waits."""
        if not self._ledger.may_sample():
            return None
        if self._since.get(worker, 0) >= self._sync_every:
            if self._published != self._learner.version:
                self._tally.publish(send=False)
                self._published = self._learner.version
            self._fleet.send(worker)  # the weight edge: learner -> the worker that samples next
            self._since[worker] = 0
        return ()

    def take(self, worker: int, sample: Sample) -> None:
        """A fragment has come, and is to go to a shard."""
        self._tally.take([(worker, sample)])
        self._ledger.add(worker, sample)
        self._since[worker] = self._since.get(worker, 0) + sample.env_steps


def begin(
    plan: Any, fleet: Fleet, learner: Learner, run: Run
) -> tuple[Tally, ShardLedger, Sampling]:
    """What a plan of workers and replay shards begins with; the first weights are sent."""
    run.abandon()
    run.counters.learning_from = None
    tally = Tally(fleet, learner, run)
    tally.publish()
    ledger = ShardLedger(fleet, run, plan.shards, plan.slack, plan.fused)
    return tally, ledger, Sampling(fleet, learner, tally, ledger, plan.sync_every)


@dataclass(frozen=True)
class AsyncReplay(Plan):
    """How many shards there are, and how far the three loops may run apart.

    A shard that dies is replaced by an empty one.
    """

    name: Literal["async_replay"] = "async_replay"  # name of the plan
    shards: int = setting(1, least=1)  # replay shards: processes that share the capacity
    in_flight: int = setting(2, least=1)  # fragments a worker may be ahead of its shard
    slack: int = setting(64, least=0)  # gradient steps that may be due before workers wait
    fused: int = setting(16, least=1)  # most gradient steps in one compiled call
    sync_every: int = setting(400, least=1)  # env steps of a worker between two weight updates

    offers = frozenset({"replay", "demonstrations"})

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        counts = run.counters
        tally, ledger, sampling = begin(self, fleet, learner, run)
        with closing(fleet.spawn(ledger.make, self.shards, "replay shard")) as shards:
            fragments = fleet.stream("sample_apart", sampling.next, self.in_flight)
            exchanges = shards.stream("exchange", ledger.exchange, 1 if self.slack == 0 else 2)
            for stream, index, result in merge(fragments, exchanges):
                if stream == 0:
                    sampling.take(index, result)
                    continue
                tally.clock("wait")
                drawn = ledger.take(index, result)
                if drawn is not None:
                    drawn = with_noise(drawn, run.replay, run.algorithm, run.model, run.rng)
                    hyper = run.hyper()
                    tally.clock("transfer")
                    rows = minibatches(drawn, run.replay)
                    metrics, by_row = learner.update(drawn.batch, rows, hyper)
                    tally.clock("learn")
                    if run.replay.alpha:
                        ledger.accounts[index].priorities.append((drawn.rows, by_row["priority"]))
                    counts.replayed_steps += ledger.replayed(drawn)
                    counts.gradient_steps = learner.gradient_steps
                    yield from tally.report({**metrics, "age": drawn.age}, hyper)
                elif counts.learning_from is None:  # before learning begins, fragments are news
                    counts.gradient_steps = learner.gradient_steps
                    yield from tally.report({})
