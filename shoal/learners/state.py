"""The state of a learner, and what the JAX and the PyTorch learner share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shoal.algorithms.base import Differentiable, Metrics, Model, Params
from shoal.errors import ShoalError
from shoal.learners.base import STEP, Weights
from shoal.ops.kernels import namespace
from shoal.trajectory import Batch, ndarray, select


@dataclass(frozen=True)
class LearnerState:
    """The whole state of a learner in one immutable value, so it is never half updated."""

    params: dict[str, Any]
    optimiser: dict[str, Any]
    aux: dict[str, Any]  # inputs of act and loss that are not differentiated
    version: int = 0
    gradient_steps: int = 0
    targets: dict[str, Any] = field(default_factory=dict)  # target networks


class Learned:
    """Holds the state of a learner, returns and replaces it, and rolls an update back.

    ``what`` is learned, for messages. ``put`` turns a dict of NumPy arrays into the library's own,
    ``numpy`` turns it back.
    """

    def __init__(
        self,
        what: str,
        state: LearnerState,
        put: Callable[[Any], Any],
        numpy: Callable[[Mapping[str, Any]], Weights],
    ) -> None:
        self._put, self._numpy = put, numpy
        self.what = what
        self._now = state
        self._past = self._now  # before the newest update

    @property
    def version(self) -> int:
        return self._now.version

    @property
    def gradient_steps(self) -> int:
        return self._now.gradient_steps

    def weights(self) -> Weights:
        return self._numpy({**self._now.aux, **self._now.params})

    def set_aux(self, aux: Mapping[str, ndarray]) -> None:
        if aux:
            self._now = replace(self._now, aux={**self._now.aux, **self._put(dict(aux))})

    def adopt(self, state: Mapping[str, Any]) -> None:
        past = self._now
        self.set_state(state)
        self._past = past

    def rollback(self, version: int) -> None:
        if self.version > version:
            self._now = self._past

    def get_state(self) -> dict[str, Any]:
        now = self._now
        arrays = {
            "params": now.params,
            "optimiser": now.optimiser,
            "aux": now.aux,
            "targets": now.targets,
        }
        return {
            **{name: self._numpy(x) for name, x in arrays.items()},
            "version": now.version,
            "gradient_steps": now.gradient_steps,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        names = "params", "optimiser", "aux", "targets"
        params, optimiser, aux, targets = (self._put(state[name]) for name in names)
        version, steps = state["version"], state["gradient_steps"]
        self._now = LearnerState(params, optimiser, aux, version, steps, targets)
        self._past = self._now

    def _commit(
        self,
        params: Params,
        optimiser: Params,
        steps: int,
        *seen: float,
        targets: Params | None = None,
    ) -> None:
        """Store the result of an update. Raises ShoalError if a value of ``seen`` is not finite."""
        if not all(map(math.isfinite, seen)):
            raise ShoalError(
                f"training has diverged: the loss or its gradient is not finite in update "
                f"{self.version + 1}",
                f"{self.what}, after {self.gradient_steps} gradient steps",
                "lower algorithm.lr, or clip or normalise more: rewards or observations may be "
                "large (rollout.scale_reward, rollout.normalise_obs)",
            )
        now = self._now
        self._past = now
        version, steps = now.version + 1, now.gradient_steps + steps
        targets = now.targets if targets is None else targets
        self._now = LearnerState(params, optimiser, now.aux, version, steps, targets)


class LearnerBase(Learned):
    """A learner that differentiates, but for its array library."""

    def __init__(
        self,
        algorithm: Differentiable,
        model: Model,
        params: Mapping[str, ndarray],
        put: Callable[[Any], Any],
        numpy: Callable[[Mapping[str, Any]], Weights],
    ) -> None:
        self.algorithm, self.model = algorithm, model
        frozen = model.net.frozen
        trained = {k: x for k, x in params.items() if k not in frozen}
        buffers = {k: x for k, x in params.items() if k in frozen}
        # The optimiser's zeros are made in NumPy: in JAX each shape of them would be compiled.
        optimiser, targets = algorithm.optimiser.init(trained), algorithm.targets(trained)
        state = LearnerState(put(trained), put(optimiser), put(buffers), targets=put(targets))
        super().__init__(type(algorithm).__name__, state, put, numpy)
        self._follows = False  # whether it took weights of another learner

    def weights(self) -> Weights:
        now = self._now
        return self._numpy({**now.aux, **now.params, **self.algorithm.beside(now.targets)})

    def lagged(self) -> Weights:
        now = self._now
        return self._numpy({**now.aux, **now.targets})

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        now = self._now
        arrays = self._put(dict(weights))
        params = {name: arrays.pop(name) for name in now.params}
        targets = now.targets
        if targets and self._follows:
            targets = self._followed(params, range(now.version + 1, version + 1))
        elif targets:  # the first weights: targets begin as a copy of them
            targets = self._put(self.algorithm.targets(self._numpy(params)))
        self._follows = True
        self._past = self._now = replace(
            now, params=params, aux=arrays, version=version, targets=targets
        )

    def _followed(self, params: Params, steps: range) -> Params:
        """The targets after these gradient steps; ``params`` are those of the last step."""
        targets = self._now.targets
        for step in steps if targets else ():
            targets = self._follow(params, targets, np.int32(step))
        return targets

    def _follow(self, params: Params, targets: Params, step: Any) -> Params:
        return self.algorithm.after_step(params, targets, step)


def minibatch(batch: Batch, index: Any) -> Batch:
    """The rows of one gradient step; where the index is -1 (no row) the mask becomes 0."""
    if index is None:
        return batch
    rows = select({k: x for k, x in batch.items() if k != STEP}, index)
    mask = rows["mask"]
    xp = namespace(mask)
    rows["mask"] = mask * xp.reshape(index >= 0, (-1,) + (1,) * (mask.ndim - 1))
    return rows


def shareable(metrics: Metrics) -> Params:
    """Metrics that learners average if they update together: scalars, and ``stop`` as 0 or 1."""
    return metrics.scalars if metrics.stop is None else {**metrics.scalars, "stop": metrics.stop}
