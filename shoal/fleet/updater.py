"""A Bellman updater: labels transitions with lagged networks, apart from the learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from shoal.algorithms.base import Model
from shoal.fleet.parcel import Lost, Parcel
from shoal.learners.base import STEP
from shoal.trajectory import Batch, ndarray

SPENT = "next_obs", "reward", "discount", STEP  # what nobody needs beside a label


@dataclass
class Labelled:
    """What came of one call."""

    number: int  # of the call
    version: int  # of the lagged networks that made the labels
    batch: Batch | None  # rows with their labels; None: they were lost before they came here
    busy: float  # seconds
    idle: float  # seconds since the call before


class Updater:
    """Labels by the algorithm's ``label``, in NumPy: the same function as the learner's."""

    def __init__(self, algorithm: Any, model: Model) -> None:
        self._algorithm, self._model = algorithm, model
        self._lagged: Mapping[str, ndarray] = {}
        self._version = 0
        self._since = perf_counter()

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """Label with these networks, a learner's ``lagged``, from the next call on."""
        self._lagged, self._version = weights, version

    def label(self, number: int, parcel: Parcel, step: Mapping[str, ndarray]) -> Labelled:
        """Rows without what followed them, and with their labels instead.

        Args:
            number: of this call.
            parcel: a batch as a replay shard draws it.
            step: the randomness of its gradient steps.
        """
        start = perf_counter()
        idle = start - self._since
        try:
            rows = {**parcel.open(), STEP: dict(step)}
        except Lost:
            rows = {}
        batch = None
        if rows:
            found = self._algorithm.label(self._model, self._lagged, rows)
            batch = {k: x for k, x in found.items() if k not in SPENT}
        self._since = perf_counter()
        return Labelled(number, self._version, batch, self._since - start, idle)

    def close(self) -> None:
        """Nothing is held outside of memory."""
