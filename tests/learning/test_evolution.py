"""Do ES and ARS solve CartPole-v1, and the tasks that catch one kind of error each?"""

from __future__ import annotations

from typing import Any

import pytest

import shoal
from tests.envs.micro import Bandit, Delayed

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("system", ["es", "ars"])
def test_cartpole_is_solved(system: str, seed: int) -> None:
    """The final policy, over 100 episodes, in at most 600,000 env steps."""
    with shoal.Trainer(system, "CartPole-v1", tuned=True, seed=seed, stop_steps=600_000) as trainer:
        for _ in trainer:
            if trainer.recorder.window_full() and (trainer.recorder.return_mean() or 0) >= 490:
                break
        assert trainer.evaluate(100)["return_mean"] >= 475


@pytest.mark.parametrize("env", [Bandit, Delayed])
def test_actions_are_paid_as_they_were_taken(env: Any) -> None:
    """Best return 1."""
    fields = {"sigma": 0.5, "lr": 0.1, "directions": 32, "envs_per_worker": 16, "l2": 0.0}
    with shoal.Trainer("es", env, stop_steps=20_000, normalise_obs=False, **fields) as trainer:
        for _ in trainer:
            pass
        assert trainer.evaluate(50)["return_mean"] == 1.0
