"""A replay buffer for each of several policies, in the process that fills and draws them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shoal.algorithms.by_policy import split
from shoal.replay.counts import Replayed
from shoal.replay.local import LocalReplay
from shoal.trajectory import Batch, ndarray

if TYPE_CHECKING:
    from shoal.replay.buffer import Buffer, Drawn


class PolicyDrawn(NamedTuple):
    """What is drawn together: batches by policy, of those whose gradient steps are due."""

    parts: dict[str, Drawn]

    @property
    def batch(self) -> Batch:
        """Batches by policy."""
        return {name: drawn.batch for name, drawn in self.parts.items()}


class PolicyBuffers:
    """The buffers of all policies as one, for what saves them and takes changes back."""

    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        self._buffers = dict(buffers)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    @property
    def changes(self) -> dict[str, int]:
        """See ``Buffer.changes``, by policy."""
        return {name: buffer.changes for name, buffer in self._buffers.items()}

    def forget(self, changes: Mapping[str, int]) -> None:
        """See ``Buffer.forget``."""
        for name, buffer in self._buffers.items():
            buffer.forget(changes[name])

    def rollback(self, changes: Mapping[str, int]) -> None:
        """See ``Buffer.rollback``."""
        for name, buffer in self._buffers.items():
            buffer.rollback(changes[name])

    def get_state(self) -> dict[str, Any]:
        """Their states by policy."""
        return {name: buffer.get_state() for name, buffer in self._buffers.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``get_state``."""
        for name, buffer in self._buffers.items():
            buffer.set_state(state[name])


class PolicyReplay:
    """``LocalReplay`` of each policy: each learns in the declared ratio to its own agents' steps.

    ``counts`` are those of the run; each policy's are in ``replays[name].counts``.
    """

    def __init__(self, replays: Mapping[str, LocalReplay], counts: Replayed) -> None:
        self.replays, self.counts = dict(replays), counts
        self.buffer = PolicyBuffers({name: own.buffer for name, own in replays.items()})

    def due(self, offline: int = 0) -> dict[str, int]:
        """Gradient steps to take in one call before more is stored, of those that have any."""
        found = {name: own.due(offline) for name, own in self.replays.items()}
        return {name: steps for name, steps in found.items() if steps}

    def store(self, worker: int, batch: Batch) -> None:
        """Store a worker's fragment of every policy."""
        for name, own in self.replays.items():
            own.store(worker, batch[name])

    def draw(
        self, rng: np.random.Generator, steps: Mapping[str, int], beta: float, ratio: float = 0.0
    ) -> PolicyDrawn:
        """Transitions for each policy's gradient steps; see ``LocalReplay.draw``."""
        drawn = {name: self.replays[name].draw(rng, n, beta, ratio) for name, n in steps.items()}
        return PolicyDrawn(drawn)

    def minibatches(self, drawn: PolicyDrawn) -> dict[str, ndarray]:
        """Rows of each gradient step, by policy."""
        return {name: self.replays[name].minibatches(own) for name, own in drawn.parts.items()}

    def trained(self, drawn: PolicyDrawn, rows: Mapping[str, ndarray]) -> int:
        """See ``LocalReplay.trained``; ``rows`` are named "policy/name"."""
        own = split(rows)
        replayed = sum(
            self.replays[name].trained(one, own.get(name, {})) for name, one in drawn.parts.items()
        )
        self.counts.replayed_steps += replayed
        return replayed

    def refill(self) -> None:
        """The buffers were lost: they are filled before anything is drawn, as at the beginning."""
        self.counts.learning_from = None
        for own in self.replays.values():
            own.refill()

    def get_counts(self) -> dict[str, dict[str, Any]]:
        """How far each policy's replay has come."""
        return {name: own.get_counts() for name, own in self.replays.items()}

    def set_counts(self, counts: Mapping[str, Mapping[str, Any]]) -> None:
        """The inverse of ``get_counts``."""
        for name, own in self.replays.items():
            own.set_counts(counts[name])
