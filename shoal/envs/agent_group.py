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
    """The slots of some agents in all copies: slot = copy * agents + number of the agent."""

    def __init__(self, name: str, agents: Sequence[str], spaces: Spaces, copies: int) -> None:
        self.name, self.agents, self.spaces = name, tuple(agents), spaces
        self.slots = copies * len(self.agents)

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


def shared(name: str, agents: Sequence[str], env: Any, id: str) -> GymSpaces:
    """The spaces of a group's agents. Raises SpaceError if those of two of them differ."""
    first, *others = agents
    spaces = GymSpaces(env.observation_space(first), env.action_space(first))
    for agent in others:
        refuse_other(name, first, spaces, agent, env, id)
    return spaces


def refuse_other(name: str, first: str, spaces: Spaces, agent: str, env: Any, id: str) -> None:
    """Raise SpaceError if an agent has other spaces than the ``first`` of its group."""
    pairs = [
        ("observation", spaces.observation, env.observation_space(agent)),
        ("action", spaces.action, env.action_space(agent)),
    ]
    for what, own, other in pairs:
        if own is not other and own != other:
            GymSpaces(env.observation_space(agent), env.action_space(agent))  # are they supported?
            policy = f"the policy {name!r}" if name else "one policy"
            raise SpaceError(
                f"the agents {first!r} and {agent!r} of {id!r} cannot share {policy}: their "
                f"{what} spaces are {own} and {other}",
                None,
                "give agents with different spaces policies of their own",
            )


def copied(arrays: Obs) -> Obs:
    """Copies of all arrays."""
    return {path: x.copy() for path, x in arrays.items()}
