"""Do the systems that replay learn what they are known to learn?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from shoal.nets.network import Network
from shoal.trainer import Trainer
from tests.worlds import LINEAR

pytestmark = pytest.mark.learning


def frozen_lake() -> Any:
    return FrozenLakeEnv(is_slippery=False)


def test_values_of_frozen_lake_are_those_of_value_iteration() -> None:
    """One weight for each state and action; V of the first state is 0.99^5 = 0.950990."""
    fields: dict[str, Any] = {
        "network": LINEAR,
        "epsilon": 1.0,  # random behaviour reaches all
        "lr": 0.01,
        "target_every": 50,
        "capacity": 20_000,
        "learner": "jax",
        "stop_steps": 30_000,
    }
    with Trainer("double-dqn", frozen_lake, **fields) as trainer:
        list(trainer)
        obs = {"obs": np.zeros(1, np.int64)}
        weights = trainer.learner.weights()
        obs = trainer.spaces.flatten(0)
        q = trainer.config.algorithm.values(trainer.model, weights, obs)[..., 0]
    assert float(np.max(q)) == pytest.approx(0.950990, abs=0.01)


@pytest.mark.parametrize("system", ["dqn", "rainbow"])
def test_cartpole_is_learned(system: str) -> None:
    """Random play gets 22."""
    small = Network(hidden=(64, 64), activation="relu")
    fields: dict[str, Any] = {"tuned": True, "network": small, "learner": "jax"}
    fields |= {"lr": 1e-3, "stop_return": 100.0, "stop_steps": 50_000}
    with Trainer(system, "CartPole-v1", **fields) as trainer:
        report = list(trainer)[-1]
        assert trainer.stopped_by() == "return", report
