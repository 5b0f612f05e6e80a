"""Asynchronous sampling: workers sample without waiting, the learner takes what has come.

IMPALA's plan (Espeholt et al. 2018, arXiv:1802.01561, section 3): what is trained on was sampled by
weights that are some versions old, and the algorithm must correct for that.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from shoal.algorithms.base import Algorithm
from shoal.config.bounds import check_bounds, setting
from shoal.fleet.base import Fleet
from shoal.fleet.sample import Sample
from shoal.learners.base import Learner
from shoal.plans.base import Clock, Run, Update, Work, metrics_of, replays, work
from shoal.trajectory import concatenate


@dataclass(frozen=True)
class AsyncSamples:
    """How far sampling may run ahead of learning."""

    name: Literal["async_samples"] = "async_samples"  # name of the plan
    fragments: int = setting(1, least=1)  # fragments in the batch of one update
    in_flight: int = setting(2, least=1)  # fragments a worker may be ahead of the learner
    max_lag: int = setting(20, least=0)  # drop samples whose weights are more versions old

    exact = False
    learns_on_workers = False

    def __post_init__(self) -> None:
        check_bounds(self, "plan.")

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Whatever takes its samples for the current policy's."""
        if "on-policy" in algorithm.needs:
            return "it trains on what older weights sampled, and this algorithm does not correct it"
        return replays(algorithm)

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        return async_samples(fleet, learner, run, self)


def async_samples(
    fleet: Fleet, learner: Learner, run: Run, options: AsyncSamples
) -> Generator[Update]:
    """Take samples as they come, update when there are enough; one ``Update`` for each.

    The queue is what workers have finished and nobody has taken: at most ``in_flight`` fragments of
    each, so that a slow learner stops the sampling.
    """
    run.abandon()
    fleet.broadcast(learner.weights(), learner.version)
    queue: list[Sample] = []
    done: list[Work] = []
    episodes: list[tuple[float, int]] = []
    clock = Clock()
    for worker, sample in fleet.stream("sample", in_flight=options.in_flight):
        lag = learner.version - sample.version
        fresh = lag <= options.max_lag
        done.append(work(worker, sample, lag if fresh else None))
        clock.waited(done[-1:], fleet.concurrency)
        run.take(sample)
        episodes += sample.episodes
        if fresh:
            queue.append(sample)
        else:
            run.drop(sample)
        if len(queue) >= options.fragments:
            batch = concatenate([sample.batch for sample in queue])
            indices = run.algorithm.indices(run.rng, batch["mask"].size)
            hyper = run.hyper()
            clock("transfer")
            metrics = learner.update(batch, indices, hyper)
            clock("learn")
            run.trained(queue, learner.gradient_steps)
            learner.set_aux(run.normalisation())
            fleet.publish(learner.weights(), learner.version)
            clock("broadcast")
            yield Update(
                metrics_of(metrics, hyper),
                episodes,
                clock.take(),
                done,
                fleet.concurrency,
                fleet.queued,
            )
            queue, done, episodes = [], [], []
            clock = Clock()  # whoever looked at the update took his own time
        fleet.send(worker)  # the weight edge: learner -> the worker that samples next
