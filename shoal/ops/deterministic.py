"""Actions that a network's output gives without chance; what is added to explore is normal noise.

Policies that explore by perturbing their weights need no noise at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.ops.kernels import Array, arange, namespace, ndarray


@dataclass(frozen=True)
class Noisy:
    """``dim`` numbers, and a standard normal one for each as noise."""

    dim: int

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


@dataclass(frozen=True)
class Tanh(Noisy):
    """The tanh of a network's output, [..., dim]."""

    def mode(self, out: Array, mask: Array | None = None) -> Array:
        return namespace(out).tanh(out)

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        """With as much noise as there is; within [-1, 1]."""
        xp = namespace(out)
        return xp.clip(xp.tanh(out) + noise, -1.0, 1.0)


@dataclass(frozen=True)
class Plain(Noisy):
    """``dim`` numbers, which the action space clips; ``std`` of the normal noise on them."""

    std: float = 0.0

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
