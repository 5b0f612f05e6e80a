"""Environments for trials, imported by their processes."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np


class Walk(gym.Env[Any, Any]):
    """Ten steps; each rewards its action's number. ``trouble`` in the fourth episode, if any."""

    def __init__(self, trouble: str = "", marker: str = "") -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
        self.action_space = gym.spaces.Discrete(2)
        self.trouble, self.marker, self.episodes, self.steps = trouble, marker, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episodes, self.steps = self.episodes + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.episodes == 4 and self.steps == 5:
            if self.trouble == "raise":
                raise ZeroDivisionError("the fourth episode is too much")
            if self.trouble == "die once" and not os.path.exists(self.marker):
                with open(self.marker, "w"):
                    os.kill(os.getpid(), 9)
        return np.zeros(2, np.float32), float(action), self.steps == 10, False, {}
