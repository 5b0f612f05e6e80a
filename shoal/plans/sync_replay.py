"""Replay in turn with sampling: store what was sampled, learn what is due, and so on.

The plan of DQN and all that came of it (Mnih et al. 2015, Nature 518, Algorithm 1): what is sampled
goes into a buffer, and for every env step a declared number of transitions is drawn from it to
learn from. Several gradient steps that are due at once are one compiled call.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from shoal.config.config import Config
from shoal.config.schedule import at
from shoal.errors import ConfigError
from shoal.fleet.base import Fleet
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run


@dataclass(frozen=True)
class SyncReplay(Plan):
    """The plan has no options: ``replay`` says how large the buffer is, and how often to learn."""

    name: Literal["sync_replay"] = "sync_replay"  # name of the plan

    exact = True
    offers = frozenset({"replay", "demonstrations", "policies", "buffers"})
    replays = True

    def conflict(self, config: Config) -> ConfigError | None:
        if config.replay.demo_capacity is None:
            return None
        return ConfigError(
            f"replay.demo_capacity is {config.replay.demo_capacity:,}, but {self.name} goes on "
            "bit for bit when it is resumed, for which all demonstrations are in memory",
            None,
            "leave it out, or take plan async_replay or bellman_updaters",
        )

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        replay = run.local_replay
        tally = Tally(fleet, learner, run)
        tally.publish()
        while True:
            metrics: dict[str, float] = {}
            hyper: dict[str, float] = {}
            if steps := replay.due(run.offline_left):
                hyper = run.hyper()
                beta = at(run.replay.beta, run.progress)
                drawn = replay.draw(run.rng, steps, beta, run.demo_ratio)
                tally.clock("transfer")
                rows = replay.minibatches(drawn)
                metrics, by_row = learner.update(drawn.batch, rows, hyper)
                tally.clock("learn")
                replay.trained(drawn, by_row)
                tally.publish()  # the weight edge: learner -> all
            if not replay.due(run.offline_left):
                sampled = fleet.map("sample", run.fragments)
                samples = tally.take(sampled)
                for worker, sample in sampled:
                    replay.store(worker, sample.batch)
                tally.trained(samples)
                run.fragments += 1
            run.counters.gradient_steps = learner.gradient_steps
            tally.clock("transfer")
            yield from tally.report(metrics, hyper)
