"""A learner for each policy, as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shoal.algorithms.by_policy import join, split
from shoal.learners.base import Learner, Reduce, Weights
from shoal.trajectory import Batch, ndarray

_ARRAYS = "params", "optimiser", "aux", "targets"


class PolicyLearners:
    """Batches, gradient steps and weights by policy; one version for all.

    Weights and metrics are named "policy/name". Nobody applies gradients from elsewhere here: the
    plans that do are of one policy.
    """

    def __init__(self, learners: Mapping[str, Learner]) -> None:
        self.learners = dict(learners)

    @property
    def version(self) -> int:
        """Version of the weights; every update adds one."""
        return next(iter(self.learners.values())).version

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
        now, own = self.version, split(hyper)
        found: dict[str, dict[str, float]] = {}
        rows: dict[str, dict[str, ndarray]] = {}
        try:
            for name, learner in self.learners.items():
                one = batch[name], indices[name], own.get(name, {}), reduce
                found[name], rows[name] = learner.update(*one)
        except BaseException:
            self.rollback(now)
            raise
        steps = sum(metrics.pop("gradient_steps") for metrics in found.values())
        return {**join(found), "gradient_steps": steps}, join(rows)

    def weights(self) -> Weights:
        """All that policies act with."""
        return join({name: learner.weights() for name, learner in self.learners.items()})

    def set_aux(self, aux: Mapping[str, ndarray]) -> None:
        """See `Learner.set_aux`."""
        self._each(split(aux), lambda learner, own: learner.set_aux(own))

    def rollback(self, version: int) -> None:
        """See `Learner.rollback`."""
        for learner in self.learners.values():
            learner.rollback(version)

    def get_state(self) -> dict[str, Any]:
        """See `Learner.get_state`."""
        states = {name: learner.get_state() for name, learner in self.learners.items()}
        arrays = {kind: join({k: x[kind] for k, x in states.items()}) for kind in _ARRAYS}
        steps = {name: state["gradient_steps"] for name, state in states.items()}
        return {**arrays, "version": self.version, "steps": steps}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See `Learner.set_state`."""
        for name, learner in self.learners.items():
            learner.set_state(self._own(state, name))

    def _own(self, state: Mapping[str, Any], name: str) -> dict[str, Any]:
        arrays = {kind: split(state[kind]).get(name, {}) for kind in _ARRAYS}
        steps = state["steps"][name]
        return {**arrays, "version": state["version"], "gradient_steps": steps}

    def _each(
        self, parts: Mapping[str, dict[str, ndarray]], do: Callable[[Learner, Any], None]
    ) -> None:
        for name, own in parts.items():
            do(self.learners[name], own)
