"""The agents of one policy in all copies of an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.envs.base import NDArray, Obs
from shoal.envs.checks import Checks, Rows
from shoal.envs.copies import to_env
from shoal.envs.state import ActionLog
from shoal.errors import SpaceError
from shoal.spaces.base import STATE, Spaces
from shoal.spaces.gym import GymSpaces


class Group:
    """The slots of some agents in all copies: slot = copy * agents + number of the agent.

    Raises SpaceError if the spaces of two of its agents differ.
    """

    def __init__(self, name: str, agents: Sequence[str], env: Any, id: str, copies: int) -> None:
        self.name, self.agents = name, tuple(agents)
        self.slots = copies * len(self.agents)
        first, *others = self.agents
        self.spaces: Spaces = _spaces(env, first)
        for agent in others:
            other = _spaces(env, agent)
            same = self.spaces.observation == other.observation
            if not same or self.spaces.action != other.action:
                what = "observation" if not same else "action"
                policy = f"the policy {name!r}" if name else "one policy"
                raise SpaceError(
                    f"the agents {first!r} and {agent!r} of {id!r} cannot share {policy}: their "
                    f"{what} spaces are {getattr(self.spaces, what)} and {getattr(other, what)}",
                    None,
                    "give agents with different spaces policies of their own",
                )

    def prepare(self, masked: bool, state: Any = None) -> None:
        """Arrays for these spaces, once it is known whether infos hold an action mask.

        ``state`` is the space of the environment's, if a central critic sees it.
        """
        spaces: Any = self.spaces
        masked = spaces.masked or (masked and spaces.action_kind != "box")
        self.spaces = spaces = GymSpaces(spaces.observation, spaces.action, masked, state)
        self.rows, self.checks = Rows(spaces.local, self.slots), Checks(spaces)
        self.state = spaces.leaves[-1] if state is not None else None
        if self.state is not None:
            shape = self.slots, *self.state.shape
            self.rows.arrays[STATE] = np.zeros(shape, self.state.dtype)
        self.log = ActionLog(self.slots, spaces.action_shape, spaces.action_dtype)
        self.reward = np.zeros(self.slots, np.float32)
        self.terminated, self.truncated, self.acted, self.acts, self.waits = (
            np.zeros(self.slots, bool) for _ in range(5)
        )
        self.finals: list[tuple[int, Obs]] = []

    def slots_of(self, copy: int) -> range:
        """The slots of one copy's agents."""
        n = len(self.agents)
        return range(copy * n, (copy + 1) * n)

    def to_env(self, action: NDArray) -> Any:
        """Actions as environments take them; see `copies.to_env`."""
        return to_env(self.spaces, action, lambda row: repr(self.agents[row % len(self.agents)]))

    def clear(self) -> None:
        """Nothing has happened in this step yet."""
        self.reward[:], self.terminated[:], self.truncated[:] = 0, False, False
        self.acted = self.acts.copy()
        self.finals = []

    def final(self) -> tuple[NDArray, Obs] | None:
        """Last observations, in the form of `Step`."""
        if not self.finals:
            return None
        slots, rows = zip(*self.finals, strict=True)
        paths = self.rows.arrays
        return np.array(slots), {path: np.stack([row[path] for row in rows]) for path in paths}


def _spaces(env: Any, agent: str) -> GymSpaces:
    return GymSpaces(env.observation_space(agent), env.action_space(agent))


def copied(arrays: Obs) -> Obs:
    """Copies of all arrays."""
    return {path: x.copy() for path, x in arrays.items()}
