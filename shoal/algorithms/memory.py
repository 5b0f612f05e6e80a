"""What a policy remembers from step to step: leaves that travel with the observation.

``Algorithm.memory`` declares it, ``act`` reads it among its observations and returns the next one
among its records. The pre-step rule holds: a row's memory is the one that was acted with, and it is
the initial one where an episode begins.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shoal.algorithms.base import Algorithm, Model
from shoal.spaces.base import MEMORY
from shoal.trajectory import Obs, ndarray


class Memory:
    """How an algorithm's memory begins and goes on, of B slots."""

    def __init__(self, algorithm: Algorithm, model: Model) -> None:
        self.initial: Obs = {MEMORY + k: np.asarray(x) for k, x in algorithm.memory(model).items()}

    def __bool__(self) -> bool:
        return bool(self.initial)

    def begin(self, axes: tuple[int, ...]) -> Obs:
        """The memory with which episodes begin: {leaf: [*axes, *shape]}."""
        return {path: np.broadcast_to(x, (*axes, *x.shape)) for path, x in self.initial.items()}

    def split(self, records: Mapping[str, ndarray]) -> tuple[Obs, dict[str, ndarray]]:
        """The next memory, and what else ``act`` recorded.

        Raises ValueError if a part of the memory is missing or has another shape or dtype.
        """
        rest = dict(records)
        found = {path: np.asarray(rest.pop(path, None)) for path in self.initial}
        for path, x in found.items():
            like = self.initial[path]
            if x.dtype != like.dtype or x.shape[x.ndim - like.ndim :] != like.shape:
                raise ValueError(
                    f"act must record {path!r} as {like.dtype} {[..., *like.shape]}: it returned "
                    f"{x.dtype} {list(x.shape)}"
                )
        return found, rest

    def reset(self, memory: Obs, slots: ndarray) -> Obs:
        """The memory with that of some slots (bool [B]) as an episode begins with it."""
        if not slots.any():
            return memory
        out = {}
        for path, x in memory.items():
            out[path] = x.copy()
            out[path][slots] = self.initial[path]
        return out
