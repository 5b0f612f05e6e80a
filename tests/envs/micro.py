"""Six environments that each catch one class of bug, in a minute of training at most.

What the optimal policy earns, and the values it has, can be written down: see each docstring.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

Reset = tuple[np.ndarray, dict[str, Any]]
Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Bandit(gym.Env):
    """One env step: reward 1 for the action that equals the observed bit, else 0. Best return 1.

    Catches observations and actions that are misaligned.
    """

    observation_space = Box(0.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        super().reset(seed=seed)
        self.bit = int(self.np_random.integers(2))
        return np.array([self.bit], np.float32), {}

    def step(self, action: int) -> Step:
        return np.array([self.bit], np.float32), float(action == self.bit), True, False, {}


class Delayed(gym.Env):
    """Two env steps: the first action earns its own value (0 or 1), paid after the second.

    Observations are [t, first action]. Best return 1; then V([0, 0]) = gamma, V([1, 1]) = 1.
    Catches a wrong discount or bootstrap.
    """

    observation_space = Box(0.0, 1.0, (2,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        super().reset(seed=seed)
        self.first: int | None = None
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> Step:
        over = self.first is not None
        if self.first is None:
            self.first = int(action)
        obs = np.array([1.0, self.first], np.float32)
        return obs, float(self.first) if over else 0.0, over, False, {}


class Constant(gym.Env):
    """Reward 1 at every env step, no ending, a time limit of 10: V is 1 / (1 - gamma).

    Catches time limits that are taken for endings: then V would be 9.56 at gamma = .99, not 100.
    """

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)
    time_limit = 10

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        super().reset(seed=seed)
        self.t = 0
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> Step:
        self.t += 1
        return np.ones(1, np.float32), 1.0, False, self.t == self.time_limit, {}


class Memory(gym.Env):
    """A cue of -1 or 1 at t = 0 only; at t = 10 the action must name it: reward 1, else -1.

    Observations are [cue, 1 where the answer is due]. Best return 1; without memory 0.
    Catches recurrent state that is lost, or kept across episodes.
    """

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Discrete(2)
    delay = 10

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(2))
        return np.array([2 * self.cue - 1, 0], np.float32), {}

    def step(self, action: int) -> Step:
        due = self.t == self.delay
        self.t += 1
        reward = 0.0 if not due else 1.0 if action == self.cue else -1.0
        return np.array([0, self.t == self.delay], np.float32), reward, due, False, {}


class OppositeSigns(gym.Env):
    """Two states at random: action 1 earns 1 in the first and -1 in the second, action 0 the
    negative of it; 8 env steps. Best return 8, of a policy that ignores the state 0.

    Catches advantages that are broadcast over the wrong axis.
    """

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)
    length = 8

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        super().reset(seed=seed)
        self.t = 0
        return self._look(), {}

    def step(self, action: int) -> Step:
        reward = float(self.state * (2 * int(action) - 1))
        self.t += 1
        return self._look(), reward, self.t == self.length, False, {}

    def _look(self) -> np.ndarray:
        self.state = 1 - 2 * int(self.np_random.integers(2))
        return np.array([self.state], np.float32)


class Reach(gym.Env):
    """A point on a line, moved by half the action; each of 4 env steps pays minus its distance
    from 0. It begins anywhere in [-1, 1], so the best mean return is -0.125; standing still gets
    -2. Catches policy gradients of the wrong sign or scale, and actions that are scaled wrongly.
    """

    observation_space = Box(-2.0, 2.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        super().reset(seed=seed)
        self.at, self.t = self.np_random.uniform(-1, 1, 1).astype(np.float32), 0
        return self.at, {}

    def step(self, action: np.ndarray) -> Step:
        self.at = np.clip(self.at + 0.5 * action, -2, 2).astype(np.float32)
        self.t += 1
        return self.at, -abs(float(self.at[0])), False, self.t == 4, {}
