"""Does the part of an observation that float32 would round away reach the network?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import shoal
from shoal.errors import EnvError
from shoal.nets.factory import build
from shoal.ops.moments import Moments
from shoal.spaces.gym import GymSpaces
from tests.envs.micro import Bandit


class LateBandit(Bandit):
    """`Bandit`, whose bit is added to a time in seconds (float64) or milliseconds (int64)."""

    def __init__(self, dtype: str) -> None:
        self.observation_space = Box(-np.inf, np.inf, (1,), np.dtype(dtype))
        if dtype == "int64":
            limits = np.iinfo(np.int64)
            self.observation_space = Box(limits.min, limits.max, (1,), np.int64)
        self._since = {"float64": 1.7e9, "int64": 1_700_000_000_000}[dtype]

    def _late(self, obs: np.ndarray) -> np.ndarray:
        bit = obs.astype(self.observation_space.dtype)
        return bit + self.observation_space.dtype.type(self._since)

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return self._late(obs), info

    def step(self, action: int) -> Any:
        obs, *others = super().step(action)
        return self._late(obs), *others


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_a_bit_beside_a_timestamp_is_learned_kept_and_loaded(dtype: str, tmp_path: Path) -> None:
    settings = {"normalise_obs": True, "fragment_length": 64, "learner": "torch", "lr": 3e-3}
    kwargs = {"dtype": dtype}
    with shoal.Trainer("ppo", env=LateBandit, env_kwargs=kwargs, **settings) as trainer:
        trainer.train()
        assert trainer.evaluate(20)["return_mean"] == 1.0
        weights = trainer.policy.weights
        trainer.save(tmp_path)
    assert abs(weights["norm/obs/mean"][0]) < 1e6  # relative to the origin
    assert 0.4 < weights["norm/obs/std"][0] < 0.6
    policy = shoal.load(tmp_path)
    assert shoal.evaluate(policy, LateBandit, 20, env_kwargs=kwargs)["return_mean"] == 1.0
    with shoal.Trainer.restore(tmp_path, LateBandit) as again:
        assert again.evaluate(20)["return_mean"] == 1.0


def test_origins_are_of_far_components_only() -> None:
    from shoal.plans.run import Run

    x = np.array([[1.7e9, 5.0], [1.7e9 + 2, 7.0]])
    run = Run(shoal.PPO(), np.random.default_rng(0), None)
    for dtype, origin in ((np.float64, {"obs": [1.7e9, 0.0]}), (np.float32, {})):
        spaces = GymSpaces(Box(-np.inf, np.inf, (2,), dtype), Discrete(2))
        run.model, run.origins = shoal.PPO().model(spaces, build), {}
        run.moments = {"obs": Moments.of(x)}
        run.set_origins()
        assert {k: v.tolist() for k, v in run.origins.items()} == {
            k: np.float32(v).tolist() for k, v in origin.items()
        }


def test_numbers_beyond_float32_are_refused_as_infinite() -> None:
    class Huge(gym.Env):
        observation_space = Box(-np.inf, np.inf, (1,), np.float64)
        action_space = Discrete(2)

        def reset(self, **kwargs: Any) -> Any:
            return np.array([1e300]), {}

    from shoal.envs import make

    with pytest.raises(EnvError, match="the observation is 1e\\+300"):
        make(Huge, 2).reset(seed=0)
