"""Asynchronous sampling: workers sample without waiting, the learner takes what has come.

IMPALA's plan (Espeholt et al. 2018, arXiv:1802.01561, section 3): what is trained on was sampled by
weights that are some versions old, and the algorithm must correct for that.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from shoal.config.bounds import setting
from shoal.fleet.base import Fleet
from shoal.fleet.sample import Sample
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run
from shoal.trajectory import concatenate, shape


@dataclass(frozen=True)
class AsyncSamples(Plan):
    """How far sampling may run ahead of learning.

    The queue is what workers have finished and nobody has taken: at most ``in_flight`` fragments of
    each, so that a slow learner stops the sampling.
    """

    name: Literal["async_samples"] = "async_samples"  # name of the plan
    fragments: int = setting(1, least=1)  # fragments in the batch of one update
    in_flight: int = setting(2, least=1)  # fragments a worker may be ahead of the learner
    max_lag: int = setting(20, least=0)  # drop samples whose weights are more versions old

    offers = frozenset({"trajectories", "epochs", "policies", "pool"})

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        run.abandon()
        tally = Tally(fleet, learner, run)
        tally.publish()
        queue: list[Sample] = []
        for worker, sample in fleet.stream("sample", in_flight=self.in_flight):
            fresh = tally.take([(worker, sample)], self.max_lag)
            queue += fresh
            if not fresh:
                run.drop(sample)
            if len(queue) >= self.fragments:
                batch = concatenate([sample.batch for sample in queue])
                indices = run.algorithm.indices(run.model, run.rng, shape(batch))
                hyper = run.hyper()
                tally.clock("transfer")
                metrics, _ = learner.update(batch, indices, hyper)
                tally.clock("learn")
                tally.trained(queue)
                tally.publish(send=False)
                yield from tally.report(metrics, hyper)
                queue = []
            fleet.send(worker)  # the weight edge: learner -> the worker that samples next
