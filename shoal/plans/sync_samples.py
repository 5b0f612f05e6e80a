"""Synchronous sampling: all workers sample, the learner learns, all workers get its weights.

The plan of A2C and PPO, and the first of the RLlib paper's policy optimisers (arXiv:1712.09381,
section 4). A fragment is always sampled by the newest weights, so the policy lag is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

from shoal.fleet.base import Fleet
from shoal.learners.base import Learner
from shoal.plans.base import Run, Update
from shoal.trajectory import concatenate


@dataclass(frozen=True)
class SyncSamples:
    """The plan has no options: who waits for whom is all there is to it."""

    def refuses(self, algorithm: type) -> str | None:
        """Anything that learns from what the current policy did."""
        needs: frozenset[str] = getattr(algorithm, "needs", frozenset())
        return None if "on-policy" in needs else "sync_samples feeds on-policy algorithms only"

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Iterator[Update]:
        return sync_samples(fleet, learner, run)


def sync_samples(fleet: Fleet, learner: Learner, run: Run) -> Iterator[Update]:
    """Sample, update, broadcast; one ``Update`` each time round."""
    fleet.broadcast(learner.weights(), learner.version)
    while True:
        start = perf_counter()
        samples = fleet.map("sample")
        sampled = perf_counter()
        batch = concatenate([sample.batch for sample in samples])
        indices = run.algorithm.indices(run.rng, len(batch["mask"]))
        lag = max(learner.version - sample.version for sample in samples)
        hyper = run.hyper()
        joined = perf_counter()
        metrics = learner.update(batch, indices, hyper)
        learned = perf_counter()

        counters = run.counters
        run.fragments += 1
        for sample in samples:
            run.observe(sample.moments)
            counters.env_steps += sample.env_steps
            counters.agent_steps += sample.env_steps
            counters.trained_steps += sample.trained_steps
            counters.dropped_steps += sample.env_steps - sample.trained_steps
            counters.episodes += len(sample.episodes)
        counters.gradient_steps = learner.gradient_steps
        learner.set_aux(run.normalisation())
        fleet.broadcast(learner.weights(), learner.version)  # the weight edge: learner -> all

        busy = {
            name: sum(sample.times[name] for sample in samples) / fleet.concurrency
            for name in samples[0].times
        }
        yield Update(
            metrics={**metrics, **{f"hyper/{k}": x for k, x in hyper.items()}},
            episodes=[episode for sample in samples for episode in sample.episodes],
            times={
                **busy,
                "transfer": joined - sampled,
                "learn": learned - joined,
                "broadcast": perf_counter() - learned,
                "wait": max(sampled - start - sum(busy.values()), 0.0),
            },
            lag=lag,
        )
