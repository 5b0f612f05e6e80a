"""Distributed replay whose labels a fleet of its own makes: Bellman updaters.

QT-Opt's plan (Kalashnikov et al. 2018, arXiv:1806.10293, section 4.3 and appendix). Shards hold two
buffers each: the online one, of what workers sample, and the off-policy one, of a log that is read
again and again (``replay.demos``). Updaters pull transitions from the mixture of both, label them
with the learner's lagged networks, and push them to the train buffer, beside the learner, which
trains on each once unless its label has become too old. The declared ratio of transitions trained
on to env steps sampled holds as under ``async_replay``.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from shoal.algorithms.base import Algorithm, Differentiable
from shoal.config.bounds import require, setting
from shoal.config.config import Config
from shoal.errors import ConfigError
from shoal.fleet.base import Fleet, merge
from shoal.fleet.updater import Updater
from shoal.learners.base import Learner
from shoal.plans.async_replay import begin
from shoal.plans.base import Plan, Update
from shoal.plans.label_ledger import LabelLedger
from shoal.plans.run import Run
from shoal.replay.local import minibatches


@dataclass(frozen=True)
class BellmanUpdaters(Plan):
    """How many members label and store, and how far all of them may run apart.

    A member that dies is replaced, a shard by one without what workers had sampled; what was on its
    way is counted, and drawn again.
    """

    name: Literal["bellman_updaters"] = "bellman_updaters"  # name of the plan
    updaters: int = setting(1, least=1)  # members that label
    shards: int = setting(1, least=1)  # members that hold both buffers, and share the capacity
    max_age: int = setting(64, least=0)  # updates after which a label is too old to train on
    lag_every: int = setting(4, least=1)  # updates between two deliveries of the lagged networks
    in_flight: int = setting(2, least=1)  # fragments a worker may be ahead of its shard
    slack: int = setting(64, least=0)  # gradient steps that may be due before workers wait
    fused: int = setting(4, least=1)  # most gradient steps on what one updater labels at once
    sync_every: int = setting(400, least=1)  # env steps of a worker between two weight updates

    offers = frozenset({"replay", "demonstrations"})

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = f"at least plan.lag_every, {self.lag_every}: else labels are too old before they come"
        require(self.max_age >= self.lag_every, "plan.max_age", self.max_age, fix)

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        reason = super().refuses(algorithm)
        if reason is None and not (issubclass(algorithm, Differentiable) and algorithm.labelled):
            reason = "its targets depend on more than lagged networks, so that none can be labelled"
        return reason

    def conflict(self, config: Config) -> ConfigError | None:
        if not config.replay.alpha:
            return None
        what = f"replay.alpha is {config.replay.alpha:g}, but {self.name} draws uniformly"
        return ConfigError(what, None, "leave it out, or take plan async_replay")

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        counts = run.counters
        tally, ledgers, sampling = begin(self, fleet, learner, run)
        ledger = ledgers[""]
        ahead = 1 if self.slack == 0 else 2
        make = partial(_updater, run.algorithm, run.model)
        with (
            closing(fleet.spawn(ledger.make, self.shards, "replay shard")) as shards,
            closing(fleet.spawn(make, self.updaters, "updater")) as updaters,
        ):
            labels = LabelLedger(run, self.max_age, updaters, ledger.forgo)
            delivered = self._deliver(updaters, learner)
            streams = (
                fleet.stream("sample_apart", sampling.next, self.in_flight),
                shards.stream("exchange_apart", ledger.exchange, ahead),
                updaters.stream("label", labels.next, ahead),
            )
            for stream, index, result in merge(*streams):
                if stream == 0:
                    sampling.take(index, result)
                    continue
                # Where all members take turns with this process, it did not wait for labels.
                turns = stream == 2 and not fleet.stats.concurrency
                tally.clock("wait", result.busy if turns else 0.0)
                if stream == 1:
                    drawn = ledger.take(index, result)
                    if drawn is not None:
                        labels.pull(drawn)
                    elif counts.learning_from is None and not run.offline_left:
                        counts.gradient_steps = learner.gradient_steps
                        yield from tally.report({})  # before learning begins, fragments are news
                    continue
                labels.take(index, result)
                while (found := labels.due(learner.version)) is not None:
                    hyper = run.hyper()
                    rows = minibatches(found.drawn, run.replay)
                    tally.clock("transfer")
                    metrics, _ = learner.update(found.batch, rows, hyper)
                    tally.clock("learn")
                    counts.replayed_steps += ledger.replayed(found.drawn)
                    counts.gradient_steps = learner.gradient_steps
                    if learner.version - delivered >= self.lag_every:
                        delivered = self._deliver(updaters, learner)
                        tally.clock("broadcast")
                    own = {**labels.metrics(found), "age": found.drawn.age}
                    yield from tally.report({**metrics, **own}, hyper)

    def _deliver(self, updaters: Fleet, learner: Learner) -> int:
        """The edge of the lagged networks: learner -> all updaters. Returns their version."""
        updaters.publish(learner.lagged(), learner.version)
        updaters.send()
        return learner.version


def _updater(algorithm: Any, model: Any, index: int, restart: int) -> Updater:
    return Updater(algorithm, model)
