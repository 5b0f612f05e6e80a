"""Do the systems learn what they are known to learn, within the steps that others need for it?

Thresholds are Gymnasium's; budgets are RL Baselines3 Zoo's, and for REINFORCE the usual one. A
training return is the mean of the last 100 episodes, exploration included.
"""

from __future__ import annotations

from typing import Any

import pytest

from shoal.trainer import Trainer

pytestmark = pytest.mark.learning


def trained(system: str, env: str, **fields: Any) -> tuple[Trainer, dict[str, Any]]:
    trainer = Trainer(system, env, **fields)
    reports = list(trainer)
    return trainer, reports[-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_ppo_solves_cartpole_within_100_000_env_steps(seed: int) -> None:
    fields = {"seed": seed, "learner": "jax", "stop_return": 475.0, "stop_steps": 100_000}
    trainer, report = trained("ppo", "CartPole-v1", **fields)
    assert trainer.stopped_by() == "return", report
    assert trainer.evaluate(20)["return_mean"] >= 475


def test_ppo_solves_cartpole_with_pytorch_too() -> None:
    fields = {"learner": "torch", "stop_return": 475.0, "stop_steps": 100_000}
    trainer, report = trained("ppo", "CartPole-v1", **fields)
    assert trainer.stopped_by() == "return", report


def test_a2c_solves_cartpole_within_500_000_env_steps() -> None:
    fields = {"learner": "jax", "stop_return": 475.0, "stop_steps": 500_000}
    trainer, report = trained("a2c", "CartPole-v1", **fields)
    assert trainer.stopped_by() == "return", report


def test_pg_learns_cartpole_within_200_000_env_steps() -> None:
    fields = {"learner": "jax", "stop_return": 450.0, "stop_steps": 200_000}
    trainer, report = trained("pg", "CartPole-v1", **fields)
    assert trainer.stopped_by() == "return", report


def test_ppo_learns_pendulum_within_100_000_env_steps() -> None:
    """Zoo: -172 +- 104; a policy that does nothing gets about -1200."""
    trainer, report = trained("ppo", "Pendulum-v1", tuned=True, learner="jax")
    assert report["return_mean"] >= -250
    assert trainer.evaluate(50)["return_mean"] >= -250
