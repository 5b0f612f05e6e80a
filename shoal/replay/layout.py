"""What one row of a replay buffer holds, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from shoal.spaces.base import ACTION_MASK, MEMORY, Spaces
from shoal.trajectory import Window, ndarray

# Words of a row in which these begin; observations and records follow.
KIND, REWARD, ACTION = range(3)

PRIORITY = "~priority"  # the record of an env step's own first priority; NaN: it has none


@dataclass(frozen=True)
class Column:
    """One entry of a row."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stack: int = 1  # newest entries of the first axis that successive rows share all but one of

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of what one row stores of it."""
        return self.shape if self.stack == 1 else self.shape[1:]

    @cached_property
    def _entries(self) -> int:
        return math.prod(self.stored)

    @cached_property
    def words(self) -> int:
        """What one row stores of it takes, in words of 4 bytes: the last may be part empty."""
        return -(-self._entries * self.dtype.itemsize // 4)

    @cached_property
    def _even(self) -> bool:
        return self._entries * self.dtype.itemsize == 4 * self.words

    def of(self, words: ndarray) -> ndarray:
        """The entries of N rows from the words that hold them, uint32 [N, stack words]."""
        entries = words.view(self.dtype)
        if not self._even:
            own = 4 * self.words // self.dtype.itemsize
            entries = entries.reshape(len(words), self.stack, own)[..., : self._entries]
        elif len(self.shape) == 1:
            return entries
        return entries.reshape(len(words), *self.shape) if self.shape else entries.ravel()

    def inside(self, rows: ndarray, begin: int) -> ndarray:
        """A view of what rows, uint32 [S, L, words], hold of it from a word on: [S, L, *stored]."""
        entries = rows[..., begin : begin + self.words].view(self.dtype)
        return entries[..., : self._entries].reshape(*rows.shape[:2], *self.stored)


def column(x: ndarray) -> Column:
    """For the entries of a fragment's array, [T, B, ...]."""
    return Column(x.shape[2:], x.dtype)


@dataclass(frozen=True)
class Layout:
    """What rows hold: {leaf: its column}, the action, and {name: column} that ``act`` recorded.

    With a row's kind and its reward, a word each, they lie side by side, because a draw waits for
    memory more than for anything else.
    """

    obs: dict[str, Column]
    action: Column
    records: dict[str, Column] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[str, tuple[int, int, int]]:
        """By leaf, where a row holds its column: the first word, how many, and of how many rows."""
        return self._placed(self.obs, ACTION + self.action.words)

    @cached_property
    def record_places(self) -> dict[str, tuple[int, int, int]]:
        """The same by record."""
        return self._placed(self.records, self.words - sum(c.words for c in self.records.values()))

    @staticmethod
    def _placed(columns: Mapping[str, Column], begin: int) -> dict[str, tuple[int, int, int]]:
        places = {}
        for name, column in columns.items():
            places[name] = begin, column.words, column.stack
            begin += column.words
        return places

    @property
    def words(self) -> int:
        """32-bit words of a row."""
        columns = [self.action, *self.obs.values(), *self.records.values()]
        return ACTION + sum(column.words for column in columns)

    @property
    def row_bytes(self) -> int:
        """Bytes of one observation as it is drawn."""
        return sum(math.prod(c.shape) * c.dtype.itemsize for c in self.obs.values())

    def nbytes(self, capacity: int, slots: int) -> int:
        """Bytes of a buffer of this many rows, with its sum tree."""
        rows = length(capacity, slots) * slots
        return rows * 4 * self.words + 16 * (1 << (rows - 1).bit_length())


def length(capacity: int, slots: int) -> int:
    """Rows of each slot's ring, given the rows of all slots."""
    return -(-capacity // slots)


def layout(
    spaces: Spaces,
    stacks: Mapping[str, int],
    memory: Mapping[str, ndarray] = {},
    records: Mapping[str, ndarray] = {},
) -> Layout:
    """Rows for these spaces; ``stacks`` are the lengths of stacked frames, by leaf.

    ``memory`` and ``records`` are what the algorithm declares: arrays of one slot, by name.
    """
    kept = {name: Column(x.shape, x.dtype) for name, x in records.items()}
    obs = {x.path: Column(x.shape, x.stored, stacks.get(x.path, 1)) for x in spaces.leaves}
    if spaces.masked:
        obs[ACTION_MASK] = Column((sum(spaces.action_n),), np.dtype(bool))
    obs |= {MEMORY + name: Column(x.shape, x.dtype) for name, x in memory.items()}
    if spaces.action_kind == "box":
        return Layout(obs, Column((spaces.action_dim,), np.dtype("float32")), kept)
    parts = (len(spaces.action_n),) if spaces.action_kind != "discrete" else ()
    return Layout(obs, Column(parts, np.dtype("int32")), kept)


def layout_of(algorithm: Any, model: Any, stacks: Mapping[str, int]) -> Layout:
    """Rows of a run of this algorithm, with what it remembers and records."""
    return layout(model.spaces, stacks, algorithm.memory(model), algorithm.records(model))


def with_priorities(layout: Layout) -> Layout:
    """Rows that also hold the first priority of their env step."""
    return replace(layout, records={**layout.records, PRIORITY: Column((), np.dtype(np.float32))})


def least_rows(window: Window, n_step: int, stack: int) -> int:
    """Rows of a slot of which a sequence can always be drawn, however long its episodes are."""
    return 2 * window.steps - window.overlap + window.burn_in + n_step + 2 * stack
