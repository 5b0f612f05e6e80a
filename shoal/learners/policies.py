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

    Weights and metrics are named "policy/name".
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

    def gradients(
        self, batch: Batch, hyper: Mapping[str, float]
    ) -> tuple[Weights, dict[str, float], dict[str, ndarray]]:
        """See `Learner.gradients`."""
        own = split(hyper)
        found = {k: x.gradients(batch[k], own.get(k, {})) for k, x in self.learners.items()}
        values = join({k: x for k, (x, _, _) in found.items()})
        metrics = join({k: x for k, (_, x, _) in found.items()})
        return values, metrics, join({k: x for k, (_, _, x) in found.items()})

    def apply(self, gradients: Mapping[str, ndarray], hyper: Mapping[str, float]) -> float:
        """See `Learner.apply`; the norm is the largest of all."""
        own, more = split(gradients), split(hyper)
        return max(x.apply(own[k], more.get(k, {})) for k, x in self.learners.items())

    def weights(self) -> Weights:
        """All that policies act with."""
        return join({name: learner.weights() for name, learner in self.learners.items()})

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """See `Learner.set_weights`."""
        self._each(split(weights), lambda learner, own: learner.set_weights(own, version))

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

    def adopt(self, state: Mapping[str, Any]) -> None:
        """See `Learner.adopt`."""
        for name, learner in self.learners.items():
            learner.adopt(self._own(state, name))

    def _own(self, state: Mapping[str, Any], name: str) -> dict[str, Any]:
        arrays = {kind: split(state[kind]).get(name, {}) for kind in _ARRAYS}
        steps = state["steps"][name]
        return {**arrays, "version": state["version"], "gradient_steps": steps}

    def _each(
        self, parts: Mapping[str, dict[str, ndarray]], do: Callable[[Learner, Any], None]
    ) -> None:
        for name, own in parts.items():
            do(self.learners[name], own)
