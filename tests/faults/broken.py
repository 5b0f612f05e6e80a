"""Environments, networks and losses that break in the middle of a run, each in its own way."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.a2c import A2C
from shoal.algorithms.dqn import DQN
from shoal.algorithms.vtrace import VTrace
from shoal.plans.sync_samples import SyncSamples

OBS = np.zeros(2, np.float32)
NAN = np.array([0, np.nan], np.float32)


class Engine(Exception):
    """An exception that no pickle survives: its constructor takes something else."""

    def __init__(self, part: str, handle: Any) -> None:
        super().__init__(f"the {part} broke")
        self.handle = handle


class Broken(gymnasium.Env[Any, Any]):
    """Episodes of five env steps; ``fault`` happens in the ``at``-th env step of a copy."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(3)

    def __init__(self, fault: str = "none", at: int = 20, seconds: float = 600.0) -> None:
        self.fault, self.at, self.seconds, self.steps = fault, at, seconds, 0
        if fault == "init":
            raise ValueError("no level file")  # fault: init
        if fault == "slow":
            time.sleep(seconds)  # fault: slow

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        if self.fault == "reset" and self.steps >= self.at:
            raise KeyError("spawn point")  # fault: reset
        return OBS, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:  # fault: contract
        self.t += 1
        self.steps += 1
        values: dict[str, Any] = {"obs": OBS, "reward": float(action)}
        if self.steps == self.at and self.fault in FAULTS:
            values |= FAULTS[self.fault](self) or {}
        return values["obs"], values["reward"], self.t == 5, False, {}


def fail(env: Broken) -> None:
    raise RuntimeError("the physics exploded")  # fault: step


def odd(env: Broken) -> None:
    raise Engine("gear", threading.Lock())  # fault: odd


def allocate(env: Broken) -> None:
    np.empty(10**15, np.uint8)  # fault: memory


def leave(env: Broken) -> None:
    sys.exit("bye")  # fault: sys.exit


def end(env: Broken) -> None:
    os._exit(3)  # fault: os._exit


def crash(env: Broken) -> None:
    ctypes.string_at(0)  # fault: segmentation


def kill(env: Broken) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # fault: kill


def hang(env: Broken) -> None:
    time.sleep(env.seconds)  # fault: hang


FAULTS: dict[str, Callable[[Broken], dict[str, Any] | None]] = {
    "step": fail,
    "odd": odd,
    "memory": allocate,
    "sys.exit": leave,
    "os._exit": end,
    "segmentation": crash,
    "kill": kill,
    "hang": hang,
    "dtype": lambda env: {"obs": np.zeros(2, np.complex64)},
    "shape": lambda env: {"obs": np.zeros(3, np.float32)},
    "nan observation": lambda env: {"obs": NAN},
    "nan reward": lambda env: {"reward": float("nan")},
}


class Loud(Broken):
    """Says something, as environments do, and then breaks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        print("level loaded")


class Opened:
    """Makes environments, but holds what no other process can have: a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self) -> Broken:
        return Broken()


class LostA2C(A2C):
    """Its loss raises."""

    def loss(self, model: Any, params: Any, aux: Any, batch: Any) -> Any:
        raise LookupError("no such column")  # fault: loss of A2C


class LostVTrace(VTrace):
    """Its loss raises."""

    def loss(self, model: Any, params: Any, aux: Any, batch: Any) -> Any:
        raise LookupError("no such column")  # fault: loss of VTrace


class LostDQN(DQN):
    """Its loss raises."""

    def loss(self, model: Any, params: Any, aux: Any, batch: Any) -> Any:
        raise LookupError("no such column")  # fault: loss of DQN


class Halved(A2C):
    """A user's own algorithm that is sound: half the loss."""

    def loss(self, model: Any, params: Any, aux: Any, batch: Any) -> Any:
        loss, metrics = super().loss(model, params, aux, batch)
        return loss / 2, metrics


class Contrary(A2C):
    """One that acts in its own way: it takes the least likely action."""

    def act(self, model: Any, params: Any, obs: Any, noise: Any) -> Any:
        action, records = super().act(model, params, obs, noise)
        return 1 - action, records


@dataclass(frozen=True)
class Patient(SyncSamples):
    """A user's own plan, with an option."""

    name: Literal["patient"] = "patient"  # type: ignore[assignment]
    pauses: int = 3  # of no use
