"""A replay buffer of which sequences are drawn, for a recurrent network.

R2D2 (Kapturowski et al. 2019, ICLR, "Recurrent Experience Replay in Distributed Reinforcement
Learning", section 2.3). Rows are those of ``Buffer``, each with the memory that was acted with: a
sequence is a window of a ring. One begins with the first env step of an episode, and then with
every ``steps - overlap``-th. It can be drawn once its last row is stored, or its episode has ended.

A window holds the env steps that are trained on and those from which their last ones bootstrap;
before them, a prefix from which the memory at the first one follows (burn-in). The prefix may reach
into the episode before: where an episode begins, the memory is reset, so that nothing needs to be
padded. What is stored of the memory is used at the window's first row only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from shoal.replay.buffer import (
    SEEN,
    SLOT,
    STEP,
    TERMINATED,
    Buffer,
    Drawn,
    gather,
    importance,
)
from shoal.replay.layout import ACTION, KIND, PRIORITY, REWARD, Column, Layout, least_rows
from shoal.replay.tree import set_leaves
from shoal.spaces.base import MEMORY
from shoal.trajectory import Batch, Obs, Window, ndarray


class SequenceBuffer(Buffer):
    """Rows of several slots, of which sequences are drawn, uniformly or by priority.

    Args:
        window: what a sequence spans.
        initial: the memory with which an episode begins, {leaf: [*shape]}.

    Others are those of ``Buffer``. A layout ``with_priorities`` is needed where workers give first
    priorities.
    """

    marks = 4

    def __init__(
        self,
        layout: Layout,
        slots: int,
        capacity: int,
        window: Window,
        initial: Obs,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.0,
    ) -> None:
        super().__init__(layout, slots, capacity, n_step=n_step, gamma=gamma, alpha=alpha)
        self.window, self._initial, self._gamma = window, initial, gamma
        if self.length < (least := least_rows(window, n_step, self.reach)):
            raise ValueError(f"{self.length} rows for each slot, and sequences take {least}")
        self.padding = max(self.padding, 1)  # the row before an episode is no env step
        self.reach += window.burn_in
        self._whole = window.steps + n_step - 1  # rows after which a sequence can be drawn
        self._behind = self._whole + 1
        self._next = self._marks[:, 2]  # of each slot, the first sequence that is not whole yet
        self._sound = self._marks[:, 3]  # no sequence begins before: its memory would be unknown
        self._first_priority = self._records.pop(PRIORITY, None)

    @property
    def held(self) -> int:
        return min(self.stored, self.slots * self.length)

    # -------------------------------------------------------------- in

    def _begin(self, slot: int, obs: Obs) -> None:
        head = int(self._head[slot])
        if head and self._kind[slot, (head - 1) % self.length] == STEP:  # a gap ends the episode
            self._complete(slot, head, head)
        super()._begin(slot, obs)
        # After a gap within an episode, only the rows' own memory tells what was seen before it.
        begins = all(np.array_equal(obs[path][0], x) for path, x in self._initial.items())
        first = self._head[slot] + (0 if begins else self.window.burn_in)
        self._next[slot] = self._sound[slot] = first

    def _weigh(self, slot: int, at: ndarray, kind: ndarray, priority: ndarray | None) -> None:
        if self._first_priority is not None:
            self._first_priority[slot, at] = np.nan if priority is None else priority
        head = int(self._head[slot])
        if kind[-1] == STEP:
            self._complete(slot, head - self._whole + 1, head)
            return
        end = head - int(kind[-1] == SEEN)
        self._complete(slot, end, end)
        # The task may have ended while the environment goes on, as with a life.
        self._next[slot] = max(head, int(self._sound[slot]))

    def _complete(self, slot: int, before: int, end: int) -> None:
        """Sequences that begin before a row can be drawn; their env steps are before ``end``."""
        first, stride = int(self._next[slot]), self.window.steps - self.window.overlap
        if first >= before:
            return
        starts = np.arange(first, before, stride)
        self._next[slot] = starts[-1] + stride
        starts = starts[starts >= self._head[slot] - self.length + self.reach]
        values = np.array([self._value(slot, start, end) for start in starts.tolist()])
        leaves = slot * self.length + starts % self.length
        self._live += set_leaves(self._tree, leaves, values)
        self._highest = max(self._highest, values.max(initial=0.0))

    def _value(self, slot: int, start: int, end: int) -> float:
        """What to draw a new sequence by: the highest so far, if its env steps say nothing."""
        if self._first_priority is None:
            return self._highest
        rows = np.arange(start, min(start + self.window.steps, end)) % self.length
        own = self._first_priority[slot, rows].astype(np.float64)
        eta = self.window.eta
        mixed = float(eta * own.max() + (1.0 - eta) * own.mean())
        return self._highest if np.isnan(mixed) else mixed**self.alpha

    # -------------------------------------------------------------- out

    def draw(self, u: ndarray, beta: float = 0.0) -> Drawn:
        """Sequences drawn by uniform numbers ``u [parts, k]``, as ``Buffer.draw`` draws."""
        leaves = self.leaves(u)
        drawn = self.taken(leaves)
        if beta > 0.0 and self.alpha:
            parts, k = u.shape
            importance(self._tree, leaves, parts, k, beta, drawn.batch["weight"])
        return drawn

    def taken(self, leaves: ndarray) -> Drawn:
        """The sequences that begin with these leaves' rows; their weights are 1.

        The batch holds, for windows of L = burn_in + steps + n_step rows and M = steps:
        obs {leaf: [N, L, ...]}, its memory [N, ...] of the first rows; begins, bool [N, L]: where
        an episode begins; action, reward (n-step), discount and mask [N, M] of the env steps that
        are trained on; then, int32 [N, M]: the row of the window that each bootstraps from; and
        weight [N]. Where an episode ends within a window, its last row is repeated, and the mask is
        0 from there on.
        """
        steps, burn_in = self.window.steps, self.window.burn_in
        where, begins, numbers, then, rows, age = _windows(
            leaves, self._rows, self._head, steps, burn_in, self.n_step, self._gamma
        )
        flat, trained = where.reshape(-1), where[:, burn_in : burn_in + steps].reshape(-1)
        batch: Batch = {
            "obs": {},
            "begins": begins,
            "action": self._found(self.layout.action, trained, (ACTION, self.layout.action.words)),
            "reward": numbers[0],
            "discount": numbers[1],
            "mask": numbers[2],
            "then": then,
            "weight": np.ones(len(leaves), np.float32),
        }
        batch["action"] = batch["action"].reshape(-1, steps, *self.layout.action.shape)
        for path, column in self.layout.obs.items():
            place = self.layout.places[path]
            if path.startswith(MEMORY):
                batch["obs"][path] = self._found(column, where[:, 0].copy(), place)
            else:
                found = self._found(column, flat, place)
                batch["obs"][path] = found.reshape(*where.shape, *column.shape)
        for name, column in self.layout.records.items():
            if name != PRIORITY:
                found = self._found(column, trained, self.layout.record_places[name])
                batch.setdefault("records", {})[name] = found.reshape(-1, steps, *column.shape)
        return Drawn(batch, rows, age)

    def _found(self, column: Column, leaves: ndarray, place: tuple[int, ...]) -> ndarray:
        begin, words, stack = (*place, 1)[:3]
        return column.of(gather(self._rows, leaves, begin, words, stack))


@njit(cache=True, nogil=True)
def _windows(
    leaves: ndarray,
    rows: ndarray,
    head: ndarray,
    steps: int,
    burn_in: int,
    n: int,
    gamma: float,
) -> tuple[Any, ...]:
    """Windows of the sequences that begin at leaves: the leaves of their rows, int64 [N, L]; where
    episodes begin, bool [N, L]; n-step return, product of discounts and mask, float32 [3, N, M];
    the row that each env step bootstraps from, int32 [N, M]; row ids [N]; and their mean age.
    """
    length, count, ages = rows.shape[1], len(leaves), 0
    flat = rows.reshape(-1, rows.shape[2])
    rewards = flat.view(np.float32)
    span = burn_in + steps + n
    where, begins = np.empty((count, span), np.int64), np.zeros((count, span), np.bool_)
    numbers = np.zeros((3, count, steps), np.float32)
    then, ids = np.full((count, steps), burn_in, np.int32), np.empty(count, np.int64)
    for j in range(count):
        s = leaves[j] // length
        base, at = s * length, leaves[j] % length
        newest = head[s] % length
        age = (newest - 1 - at) % length
        ages += age
        ids[j] = s * SLOT + head[s] - 1 - age
        last, what = 0, 0  # the last env step after the first that is used, and its kind
        while True:
            what = flat[base + (at + last) % length, KIND]
            following = (at + last + 1) % length
            if what != STEP or last == steps + n - 2 or following == newest:
                break
            last += 1
        ended = what == TERMINATED
        needed = burn_in + last + (0 if ended else 1)  # the last row of the window that is used
        for p in range(span):
            q = min(p, needed)
            where[j, p] = base + (at + q - burn_in) % length
            if 0 < p <= needed:
                begins[j, p] = flat[base + (at + p - 1 - burn_in) % length, KIND] == SEEN
        for t in range(min(steps, last + 1)):
            total, discount, i = 0.0, 1.0, t
            for _ in range(n):
                total += discount * rewards[base + (at + i) % length, REWARD]
                discount *= gamma
                i += 1
                if i > last:
                    if ended:
                        discount = 0.0
                    break
            numbers[0, j, t], numbers[1, j, t], numbers[2, j, t] = total, discount, 1.0
            then[j, t] = min(burn_in + i, needed)
    return where, begins, numbers, then, ids, ages / max(count, 1)
