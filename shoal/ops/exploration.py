"""How a policy that is greedy by nature explores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.ops.kernels import Array, namespace, ndarray


@dataclass(frozen=True)
class EpsilonGreedy:
    """One of n actions: the best, or with probability epsilon any of those that are allowed.

    Two uniform numbers decide; ``width`` further, normal ones are for the network itself, where it
    is noisy.
    """

    n: int
    width: int = 0

    @property
    def n_out(self) -> int:
        """Outputs that the network must have."""
        return self.n

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Trailing shape of the noise of one action."""
        return (2 + self.width,)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Noise for actions of leading axes ``shape``: float32 ``[*shape, 2 + width]``."""
        noise = rng.random((*shape, 2), np.float32)
        if not self.width:
            return noise
        normal = rng.standard_normal((*shape, self.width), np.float32)
        return np.concatenate([noise, normal], axis=-1)

    def choose(self, q: Array, noise: Array, epsilon: Array, mask: Array | None = None) -> Array:
        """Actions [...] for values ``q [..., n]`` and noise ``[..., 2 + width]``."""
        best = self.mode(q, mask)
        xp = namespace(q)
        return xp.where(noise[..., 0] < epsilon, self.sample(q, noise, mask), best)

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        """Any of the allowed actions, whatever ``out`` says."""
        xp = namespace(out)
        if mask is None:
            return xp.astype(noise[..., 1] * self.n, xp.int32)
        count = xp.cumulative_sum(xp.astype(mask, xp.int32), axis=-1)
        wanted = xp.astype(noise[..., 1] * xp.astype(count[..., -1], noise.dtype), xp.int32)
        return xp.argmax(xp.astype(count > wanted[..., None], xp.int32), axis=-1)

    def mode(self, out: Array, mask: Array | None = None) -> Array:
        """The best action, the first of several."""
        xp = namespace(out)
        if mask is not None:
            out = xp.where(mask, out, xp.full_like(out, -xp.inf))
        return xp.argmax(out, axis=-1)


@dataclass(frozen=True)
class RandomFirst:
    """A distribution's actions, or any at all: as a run begins, before anything is learned.

    Beside the distribution's own noise stand ``dim`` uniform numbers in [-1, 1], where actions are
    that many floats; choices are any at all with logits of zero.
    """

    dist: Any  # ops.distributions.Distribution, or ops.deterministic.Tanh
    dim: int  # 0: choices

    @property
    def n_out(self) -> int:
        """Outputs that the network must have."""
        n: int = self.dist.n_out
        return n

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Trailing shape of the noise of one action."""
        return (*self.dist.noise_shape[:-1], self.dist.noise_shape[-1] + self.dim)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Noise for actions of leading axes ``shape``, float32."""
        own: ndarray = self.dist.noise(rng, shape)
        if not self.dim:
            return own
        uniform = 2.0 * rng.random((*shape, self.dim), np.float32) - 1.0
        return np.concatenate([own, uniform], axis=-1)

    def split(self, noise: Array) -> tuple[Array, Array]:
        """The distribution's noise, and the uniform numbers."""
        n = self.dist.noise_shape[-1]
        return noise[..., :n], noise[..., n:]

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        """Any action at all."""
        own, uniform = self.split(noise)
        if self.dim:
            return uniform
        return self.dist.sample(namespace(out).zeros_like(out), own, mask)


@dataclass(frozen=True)
class NoisyOrRandom:
    """Floats in [-1, 1]: the best with normal noise, or with probability epsilon any at all.

    The noise of an action are ``dim`` normal numbers, ``dim`` uniform ones in [-1, 1], and one in
    [0, 1) that decides.
    """

    dim: int

    @property
    def n_out(self) -> int:
        """Numbers of an action."""
        return self.dim

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Trailing shape of the noise of one action."""
        return (2 * self.dim + 1,)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Noise for actions of leading axes ``shape``: float32 ``[*shape, 2 dim + 1]``."""
        normal = rng.standard_normal((*shape, self.dim), np.float32)
        uniform = rng.random((*shape, self.dim + 1), np.float32)
        uniform[..., :-1] = 2.0 * uniform[..., :-1] - 1.0
        return np.concatenate([normal, uniform], axis=-1)

    def explore(self, best: Array, noise: Array, std: float, epsilon: Array) -> Array:
        """Actions [..., dim] for the best ones and their noise ``[..., 2 dim + 1]``."""
        xp, dim = namespace(best), self.dim
        near = xp.clip(best + std * noise[..., :dim], -1.0, 1.0)
        return xp.where(noise[..., -1:] < epsilon, noise[..., dim:-1], near)

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        """Any action at all."""
        return noise[..., self.dim : -1]
