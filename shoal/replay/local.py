"""A replay buffer that is trained on in the process that fills it, in the declared ratio.

A run whose plan samples and learns in turn has one, and so has each worker that learns: Gorila's
bundle of an actor, a learner and a replay memory (Nair et al. 2015, arXiv:1507.04296, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.config.replay import Replay
from shoal.replay.counts import Replayed
from shoal.replay.settings import make, most_steps, trained_steps
from shoal.trajectory import Batch, Episodes, ndarray

if TYPE_CHECKING:
    from shoal.replay.buffer import Drawn


class LocalReplay:
    """A buffer, the gradient steps that are due, and their batches.

    ``counts`` are read and kept up to date: they are part of their owner's state.
    """

    def __init__(
        self,
        settings: Replay,
        algorithm: Any,
        model: Any,
        stacks: Mapping[str, int],
        slots: int,
        counts: Replayed,
        demos: Episodes = (),
    ) -> None:
        self.settings, self._algorithm, self._model = settings, algorithm, model
        self.counts = counts
        self.buffer = make(settings, algorithm, model, stacks, slots, demos)
        self._most = most_steps(settings, algorithm, model, stacks)
        self._each = trained_steps(settings, algorithm, model)  # env steps of one gradient step

    def due(self, offline: int = 0) -> int:
        """Gradient steps to take in one call before more is stored.

        ``offline`` of them, on demonstrations alone, come first. What was trained on follows what
        was stored since learning began, in the declared ratio, and is never more than one batch
        behind when something is sampled.
        """
        if offline:
            return self.settings.at_once(offline, self._most)
        counts = self.counts
        stored, replayed = self.buffer.stored, counts.replayed_steps
        due = self.settings.due(stored, counts.learning_from, replayed, self._each)
        return self.settings.at_once(due, self._most)

    def store(self, worker: int, batch: Batch) -> None:
        """Store a worker's fragment."""
        self.buffer.store(worker, batch)
        if self.counts.learning_from is None and self.buffer.mass > 0.0:
            counts = self.counts
            counts.learning_from = self.settings.begin(self.buffer.stored, counts.replayed_steps)

    def draw(self, rng: np.random.Generator, steps: int, beta: float, ratio: float = 0.0) -> Drawn:
        """Transitions for ``steps`` gradient steps, with their noise.

        Each is a demonstration with probability ``ratio``.
        """
        drawn = self.buffer.draw(self.settings.uniforms(rng, steps, ratio), beta)
        return with_noise(drawn, self.settings, self._algorithm, self._model, rng)

    def trained(self, drawn: Drawn, rows: Mapping[str, ndarray]) -> int:
        """Count gradient steps on what was drawn, and take the new priorities of its rows.

        Returns the env steps that were replayed.
        """
        replayed = len(drawn.rows) // self.settings.batch_size * self._each
        self.counts.replayed_steps += replayed
        if self.settings.alpha:
            self.buffer.set_priorities(drawn.rows, rows["priority"])
        return replayed

    def minibatches(self, drawn: Drawn) -> ndarray:
        """Rows of each gradient step on what was drawn."""
        return minibatches(drawn, self.settings)

    def refill(self) -> None:
        """The buffer was lost: it is filled before anything is drawn, as at the beginning."""
        self.counts.learning_from = None

    def get_counts(self) -> dict[str, Any]:
        """How far replay has come."""
        return {
            "replayed_steps": self.counts.replayed_steps,
            "learning_from": self.counts.learning_from,
        }

    def set_counts(self, counts: Mapping[str, Any]) -> None:
        """The inverse of ``get_counts``."""
        self.counts.replayed_steps = counts["replayed_steps"]
        self.counts.learning_from = counts["learning_from"]


def with_noise(
    drawn: Drawn, settings: Replay, algorithm: Any, model: Any, rng: np.random.Generator
) -> Drawn:
    """What was drawn, with the noise of its gradient steps in the batch's entry "step"."""
    size = settings.batch_size
    drawn.batch["step"] = algorithm.draw(model, rng, len(drawn.rows) // size, size)
    return drawn


def minibatches(drawn: Drawn, settings: Replay) -> ndarray:
    """Rows of each gradient step on what was drawn, int32 [steps, batch_size]."""
    return np.arange(len(drawn.rows), dtype=np.int32).reshape(-1, settings.batch_size)
