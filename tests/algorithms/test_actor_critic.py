"""What PG, A2C and PPO share: how they act, and which row is which."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms import actor_critic
from shoal.algorithms.a2c import A2C
from shoal.algorithms.base import Model
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces
from tests.worlds import Script, Scripts, settings, worker


class Continuous(Script):
    action_space = Box(np.array([-2, -np.inf], np.float32), np.array([2, np.inf], np.float32))


def test_no_noise_takes_the_likeliest_action(lib: Any, model: Model, params: Any) -> None:
    obs = {"obs": np.random.default_rng(0).standard_normal((50, 3), dtype=np.float32)}
    action = A2C().act(model, lib._put(params), lib._put(obs), None)[0]
    logits = obs["obs"] @ params["pi/out/w"] + params["pi/out/b"]
    assert np.asarray(action).tolist() == logits.argmax(1).tolist()


def test_noise_samples_the_policy(model: Model, params: Any) -> None:
    """20,000 draws for one observation come to its softmax."""
    x = np.array([0.3, -1.0, 0.8], np.float32)
    n = 20_000
    noise = model.dist.noise(np.random.default_rng(0), (n,))
    action = A2C().act(model, params, {"obs": np.tile(x, (n, 1))}, noise)[0]
    z = np.exp(x @ params["pi/out/w"] + params["pi/out/b"])
    assert (np.bincount(action, minlength=4) / n).tolist() == pytest.approx(
        (z / z.sum()).tolist(), abs=0.01
    )


def test_same_noise_same_actions_in_every_library(lib: Any, model: Model, params: Any) -> None:
    rng = np.random.default_rng(0)
    obs = {"obs": rng.standard_normal((64, 3), dtype=np.float32)}
    noise = model.dist.noise(rng, (64,))
    here = A2C().act(model, params, obs, noise)[0]
    there = A2C().act(model, lib._put(params), lib._put(obs), lib._put(noise))[0]
    assert np.asarray(there).tolist() == here.tolist()


def test_a_new_policy_is_nearly_uniform() -> None:
    """The policy head's gain is .01 (PPO detail 2), the value head's is 1."""
    made = A2C().model(GymSpaces(Box(-1, 1, (5,), np.float32), Discrete(7)), build)
    params = made.net.init(np.random.default_rng(0))
    obs = {"obs": np.random.default_rng(1).uniform(-1, 1, (100, 5)).astype(np.float32)}
    out, v = made.net(params, obs, ("pi", "v"))
    assert made.dist.entropy(out) == pytest.approx(math.log(7), abs=1e-3)
    assert v.std() > 0.1


def test_a_new_gaussian_has_standard_deviation_one_wherever_it_looks() -> None:
    """log_std is a parameter by itself (PPO detail 24)."""
    made = A2C().model(continuous_spaces(), build)
    params = made.net.init(np.random.default_rng(0))
    params["pi/free"] = np.array([0.5, -1.0], np.float32)
    obs = {"obs": np.random.default_rng(1).standard_normal((9, 3), dtype=np.float32)}
    assert np.ptp(made.net(params, obs, ("pi",))[0][:, 2:], axis=0).tolist() == [0.0, 0.0]
    assert made.net.init(np.random.default_rng(0))["pi/free"].tolist() == [0.0, 0.0]


def continuous_spaces() -> GymSpaces:
    return GymSpaces(Continuous.observation_space, Continuous.action_space)


@pytest.mark.parametrize("scripts", [Scripts(), Continuous])
def test_old_log_probabilities_are_those_of_the_moment_of_acting(scripts: Any) -> None:
    """They are computed afterwards for all rows at once; here again, step by step as acted."""
    made = worker(settings("ppo", scripts))
    seen: list[Any] = []
    algorithm = made.config.algorithm

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(algorithm, name)

        def act(self, model: Any, params: Any, obs: Any, noise: Any) -> Any:
            action, records = algorithm.act(model, params, obs, noise)
            out = model.net(params, obs, ("pi",))[0]
            seen.append(model.dist.log_prob(out, action))
            return action, records

    object.__setattr__(made.config, "algorithm", Spy())
    batch = made.sample().batch
    np.testing.assert_allclose(batch["log_prob"], np.concatenate(seen), rtol=1e-5, atol=1e-6)


def test_a_row_holds_what_belongs_together() -> None:
    """Each row's observation, action and value against the environments' log."""
    scripts = Scripts()
    made = worker(settings("ppo", scripts))
    batch = made.sample().batch
    for slot, log in enumerate(scripts.logs):
        obs = np.stack([step.obs for step in log])
        np.testing.assert_array_equal(batch["obs"]["obs"][slot::2], obs)
        assert batch["action"][slot::2].tolist() == [step.action for step in log]
        v = made.model.net(made.weights, {"obs": obs}, ("v",))[0][:, 0]
        np.testing.assert_allclose(batch["value"][slot::2], v, rtol=1e-5, atol=1e-6)


def test_means_are_over_the_rows_that_count(lib: Any) -> None:
    x, mask = np.array([1.0, 5.0, 3.0, 900.0], np.float32), np.array([1, 1, 1, 0], np.float32)
    assert float(actor_critic.masked_mean(lib._put(x), lib._put(mask))) == pytest.approx(3.0)
    found = np.asarray(actor_critic.standardise(lib._put(x), lib._put(mask)))[:3]
    assert found.tolist() == pytest.approx([-2 / 1.632993, 2 / 1.632993, 0.0], abs=1e-5)


def test_no_rows_at_all_are_no_loss(lib: Any, model: Any, params: Any, batch: Any) -> None:
    """A whole minibatch of padding gives zeros, not NaN."""
    from shoal.algorithms.ppo import PPO

    batch["mask"][:] = 0
    assert lib.loss(PPO(), model, params, batch)[0] == 0.0


@pytest.mark.parametrize("name", ["ppo", "a2c", "pg"])
def test_impossible_hyperparameters_are_refused_by_name(name: str) -> None:
    from shoal.errors import ConfigError
    from shoal.systems.table import system

    kind = type(system(name).algorithm)
    for field, value in (("gamma", 1.01), ("max_grad_norm", 0.0)):
        with pytest.raises(ConfigError, match=field):
            kind(**{field: value})
