"""Members for fleets under test, which say what happened to them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.fleet.parcel import Parcel

DEATHS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "os._exit": lambda: os._exit(3),
    "SIGSEGV": lambda: ctypes.string_at(0),
}


class Member:
    """Remembers its calls and its weights."""

    def __init__(self, index: int, restart: int) -> None:
        self.index, self.restart = index, restart
        self.beat = 0
        self.versions: list[int] = []
        self.weights: Mapping[str, Any] = {}

    def set_weights(self, weights: Mapping[str, Any], version: int) -> None:
        self.weights = weights
        self.versions.append(version)

    def who(self) -> tuple[int, int, int]:
        return self.index, self.restart, os.getpid()

    def seen(self) -> tuple[int, list[int]]:
        """Its restart number, and the versions of weights that it has received."""
        return self.restart, self.versions

    def echo(self, value: Any = None) -> Any:
        return value

    def nap(self, seconds: float) -> int:
        """Worker 0 sleeps; returns who this is."""
        time.sleep(seconds if self.index == 0 else 0.0)
        return self.index

    def die(self, how: str, index: int = 0) -> int:
        """Die, if this is that member's first life; else answer with the life it is."""
        if self.index == index and not self.restart:
            DEATHS[how]()
        return self.restart

    def always_die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self, index: int = 0) -> int:
        """The same, but do not return."""
        if self.index == index and not self.restart:
            shoal_envs_step()
        return self.restart

    def work(self, seconds: float) -> int:
        """Take that long, and show that it goes on."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
            self.beat += 1
        return self.restart

    def fail(self, index: int) -> None:
        if self.index == index:
            raise ValueError(f"member {index} cannot")

    def fill(self, size: int) -> Parcel:
        return Parcel(np.full(size, float(self.index)))

    def total(self, parcels: list[Parcel]) -> float:
        return float(sum(parcel.open().sum() for parcel in parcels))

    def modules(self, names: list[str]) -> list[str]:
        return [name for name in names if name in sys.modules]

    def close(self) -> None:
        pass


def shoal_envs_step() -> None:
    """As an environment that never answers."""
    code = "import time\ntime.sleep(600)\n"
    exec(compile(code, "/somewhere/shoal/envs/single.py", "exec"))


class Slice(Member):
    """A part of a whole: adds what it is given to what it has."""

    def __init__(self, index: int, restart: int) -> None:
        super().__init__(index, restart)
        self.got: list[Any] = []

    def push(self, value: Any, fatal: bool = False) -> tuple[int, Any]:
        if fatal and not self.restart:
            DEATHS["SIGKILL"]()
        self.got.append(value)
        return self.index, value


def pid_of(fleet: Any, index: int) -> int:
    """The process of a member that cannot tell it, as a trainer's worker."""
    import ray

    actor = fleet._members[index].actor
    return int(ray._private.state.actors(actor._actor_id.hex())["Pid"])
