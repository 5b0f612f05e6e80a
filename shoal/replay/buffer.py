"""A replay buffer of single env steps, from which n-step transitions are made when drawn.

Every slot (one environment copy of one worker) is a ring of rows in the order of time, and a row is
what was seen, done and earned in one env step. So the observation that followed a step is simply
the next row's: there is no second copy of it, and none of the frames that stacked observations have
in common. Where something follows that is not the next env step, rows are put in between that hold
only an observation: the one at which a time limit cut an episode, and the older frames of the stack
with which an episode begins. They are never drawn themselves.

The n-step return of a row (Sutton 1988; Rainbow, arXiv:1710.02298, section "Multi-step learning")
is summed when the row is drawn. That is a handful of multiplications in compiled code; for them no
window is kept waiting, none needs to be flushed when its episode ends, and n is no property of what
is stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from shoal.replay.layout import ACTION, KIND, REWARD, Layout, length
from shoal.replay.tree import drawn_leaves, set_leaves, sum_tree
from shoal.trajectory import Batch, Obs, ndarray

SEEN, STEP, TERMINATED, TRUNCATED = range(4)  # what a row is
# SEEN: only an observation. The others are env steps: within an episode, the last of one, and the
# last before a time limit or a gap in what was stored (the next row is what followed, only seen).


@dataclass
class Drawn:
    """Transitions or sequences drawn together."""

    batch: Any  # a Batch of obs, next_obs, action, reward, discount, weight, mask: [N, ...]; or a
    # Parcel of one
    rows: ndarray  # int64 [N]: row ids, for ``set_priorities``
    age: float  # env steps of its slot since one was stored, on average


@dataclass
class _Change:
    """What a change wrote over."""

    number: int  # of the change
    slots: ndarray  # int64 [B]
    at: ndarray  # int64 [B, n]: rows of these
    rows: ndarray  # uint32 [B, n, words]
    leaves: ndarray  # int64 [m]
    values: ndarray  # float64 [m]
    head: ndarray  # int64 [B]
    marks: ndarray  # int64 [B, marks]
    rest: tuple[int, float, int]  # live, highest, stored


class Buffer:
    """Rows of several slots, drawn uniformly or by priority.

    Args:
        layout: of a row.
        slots: rings.
        capacity: rows of all of them together; the oldest make room.
        n_step: env steps that a transition spans; fewer where its episode ends before.
        gamma: discount of each.
        alpha: exponent of priorities; 0 draws uniformly.
    """

    marks = 2  # numbers kept of each slot, besides its head

    def __init__(
        self,
        layout: Layout,
        slots: int,
        capacity: int,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.0,
    ) -> None:
        self.layout, self.slots, self.length = layout, slots, length(capacity, slots)
        self.n_step, self.alpha = n_step, alpha
        self._first, *self._others = layout.obs.items()
        self.reach = max((c.stack for c in layout.obs.values()), default=1)  # rows of a stack
        self.padding = self.reach - 1  # rows before the first of an episode
        self._behind = 1  # rows before the head whose leaves a fragment may change
        if self.length <= self.reach:
            raise ValueError(f"{self.length} rows for each slot, and a stack takes {self.reach}")
        self._rows = np.zeros((slots, self.length, layout.words), np.uint32)
        self._kind, self._reward = self._rows[..., KIND], self._rows[..., REWARD].view(np.float32)
        self._action = layout.action.inside(self._rows, ACTION)
        self._obs = {k: c.inside(self._rows, layout.places[k][0]) for k, c in layout.obs.items()}
        self._records = {
            k: c.inside(self._rows, layout.record_places[k][0]) for k, c in layout.records.items()
        }
        self._head = np.zeros(slots, np.int64)  # rows that each slot has had; there stands the
        # observation that followed the last of them, where there is one
        self._marks = np.full((slots, self.marks), -1, np.int64)
        self._due = self._marks[:, :2]  # the fragment that goes on from there
        leaf = layout.places[self._first[0]]
        self._read = self._rows, self._head, layout.action.words, *leaf, n_step, gamma
        self._tree = sum_tree(slots * self.length)
        self._live = 0  # transitions that can be drawn
        self._highest = 1.0  # priority, to the power of alpha, of any row so far
        self.stored = 0  # env steps ever
        self.changes = 0  # calls of ``add`` and ``set_priorities``, less those undone
        self._undo: deque[_Change] | None = None  # the newest, from the first ``forget`` on

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.layout.nbytes(self.length * self.slots, self.slots)

    @property
    def size(self) -> int:
        """Transitions that can be drawn."""
        return self._live

    @property
    def held(self) -> int:
        """Env steps in it."""
        return self._live

    @property
    def mass(self) -> float:
        """Sum of what rows are drawn in proportion to."""
        return float(self._tree[1])

    # -------------------------------------------------------------- in

    def add(
        self,
        slots: slice,
        obs: Obs,
        action: ndarray,
        reward: ndarray,
        terminated: ndarray,
        truncated: ndarray,
        valid: ndarray,
        final: Mapping[tuple[int, int], Obs],
        priority: ndarray | None = None,
        fragment: ndarray | None = None,
        records: Mapping[str, ndarray] | None = None,
    ) -> None:
        """Store what some slots did next: T env steps of each.

        They continue what these slots stored last if the fragment is the next one, and if it begins
        with the observation that was seen last. Else there is a gap, which no transition spans.

        Args:
            slots: which, B of them.
            obs: {leaf: [T + 1, B, ...]}; the last is what followed.
            action: [T, B, ...].
            reward: [T, B].
            terminated, truncated: bool [T, B].
            valid: bool [T, B]; False where an environment only reset itself, and for what follows
                an end and is not to be drawn.
            final: by (t, b), the observation that followed where that is not ``obs[t + 1]``.
            priority: float [T, B], above 0; None: the highest so far.
            records: {name: [T, B, ...]}, at least those of the layout.
            fragment: int [2], as ``Trajectory.fragment``; None: the observation alone decides.
        """
        if self._undo is not None:
            ends = (terminated | truncated | ~valid).sum(0).max(initial=0)
            self._keep_slots(slots, len(reward) + (int(ends) + 1) * (self.padding + 1))
        self.changes += 1
        most = self.length - self.reach  # rows of one call that do not overwrite each other
        for b, slot in enumerate(range(slots.start, slots.stop)):
            own = {path: x[:, b] for path, x in obs.items()}
            due = fragment is None or np.array_equal(fragment, self._due[slot])
            if not (due and self._continues(slot, own)):
                self._begin(slot, own)
            over = (terminated[:, b] | truncated[:, b]) & valid[:, b]
            t, steps = 0, _wanted(terminated[:, b], over, valid[:, b])
            while t < steps:
                stops = np.flatnonzero(over[t:] | ~valid[t:, b])
                end = min(t + int(stops[0]) + 1 if len(stops) else steps, t + most)
                at = self._push(slot, {p: self._newest(p, x[t:end]) for p, x in own.items()})
                kind = np.where(valid[t:end, b], STEP, SEEN).astype(np.uint32)
                if over[end - 1]:
                    kind[-1] = TERMINATED if terminated[end - 1, b] else TRUNCATED
                self._action[slot, at], self._reward[slot, at] = action[t:end, b], reward[t:end, b]
                for name, column in self._records.items():
                    column[slot, at] = (records or {})[name][t:end, b]
                self._kind[slot, at] = kind
                self._weigh(slot, at, kind, None if priority is None else priority[t:end, b])
                self.stored += int(np.count_nonzero(kind))
                last = final.get((end - 1, b))
                if last is not None and kind[-1] == TRUNCATED:
                    self._see(slot, {p: self._newest(p, x)[None] for p, x in last.items()})
                if not valid[end - 1, b] or (over[end - 1] and last is not None):
                    if not valid[end - 1, b]:  # the first of its kind was what followed
                        more = np.flatnonzero(valid[end:steps, b])
                        end = end + int(more[0]) if len(more) else steps
                    self._begin(slot, {path: x[end:] for path, x in own.items()})
                t = end
            if steps < len(reward):
                self._begin(slot, {path: x[-1:] for path, x in own.items()})
            self._await(slot, {path: x[-1] for path, x in own.items()})
            if fragment is not None:
                self._due[slot] = fragment[0], fragment[1] + 1

    def store(self, worker: int, batch: Batch) -> None:
        """Store a worker's fragment, in the form of an off-policy algorithm's ``postprocess``."""
        count = batch["reward"].shape[1]
        final = {
            (int(t), int(b)): {path: x[i] for path, x in batch["final"].items()}
            for i, (t, b) in enumerate(zip(batch["final_t"], batch["final_b"], strict=True))
        }
        first = worker * count % self.slots  # a worker that joined later shares another's slots
        self.add(
            slice(first, first + count),
            batch["obs"],
            batch["action"],
            batch["reward"],
            batch["terminated"],
            batch["truncated"],
            batch["mask"],
            final,
            batch.get("priority"),
            batch["fragment"],
            batch.get("records"),
        )

    def _continues(self, slot: int, obs: Obs) -> bool:
        """Whether these observations begin with the one that this slot saw last, stack and all."""
        head = self._head[slot]
        if not head:
            return False
        for path, x in obs.items():
            rows = np.arange(head + 1 - self.layout.obs[path].stack, head + 1) % self.length
            last = self._obs[path][slot, rows].reshape(x.shape[1:])
            if not np.array_equal(last, x[0], equal_nan=_nan(x)):
                return False
        return True

    def _begin(self, slot: int, obs: Obs) -> None:
        """Another episode begins with ``obs[0]``, or the stream goes on after a gap."""
        head = int(self._head[slot])
        last = (head - 1) % self.length
        if head and self._kind[slot, last] in (STEP, TRUNCATED):
            # What followed stands at the head: keep it. A gap cuts an episode as a time limit does.
            self._kind[slot, last] = TRUNCATED
            self._advance(slot, 1)
        if self.padding:
            self._see(slot, {path: self._older(path, x[0]) for path, x in obs.items()})

    def _older(self, path: str, x: ndarray) -> ndarray:
        """What the rows before the first observation of an episode hold."""
        column, rows = self.layout.obs[path], self.padding
        if column.stack == 1:
            return np.broadcast_to(x, (rows, *x.shape))
        return x[np.maximum(np.arange(rows) - (rows + 1 - column.stack), 0)]

    def _see(self, slot: int, rows: Obs) -> None:
        """Rows that are only observations, in the form in which they are stored."""
        self._kind[slot, self._push(slot, rows)] = SEEN

    def _push(self, slot: int, rows: Obs) -> ndarray:
        """Write observations into the next rows of a slot; returns where these are."""
        steps = len(next(iter(rows.values())))
        head = int(self._head[slot])
        at = np.arange(head, head + steps) % self.length
        for path, x in rows.items():
            self._obs[path][slot, at] = x
        self._advance(slot, steps)
        return at

    def _advance(self, slot: int, steps: int) -> None:
        """Move the head. Rows that are overwritten, or lose frames of their stacks, can no longer
        be drawn."""
        old = int(self._head[slot])
        new = old + steps
        self._head[slot] = new
        # The head's own row holds what followed the last, so each ring has one live row less.
        first = max(old - self.length + self.reach, 0)
        gone = np.arange(first, max(new - self.length + self.reach, first)) % self.length
        self._live += set_leaves(self._tree, slot * self.length + gone, np.zeros(len(gone)))

    def _await(self, slot: int, obs: Obs) -> None:
        """What followed the last row: the next call goes on from it, or does not."""
        at = self._head[slot] % self.length
        for path, x in obs.items():
            self._obs[path][slot, at] = self._newest(path, x)
        self._kind[slot, at] = SEEN

    def _newest(self, path: str, x: ndarray) -> ndarray:
        """Of [..., *shape], what a row stores."""
        column = self.layout.obs[path]
        return x if column.stack == 1 else x[..., -1, :, :]  # [..., stack, height, width]

    def _weigh(self, slot: int, at: ndarray, kind: ndarray, priority: ndarray | None) -> None:
        """Rows of these kinds were stored: what to draw them by, from now on."""
        value = None if priority is None else priority.astype(np.float64) ** self.alpha
        values = np.full(len(at), self._highest) if value is None else value
        self._live += set_leaves(
            self._tree, slot * self.length + at, np.where(kind != SEEN, values, 0.0)
        )
        if value is not None and len(value):
            self._highest = max(self._highest, float(value.max()))

    # -------------------------------------------------------------- out

    def draw(self, u: ndarray, beta: float = 0.0) -> Drawn:
        """Transitions drawn by uniform numbers ``u [parts, k]``: ``parts`` batches of k, N rows.

        Drawn in proportion to their priorities, one from each of k equal parts of their sum. Their
        weights are those of equation 1 of the paper, (N P)^-beta over the largest of the batch.

        Raises ValueError where there is nothing to draw.
        """
        if self._tree[1] <= 0.0:
            raise ValueError("the buffer holds no transition")
        beta = beta if self.alpha else 0.0
        return self._drawn(_draw(self._tree, u, beta, *self._read))

    def can_draw(self, u: ndarray) -> bool:
        """Whether ``draw`` finds anything by these numbers."""
        return self.mass > 0.0

    def leaves(self, u: ndarray) -> ndarray:
        """Leaves drawn by ``u [parts, k]``, int64 [parts k]. Raises ValueError if it is empty."""
        if self._tree[1] <= 0.0:
            raise ValueError("the buffer holds nothing to draw")
        return drawn_leaves(self._tree, u)

    def likelihood(self, leaves: ndarray) -> ndarray:
        """N P of leaves: how much likelier than uniformly each is drawn."""
        values: ndarray = self._tree[len(self._tree) // 2 + leaves]
        return self.size * values / self.mass

    def taken(self, leaves: ndarray) -> Drawn:
        """What begins with these leaves' rows; the weights are 1."""
        return self._drawn(_transitions(leaves, *self._read))

    def everything(self) -> Drawn:
        """All that could be drawn, slot by slot in the order of time."""
        return self.taken(self._live_leaves())

    def _live_leaves(self) -> ndarray:
        live = np.flatnonzero(self._tree[len(self._tree) // 2 :])
        slot, at = np.divmod(live, self.length)
        age = (self._head[slot] - 1 - at) % self.length
        leaves: ndarray = live[np.lexsort((-age, slot))]
        return leaves

    def _drawn(self, found: tuple[Any, ...]) -> Drawn:
        """The transitions of which all but further leaves of the observations were found."""
        where, numbers, action, now, then, age = found
        returns, discount, weight, mask = numbers
        path, column = self._first
        obs, next_obs = {path: column.of(now)}, {path: column.of(then)}
        for path, column in self._others:
            leaf = self.layout.places[path]
            obs[path] = column.of(gather(self._rows, where[0], *leaf))
            next_obs[path] = column.of(gather(self._rows, where[1], *leaf))
        batch: Batch = {
            "obs": obs,
            "next_obs": next_obs,
            "action": self.layout.action.of(action),
            "reward": returns,
            "discount": discount,
            "weight": weight,
            "mask": mask,
        }
        for name, column in self.layout.records.items():
            place = self.layout.record_places[name]
            records = batch.setdefault("records", {})
            records[name] = column.of(gather(self._rows, where[0], *place))
        return Drawn(batch, where[2], age)

    def set_priorities(self, rows: ndarray, priority: ndarray) -> int:
        """New priorities (above 0) of rows that were drawn; returns how many had gone meanwhile."""
        if self._undo is not None:
            slot, row = np.divmod(rows, SLOT)
            none = np.zeros(0, np.int64)
            self._keep(none, none[:, None], slot * self.length + row % self.length)
        self.changes += 1
        gone, more, self._highest = _prioritise(
            self._tree,
            self._head,
            self.length,
            self.reach,
            rows,
            priority,
            self.alpha,
            self._highest,
        )
        self._live += more
        return int(gone)

    # -------------------------------------------------------------- taken back

    def forget(self, changes: int) -> None:
        """What the first ``changes`` changes wrote over need not be kept; of later ones it is."""
        if self._undo is None:
            self._undo = deque()
        while self._undo and self._undo[0].number <= changes:
            self._undo.popleft()

    def rollback(self, changes: int) -> None:
        """Undo all but the first ``changes`` changes, half-finished ones too, bit for bit.

        Interrupted itself, it can be called again.
        """
        while self._undo and (last := self._undo[-1]).number > changes:
            self._rows[last.slots[:, None], last.at] = last.rows
            set_leaves(self._tree, last.leaves, last.values)
            self._head[last.slots], self._marks[last.slots] = last.head, last.marks
            self._live, self._highest, self.stored = last.rest
            self.changes = last.number - 1
            self._undo.pop()

    def _keep_slots(self, slots: slice, rows: int) -> None:
        """As ``_keep``, before these slots get at most ``rows`` rows."""
        which = np.arange(slots.start, slots.stop)
        # One before, which may become the last of its episode; one after, and leaves further on.
        span = np.arange(-self._behind, min(rows + self.reach + 1, self.length - self._behind))
        at = (self._head[which, None] + span) % self.length
        leaves = (which[:, None] * self.length + at).reshape(-1)
        self._keep(which, at[:, self._behind - 1 :], leaves)

    def _keep(self, slots: ndarray, at: ndarray, leaves: ndarray) -> None:
        """A change begins, which will write over no more than this."""
        assert self._undo is not None
        rows, values = self._rows[slots[:, None], at], self._tree[len(self._tree) // 2 + leaves]
        rest = self._live, self._highest, self.stored
        head, marks = self._head[slots], self._marks[slots]
        change = _Change(self.changes + 1, slots, at, rows, leaves, values, head, marks, rest)
        self._undo.append(change)

    # -------------------------------------------------------------- kept

    def get_state(self) -> dict[str, Any]:
        """All of it, bit for bit."""
        return {
            "rows": self._rows,
            "head": self._head,
            "values": self._tree[len(self._tree) // 2 :][: self.slots * self.length],
            "highest": self._highest,
            "stored": self.stored,
            "due": self._marks,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises ValueError if that was of another size, or is damaged."""
        rows, head, values, due = (state[name] for name in ("rows", "head", "values", "due"))
        for name, saved, own in (
            ("rows", rows, self._rows.shape),
            ("head", head, self._head.shape),
            ("values", values, (self.slots * self.length,)),
            ("due", due, self._marks.shape),
        ):
            if saved.shape != own:
                raise ValueError(f"a buffer's {name} were {saved.shape}, and are {own} now")
        if not np.all(np.isfinite(values) & (values >= 0.0)) or np.any(head < 0):
            raise ValueError("a buffer with values or a head below 0, or not finite")
        if np.any(rows[..., KIND] > TRUNCATED):
            raise ValueError("a buffer with rows of an unknown kind")
        self._rows[:], self._head[:], self._marks[:] = rows, head, due
        self._tree[:] = 0.0
        # Sums are computed anew, so that no draw is led where there is no row.
        self._live = set_leaves(self._tree, np.flatnonzero(values), values[values > 0.0])
        self._highest, self.stored = state["highest"], state["stored"]


SLOT = 1 << 40  # rows that no slot will ever have: one number names a slot and a row


def _nan(x: ndarray) -> bool:
    return x.dtype.kind == "f"


@njit(cache=True, nogil=True)
def _draw(
    tree: ndarray,
    u: ndarray,
    beta: float,
    rows: ndarray,
    head: ndarray,
    acted: int,
    begin: int,
    words: int,
    stack: int,
    n: int,
    gamma: float,
) -> tuple[Any, ...]:
    """What ``_transitions`` says of leaves drawn by ``u [parts, k]``, with equation 1's weights."""
    parts, k = u.shape
    leaves = drawn_leaves(tree, u)
    found = _transitions(leaves, rows, head, acted, begin, words, stack, n, gamma)
    if beta > 0.0:
        importance(tree, leaves, parts, k, beta, found[1][2])
    return found


@njit(cache=True, nogil=True)
def importance(
    tree: ndarray, leaves: ndarray, parts: int, k: int, beta: float, weight: ndarray
) -> None:
    """Equation 1's weights, (N P)^-beta over the largest of each of ``parts`` batches of k."""
    size = len(tree) // 2
    for part in range(parts):
        least = np.inf  # of the priorities: it has the largest weight
        for j in range(part * k, part * k + k):
            least = min(least, tree[size + leaves[j]])
        for j in range(part * k, part * k + k):
            weight[j] = (tree[size + leaves[j]] / least) ** -beta


@njit(cache=True, nogil=True)
def _transitions(
    leaves: ndarray,
    rows: ndarray,
    head: ndarray,
    acted: int,
    begin: int,
    words: int,
    stack: int,
    n: int,
    gamma: float,
) -> tuple[Any, ...]:
    """Rows for leaves: the leaves, their successors and their numbers [3, N]; return, product of
    discounts, and a weight and a mask of 1 [4, N]; action [N, acted]; what ``gather`` finds of the
    leaves and of their successors; their mean age.

    A window ends with its episode: the product is 0 where the task ended, gamma^m where a time
    limit cut it after m steps. One that reaches the newest row is shorter, too.
    """
    length, count, ages = rows.shape[1], len(leaves), 0
    flat = rows.reshape(-1, rows.shape[2])
    rewards = flat.view(np.float32)
    where, numbers = np.empty((3, count), np.int64), np.ones((4, count), np.float32)
    for j in range(count):
        s = leaves[j] // length
        i, end, newest = leaves[j], (s + 1) * length, s * length + head[s] % length
        age = (newest - 1 - i) % length
        ages += age
        where[0, j], where[2, j] = i, s * SLOT + head[s] - 1 - age
        total, discount = 0.0, 1.0
        for _ in range(n):
            what = flat[i, KIND]
            total += discount * rewards[i, REWARD]
            discount *= gamma
            i += 1
            if i == end:
                i -= length
            if what == TERMINATED:
                discount = 0.0
            if what != STEP or i == newest:
                break
        where[1, j], numbers[0, j], numbers[1, j] = i, total, discount
    action = gather(rows, where[0], ACTION, acted, 1)
    now = gather(rows, where[0], begin, words, stack)
    then = gather(rows, where[1], begin, words, stack)
    return where, numbers, action, now, then, ages / max(count, 1)


def _wanted(terminated: ndarray, over: ndarray, valid: ndarray) -> int:
    """How many of a slot's rows to store, [T] each.

    Those behind its last end that are not valid would only take room; but the first of them is what
    followed, if a time limit cut the episode.
    """
    last = int(np.flatnonzero(over)[-1]) if over.any() else len(valid) - 1
    return last + 1 if terminated[last] and not valid[last + 1 :].any() else len(valid)


@njit(cache=True, nogil=True)
def gather(rows: ndarray, leaves: ndarray, begin: int, words: int, stack: int) -> ndarray:
    """The words of rows from ``begin`` on, with their stacks joined: [N, stack words]."""
    length, flat = rows.shape[1], rows.reshape(-1, rows.shape[2])
    out = np.empty((len(leaves), stack * words), np.uint32)
    for j in range(len(leaves)):
        begun = leaves[j] - leaves[j] % length if stack > 1 else 0  # the slot's first row
        for back in range(stack):
            i = leaves[j] + back + 1 - stack
            if i < begun:
                i += length
            row, to = flat[i, begin : begin + words], out[j, back * words : (back + 1) * words]
            for w in range(words):
                to[w] = row[w]
    return out


@njit(cache=True, nogil=True)
def _prioritise(
    tree: ndarray,
    head: ndarray,
    length: int,
    reach: int,
    rows: ndarray,
    priority: ndarray,
    alpha: float,
    highest: float,
) -> tuple[int, int, float]:
    """Set what is still there; how many rows were gone, and the highest value so far."""
    kept, size = 0, len(tree) // 2
    leaves, values = np.empty(len(rows), np.int64), np.empty(len(rows))
    for j in range(len(rows)):
        s = rows[j] // SLOT
        row = rows[j] - s * SLOT
        leaf = s * length + row % length
        # Overwritten, or, in a buffer that was restored meanwhile, no env step.
        if row <= head[s] - length + reach - 1 or tree[size + leaf] == 0.0:
            continue
        leaves[kept], values[kept] = leaf, float(priority[j]) ** alpha
        highest = max(highest, values[kept])
        kept += 1
    more = set_leaves(tree, leaves[:kept], values[:kept])
    return len(rows) - kept, more, highest
