"""Distributed replay: workers sample, shards store, the learner learns, each at its own speed.

Ape-X's plan (Horgan et al. 2018, arXiv:1803.00933, Figure 1 and Algorithms 1 and 2). Fragments go
from worker to shard without a look at them in this process, which hands on references to all that
is not small; what is drawn comes from shards to the learner, and priorities go back. The declared
ratio of transitions trained on to env steps sampled holds on the average: the learner waits for
what it has not earned, and workers wait if it falls behind. Of several policies each has shards and
a ratio of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Literal

from shoal.config.bounds import setting
from shoal.fleet.base import Fleet, merge, results
from shoal.fleet.sample import Sample
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run, policy_runs
from shoal.plans.shard_ledger import ShardLedger
from shoal.replay.local import minibatches, with_noise


class Sampling:
    """When workers sample, and when they are given weights.

    ``ledgers`` are of the policies that replay; one policy alone has the name "".
    """

    def __init__(
        self,
        fleet: Fleet,
        learner: Learner,
        tally: Tally,
        ledgers: Mapping[str, ShardLedger],
        sync_every: int,
    ) -> None:
        self._fleet, self._learner, self._tally, self._ledgers = fleet, learner, tally, ledgers
        self._sync_every = sync_every
        self._since: dict[int, int] = {}  # env steps of each worker since it was given weights
        self._published = learner.version

    def next(self, worker: int) -> tuple[Any, ...] | None:
        """The arguments of a worker's next call; None while it waits."""
        if not all(ledger.may_sample() for ledger in self._ledgers.values()):
            return None
        if self._since.get(worker, 0) >= self._sync_every:
            if self._published != self._learner.version:
                self._tally.publish(send=False)
                self._published = self._learner.version
            self._fleet.send(worker)  # the weight edge: learner -> the worker that samples next
            self._since[worker] = 0
        return ()

    def take(self, worker: int, sample: Sample) -> None:
        """A fragment has come, and is to go to a shard of each policy."""
        self._tally.take([(worker, sample)])
        for name, ledger in self._ledgers.items():
            ledger.add(worker, sample.of(name) if name else sample)
        self._since[worker] = self._since.get(worker, 0) + sample.env_steps


def begin(
    plan: Any, fleet: Fleet, learner: Learner, run: Run
) -> tuple[Tally, dict[str, ShardLedger], Sampling]:
    """What a plan of workers and replay shards begins with; the first weights are sent."""
    run.abandon()
    run.counters.learning_from = None
    tally = Tally(fleet, learner, run)
    tally.publish()
    stacks = results(fleet.map("get_layout"))[0][0]
    options = plan.shards, plan.slack, plan.fused
    ledgers = {
        name: ShardLedger(fleet, own, *options, stacks[name] if name else stacks)
        for name, own in policy_runs(run).items()
    }
    return tally, ledgers, Sampling(fleet, learner, tally, ledgers, plan.sync_every)


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

    offers = frozenset({"replay", "demonstrations", "policies", "buffers"})

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        tally, ledgers, sampling = begin(self, fleet, learner, run)
        names, ahead = list(ledgers), 1 if self.slack == 0 else 2
        with ExitStack() as stack:
            streams = [fleet.stream("sample_apart", sampling.next, self.in_flight)]
            for ledger in ledgers.values():
                made = fleet.spawn(ledger.make, self.shards, "replay shard")
                shards = stack.enter_context(closing(made))
                streams.append(shards.stream("exchange", ledger.exchange, ahead))
            for stream, index, result in merge(*streams):
                if stream == 0:
                    sampling.take(index, result)
                    continue
                tally.clock("wait")
                name = names[stream - 1]
                ledger, own = ledgers[name], ledgers[name].run
                drawn = ledger.take(index, result)
                if drawn is not None:
                    drawn = with_noise(drawn, run.replay, own.algorithm, own.model, run.rng)
                    hyper = run.hyper()
                    tally.clock("transfer")
                    batch: Any = drawn.batch
                    rows: Any = minibatches(drawn, run.replay)
                    if name:
                        batch, rows = {name: batch}, {name: rows}
                    metrics, by_row = learner.update(batch, rows, hyper)
                    tally.clock("learn")
                    before = f"{name}/" if name else ""
                    if run.replay.alpha:
                        priority = by_row[f"{before}priority"]
                        ledger.accounts[index].priorities.append((drawn.rows, priority))
                    own.counters.replayed_steps += ledger.replayed(drawn)
                    run.add(ledger.run for ledger in ledgers.values())
                    run.counters.gradient_steps = learner.gradient_steps
                    yield from tally.report({**metrics, f"{before}age": drawn.age}, hyper)
                elif own.counters.learning_from is None:  # before it learns, fragments are news
                    run.add(ledger.run for ledger in ledgers.values())
                    run.counters.gradient_steps = learner.gradient_steps
                    yield from tally.report({})
