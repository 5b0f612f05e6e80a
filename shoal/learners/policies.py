"""A learner for each policy, as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from shoal.algorithms.by_policy import join, split
from shoal.learners.base import Learner, Reduce, Weights
from shoal.trajectory import Batch, ndarray

_ARRAYS = "params", "optimiser", "aux", "targets"


class PolicyLearners:
    """Batches, gradient steps and weights by policy; one version for all.

    Weights and metrics are named "policy/name". An update is of the policies in its batch: those
    that replay take their gradient steps when these are due.
    """

    def __init__(self, learners: Mapping[str, Learner]) -> None:
        self.learners = dict(learners)
        self._version = 0
        self._past: dict[str, int] = self._versions()  # of each, before the newest update

    def _versions(self) -> dict[str, int]:
        return {name: learner.version for name, learner in self.learners.items()}

    @property
    def version(self) -> int:
        """Version of the weights; every update adds one."""
        return self._version

    @property
    def gradient_steps(self) -> int:
        """Of all policies together."""
        return sum(learner.gradient_steps for learner in self.learners.values())

    def update(
        self,
        batch: Batch,
        indices: Any,
        hyper: Mapping[str, float],
        reduce: Reduce | None = None,
    ) -> tuple[dict[str, float], dict[str, ndarray]]:
        """See `Learner.update`. If one fails, none is changed."""
        before, own = self._versions(), split(hyper)
        found: dict[str, dict[str, float]] = {}
        rows: dict[str, dict[str, ndarray]] = {}
        try:
            for name, part in batch.items():
                one = part, indices[name], own.get(name, {}), reduce
                found[name], rows[name] = self.learners[name].update(*one)
        except BaseException:
            self._return(before)
            raise
        self._past, self._version = before, self._version + 1
        steps = sum(metrics.pop("gradient_steps") for metrics in found.values())
        return {**join(found), "gradient_steps": steps}, join(rows)

    def gradients(
        self, batch: Batch, hyper: Mapping[str, float]
    ) -> tuple[Weights, dict[str, float], dict[str, ndarray]]:
        """See `Learner.gradients`."""
        own = split(hyper)
        found = {k: self.learners[k].gradients(x, own.get(k, {})) for k, x in batch.items()}
        gradients, metrics, rows = zip(*found.values(), strict=True)
        return (
            join(dict(zip(found, gradients, strict=True))),
            join(dict(zip(found, metrics, strict=True))),
            join(dict(zip(found, rows, strict=True))),
        )

    def apply(self, gradients: Mapping[str, ndarray], hyper: Mapping[str, float]) -> float:
        """See `Learner.apply`; the norm is of all of them together. If one fails, none is moved."""
        before, own = self._versions(), split(hyper)
        try:
            norms = [
                self.learners[name].apply(one, own.get(name, {}))
                for name, one in split(gradients).items()
            ]
        except BaseException:
            self._return(before)
            raise
        self._past, self._version = before, self._version + 1
        return math.hypot(*norms)

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """See `Learner.set_weights`."""
        self._each(split(weights), lambda learner, own: learner.set_weights(own, version))
        self._version, self._past = version, self._versions()

    def adopt(self, state: Mapping[str, Any]) -> None:
        """See `Learner.adopt`."""
        past = self._versions()
        for name, learner in self.learners.items():
            learner.adopt(self._own(state, name))
        self._version, self._past = state["version"], past

    def weights(self) -> Weights:
        """All that policies act with."""
        return join({name: learner.weights() for name, learner in self.learners.items()})

    def set_aux(self, aux: Mapping[str, ndarray]) -> None:
        """See `Learner.set_aux`."""
        self._each(split(aux), lambda learner, own: learner.set_aux(own))

    def rollback(self, version: int) -> None:
        """See `Learner.rollback`."""
        if self._version > version:
            self._return(self._past)
            self._version -= 1

    def _return(self, versions: Mapping[str, int]) -> None:
        for name, learner in self.learners.items():
            learner.rollback(versions[name])

    def get_state(self) -> dict[str, Any]:
        """See `Learner.get_state`."""
        states = {name: learner.get_state() for name, learner in self.learners.items()}
        arrays = {kind: join({k: x[kind] for k, x in states.items()}) for kind in _ARRAYS}
        steps = {name: state["gradient_steps"] for name, state in states.items()}
        own = {"versions": self._versions(), "steps": steps}
        return {**arrays, "version": self.version, **own}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See `Learner.set_state`."""
        for name, learner in self.learners.items():
            learner.set_state(self._own(state, name))
        self._version, self._past = state["version"], self._versions()

    def _own(self, state: Mapping[str, Any], name: str) -> dict[str, Any]:
        arrays = {kind: split(state[kind]).get(name, {}) for kind in _ARRAYS}
        steps, version = state["steps"][name], state["versions"][name]
        return {**arrays, "version": version, "gradient_steps": steps}

    def _each(
        self, parts: Mapping[str, dict[str, ndarray]], do: Callable[[Learner, Any], None]
    ) -> None:
        for name, own in parts.items():
            do(self.learners[name], own)
