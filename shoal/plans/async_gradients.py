"""Asynchronous gradients: workers sample and differentiate, the learner applies what comes.

A3C's plan (Mnih et al. 2016, arXiv:1602.01783, Algorithm S3), with the shared parameters in the
plan's process; the RLlib paper's "async" optimiser (arXiv:1712.09381, section 4).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from shoal.config.bounds import setting
from shoal.fleet.base import Fleet
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run


@dataclass(frozen=True)
class AsyncGradients(Plan):
    """How stale a gradient may be.

    Each worker has one call in flight, so what it samples next is sampled with what its last
    gradient led to. Gradients are applied in the order in which they come.
    """

    name: Literal["async_gradients"] = "async_gradients"  # name of the plan
    max_lag: int = setting(20, least=0)  # drop gradients whose weights are more versions old

    offers = frozenset({"trajectories", "on-policy", "replay", "policies"})

    def member(self) -> type:
        from shoal.fleet.learning import LearningWorker

        return LearningWorker

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        run.abandon()
        tally = Tally(fleet, learner, run)
        tally.publish()
        for worker, gradient in fleet.stream("gradient", lambda _: (run.hyper(),)):
            sample = gradient.sample
            fresh = tally.take([(worker, sample)], self.max_lag)
            if fresh and gradient.values is not None:
                hyper = run.hyper()
                norm = learner.apply(gradient.values, hyper)
                tally.clock("learn")
                run.counters.replayed_steps += gradient.replayed
                tally.trained([sample])
                tally.publish(send=False)
                yield from tally.report({**gradient.metrics, "grad_norm": norm}, hyper)
            elif run.remembers:  # whatever becomes of the gradient, its worker stored the sample
                tally.trained([sample])
                tally.publish(send=False)
            else:
                run.drop(sample)
            fleet.send(worker)  # the weight edge: learner -> the worker whose gradient this was
