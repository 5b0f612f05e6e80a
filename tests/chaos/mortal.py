"""Environments that record every step they take, and die when told to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from tests.agents import InTurn, Together, _Random
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
        if self.steps == self.at:
            perhaps_die(self.path, self.how, self.times)
        return self._obs(), float(action), self.left == 0, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.life, self.steps], np.float32)

    def close(self) -> None:
        os.close(self.ledger)


def perhaps_die(ledger: str, how: str, times: int) -> None:
    """The first ``times`` that come here end, as ``how`` says."""
    if _number(ledger, times) is None:
        return
    if how == "hang":
        time.sleep(600)
    DEATHS[how]()


def _number(path: str, most: int) -> int | None:
    """The first of these numbers that no other process has drawn."""
    for number in range(most):
        try:
            os.close(os.open(f"{path}.{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return number
    return None


class _Kept(_Random):
    """Agents whose observations and returns are each of their own, and who are recorded.

    The line that a step adds to the file ``ledger`` has the number of the life, who acted, and the
    returns of those whose episodes ended. Fates are those of ``Mortal``.
    """

    def __init__(self, ledger: str, how: str = "", at: int = 0, times: int = 1) -> None:
        super().__init__()
        self.seen = Box(0, 2.0**24, (3,), np.float32)
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.path, self.how, self.at, self.times = ledger, how, at, times
        life = _number(f"{ledger}.life", 64)
        assert life is not None
        self.life, self.steps, self.number = life, 0, 0

    def _start(self, seed: int | None) -> None:
        super()._start(seed)
        self.number += 1
        self.paid: dict[str, float] = {}

    def _pay(self, agent: str) -> float:
        """All that an agent earns in an episode, at once."""
        if agent in self.paid:
            return 0.0
        who = self.possible_agents.index(agent)
        self.paid[agent] = (self.life * 2**12 + self.number * 4 + who) / 8
        return self.paid[agent]

    def _obs(self, agent: str) -> Any:
        who = self.possible_agents.index(agent)
        return np.array([who, self.life, self.steps], np.float32)

    def _stepped(self, acted: Iterable[str], over: Iterable[str]) -> None:
        line = " ".join([str(self.life), ",".join(acted), *(str(self.paid[x]) for x in over)])
        os.write(self.ledger, f"{line}\n".encode())
        if self.steps == self.at:
            perhaps_die(self.path, self.how, self.times)

    def close(self) -> None:
        os.close(self.ledger)


class Pack(_Kept, Together):
    """Agents that act together, who join and leave at any time."""

    def step(self, actions: dict[str, int]) -> Any:
        self.steps += 1
        seen, rewards, ended, cut, infos = super().step(actions)
        self._stepped(actions, (agent for agent in actions if ended[agent] or cut[agent]))
        return seen, rewards, ended, cut, infos


class PackInTurn(_Kept, InTurn):
    """Agents that act in turns drawn at random, and leave at any time."""

    def step(self, action: Any) -> None:
        agent, there = self.agent_selection, [a for a in self.agents if not self._over(a)]
        self.steps += agent in there
        super().step(action)
        if agent in there:
            self._stepped([agent], filter(self._over, there))

    def _over(self, agent: str) -> bool:
        return self.terminations[agent] or self.truncations[agent]


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


class PackStep(NamedTuple):
    """What a line of a pack's ledger says."""

    life: int
    acted: list[str]
    returns: list[float]  # of the agents' episodes that ended


class PackLedger(Ledger):
    """The same of packs."""

    @property
    def lines(self) -> list[PackStep]:
        """All steps."""
        split = [line.split() for line in self.path.read_text().splitlines()]
        return [PackStep(int(x[0]), x[1].split(","), list(map(float, x[2:]))) for x in split]

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return len(self.lines)

    def cut(self, fragment: int) -> list[PackStep]:
        """Steps of fragments that are not whole: what lives did last that ended within one."""
        found = []
        for life in {line.life for line in self.lines}:
            own = [line for line in self.lines if line.life == life]
            found += own[len(own) - len(own) % fragment :]
        return found
