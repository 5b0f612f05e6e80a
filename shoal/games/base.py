"""The contract of a game: two players in turn, what one wins the other loses, nothing is hidden.

A state is a dict of arrays whose first axis counts games, so that its functions play many games at
once. They are pure: no array that they are given is written to, so that a search can hold states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shoal.errors import EnvError
from shoal.spaces.base import ACTION_MASK
from shoal.spaces.gym import GymSpaces

ndarray = npt.NDArray[Any]
State = dict[str, ndarray]  # of B games: {name: [B, ...]}
LEAF = "observation"  # path of what is observed, beside the mask of legal moves


class Symmetries(NamedTuple):
    """S ways to turn a game around, the first of which changes nothing.

    Entry i of an observation turned in the s-th way, flattened, is entry ``cells[s, i]`` of the
    original; what belongs to move a there belonged to move ``moves[s, a]``.
    """

    cells: ndarray  # int64 [S, size of an observation]
    moves: ndarray  # int64 [S, actions]


class Game(ABC):
    """A game of two players, with perfect information and no chance.

    Class attributes say what it is; a user's own game derives from this class. Everything is seen
    by the player to move: observations, and what the game has returned.
    """

    name: str  # by which it is chosen
    actions: int  # moves, legal or not
    shape: tuple[int, ...]  # of one observation
    longest: int  # moves of a game, at most
    dtype: Any = np.uint8  # of observations: 0 or 1; or np.float32, of any numbers
    symmetries: Symmetries | None = None
    hides: str | None = None  # what the observation does not show of the game; None: nothing

    @abstractmethod
    def start(self, games: int) -> State:
        """This number of games at their beginning."""

    @abstractmethod
    def observe(self, state: State) -> ndarray:
        """What the player to move sees, [B, *shape]."""

    @abstractmethod
    def legal(self, state: State) -> ndarray:
        """The moves allowed now, bool [B, actions]; what it says of a game that is over is open."""

    @abstractmethod
    def play(self, state: State, action: ndarray) -> State:
        """The states after these legal moves, int [B]; no game may be over before."""

    @abstractmethod
    def over(self, state: State) -> ndarray:
        """The games that are over, bool [B]."""

    @abstractmethod
    def mover(self, state: State) -> ndarray:
        """Whose turn it is, or would be: int8 [B], 0 for the player who began."""

    @abstractmethod
    def returns(self, state: State) -> ndarray:
        """The result for ``mover`` of games that are over: float32 [B] in [-1, 1], 1 for a win."""

    # -------------------------------------------------------------- for people

    @abstractmethod
    def show(self, state: State) -> str:
        """The position of the first of these games, as text of several lines."""

    def move_name(self, state: State, action: int) -> str:
        """What people call a move in the first of these games."""
        return str(action + 1)

    def read(self, state: State, text: str) -> int | None:
        """The legal move of the first of these games that a text means; None if it means none."""
        for action in np.flatnonzero(self.legal(state)[0]).tolist():
            if self.move_name(state, action).lower() == text.strip().lower():
                return int(action)
        return None

    def position(self, observed: ndarray) -> tuple[State, ndarray]:
        """The states that were observed, [B, *shape], and how many moves led there, int [B].

        Raises EnvError for a game of which an observation does not tell.
        """
        raise EnvError(
            f"what is observed of the game {self.name} does not tell its position, from which "
            "AlphaZero searches",
            fix="take tic_tac_toe or connect_four",
        )

    # -------------------------------------------------------------- for networks

    @cached_property
    def spaces(self) -> GymSpaces:
        """What a policy sees, a Dict of "observation" and "action_mask", and does."""
        from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

        low, high = (0, 1) if np.dtype(self.dtype).kind == "u" else (-np.inf, np.inf)
        seen: Any = Box(low, high, self.shape, self.dtype)
        mask = MultiBinary(self.actions)
        return GymSpaces(Dict({LEAF: seen, ACTION_MASK: mask}), Discrete(self.actions))

    def seen(self, state: State) -> dict[str, ndarray]:
        """Observations and legal moves, as ``spaces`` have them."""
        return {LEAF: self.observe(state), ACTION_MASK: self.legal(state)}


def take(state: Mapping[str, ndarray], games: Any) -> State:
    """The states of these games: an index, or bool [B]."""
    return {name: x[games] for name, x in state.items()}


def put(state: State, games: Any, new: Mapping[str, ndarray]) -> State:
    """The states with those of some games replaced."""
    out = {}
    for name, x in state.items():
        out[name] = x.copy()
        out[name][games] = new[name]
    return out
