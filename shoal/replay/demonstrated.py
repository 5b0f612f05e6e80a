"""Replay buffers with demonstrations beside them.

R2D3 (Paine et al. 2019, arXiv:1909.01387): each row of a batch is one of the demonstrations' with
probability ``replay.demo_ratio``, whatever the others are. Both buffers have priorities of their
own, and weights by them. Demonstrations are stored before training begins, and never overwritten;
nothing is known of what their author remembered, so that with them every window begins with the
initial memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from shoal.replay.buffer import Buffer, Drawn
from shoal.replay.sequences import SequenceBuffer
from shoal.trajectory import Batch, Obs, ndarray


class Demonstrated(Buffer):
    """A buffer of transitions with another one, of demonstrations, beside it.

    Takes what the buffer takes, and:

    Args:
        demos: a full buffer of the same layout.
        log: where its episodes come from, if it does not hold all of them at once.
    """

    def __init__(self, *args: Any, demos: Buffer, log: Log | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.demos, self._log = demos, log

    def draw(self, u: ndarray, beta: float = 0.0) -> Drawn:
        """As the buffer draws, by ``u [parts, k, 2]``: below 0, the second number makes it a
        demonstration.

        Weights are (N P)^-beta, with N and P of the row's own buffer, over the largest of a batch.
        """
        parts, k, _ = u.shape
        by, shown = np.ascontiguousarray(u[..., 0]), u[..., 1].reshape(-1) < 0.0
        theirs = self.demos.leaves(by)[shown]
        own = theirs[:0] if shown.all() else self.leaves(by)[~shown]
        drawn, demos = self.taken(own), self.demos.taken(theirs)
        batch: Batch = _merged(shown, drawn.batch, demos.batch)
        if beta > 0.0 and self.alpha:
            likelihood = self.likelihood(own), self.demos.likelihood(theirs)
            found = _merged(shown, *likelihood).reshape(parts, k)
            weight = (found / found.min(1, keepdims=True)) ** -beta
            batch["weight"] = weight.reshape(-1).astype(np.float32)
        if self._log is not None:
            self._log.read(int(np.count_nonzero(shown)))
        return Drawn(batch, _merged(shown, drawn.rows, ~demos.rows), drawn.age)

    def can_draw(self, u: ndarray) -> bool:
        return super().can_draw(u) or bool((u[..., 1] < 0.0).all())

    def add(self, *args: Any, **kwargs: Any) -> None:
        super().add(*args, **kwargs)
        self.demos.changes = self.changes

    def set_priorities(self, rows: ndarray, priority: ndarray) -> int:
        """As the buffer; a demonstration's row is below 0."""
        shown = rows < 0
        self.demos.changes = self.changes
        gone = super().set_priorities(rows[~shown], priority[~shown])
        return gone + self.demos.set_priorities(~rows[shown], priority[shown])

    def forget(self, changes: int) -> None:
        super().forget(changes)
        self.demos.forget(changes)

    def rollback(self, changes: int) -> None:
        super().rollback(changes)
        self.demos.rollback(changes)
        self.demos.changes = self.changes

    def get_state(self) -> dict[str, Any]:
        """All of it; of the demonstrations, which are read again, how they are drawn."""
        demos = self.demos.get_state()
        return {**super().get_state(), "demos": {k: demos[k] for k in ("values", "highest")}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self.demos.set_state({**self.demos.get_state(), **state["demos"]})


class DemonstratedSequences(Demonstrated, SequenceBuffer):
    """The same of sequences."""


class Log:
    """Episodes that a buffer of one slot is filled with; if it cannot hold them all, in turn.

    As QT-Opt's log replay (Kalashnikov et al. 2018, arXiv:1806.10293, section 4.3): for every row
    that is drawn an env step is read, and after the last episode comes the first again.

    Args:
        buffer: of one slot.
        episodes: batches of one slot, as ``Demos`` gives them.
        memory: with which an episode begins, {leaf: [*shape]}: it stands in every row.
        admit: raises for an episode that cannot be learned from.
        first: the episode to begin with.
    """

    def __init__(
        self,
        buffer: Buffer,
        episodes: Iterable[Batch],
        memory: Obs,
        admit: Callable[[Batch], None],
        first: int = 0,
    ) -> None:
        self._buffer, self._episodes, self._memory = buffer, episodes, memory
        self._admit, self._next, self._first = admit, iter(episodes), first
        self.number = 0  # episodes read so far
        self._due = 0  # env steps to read

    def fill(self, steps: int | None) -> None:
        """Read that many env steps, or each episode once."""
        for _ in range(self._first):
            next(self._next)
        if steps is not None:
            self.read(steps)
            return
        for episode in self._next:
            self._store(episode)

    def read(self, steps: int) -> None:
        """Read on by that many env steps, in whole episodes."""
        self._due += steps
        while self._due > 0:
            episode = next(self._next, None)
            if episode is None:
                self._next = iter(self._episodes)
                continue
            self._store(episode)
            self._due -= len(episode["reward"])

    def _store(self, episode: Batch) -> None:
        self._admit(episode)
        rows = len(episode["reward"]) + 1
        initial = {k: np.broadcast_to(x, (rows, 1, *x.shape)) for k, x in self._memory.items()}
        # Numbers with gaps: no episode goes on from the one before, even if it looks so.
        obs, fragment = {**episode["obs"], **initial}, np.array([self.number, 0])
        final = {path: x[:0, 0] for path, x in obs.items()}
        self._buffer.store(0, {**episode, "obs": obs, "final": final, "fragment": fragment})
        self.number += 1


def _merged(shown: ndarray, own: Any, demos: Any) -> Any:
    """Rows of two batches in one order: those where ``shown`` (bool [N]) are the second's."""
    if isinstance(own, dict):
        return {name: _merged(shown, x, demos[name]) for name, x in own.items()}
    out = np.empty((len(shown), *own.shape[1:]), own.dtype)
    out[~shown], out[shown] = own, demos
    return out
