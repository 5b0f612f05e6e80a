"""Synchronous sampling: all workers sample, the learner learns, all workers get its weights.

The plan of A2C and PPO, and the first of the RLlib paper's policy optimisers (arXiv:1712.09381,
section 4). A fragment is always sampled by the newest weights, so the policy lag is zero.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from shoal.fleet.base import Fleet
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run
from shoal.trajectory import concatenate, shape


@dataclass(frozen=True)
class SyncSamples(Plan):
    """The plan has no options: who waits for whom is all there is to it."""

    name: Literal["sync_samples"] = "sync_samples"  # name of the plan

    exact = True
    offers = Plan.offers | {"policies", "pool"}

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        tally = Tally(fleet, learner, run)
        tally.publish()
        while True:
            hyper = run.hyper()
            samples = tally.take(fleet.map("sample", run.fragments))
            batch = concatenate([sample.batch for sample in samples])
            indices = run.algorithm.indices(run.model, run.rng, shape(batch))
            tally.clock("transfer")
            metrics, _ = learner.update(batch, indices, hyper)
            tally.clock("learn")
            run.fragments += 1
            tally.trained(samples)
            tally.publish()  # the weight edge: learner -> all
            yield from tally.report(metrics, hyper)
