"""Can a key of the user's be taken for a name of Shoal's own?"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.dqn import DQN
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces
from shoal.trainer import Trainer
from tests.worlds import LINEAR, TINY, difference

KEYS = [
    *("action", "explore/epsilon", "final", "fragment", "hyper/lr", "log_alpha", "mask"),
    *("next_obs", "next_records", "norm", "norm/obs/mean", "obs", "pi", "priority", "q"),
    *("records", "return", "reward", "step", "target/q/out/w", "v", "values", "weight", "~/"),
]  # sorted, as Gymnasium does it: so are the others
PLAIN = [f"k{i:02d}" for i in range(len(KEYS))]


class Keys(gym.Env[Any, Any]):
    """A random number under each key; episodes of a few steps, ended or cut."""

    def __init__(self, keys: list[str], floats: bool) -> None:
        self.keys = keys
        self.observation_space = gym.spaces.Dict({key: Box(-9.0, 9.0, (1,)) for key in keys})
        self.action_space: Any = Box(-1.0, 1.0, (1,)) if floats else Discrete(3)

    def seen(self) -> dict[str, Any]:
        return {key: self.np_random.standard_normal(1, np.float32) for key in self.keys}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        end, cut = self.np_random.random(2) < 0.2
        reward = float(np.sum(action)) + float(self.np_random.normal())
        return self.seen(), reward, bool(end), bool(cut), {}


def learned(system: str, keys: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)
    replayed: dict[str, Any] = {
        "warmup": 32,
        "batch_size": 16,
        "capacity": 500,
        "replay_ratio": 1.0,
    }
    replayed["replay.alpha"] = 0.6
    sampled = {"envs_per_worker": 2, "fragment_length": 8, "network": TINY, "learner": "torch"}
    fields: dict[str, Any] = {"normalise_obs": True, "scale_reward": True, **sampled}
    if system in ("ape-x", "sac"):
        fields |= replayed
    if system in ("ape-x", "appo"):
        fields |= {"workers": 1, "in_process": True}
    if system in ("ppo", "appo"):
        fields["minibatch_size"] = 16
    floats = system == "sac"
    with Trainer(system, lambda: Keys(keys, floats), **fields) as trainer:
        while trainer.learner.gradient_steps < 6:
            trainer.train()
        state = trainer.learner.get_state()
        return {part: state[part] for part in ("params", "targets")}


@pytest.mark.parametrize("system", ["ppo", "appo", "ape-x", "sac"])
def test_what_keys_are_called_changes_nothing_that_is_learned(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with all that puts names of its own beside them: priorities, normalisation."""
    found = [learned(system, keys, monkeypatch) for keys in (KEYS, PLAIN)]
    assert difference(*found) == ""


def test_an_observation_called_values_is_not_taken_for_values_of_actions() -> None:
    dqn = DQN(network=LINEAR)
    model = dqn.model(GymSpaces(gym.spaces.Dict({"values": Box(-1, 1, (2,))}), Discrete(2)), build)
    params = {"q/out/w": np.array([[0, 1], [1, 0]], np.float32), "q/out/b": np.zeros(2, np.float32)}
    obs = {"values": np.array([[0.9, 0.1]], np.float32)}
    assert dqn.act(model, params, obs, None)[0].tolist() == [1]
