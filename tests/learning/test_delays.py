"""Does V-trace make up for weights that are many updates old?

Espeholt et al. 2018 (arXiv:1802.01561) ask it of their tasks; here it is CartPole-v1, with weights
that are exactly so many updates behind the learner's. (That an uncorrected loss fails there cannot
be asked of CartPole: it learns from weights 60 updates old, too.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from shoal.algorithms.vtrace import VTrace
from shoal.fleet.base import Fleet
from shoal.learners.base import Learner
from shoal.plans.base import Clock, Run, Update, metrics_of, work
from shoal.trainer import Trainer

pytestmark = pytest.mark.learning
STEPS = 200_000


@dataclass(frozen=True)
class Delayed:
    """Sample with the weights of ``delay`` updates ago, then update, in turn."""

    delay: int
    name: str = "async_samples"  # of the plan whose algorithms it runs

    exact = False
    learns_on_workers = False

    def refuses(self, algorithm: type) -> str | None:
        return None

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        past = deque([(learner.weights(), learner.version)], maxlen=self.delay + 1)
        while True:
            fleet.broadcast(*past[0])
            ((_, sample),) = fleet.map("sample")
            lag = learner.version - sample.version
            assert lag == min(self.delay, learner.version)
            hyper = run.hyper()
            metrics = learner.update(sample.batch, None, hyper)
            run.take(sample)
            run.trained([sample], learner.gradient_steps)
            past.append((learner.weights(), learner.version))
            done = [work(0, sample, lag)]
            yield Update(metrics_of(metrics, hyper), sample.episodes, Clock().take(), done)


@pytest.mark.parametrize("delay", [0, 20])
def test_it_learns_however_old_the_weights(delay: int) -> None:
    fields: dict[str, Any] = {"envs_per_worker": 8, "fragment_length": 64, "learner": "jax"}
    stops = {"stop_steps": STEPS, "stop_return": 150.0}
    plan = Delayed(delay)
    with Trainer(VTrace(lr=5e-3), "CartPole-v1", plan=plan, **fields, **stops) as trainer:
        report = list(trainer)[-1]
        assert trainer.stopped_by() == "return", report
