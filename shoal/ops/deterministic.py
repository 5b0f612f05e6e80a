"""Actions of policies that explore by perturbing their weights: the network's output as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.ops.kernels import Array, arange, namespace, ndarray


@dataclass(frozen=True)
class Plain:
    """``dim`` numbers, which the action space clips; ``std`` of the normal noise on them."""

    dim: int
    std: float = 0.0

    @property
    def n_out(self) -> int:
        """Outputs that the network must have."""
        return self.dim

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Trailing shape of the noise of one action."""
        return (self.dim,)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Standard normal noise."""
        return rng.standard_normal((*shape, self.dim), np.float32)

    def mode(self, out: Array, mask: Array | None = None) -> Array:
        return out

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        return self.mode(out) + self.std * noise


@dataclass(frozen=True)
class Binned(Plain):
    """Each of ``dim`` numbers is the best of ``bins`` evenly spaced ones in [-1, 1].

    An argmax, which small perturbations can change at once (Salimans et al. 2017, section 4.1).
    """

    bins: int = 10

    @property
    def n_out(self) -> int:
        return self.dim * self.bins

    def mode(self, out: Array, mask: Array | None = None) -> Array:
        xp = namespace(out)
        scores = xp.reshape(out, (*out.shape[:-1], self.dim, self.bins))
        best = xp.argmax(scores, axis=-1)
        values = xp.astype(arange(self.bins, out), out.dtype) * (2.0 / (self.bins - 1)) - 1.0
        return values[best]
