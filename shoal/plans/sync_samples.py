"""Synchronous sampling: all workers sample, the learner learns, all workers get its weights.

The plan of A2C and PPO, and the first of the RLlib paper's policy optimisers (arXiv:1712.09381,
section 4). A fragment is always sampled by the newest weights, so the policy lag is zero.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from shoal.algorithms.base import Algorithm
from shoal.fleet.base import Fleet, results
from shoal.learners.base import Learner
from shoal.plans.base import Clock, Run, Update, metrics_of, replays, work
from shoal.trajectory import concatenate


@dataclass(frozen=True)
class SyncSamples:
    """The plan has no options: who waits for whom is all there is to it."""

    name: Literal["sync_samples"] = "sync_samples"  # name of the plan

    exact = True
    learns_on_workers = False

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Whatever is to remember: samples of the current policy serve all others."""
        return replays(algorithm)

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        return sync_samples(fleet, learner, run)


def sync_samples(fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
    """Sample, update, broadcast; one ``Update`` each time round."""
    fleet.broadcast(learner.weights(), learner.version)
    while True:
        clock = Clock()
        sampled = fleet.map("sample", run.fragments)
        samples = results(sampled)
        done = [work(i, each, learner.version - each.version) for i, each in sampled]
        clock.waited(done, fleet.concurrency)
        batch = concatenate([sample.batch for sample in samples])
        indices = run.algorithm.indices(run.rng, batch["mask"].size)
        hyper = run.hyper()
        clock("transfer")
        metrics = learner.update(batch, indices, hyper)
        clock("learn")

        run.fragments += 1
        for sample in samples:
            run.take(sample)
        run.trained(samples, learner.gradient_steps)
        learner.set_aux(run.normalisation())
        fleet.broadcast(learner.weights(), learner.version)  # the weight edge: learner -> all
        clock("broadcast")
        yield Update(
            metrics_of(metrics, hyper),
            [episode for sample in samples for episode in sample.episodes],
            clock.take(),
            done,
            fleet.concurrency,
        )
