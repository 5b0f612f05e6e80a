"""Worlds that each catch one class of bug, solved by every algorithm within seconds.

Their optimal policies and values can be written down, so that nearly right is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.nets.network import Network
from shoal.trainer import Trainer
from tests.envs.micro import Bandit, Constant, Delayed, OppositeSigns, Reach

pytestmark = pytest.mark.learning

SETTINGS: dict[str, dict[str, Any]] = {
    "pg": {"lr": 3e-2, "fragment_length": 32},
    "a2c": {"lr": 1e-2},
    "ppo": {"lr": 1e-2, "fragment_length": 32, "epochs": 4},
}
SYSTEMS = list(SETTINGS)


REPLAYING: dict[str, Any] = {
    "network": Network(hidden=(32, 32)),
    "lr": 3e-3,
    "warmup": 200,
    "batch_size": 64,
    "replay_ratio": 64.0,
    "envs_per_worker": 1,
}


def trained(system: str, env: Any, steps: int, **fields: Any) -> Trainer:
    tiny = {"network": Network(hidden=(16,)), "seed": 1, "learner": "jax"}
    trainer = Trainer(
        system, env, stop_steps=steps, **{**tiny, **SETTINGS.get(system, {}), **fields}
    )
    for _ in trainer:
        pass
    return trainer


def values(trainer: Trainer, *obs: list[float]) -> list[float]:
    rows = {"obs": np.array(obs, np.float32)}
    found: list[float] = trainer.model.net(trainer.learner.weights(), rows, ("v",))[0][
        :, 0
    ].tolist()
    return found


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_action_answers_the_observation_that_was_seen(system: str) -> None:
    assert trained(system, Bandit, 6_000).evaluate(100)["return_mean"] == 1.0


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_reward_that_comes_later_is_earned_and_discounted(system: str) -> None:
    trainer = trained(system, Delayed, 10_000, gamma=0.7)
    assert trainer.evaluate(20)["return_mean"] == 1.0
    assert values(trainer, [0, 0], [1, 1]) == pytest.approx([0.7, 1.0], abs=0.05)


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_state_has_advantages_of_its_own(system: str) -> None:
    assert trained(system, OppositeSigns, 10_000).evaluate(20)["return_mean"] == 8.0


@pytest.mark.parametrize(("system", "error"), [("pg", 0.7), ("a2c", 0.1), ("ppo", 0.1)])
def test_a_time_limit_is_not_an_ending(system: str, error: float) -> None:
    """V = 1 / (1 - gamma) = 10; endings would make it 4.1, the mean over the ten steps."""
    trainer = trained(system, Constant, 20_000, gamma=0.9, max_grad_norm=None)
    assert values(trainer, [1.0]) == pytest.approx([10.0], abs=error)


@pytest.mark.parametrize("system", ["a2c", "ppo"])
def test_an_ending_is_an_ending(system: str) -> None:
    """The same world, but over after one env step: V = 1."""

    class Once(Constant):
        def step(self, action: int) -> Any:
            obs, reward, *_, info = super().step(action)
            return obs, reward, True, False, info

    trainer = trained(system, Once, 10_000, gamma=0.9, max_grad_norm=None)
    assert values(trainer, [1.0]) == pytest.approx([1.0], abs=0.02)


@pytest.mark.parametrize(
    ("system", "steps", "fields"),
    [("ppo", 20_000, {}), *((system, 1_500, REPLAYING) for system in ("ddpg", "td3", "sac"))],
)
def test_a_continuous_action_goes_where_it_pays(system: str, steps: int, fields: Any) -> None:
    trainer = trained(system, Reach, steps, gamma=0.9, **fields)
    assert trainer.evaluate(100)["return_mean"] >= -0.3


LAGGING: dict[str, Any] = {"workers": 1, "in_process": True, "fragment_length": 16, "lr": 1e-2}


@pytest.mark.parametrize("system", ["impala", "appo"])
def test_older_weights_earn_and_discount_a_reward_that_comes_later(system: str) -> None:
    fields = {**LAGGING, "minibatch_size": 64} if system == "appo" else LAGGING
    trainer = trained(system, Delayed, 10_000, gamma=0.7, **fields)
    assert trainer.evaluate(20)["return_mean"] == 1.0
    assert values(trainer, [0, 0], [1, 1]) == pytest.approx([0.7, 1.0], abs=0.1)


def q(trainer: Trainer, *obs: list[float]) -> Any:
    rows, algorithm = {"obs": np.array(obs, np.float32)}, trainer.config.algorithm
    return algorithm.q(algorithm.values(trainer.model, trainer.learner.weights(), rows))


@pytest.mark.parametrize("system", ["dqn", "rainbow"])
def test_values_of_actions_are_those_of_a_reward_that_comes_later(system: str) -> None:
    """Q([0, 0]) is 0 for the action 0 and gamma for 1; in the second step it is what was chosen."""
    fields = {**REPLAYING, "replay_ratio": 32.0, "target_every": 50, "epsilon": 0.3}
    fields |= {"atoms": 21, "v_min": -1.0, "v_max": 1.0} if system == "rainbow" else {}
    trainer = trained(system, Delayed, 1_500, gamma=0.7, **fields)
    assert trainer.evaluate(20)["return_mean"] == 1.0
    found = q(trainer, [0, 0], [1, 0], [1, 1])
    np.testing.assert_allclose(found[0], [0.0, 0.7], atol=0.1)
    np.testing.assert_allclose(found[1:].max(1), [0.0, 1.0], atol=0.1)
