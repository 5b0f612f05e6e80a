"""Connect four: four in a row on a board of six rows and seven columns, in sets of bits.

Bit 7 c + r is the cell in column c, r rows above the ground; the seventh bit of a column is never
set, so that no line goes on from one column to the next.
"""

from __future__ import annotations

import numpy as np

from shoal.games.base import Game, State, ndarray
from shoal.games.boards import drawn, mirrored

ROWS, COLUMNS = 6, 7
_ONE = np.uint64(1)
_GROUND = _ONE << np.arange(0, 49, 7, dtype=np.uint64)  # the lowest cell of each column
_TOP = _GROUND << np.uint64(ROWS - 1)
_COLUMN = (_GROUND << np.uint64(ROWS)) - _GROUND
_FULL = np.bitwise_or.reduce(_COLUMN)
_CELL = np.array(  # the bit of each cell, row after row from the top: as a board is seen
    [7 * c + r for r in reversed(range(ROWS)) for c in range(COLUMNS)], np.uint64
)
_SEEN = np.concatenate([_CELL, 64 + _CELL]).astype(np.int64)  # the same in two sets of 64 bits
_WAYS = np.array([[1], [6], [7], [8]], np.uint64)  # up, down-right, right, up-right
_TWICE = _WAYS + _WAYS


def wins(cells: ndarray) -> ndarray:
    """Whether sets of cells, uint64 [B], hold four in a row: bool [B]."""
    pairs = cells & (cells >> _WAYS)
    won: ndarray = (pairs & (pairs >> _TWICE)).any(0)
    return won


class ConnectFour(Game):
    """Observed are two planes: the cells of the player to move, and those of the other.

    A state holds two sets of cells, that of the player to move first, and whether the other one
    has four in a row.
    """

    name = "connect_four"
    actions = COLUMNS
    shape = (2, ROWS, COLUMNS)
    longest = ROWS * COLUMNS
    symmetries = mirrored(ROWS, COLUMNS, 2)

    def start(self, games: int) -> State:
        return {
            "mine": np.zeros(games, np.uint64),
            "theirs": np.zeros(games, np.uint64),
            "moves": np.zeros(games, np.int8),
            "lost": np.zeros(games, bool),
        }

    def observe(self, state: State) -> ndarray:
        sides = np.empty((len(state["mine"]), 2), "<u8")
        sides[:, 0], sides[:, 1] = state["mine"], state["theirs"]
        bits = np.unpackbits(sides.view(np.uint8), axis=1, bitorder="little")
        return bits.take(_SEEN, 1).reshape(-1, *self.shape)

    def legal(self, state: State) -> ndarray:
        taken: ndarray = state["mine"] | state["theirs"]
        free: ndarray = (taken[:, None] & _TOP) == 0
        return free

    def play(self, state: State, action: ndarray) -> State:
        taken = state["mine"] | state["theirs"]
        free = (taken + _GROUND[action]) & _COLUMN[action]  # the carry stops at the first free cell
        mine = state["mine"] | free
        return {
            "mine": state["theirs"],
            "theirs": mine,
            "moves": state["moves"] + np.int8(1),
            "lost": wins(mine),
        }

    def over(self, state: State) -> ndarray:
        full: ndarray = (state["mine"] | state["theirs"]) == _FULL
        return state["lost"] | full

    def returns(self, state: State) -> ndarray:
        return np.where(state["lost"], -1.0, 0.0).astype(np.float32)

    def position(self, observed: ndarray) -> State:
        cells = observed.reshape(-1, 2, ROWS * COLUMNS).astype(np.uint64)
        mine, theirs = np.bitwise_or.reduce(cells << _CELL, -1).T
        moves = cells.sum((1, 2)).astype(np.int8)
        return {"mine": mine, "theirs": theirs, "moves": moves, "lost": wins(theirs)}

    def show(self, state: State) -> str:
        sides = [(state[k][:1] >> _CELL & _ONE).astype(bool) for k in ("mine", "theirs")]
        first, second = (x.reshape(ROWS, COLUMNS) for x in sides)
        if state["moves"][0] % 2:
            first, second = second, first
        board = drawn(first, second, np.full((ROWS, COLUMNS), "."))
        return board + "\n" + " ".join(str(c + 1) for c in range(COLUMNS))
