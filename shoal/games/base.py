"""The contract of a game: two players in turn, what one wins the other loses, nothing is hidden.

A state is a dict of arrays whose first axis counts games, so that its functions play many games at
once. They are pure: no array that they are given is written to, so that a search can hold states.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shoal.spaces.base import ACTION_MASK, STATE
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

    A state has the entry "moves", int [B]: how many were made. Its entries are arrays of numbers or
    bools whose dtypes and trailing shapes stay as they are in ``start``.
    """

    name: str  # by which it is chosen; a user's own: that of its class
    actions: int  # moves, legal or not
    shape: tuple[int, ...]  # of one observation
    longest: int  # moves of a game, at most
    dtype: Any = np.uint8  # of observations: 0 or 1; or np.float32, of any numbers
    symmetries: Symmetries | None = None
    hides: str | None = None  # what the observation does not show of the game; None: nothing

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = cls.__name__

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

    def mover(self, state: State) -> ndarray:
        """Whose turn it is, or would be: int8 [B], 0 for the player who began.

        By default the players take turns.
        """
        return (state["moves"] % 2).astype(np.int8)

    @abstractmethod
    def returns(self, state: State) -> ndarray:
        """The result for ``mover`` of games that are over: float32 [B] in [-1, 1], 1 for a win."""

    # -------------------------------------------------------------- for people

    def show(self, state: State) -> str:
        """The position of the first of these games, as text of several lines."""
        return str(self.observe(take(state, slice(1)))[0])

    def move_name(self, state: State, action: int) -> str:
        """What people call a move in the first of these games."""
        return str(action + 1)

    def read(self, state: State, text: str) -> int | None:
        """The legal move of the first of these games that a text means; None if it means none."""
        for action in np.flatnonzero(self.legal(state)[0]).tolist():
            if self.move_name(state, action).lower() == text.strip().lower():
                return int(action)
        return None

    # -------------------------------------------------------------- for searches

    def position(self, observed: ndarray) -> State | None:
        """The states that were observed, [B, *shape]; None, the default, if that does not tell.

        Then states travel beside what is observed, see ``spaces``.
        """
        return None

    @property
    def told(self) -> bool:
        """Whether an observation tells the state."""
        return type(self).position is not Game.position

    def pack(self, state: State) -> ndarray:
        """States as bytes, uint8 [B, n], which may travel and be kept; ``unpack`` reads them."""
        flat = [x.reshape(len(x), math.prod(x.shape[1:])) for x in state.values()]
        return np.concatenate([np.ascontiguousarray(x).view(np.uint8) for x in flat], axis=1)

    def unpack(self, packed: ndarray) -> State:
        """The states in these bytes, uint8 [B, n]."""
        state, at = {}, 0
        for name, one in self._one.items():
            own = packed[:, at : at + one.nbytes]
            whole = np.ascontiguousarray(own).view(one.dtype)
            state[name] = whole.reshape(len(packed), *one.shape[1:])
            at += one.nbytes
        return state

    @cached_property
    def _one(self) -> State:
        return self.start(1)

    # -------------------------------------------------------------- for networks

    @cached_property
    def spaces(self) -> GameSpaces:
        """What a policy sees, a Dict of "observation" and "action_mask", and does.

        If an observation does not tell the state, that stands beside them in ``pack``'s form, as
        the environment's state; no network sees it.
        """
        from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

        low, high = (0, 1) if np.dtype(self.dtype).kind == "u" else (-np.inf, np.inf)
        seen: Any = Box(low, high, self.shape, self.dtype)
        mask = MultiBinary(self.actions)
        size = None if self.told else self.pack(self._one).shape[1:]
        state = None if size is None else Box(0, 255, size, np.uint8)
        both = Dict({LEAF: seen, ACTION_MASK: mask})
        return GameSpaces(both, Discrete(self.actions), state=state, game=self)

    def seen(self, state: State) -> dict[str, ndarray]:
        """What ``spaces`` have of these states."""
        own = {LEAF: self.observe(state), ACTION_MASK: self.legal(state)}
        return own if self.told else {**own, STATE: self.pack(state)}


@dataclass(frozen=True)
class GameSpaces(GymSpaces):
    """The spaces of a game, which a search looks for here."""

    game: Any = field(default=None, compare=False, repr=False)

    def flatten(self, obs: Any) -> dict[str, ndarray]:
        """As usual; what ``Game.seen`` has of the state stays beside it."""
        flat = GymSpaces.flatten(self.local, obs)
        return {**flat, STATE: np.asarray(obs[STATE])} if STATE in obs else flat


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
