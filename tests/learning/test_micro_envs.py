"""Worlds that each catch one class of bug, solved by every algorithm within seconds.

Their optimal policies and values can be written down, so that nearly right is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from shoal.algorithms.qt_opt import QTOpt
from shoal.nets.network import Network
from shoal.spaces.base import OWN
from shoal.trainer import Trainer
from tests.envs.micro import Bandit, Constant, Delayed, OppositeSigns, Reach

pytestmark = pytest.mark.learning

SETTINGS: dict[str, dict[str, Any]] = {
    "pg": {"lr": 3e-2, "fragment_length": 32},
    "a2c": {"lr": 1e-2},
    "ppo": {"lr": 1e-2, "fragment_length": 32, "epochs": 4},
}
SYSTEMS = list(SETTINGS)


class Once(Constant):
    """The same world, but over after one env step."""

    def step(self, action: Any) -> Any:
        obs, reward, *_, info = super().step(action)
        return obs, reward, True, False, info


class Pushed(Constant):
    """The same world, with a float for an action."""

    action_space = Box(-1.0, 1.0, (1,), np.float32)


class PushedOnce(Once):
    action_space = Pushed.action_space


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
    """V = 1 where an episode is over after one env step."""
    trainer = trained(system, Once, 10_000, gamma=0.9, max_grad_norm=None)
    assert values(trainer, [1.0]) == pytest.approx([1.0], abs=0.02)


@pytest.mark.parametrize(
    ("system", "steps", "fields"),
    [
        ("ppo", 20_000, {}),
        *((system, 1_500, REPLAYING) for system in ("ddpg", "td3", "sac")),
        ("qt-opt", 1_500, {**REPLAYING, "workers": 0, "random_steps": 500}),
    ],
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


COOL: dict[str, Any] = {
    "tune_alpha": False,
    "algorithm.alpha": 1e-3,
    "random_steps": 0,
}  # as if entropy were 0
REPLAYED: dict[str, dict[str, Any]] = {
    "dqn": {"target_every": 10},
    "rainbow": {"target_every": 10, "atoms": 31, "v_min": 0.0, "v_max": 15.0},
    "ape-x": {"target_every": 10, "workers": 1, "in_process": True},
    "sac": {**COOL, "tau": 0.1},
    "ddpg": {"random_steps": 0, "tau": 0.1},
    "td3": {"random_steps": 0, "tau": 0.1},
    "qt-opt": {"random_steps": 0, "tau": 0.1, "lag": 10, "workers": 0},
}


def judged(trainer: Trainer) -> float:
    """The value of an action in the one state of ``Constant``, the mean over all heads."""
    algorithm, model, weights = trainer.config.algorithm, trainer.model, trainer.learner.weights()
    obs = {"obs": np.ones((1, 1), np.float32)}
    if isinstance(algorithm, QTOpt):
        return float(algorithm.q(model, weights, obs, np.zeros((1, 1), np.float32))[0])
    if hasattr(algorithm, "critics"):
        if model.spaces.action_kind == "box":
            obs[OWN] = np.zeros((1, 1), np.float32)
        return float(np.mean(algorithm.q(model, weights, obs)))
    return float(np.mean(algorithm.q(algorithm.values(model, weights, obs))))


@pytest.mark.parametrize("ends", [False, True], ids=["limit", "ending"])
@pytest.mark.parametrize(
    ("system", "floats"),
    [(system, system in ("ddpg", "td3", "qt-opt")) for system in REPLAYED] + [("sac", True)],
)
def test_transitions_know_a_time_limit_from_an_ending(
    system: str, floats: bool, ends: bool
) -> None:
    """Q = 1 / (1 - gamma) = 5 with a limit; an ending taken for a limit gives 5 where Q is 1."""
    env = {(False, False): Constant, (False, True): Once, (True, False): Pushed}.get(
        (floats, ends), PushedOnce
    )
    fields = {**REPLAYING, "lr": 1e-2, **REPLAYED[system]}
    trainer = trained(system, env, 800, gamma=0.8, **fields)
    assert judged(trainer) == pytest.approx(1.0 if ends else 5.0, abs=0.25)


@pytest.mark.parametrize(
    ("env", "steps", "best"),
    [(Bandit, 800, 1.0), (Delayed, 1_500, 1.0), (OppositeSigns, 1_500, 8.0)],
)
def test_soft_actor_critic_of_choices(env: Any, steps: int, best: float) -> None:
    trainer = trained("sac", env, steps, gamma=0.7, **REPLAYING, random_steps=200, tau=0.05)
    assert trainer.evaluate(50)["return_mean"] == best
