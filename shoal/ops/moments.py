"""Mean and variance of all that was ever seen, merged exactly across workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shoal.ops.kernels import ndarray


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations from it, in float64.

    Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance": parts are merged
    in any order and grouping, and give what one pass over all the data gives.
    """

    count: float
    mean: ndarray
    m2: ndarray

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> Moments:
        """Of no data."""
        return cls(0.0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, x: ndarray) -> Moments:
        """Moments of the rows of ``x [N, ...]``, any real dtype, N >= 0."""
        if len(x) == 0:
            return cls.zero(x.shape[1:])
        mean = np.asarray(np.mean(x, axis=0, dtype=np.float64))
        return cls(float(len(x)), mean, np.sum((x - mean) ** 2, axis=0))

    def merge(self, other: Moments) -> Moments:
        """Of both data together. Raises ValueError where their shapes differ."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of shapes {self.mean.shape} and {other.mean.shape}")
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        share = other.count / count
        m2 = self.m2 + other.m2 + delta * delta * (self.count * share)
        return Moments(count, self.mean + delta * share, m2)

    @property
    def var(self) -> ndarray:
        """Population variance; 1 where there is no data, so that normalising leaves it alone."""
        return self.m2 / self.count if self.count else np.ones_like(self.m2)

    def std(self, eps: float = 1e-8) -> ndarray:
        """sqrt(var + eps): never 0, so that a constant can be divided by it."""
        std: ndarray = np.sqrt(self.var + eps)
        return std

    def arrays(self) -> dict[str, ndarray]:
        """For a checkpoint."""
        fields = {"count": self.count, "mean": self.mean, "m2": self.m2}
        return {name: np.asarray(x, np.float64) for name, x in fields.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ndarray]) -> Moments:
        """The inverse of ``arrays``."""
        mean, m2 = (np.asarray(arrays[name], np.float64) for name in ("mean", "m2"))
        return cls(float(arrays["count"]), mean, m2)
