"""The contract of a learner: who differentiates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shoal.trajectory import Batch, ndarray

STEP = "step"  # key of a batch whose entries belong to gradient steps, not to rows
Weights = dict[str, ndarray]
Reduce = Callable[[ndarray], ndarray]  # a float32 vector -> its sum over all learners


class Versioned(Protocol):
    """Weights that carry a version, and the state behind them: what every learner has."""

    @property
    def version(self) -> int:
        """Version of the weights; every update adds one."""

    @property
    def gradient_steps(self) -> int:
        """Optimiser steps taken so far."""

    def weights(self) -> Weights:
        """What a policy acts with: parameters and normalisation, as NumPy arrays."""

    def set_aux(self, aux: Mapping[str, ndarray]) -> None:
        """Add or replace arrays that act and loss see but that are not differentiated."""

    def rollback(self, version: int) -> None:
        """Undo the newest update if its version is above this one: it was interrupted."""

    def get_state(self) -> dict[str, Any]:
        """Everything that the next update depends on: a tree of NumPy arrays and numbers."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that ``get_state`` returned."""


class Learner(Versioned, Protocol):
    """Holds the parameters and the optimiser's state, and moves them along gradients of a loss."""

    def update(
        self,
        batch: Batch,
        indices: ndarray | None,
        hyper: Mapping[str, float],
        reduce: Reduce | None = None,
    ) -> tuple[dict[str, float], dict[str, ndarray]]:
        """Take ``len(indices)`` gradient steps, step i on the rows ``batch[indices[i]]``.

        ``indices`` is int32 [steps, size], -1 being no row; None is one step on the whole batch.
        Entries of the dict ``batch["step"]`` are [steps, ...], one for each gradient step.
        ``reduce`` sums a float32 vector over several learners that update together, each on its own
        rows: every step then equals that of one learner on all rows. If it raises, the learner is
        unchanged.

        Returns two dicts. The first holds the mean of each metric over the steps taken,
        ``grad_norm`` (before clipping) and ``gradient_steps`` taken. The second holds the metrics
        of this learner's own rows: [steps * size], in the order of the gradient steps.
        """

    def gradients(
        self, batch: Batch, hyper: Mapping[str, float]
    ) -> tuple[Weights, dict[str, float], dict[str, ndarray]]:
        """Gradients of the loss on the whole batch, its metrics, and those of each row.

        Entries of the dict ``batch["step"]`` are this one step's.
        """

    def apply(self, gradients: Mapping[str, ndarray], hyper: Mapping[str, float]) -> float:
        """One optimiser step with gradients from anywhere; returns their norm before clipping."""

    def lagged(self) -> Weights:
        """What the labels of transitions are made from: targets and normalisation."""

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """Replace the weights by another learner's; the optimiser's state stays.

        Targets follow them as if each version had been a gradient step of this learner's.
        """

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Replace the state by another learner's; counts as an update that can be rolled back."""
