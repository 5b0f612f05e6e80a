"""Tasks that show whether an agent remembers, or finds what only a demonstration shows.

Importing this registers ``shoal/Cue-v0`` and ``shoal/Chain-v0`` with Gymnasium, as single
environments and as vector environments in NumPy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from shoal.config.bounds import is_number
from shoal.envs.base import NDArray
from shoal.errors import EnvError

Reset = tuple[NDArray, dict[str, Any]]


class Task(VectorEnv[NDArray, NDArray, NDArray], ABC):
    """B copies in NumPy; those that ended are reset by ``reset(options={"reset_mask": ...})``.

    ``limit`` is the number of env steps after which an episode is cut; 0 is none.
    """

    limit = 0

    def __init__(self, num_envs: int, observation: Any, action: Any) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation, action
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.t = np.zeros(num_envs, np.int64)  # env steps since the reset

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode in every copy, or in those of ``options["reset_mask"]``."""
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.t = np.where(mask, 0, self.t)
        self._begin(mask)
        return self._observe(), {}

    def step(self, actions: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray, dict[str, Any]]:
        """One env step of every copy."""
        reward, terminated = self._act(np.asarray(actions))
        self.t = self.t + 1
        return self._observe(), reward, terminated, (self.t == self.limit) & ~terminated, {}

    def _begin(self, mask: NDArray) -> None:
        """What is drawn for the episodes that begin."""

    @abstractmethod
    def _act(self, actions: NDArray) -> tuple[NDArray, NDArray]:
        """Rewards and endings [B] of actions [B, ...]."""

    @abstractmethod
    def _observe(self) -> NDArray:
        """Observations [B, ...]."""


class CueVector(Task):
    """A cue is shown at t = 0 only, and asked for at t = ``delay``: 1 for the right answer, else 0.

    One of ``cues`` is drawn for each episode. Observations are its one-hot code at t = 0, then
    zeros; the last entry is 1 when it is asked for. What is done before that does not matter. The
    mean return of an agent without memory is 1 / ``cues``.
    """

    def __init__(self, num_envs: int = 1, delay: int = 10, cues: int = 2) -> None:
        refuse_below("delay", delay, 1)
        refuse_below("cues", cues, 2)
        self.delay, self.cues = delay, cues
        self.cue = np.zeros(num_envs, np.int64)
        super().__init__(num_envs, _unit(cues + 1), Discrete(cues))

    def _begin(self, mask: NDArray) -> None:
        self.cue = np.where(mask, self.np_random.integers(self.cues, size=self.num_envs), self.cue)

    def _act(self, actions: NDArray) -> tuple[NDArray, NDArray]:
        asked = self.t == self.delay
        return (asked & (actions == self.cue)).astype(np.float32), asked

    def _observe(self) -> NDArray:
        obs = np.zeros((self.num_envs, self.cues + 1), np.float32)
        begins = np.flatnonzero(self.t == 0)
        obs[begins, self.cue[begins]] = 1.0
        obs[:, -1] = self.t == self.delay
        return obs


class ChainVector(Task):
    """``length`` states in a row, each with one right action of ``actions``; a wrong one ends it.

    The right ones are drawn from ``task``, the same in every copy and episode. The last of them
    earns 1, all else 0, so random actions find it once in ``actions ** length`` episodes. With a
    ``cost`` the right ones cost that much in all, as in DeepSea (Osband et al. 2020,
    arXiv:1908.03568), and a network whose first values happen to be high is not led on by them.
    Observations are the one-hot code of the state, zeros at the end.
    """

    def __init__(
        self,
        num_envs: int = 1,
        length: int = 20,
        actions: int = 2,
        task: int = 0,
        cost: float = 0.0,
    ) -> None:
        refuse_below("length", length, 1)
        refuse_below("actions", actions, 2)
        if not (is_number(cost) and 0 <= cost < 1):
            what = f"the argument cost of this task is {cost!r}"
            raise EnvError(what, None, "make it a number from 0 to below 1")
        self.length, self.cost = length, cost
        self.right = np.random.default_rng(task).integers(actions, size=length)
        super().__init__(num_envs, _unit(length), Discrete(actions))

    def _act(self, actions: NDArray) -> tuple[NDArray, NDArray]:
        right = actions == self.right[np.minimum(self.t, self.length - 1)]
        reached = right & (self.t == self.length - 1)
        self.t = np.where(right, self.t, self.length)  # beyond the last state: nothing is seen
        reward = reached - right * (self.cost / self.length)
        return reward.astype(np.float32), reached | ~right

    def _observe(self) -> NDArray:
        seen: NDArray = self.t[:, None] == np.arange(self.length)
        return seen.astype(np.float32)


class Single(gymnasium.Env[NDArray, Any]):
    """One copy of a task."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.observation_space = task.single_observation_space
        self.action_space = task.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode."""
        super().reset(seed=seed)
        self._task.np_random = self.np_random
        obs, info = self._task.reset()
        return obs[0], info

    def step(self, action: Any) -> tuple[NDArray, float, bool, bool, dict[str, Any]]:
        """One env step."""
        obs, reward, terminated, truncated, info = self._task.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info


class Cue(Single):
    """One copy of `CueVector`."""

    def __init__(self, delay: int = 10, cues: int = 2) -> None:
        super().__init__(CueVector(1, delay, cues))


class Chain(Single):
    """One copy of `ChainVector`."""

    def __init__(
        self, length: int = 20, actions: int = 2, task: int = 0, cost: float = 0.0
    ) -> None:
        super().__init__(ChainVector(1, length, actions, task, cost))


def _unit(size: int) -> Box:
    """Observations of so many numbers in [0, 1]."""
    return Box(0.0, 1.0, (size,), np.float32)


def refuse_below(name: str, value: Any, least: int) -> None:
    """Raise EnvError for an argument that is no whole number of at least that."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise EnvError(
            f"the argument {name} of this task is {value!r}",
            None,
            f"make it a whole number of at least {least}",
        )


for _single in (Cue, Chain):
    gymnasium.register(
        f"shoal/{_single.__name__}-v0",
        f"{__name__}:{_single.__name__}",
        vector_entry_point=f"{__name__}:{_single.__name__}Vector",
    )
