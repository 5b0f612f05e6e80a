"""Tic-tac-toe: three in a row on a board of nine cells. All of its logic is two tables."""

from __future__ import annotations

import numpy as np

from shoal.games.base import Game, State, ndarray
from shoal.games.boards import drawn, square

FULL = 0b111_111_111
_LINES = [0o7, 0o70, 0o700, 0o111, 0o222, 0o444, 0o421, 0o124]
_BITS = np.arange(512)[:, None] >> np.arange(9) & 1
_CELLS: ndarray = _BITS.astype(np.uint8)  # [512, 9] of each set of cells
_WINS = np.array([any(x & line == line for line in _LINES) for x in range(512)])


class TicTacToe(Game):
    """Observed are two planes: the cells of the player to move, and those of the other.

    A state holds two sets of cells (one bit each), that of the player to move first.
    """

    name = "tic_tac_toe"
    actions = 9
    shape = (2, 3, 3)
    longest = 9
    symmetries = square(3, 2)

    def start(self, games: int) -> State:
        nothing = np.zeros(games, np.int16)
        return {"mine": nothing, "theirs": nothing.copy(), "moves": np.zeros(games, np.int8)}

    def observe(self, state: State) -> ndarray:
        planes = np.stack([_CELLS[state["mine"]], _CELLS[state["theirs"]]], 1)
        return planes.reshape(-1, *self.shape)

    def legal(self, state: State) -> ndarray:
        free: ndarray = _CELLS[state["mine"] | state["theirs"]] == 0
        return free

    def play(self, state: State, action: ndarray) -> State:
        mine = state["mine"] | (1 << action).astype(np.int16)
        return {"mine": state["theirs"], "theirs": mine, "moves": state["moves"] + np.int8(1)}

    def over(self, state: State) -> ndarray:
        won: ndarray = _WINS[state["theirs"]]
        full: ndarray = (state["mine"] | state["theirs"]) == FULL
        return won | full

    def returns(self, state: State) -> ndarray:
        return np.where(_WINS[state["theirs"]], -1.0, 0.0).astype(np.float32)

    def position(self, observed: ndarray) -> State:
        cells = observed.reshape(-1, 2, 9).astype(np.int16)
        mine, theirs = (cells << np.arange(9, dtype=np.int16)).sum(-1, dtype=np.int16).T
        return {"mine": mine, "theirs": theirs, "moves": cells.sum((1, 2), dtype=np.int8)}

    def show(self, state: State) -> str:
        sides = [_CELLS[state[name][0]].reshape(3, 3) == 1 for name in ("mine", "theirs")]
        first, second = sides if state["moves"][0] % 2 == 0 else sides[::-1]
        return drawn(first, second, np.arange(1, 10).astype(str).reshape(3, 3))
