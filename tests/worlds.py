"""Environments that keep a log of what really happened, and other small things many tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.ppo import PPO
from shoal.config.config import Config, Rollout
from shoal.fleet.worker import Worker
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.spaces.gym import GymSpaces
from shoal.systems.table import default_config

TINY = Network(hidden=(8,))
LINEAR = Network(hidden=())
RECURRENT = Network(hidden=(4,), memory="lstm", memory_size=4)
MODEL = PPO(network=TINY).model(GymSpaces(Box(-1, 1, (3,)), Discrete(4)), build)  # feed-forward


class Transition(NamedTuple):
    """One env step, as the environment itself saw it."""

    obs: np.ndarray
    action: Any
    reward: float
    next_obs: np.ndarray
    terminated: bool
    truncated: bool


class Script(gymnasium.Env[Any, Any]):
    """Observations and rewards drawn from the seed; episodes end after ``length`` env steps.

    ``length`` 0 draws 1 to 6 for each episode. ``kind`` is how they end: "terminated", "truncated",
    "both", or "any" of the three. Every step is appended to ``log``.
    """

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space: Any = Discrete(4)

    def __init__(
        self, length: int = 0, kind: str = "any", log: list[Transition] | None = None
    ) -> None:
        self.length, self.kind = length, kind
        self.log: list[Transition] = [] if log is None else log

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = self.length or int(self.np_random.integers(1, 7))
        kinds = ("terminated", "truncated", "both")
        self.ending = kinds[self.np_random.integers(3)] if self.kind == "any" else self.kind
        self.obs = self._draw()
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        old, self.obs = self.obs, self._draw()
        self.left -= 1
        reward = float(self.np_random.integers(-3, 4)) + 0.25 * float(np.sum(action))
        ended = self.left == 0
        terminated = ended and self.ending in ("terminated", "both")
        truncated = ended and self.ending in ("truncated", "both")
        self.log.append(Transition(old, action, reward, self.obs, terminated, truncated))
        return self.obs, reward, terminated, truncated, {}

    def _draw(self) -> np.ndarray:
        return self.np_random.standard_normal(3, dtype=np.float32)


class Scripts:
    """Makes scripted environments and keeps the log of each: ``Scripts(length=3)`` is a maker."""

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs
        self.logs: list[list[Transition]] = []

    def __call__(self) -> Script:
        self.logs.append([])
        return Script(log=self.logs[-1], **self.kwargs)

    def steps(self) -> int:
        """Env steps that all environments together saw."""
        return sum(map(len, self.logs))


def episodes(log: list[Transition]) -> list[tuple[float, int]]:
    """(return, length) of every episode that ended in this log."""
    found, total, length = [], 0.0, 0
    for step in log:
        total, length = total + step.reward, length + 1
        if step.terminated or step.truncated:
            found.append((total, length))
            total, length = 0.0, 0
    return found


def settings(
    system: str, env: str | Callable[..., Any], seed: int = 0, *, rollout: Any = None, **fields: Any
) -> Config:
    """A system's configuration with a tiny network; ``fields`` are the algorithm's."""
    config = default_config(system, env)
    sampling = Rollout(**{"envs_per_worker": 2, "fragment_length": 8, **(rollout or {})})
    algorithm = replace(config.algorithm, **{"network": TINY, **fields})
    return replace(config, algorithm=algorithm, rollout=sampling, seed=seed)


def worker(config: Config, index: int = 0) -> Worker:
    """A worker with initial weights, those that a run with this seed begins with."""
    made = Worker(config, index)
    rng = np.random.default_rng([config.seed, 0])
    made.set_weights(config.algorithm.init(made.model, rng), 0)
    return made


def interrupt(trainer: Any, victim: Any, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until Ctrl-C comes at the end of the first call of this method of ``victim``."""
    call = getattr(victim, verb)

    def interrupted(*args: Any) -> None:
        call(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(victim, verb, interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()


def difference(a: Any, b: Any, where: str = "") -> str:
    """Where two trees of dicts, lists, arrays and numbers first differ by a bit; "" if nowhere."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{where}: keys {sorted(a.keys() ^ b.keys())}"
        parts = [(f"{where}/{key}", a[key], b[key]) for key in a]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{where}: lengths {len(a)} and {len(b)}"
        parts = [(f"{where}/{i}", *pair) for i, pair in enumerate(zip(a, b, strict=True))]
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return "" if same else f"{where}: {a} and {b}"
    else:
        return "" if type(a) is type(b) and a == b else f"{where}: {a!r} and {b!r}"
    return next((found for path, x, y in parts if (found := difference(x, y, path))), "")
