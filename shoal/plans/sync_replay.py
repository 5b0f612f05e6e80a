"""Learning from what is remembered, in turn with sampling.

The plan of DQN and all that came of it (Mnih et al. 2015, Nature 518, Algorithm 1): what is sampled
goes into a buffer, and for every env step a declared number of transitions is drawn from it to
learn from. Where these are several gradient steps, they are one compiled call.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from shoal.algorithms.base import Algorithm, Model
from shoal.config.config import Replay
from shoal.config.schedule import at
from shoal.fleet.base import Fleet, results
from shoal.fleet.sample import Sample
from shoal.learners.base import STEP, Learner
from shoal.plans.base import Clock, Run, Update, metrics_of, work
from shoal.replay import settings

if TYPE_CHECKING:
    from shoal.replay.buffer import Buffer, Drawn

FUSED = 64 * 2**20  # bytes of the transitions of one call, at most


@dataclass(frozen=True)
class SyncReplay:
    """Without options: ``replay`` says what is remembered, and how often it is gone through."""

    name: Literal["sync_replay"] = "sync_replay"  # name of the plan

    exact = True
    learns_on_workers = False

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Whatever learns from trajectories."""
        return trajectories(algorithm)

    def memory(self, run: Run, model: Model, stacks: Mapping[str, int], slots: int) -> Buffer:
        """What the run will remember in."""
        algorithm = run.algorithm
        return settings.make(
            run.replay, model.spaces, stacks, slots, algorithm.n_step, algorithm.gamma
        )

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        return sync_replay(fleet, learner, run, run.replay)


def trajectories(algorithm: type[Algorithm]) -> str | None:
    """Why a plan that replays cannot run an algorithm that learns from trajectories."""
    if "replay" not in algorithm.needs:
        return "it learns from trajectories as they were sampled, not from single transitions"
    return None


def sync_replay(fleet: Fleet, learner: Learner, run: Run, options: Replay) -> Generator[Update]:
    """Learn what is due, sample when nothing is; one ``Update`` each time round.

    The buffer changes last, when nothing can fail any more: whoever is interrupted before finds
    it as it was.
    """
    buffer, algorithm = run.memory, run.algorithm
    fleet.broadcast(learner.weights(), learner.version)
    while True:
        clock = Clock()
        metrics: dict[str, float] = {}
        drawn: Drawn | None = None
        priority = None
        steps = due(run, options)
        if steps:
            beta = at(options.beta, run.progress)
            drawn = buffer.draw(run.rng.random((steps, options.batch_size)), beta)
            noise = algorithm.draw(run.model, run.rng, steps, options.batch_size)
            batch = {**drawn.batch, STEP: noise}
            indices = np.arange(steps * options.batch_size, dtype=np.int32).reshape(steps, -1)
            hyper = run.hyper()
            clock("transfer")
            metrics, rows = learner.learn(batch, indices, hyper)
            priority = rows["priority"]
            metrics = metrics_of(metrics, hyper)
            clock("learn")
            learner.set_aux(run.aux())
            fleet.broadcast(learner.weights(), learner.version)  # the weight edge: learner -> all
            clock("broadcast")
        sampled: list[tuple[int, Sample]] = []
        if due(run, options, steps) == 0:
            sampled = fleet.map("sample", run.fragments)
        samples = results(sampled)
        done = [work(i, each, learner.version - each.version) for i, each in sampled]
        clock.waited(done, fleet.concurrency)

        if drawn is not None and priority is not None:
            if options.alpha:
                buffer.set_priorities(drawn.rows, priority)
            run.counters.replayed_steps += len(drawn.rows)
        run.fragments += bool(samples)
        for index, sample in sampled:
            run.take(sample)
            buffer.store(index, sample.batch)
        if run.learning_from is None:
            run.learning_from = options.begin(buffer.stored, run.counters.replayed_steps)
        run.trained(samples, learner.gradient_steps)
        clock("transfer")
        episodes = [episode for sample in samples for episode in sample.episodes]
        yield Update(metrics, episodes, clock.take(), done, fleet.concurrency)


def due(run: Run, options: Replay, taken: int = 0) -> int:
    """Gradient steps of the next call, when ``taken`` are about to be counted.

    What was trained on follows what was sampled since learning began, in the declared ratio, and is
    never more than one batch behind when something is sampled.
    """
    steps = options.due(run.memory.stored, run.learning_from, run.counters.replayed_steps) - taken
    most = FUSED // (2 * options.batch_size * run.memory.layout.row_bytes) or 1
    return options.at_once(steps, most)
