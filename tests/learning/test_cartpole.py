"""Do the systems learn CartPole? Up to a return of 200: random play gets 22, and the whole of
Gymnasium's threshold, 475, is asked of the runs in results/.

A training return is the mean of the last 100 episodes, exploration included.
"""

from __future__ import annotations

import pytest

from shoal.trainer import Trainer

pytestmark = pytest.mark.learning


@pytest.mark.parametrize(
    ("system", "learner", "steps"),
    [
        ("ppo", "jax", 50_000),
        ("ppo", "torch", 50_000),
        ("a2c", "jax", 150_000),
        ("pg", "jax", 150_000),
    ],
)
def test_it_learns_within_its_budget(system: str, learner: str, steps: int) -> None:
    enough = 100.0 if learner == "torch" else 200.0
    fields = {"learner": learner, "stop_return": enough, "stop_steps": steps}
    with Trainer(system, "CartPole-v1", **fields) as trainer:
        report = list(trainer)[-1]
        assert trainer.stopped_by() == "return", report
        assert trainer.evaluate(20)["return_mean"] >= enough
