"""An environment that only burns CPU time, for measuring how sampling scales."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

TURNS = 2_000  # of a loop in plain Python: about 100 us of one core
LENGTH = 200  # env steps of an episode


class Busy(gymnasium.Env[np.ndarray, int]):
    """Holds one core, and the interpreter's lock, in every env step."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._t, self._number = 0, int(self.np_random.integers(1, 2**31))
        return self._look(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        number = self._number + int(action)
        for _ in range(TURNS):
            number = (number * 48_271) % 2_147_483_647
        self._t, self._number = self._t + 1, number
        return self._look(), 1.0, False, self._t >= LENGTH, {}

    def _look(self) -> np.ndarray:
        return np.full(4, self._number / 2**31, np.float32)
