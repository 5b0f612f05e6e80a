"""Symmetries of boards, and how boards are shown."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from shoal.games.base import Symmetries, ndarray


def turned(boards: Iterable[ndarray], planes: int) -> tuple[ndarray, list[ndarray]]:
    """Cells of observations of several planes, given the numbers of a board's cells, turned.

    Returns the rows of ``Symmetries.cells``, and each board flat.
    """
    flat = [np.ascontiguousarray(board).ravel() for board in boards]
    size = len(flat[0])
    cells = np.stack([np.concatenate([x + plane * size for plane in range(planes)]) for x in flat])
    return cells, flat


def square(side: int, planes: int) -> Symmetries:
    """All eight turns and reflections of a square board whose cells are its moves."""
    board = np.arange(side * side).reshape(side, side)
    turns = [np.rot90(board, k) for k in range(4)]
    cells, moves = turned([*turns, *(np.fliplr(x) for x in turns)], planes)
    return Symmetries(cells, np.stack(moves))


def mirrored(rows: int, columns: int, planes: int) -> Symmetries:
    """Left and right exchanged on a board whose columns are its moves."""
    board = np.arange(rows * columns).reshape(rows, columns)
    cells, _ = turned([board, np.fliplr(board)], planes)
    moves = np.arange(columns)
    return Symmetries(cells, np.stack([moves, moves[::-1]]))


def drawn(first: ndarray, second: ndarray, empty: ndarray) -> str:
    """A board [rows, columns]: x for cells of the first player, o for the second's (bool), and
    ``empty`` texts for all others."""
    cells = np.where(first, "x", np.where(second, "o", empty))
    return "\n".join(" ".join(row) for row in cells.tolist())
