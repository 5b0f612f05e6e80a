"""An environment that records every step it takes, and dies when told to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from tests.fleet.members import DEATHS


class Mortal(gymnasium.Env[Any, Any]):
    """Every observation is of its own: (which life, which step of it). Episodes have five steps.

    Each step adds a byte to the file ``ledger``: its size is the number of steps. In step ``at`` of
    a life the first ``times`` lives that get so far end, as ``how`` says.
    """

    observation_space = Box(0, 2.0**24, (2,), np.float32)
    action_space = Discrete(3)

    def __init__(self, ledger: str, how: str = "", at: int = 0, times: int = 1) -> None:
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.path, self.how, self.at, self.times = ledger, how, at, times
        self.life, self.steps = int.from_bytes(os.urandom(3), "big"), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 5
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.left -= 1
        os.write(self.ledger, b".")
        if self.steps == self.at and self._chosen():
            if self.how == "hang":
                time.sleep(600)
            DEATHS[self.how]()
        return self._obs(), float(action), self.left == 0, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.life, self.steps], np.float32)

    def _chosen(self) -> bool:
        for number in range(self.times):
            try:
                os.close(os.open(f"{self.path}.{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False

    def close(self) -> None:
        os.close(self.ledger)


class Ledger:
    """The file of all environments of a test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger"

    def kwargs(self, **fate: Any) -> dict[str, Any]:
        return {"ledger": str(self.path), **fate}

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self.path.stat().st_size
