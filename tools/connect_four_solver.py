"""An exact solver of connect four: alpha-beta over sets of bits, for positions of many stones.

After P. Pons, "Solving Connect 4: how to build a perfect AI" (blog.gamesolver.org): moves that lose
at once are left out, those that make most threats come first, and a table holds upper bounds. Bits
are those of ``shoal.games.connect_four``. A position of 16 stones takes milliseconds on average.

A score is 0 for a draw, and n for a win by the n-th last of the stones that a player has, so that
a win that comes earlier is worth more; of a loss, -n. Its sign is the result with best play.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int8, int64, njit

ndarray = npt.NDArray[Any]
ROWS, COLUMNS, CELLS = 6, 7, 42
ILLEGAL = -100  # in the place of a score
_GROUND = sum(1 << 7 * c for c in range(COLUMNS))
_BOARD = _GROUND * ((1 << ROWS) - 1)
_ORDER = (3, 2, 4, 1, 5, 0, 6)  # columns, from the centre
_SLOTS = (1 << 20) - 3  # of the table; odd, and prime to the shifts


class Solver:
    """Solves positions one after the other; what it finds of one helps with the next."""

    def __init__(self) -> None:
        self._keys = np.zeros(_SLOTS, np.int64)
        self._bounds = np.zeros(_SLOTS, np.int8)

    def scores(self, mine: int, theirs: int) -> ndarray:
        """The mover's score after each move, int [7]; ``ILLEGAL`` for a column that is full.

        ``mine`` and ``theirs`` are the cells of the mover and of the other; nobody has won yet.
        """
        out = np.full(COLUMNS, ILLEGAL, np.int64)
        _scores(int(mine), int(mine) | int(theirs), out, self._keys, self._bounds)
        return out


@njit(int64(int64), cache=True)
def _count(cells: int) -> int:
    n = 0
    while cells:
        cells &= cells - 1
        n += 1
    return n


@njit(int64(int64, int64), cache=True)
def _wins(mine: int, taken: int) -> int:
    """The free cells, reachable or not, that would complete four of ``mine``."""
    found = (mine << 1) & (mine << 2) & (mine << 3)
    for way in (6, 7, 8):
        pair = (mine << way) & (mine << 2 * way)
        found |= pair & (mine << 3 * way)
        found |= pair & (mine >> way)
        pair = (mine >> way) & (mine >> 2 * way)
        found |= pair & (mine << way)
        found |= pair & (mine >> 3 * way)
    return found & (_BOARD ^ taken)


@njit(int64(int64, int64, int64, int64, int64[:], int8[:]), cache=True)
def _search(mine: int, taken: int, low: int, high: int, keys: ndarray, bounds: ndarray) -> int:
    """The score of a position whose mover cannot win at once, if within [low, high]."""
    stones = _count(taken)
    reachable = (taken + _GROUND) & _BOARD
    theirs = _wins(taken ^ mine, taken)
    forced = reachable & theirs
    if forced:
        if forced & (forced - 1):
            return -((CELLS - stones) // 2)  # two places to block
        reachable = forced
    reachable &= ~(theirs >> 1)  # not below a cell where the other wins
    if reachable == 0:
        return -((CELLS - stones) // 2)
    if stones >= CELLS - 2:
        return 0
    low = max(low, -((CELLS - 2 - stones) // 2))
    key = mine + taken
    slot = key % _SLOTS
    most = int64(bounds[slot]) if keys[slot] == key else (CELLS - 1 - stones) // 2
    high = min(high, most)
    if low >= high:
        return high
    moves, threats, n = np.empty(COLUMNS, np.int64), np.empty(COLUMNS, np.int64), 0
    for column in _ORDER:
        move = reachable & ((1 << ROWS) - 1) << 7 * column
        if move:
            weight = _count(_wins(mine | move, taken | move))
            at = n
            while at > 0 and threats[at - 1] < weight:
                moves[at], threats[at] = moves[at - 1], threats[at - 1]
                at -= 1
            moves[at], threats[at] = move, weight
            n += 1
    for i in range(n):
        score = -_search(taken ^ mine, taken | moves[i], -high, -low, keys, bounds)
        if score >= high:
            return score
        low = max(low, score)
    keys[slot], bounds[slot] = key, low
    return low


@njit(int64(int64, int64, int64[:], int8[:]), cache=True)
def _solve(mine: int, taken: int, keys: ndarray, bounds: ndarray) -> int:
    """The score of a position that is not won."""
    stones = _count(taken)
    if stones == CELLS:
        return 0
    if _wins(mine, taken) & (taken + _GROUND):
        return (CELLS + 1 - stones) // 2
    low, high = -((CELLS - stones) // 2), (CELLS + 1 - stones) // 2
    while low < high:  # windows of one score, nearest to a draw first
        middle = low + (high - low) // 2
        if middle <= 0 and low // 2 < middle:
            middle = low // 2
        elif middle >= 0 and high // 2 > middle:
            middle = high // 2
        score = _search(mine, taken, middle, middle + 1, keys, bounds)
        if score <= middle:
            high = score
        else:
            low = score
    return low


@njit(cache=True)
def _scores(mine: int, taken: int, out: ndarray, keys: ndarray, bounds: ndarray) -> None:
    stones = _count(taken)
    for column in range(COLUMNS):
        move = (taken + _GROUND) & _BOARD & ((1 << ROWS) - 1) << 7 * column
        if move == 0:
            continue
        if move & _wins(mine, taken):
            out[column] = (CELLS + 1 - stones) // 2
        else:
            out[column] = -_solve(taken ^ mine, taken | move, keys, bounds)
