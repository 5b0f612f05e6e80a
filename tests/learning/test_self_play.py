"""Does a policy become stronger by playing itself and its past?"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

import shoal
from tests.plans.test_self_play import TICTACTOE, trainer


class RockPaperScissors(ParallelEnv):
    """One throw of both, and a point for the winner."""

    metadata: ClassVar[dict[str, Any]] = {"name": "rps"}
    render_mode = None

    def __init__(self) -> None:
        self.possible_agents = ["north", "south"]

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(0, 1, (1,))

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        one = np.ones(1, np.float32)
        return {a: one for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions: Any) -> Any:
        ahead = (actions["north"] - actions["south"]) % 3
        reward = (0.0, 1.0, -1.0)[ahead]
        both, one = self.agents, np.ones(1, np.float32)
        self.agents = []
        rewards = {"north": reward, "south": -reward}
        ended, cut = dict.fromkeys(both, True), dict.fromkeys(both, False)
        return {a: one for a in both}, rewards, ended, cut, {a: {} for a in both}


def test_rock_paper_scissors_is_uniform_on_average() -> None:
    fields = {"entropy_coef": 0.2, "lr": 1e-3, "latest": 0.3, "every": 500, "pool": 20}
    more = {"normalise_advantage": False, "epochs": 4, "minibatch_size": 128, "envs_per_worker": 16}
    found = []
    with trainer(RockPaperScissors, **fields, **more) as run:
        for _ in range(40):
            run.train()
            policy = run.policy
            one = {"obs": np.ones((1, 1), np.float32)}
            (out,) = policy.model.net(policy.weights, one, ("pi",))
            found.append(np.exp(out[0]) / np.exp(out[0]).sum())
    assert np.max(found) > 0.4  # it did move
    assert np.abs(np.mean(found, 0) - 1 / 3).max() < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_elo_rises_and_random_is_beaten(seed: int) -> None:
    fields = {"lr": 1e-3, "entropy_coef": 0.02, "every": 2000, "epochs": 4, "report_every": 8_000}
    with trainer(TICTACTOE, envs_per_worker=16, seed=seed, **fields) as run:
        first = run.train()
        for _ in range(4):
            last = run.train()
        assert last["elo/learner"] > first["elo/learner"] + 100
        result = shoal.match(run.policy, "random", TICTACTOE, 100)
    assert result["wins"] + result["draws"] + result["losses"] == result["games"] == 100
    assert sum(own["wins"] for own in result["sides"].values()) == result["wins"]
    assert result["points"] >= 0.65
