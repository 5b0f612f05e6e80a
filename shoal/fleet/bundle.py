"""What a worker remembers for itself, where it learns from that: Gorila's bundle.

Nair et al. 2015 (arXiv:1507.04296), section 4: an actor, a learner and a replay memory together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shoal.algorithms.base import Model
from shoal.config.config import Config
from shoal.learners.base import STEP
from shoal.replay.buffer import Drawn
from shoal.replay.settings import make
from shoal.trajectory import Batch, ndarray


class Bundle:
    """A worker's share of the run's memory, gone through in the declared ratio."""

    def __init__(self, config: Config, model: Model, stacks: Mapping[str, int], slots: int) -> None:
        self._settings = config.replay.each(max(config.rollout.workers, 1))
        self._algorithm, self._model = config.algorithm, model
        gamma = config.algorithm.gamma
        self._buffer = make(
            self._settings, model.spaces, stacks, slots, config.algorithm.n_step, gamma
        )
        self._learning_from: float | None = None
        self._replayed = 0

    @property
    def due(self) -> int:
        """Gradients that are due before the next fragment."""
        return self._settings.due(self._buffer.stored, self._learning_from, self._replayed)

    def store(self, batch: Batch) -> None:
        """Remember a fragment."""
        self._buffer.store(0, batch)
        if self._learning_from is None:
            self._learning_from = self._settings.begin(self._buffer.stored, self._replayed)

    def draw(self, rng: np.random.Generator, beta: float) -> tuple[Drawn, Batch]:
        """A batch to differentiate the loss on."""
        size = self._settings.batch_size
        drawn = self._buffer.draw(rng.random((1, size)), beta)
        noise = self._algorithm.draw(self._model, rng, 1, size)
        return drawn, {**drawn.batch, STEP: {name: x[0] for name, x in noise.items()}}

    def learned(self, drawn: Drawn, rows: Mapping[str, ndarray]) -> None:
        """Count a gradient, and note what its rows are to be drawn again by."""
        self._replayed += len(drawn.rows)
        if self._settings.alpha:
            self._buffer.set_priorities(drawn.rows, rows["priority"])
