"""Asynchronous gradients: workers sample and differentiate, the learner applies what comes.

A3C's plan (Mnih et al. 2016, arXiv:1602.01783, Algorithm S3), with the shared parameters in the
plan's process; the RLlib paper's "async" optimiser (arXiv:1712.09381, section 4).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from shoal.algorithms.base import Algorithm
from shoal.config.bounds import check_bounds, setting
from shoal.fleet.base import Fleet
from shoal.learners.base import Learner
from shoal.plans.base import Clock, Run, Update, Work, metrics_of, work


@dataclass(frozen=True)
class AsyncGradients:
    """How stale a gradient may be."""

    name: Literal["async_gradients"] = "async_gradients"  # name of the plan
    max_lag: int = setting(20, least=0)  # drop gradients whose weights are more versions old

    exact = False
    learns_on_workers = True

    def __post_init__(self) -> None:
        check_bounds(self, "plan.")

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Whatever goes through a batch several times."""
        return one_gradient(algorithm)

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        return async_gradients(fleet, learner, run, self)


def async_gradients(
    fleet: Fleet, learner: Learner, run: Run, options: AsyncGradients
) -> Generator[Update]:
    """Apply gradients in the order in which they come; one ``Update`` for each.

    Each worker has one call in flight, so what it samples next is sampled with what its last
    gradient led to.
    """
    run.abandon()
    learner.set_aux(run.aux())
    fleet.broadcast(learner.weights(), learner.version)
    done: list[Work] = []
    episodes: list[tuple[float, int]] = []
    clock = Clock()
    for worker, gradient in fleet.stream("gradient", lambda: (run.hyper(),)):
        sample = gradient.sample
        lag = learner.version - sample.version
        fresh = lag <= options.max_lag
        done.append(work(worker, sample, lag if fresh else None))
        clock.waited(done[-1:], fleet.concurrency)
        run.take(sample)
        episodes += sample.episodes
        if not fresh and not run.remembers:
            run.drop(sample)
        elif not fresh or gradient.values is None:
            run.trained([sample], learner.gradient_steps)  # remembered; nothing is learned yet
            learner.set_aux(run.aux())
            fleet.publish(learner.weights(), learner.version)
        else:
            hyper = run.hyper()
            norm = learner.apply(gradient.values, hyper)
            clock("learn")
            run.trained([sample], learner.gradient_steps)
            run.counters.replayed_steps += gradient.replayed
            learner.set_aux(run.aux())
            fleet.publish(learner.weights(), learner.version)
            clock("broadcast")
            metrics = {**gradient.metrics, "grad_norm": norm}
            yield Update(
                metrics_of(metrics, hyper),
                episodes,
                clock.take(),
                done,
                fleet.concurrency,
                fleet.queued,
            )
            done, episodes = [], []
            clock = Clock()  # whoever looked at the update took his own time
        fleet.send(worker)  # the weight edge: learner -> the worker whose gradient this was


def one_gradient(algorithm: type[Algorithm]) -> str | None:
    """Why an algorithm cannot run where a worker takes one gradient of what it sampled."""
    if "epochs" in algorithm.needs:
        return "it takes several gradient steps on each batch, but here a worker takes one gradient"
    return None
