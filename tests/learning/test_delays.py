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
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run
from shoal.trainer import Trainer

pytestmark = pytest.mark.learning
STEPS = 200_000


@dataclass(frozen=True)
class Delayed(Plan):
    """Sample with the weights of ``delay`` updates ago, then update, in turn."""

    name: str = "delayed"
    delay: int = 0

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        tally = Tally(fleet, learner, run)
        past = deque([(learner.weights(), learner.version)], maxlen=self.delay + 1)
        while True:
            fleet.publish(*past[0])
            fleet.send()
            (sample,) = tally.take(fleet.map("sample"))
            assert learner.version - sample.version == min(self.delay, learner.version)
            hyper = run.hyper()
            metrics, _ = learner.update(sample.batch, None, hyper)
            tally.trained([sample])
            past.append((learner.weights(), learner.version))
            yield from tally.report(metrics, hyper)


@pytest.mark.parametrize("delay", [0, 20])
def test_it_learns_however_old_the_weights(delay: int) -> None:
    fields: dict[str, Any] = {"envs_per_worker": 8, "fragment_length": 64, "learner": "jax"}
    stops = {"stop_steps": STEPS, "stop_return": 150.0}
    plan = Delayed(delay=delay)
    with Trainer(VTrace(lr=5e-3), "CartPole-v1", plan=plan, **fields, **stops) as trainer:
        report = list(trainer)[-1]
        assert trainer.stopped_by() == "return", report
