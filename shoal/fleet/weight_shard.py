"""A shard of a parameter server: a slice of the weights, and the optimiser that moves it.

Nair et al. 2015 (arXiv:1507.04296), section 4: shards are independent of each other; each applies
the gradients that reach it at once, unless they are too old. Optimisers work entry by entry, so
that K shards given the same gradients hold what one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.fleet.parcel import Parcel
from shoal.ops.optimisers import Optimiser
from shoal.ops.packing import Packing
from shoal.trajectory import ndarray


@dataclass
class WeightSlice:
    """A slice of weights, or of a gradient with respect to them."""

    vector: Parcel  # {group of the optimiser's: float32 [slice]}
    version: int  # of the shard's slice
    restart: int  # of the shard: versions of one that died mean nothing to the next


class WeightShard:
    """Holds a slice; ``pull`` gives it out, ``push`` moves it along a gradient."""

    def __init__(
        self,
        optimiser: Optimiser,
        params: Mapping[str, ndarray],
        slots: Mapping[str, ndarray],
        max_lag: int,
        restart: int = 0,
    ) -> None:
        self._optimiser, self._max_lag, self._restart = optimiser, max_lag, restart
        self._params, self._slots = dict(params), dict(slots)
        self.version = 0  # updates so far

    def pull(self) -> WeightSlice:
        """The slice as it is now."""
        return WeightSlice(Parcel(self._params), self.version, self._restart)

    def push(self, piece: WeightSlice, lr: float) -> bool:
        """Take a gradient step, unless the gradient is too old; whether it was taken."""
        if piece.restart != self._restart or self.version - piece.version > self._max_lag:
            return False
        self._params, self._slots, _ = self._optimiser.update(
            self._params, piece.vector.open(), self._slots, np.float32(lr)
        )
        self.version += 1
        return True

    def get_state(self) -> tuple[dict[str, ndarray], dict[str, ndarray]]:
        """The slice and its optimiser's state."""
        return self._params, self._slots

    def close(self) -> None:
        """Nothing is held outside of memory."""


def slices(vectors: Mapping[str, ndarray], shards: int) -> list[dict[str, ndarray]]:
    """Each shard's slice of every vector; as equal as can be. Scalars go to every shard."""

    def part(x: ndarray, k: int) -> ndarray:
        return x[len(x) * k // shards : len(x) * (k + 1) // shards] if x.ndim else x

    return [{name: part(x, k) for name, x in vectors.items()} for k in range(shards)]


def whole(parts: Sequence[Mapping[str, ndarray]]) -> dict[str, ndarray]:
    """Back from ``slices``."""
    return {
        name: np.concatenate([part[name] for part in parts]) if x.ndim else x
        for name, x in parts[0].items()
    }


def cut(
    optimiser: Optimiser, state: Mapping[str, Any], index: int, shards: int
) -> tuple[dict[str, ndarray], dict[str, ndarray]]:
    """A learner's parameters and optimiser state, packed: a shard's slice."""
    packing = Packing(optimiser, state["params"])
    packed = packing.pack(state["params"]), packing.pack_slots(state["optimiser"])
    params, slots = (slices(vectors, shards)[index] for vectors in packed)
    return params, slots


def joined(
    optimiser: Optimiser,
    state: Mapping[str, Any],
    parts: Sequence[tuple[Mapping[str, ndarray], Mapping[str, ndarray]]],
    updates: int,
) -> dict[str, Any]:
    """A learner's state with what the shards hold, ``updates`` gradients later."""
    packing = Packing(optimiser, state["params"])
    return {
        **state,
        "params": packing.unpack(whole([params for params, _ in parts])),
        "optimiser": packing.unpack_slots(whole([slots for _, slots in parts])),
        "version": state["version"] + 1,
        "gradient_steps": state["gradient_steps"] + updates,
    }


@dataclass
class Outliers:
    """Refuses gradients whose loss is far above what losses were so far (section 4.2).

    Only what was let through counts, else the outliers themselves would widen the gate. But what is
    refused ``warmup`` times in a row is no outlier: losses have changed, as after a copy to the
    target network, and are learned anew.
    """

    std: float | None  # standard deviations of the absolute loss above its mean; None: never
    warmup: int  # losses before any is refused
    _count: int = field(default=0, init=False)
    _mean: float = field(default=0.0, init=False)
    _m2: float = field(default=0.0, init=False)
    _row: int = field(default=0, init=False)  # refused, one after the other

    def reject(self, loss: float) -> bool:
        """Whether this loss is an outlier; if not, it counts from now on."""
        size = abs(loss)
        if self.std is not None and self._count >= self.warmup:
            spread = math.sqrt(self._m2 / (self._count - 1))
            if size > self._mean + self.std * spread:
                self._row += 1
                if self._row < self.warmup:
                    return True
                self._count, self._mean, self._m2 = 0, 0.0, 0.0
        self._row = 0
        self._count += 1  # Welford's update
        delta = size - self._mean
        self._mean += delta / self._count
        self._m2 += delta * (size - self._mean)
        return False
