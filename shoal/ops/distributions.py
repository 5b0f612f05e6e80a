"""Probability distributions over actions, as functions of a network's raw output.

A distribution is a frozen description (how many choices, how many dimensions); each method takes
``out [..., n_out]`` as its first argument, any leading axes, and returns float like it. Randomness
is an argument: ``sample`` is a deterministic function of ``out`` and ``noise``, so the same noise
gives the same action in NumPy, JAX and PyTorch.

``mask`` (categoricals only) is bool ``[..., n_out]``, True where a choice is allowed; each row
allows at least one. A choice that is not allowed has probability exactly 0, adds nothing to
entropy or KL, and passes no gradient. A row that allows none is finite, but means nothing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np

from shoal.ops.kernels import Array, arange, constant, namespace, ndarray, stop_gradient

_FORBIDDEN = -1e8  # the logit of a masked choice: exp(-1e8) is 0, yet its gradient stays finite
_TINY = float(np.finfo(np.float32).tiny)
_LOG_2PI = math.log(2.0 * math.pi)
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)  # for means over a standard normal


class Distribution(Protocol):
    """What every distribution has."""

    @property
    def n_out(self) -> int:
        """Outputs that the network must have."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Trailing shape of the noise of one action."""

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Noise for actions of leading axes ``shape``: float32 ``[*shape, *noise_shape]``."""

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        """The action that this noise draws."""

    def mode(self, out: Array, mask: Array | None = None) -> Array:
        """The most likely action (squashed: that of the most likely unsquashed one)."""

    def log_prob(self, out: Array, action: Array, mask: Array | None = None) -> Array:
        """Log-probability (or log-density) of each action, ``[...]``."""

    def entropy(self, out: Array, mask: Array | None = None) -> Array:
        """Entropy in nats, ``[...]``."""

    def kl(self, out_p: Array, out_q: Array, mask: Array | None = None) -> Array:
        """KL(p || q) in nats, ``[...]``."""


@dataclass(frozen=True)
class Categorical:
    """One of ``n`` choices, from logits. Actions are integers ``[...]``."""

    n: int

    @property
    def n_out(self) -> int:
        return self.n

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.n,)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Gumbel noise: argmax(logits + noise) is a sample of their softmax."""
        return _gumbel(rng, (*shape, self.n))

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        return namespace(out).argmax(_allowed(out, mask) + noise, axis=-1)

    def mode(self, out: Array, mask: Array | None = None) -> Array:
        return namespace(out).argmax(_allowed(out, mask), axis=-1)

    def log_prob(self, out: Array, action: Array, mask: Array | None = None) -> Array:
        # One-hot and not a gather: its gradient is no scatter, which is slow in JAX on a CPU.
        xp = namespace(out)
        chosen = action[..., None] == arange(self.n, out)
        return xp.sum(xp.where(chosen, _log_softmax(out, mask), 0.0), axis=-1)

    def entropy(self, out: Array, mask: Array | None = None) -> Array:
        xp = namespace(out)
        log_p = _log_softmax(out, mask)
        return -xp.sum(xp.exp(log_p) * log_p, axis=-1)

    def kl(self, out_p: Array, out_q: Array, mask: Array | None = None) -> Array:
        xp = namespace(out_p)
        log_p, log_q = _log_softmax(out_p, mask), _log_softmax(out_q, mask)
        return xp.sum(xp.exp(log_p) * (log_p - log_q), axis=-1)


@dataclass(frozen=True)
class MultiCategorical:
    """Independent choices, ``ns[i]`` of the i-th (PPO detail 37). Actions are integers
    ``[..., len(ns)]``; the logits, the noise and the mask of all choices stand side by side."""

    ns: tuple[int, ...]

    @property
    def n_out(self) -> int:
        return sum(self.ns)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.n_out,)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        return _gumbel(rng, (*shape, self.n_out))

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        return self.mode(_allowed(out, mask) + noise)

    def mode(self, out: Array, mask: Array | None = None) -> Array:
        xp, logits = namespace(out), _allowed(out, mask)
        return xp.stack([xp.argmax(logits[..., part], axis=-1) for part in self._parts], axis=-1)

    def log_prob(self, out: Array, action: Array, mask: Array | None = None) -> Array:
        logits = _allowed(out, mask)
        return _total(
            Categorical(n).log_prob(logits[..., part], action[..., i])
            for i, (n, part) in enumerate(zip(self.ns, self._parts, strict=True))
        )

    def entropy(self, out: Array, mask: Array | None = None) -> Array:
        logits = _allowed(out, mask)
        return _total(
            Categorical(n).entropy(logits[..., part])
            for n, part in zip(self.ns, self._parts, strict=True)
        )

    def kl(self, out_p: Array, out_q: Array, mask: Array | None = None) -> Array:
        p, q = _allowed(out_p, mask), _allowed(out_q, mask)
        return _total(
            Categorical(n).kl(p[..., part], q[..., part])
            for n, part in zip(self.ns, self._parts, strict=True)
        )

    @property
    def _parts(self) -> list[slice]:
        ends = np.cumsum(self.ns).tolist()
        return [slice(end - n, end) for n, end in zip(self.ns, ends, strict=True)]


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normals: ``dim`` means, then ``dim`` log standard deviations (PPO details 23-25).

    Actions are float ``[..., dim]``, anywhere in the reals: what an environment cannot take is
    clipped when it is sent there, never before its log-probability is taken (detail 27).
    """

    dim: int

    @property
    def n_out(self) -> int:
        return 2 * self.dim

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Standard normal noise."""
        return rng.standard_normal((*shape, self.dim), dtype=np.float32)

    def sample(self, out: Array, noise: Array, mask: None = None) -> Array:
        mean, log_std = self._split(out)
        return mean + namespace(out).exp(log_std) * noise

    def mode(self, out: Array, mask: None = None) -> Array:
        return out[..., : self.dim]

    def log_prob(self, out: Array, action: Array, mask: None = None) -> Array:
        xp = namespace(out)
        mean, log_std = self._split(out)
        z = (action - mean) * xp.exp(-log_std)
        return xp.sum(-0.5 * z * z - log_std, axis=-1) - 0.5 * self.dim * _LOG_2PI

    def entropy(self, out: Array, mask: None = None) -> Array:
        _, log_std = self._split(out)
        return namespace(out).sum(log_std, axis=-1) + 0.5 * self.dim * (1.0 + _LOG_2PI)

    def kl(self, out_p: Array, out_q: Array, mask: None = None) -> Array:
        xp = namespace(out_p)
        (mean_p, log_p), (mean_q, log_q) = self._split(out_p), self._split(out_q)
        z = (mean_p - mean_q) * xp.exp(-log_q)
        log_ratio = log_p - log_q
        return 0.5 * xp.sum(xp.exp(2.0 * log_ratio) + z * z - 1.0 - 2.0 * log_ratio, axis=-1)

    def _split(self, out: Array) -> tuple[Array, Array]:
        return out[..., : self.dim], out[..., self.dim :]


@dataclass(frozen=True)
class TanhGaussian:
    """tanh of independent normals: actions float ``[..., dim]`` within (-1, 1).

    Haarnoja et al. 2018 (arXiv:1801.01290), appendix C. The log standard deviations are clipped to
    [-20, 2] as in the authors' code.
    """

    dim: int

    @property
    def n_out(self) -> int:
        return 2 * self.dim

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Standard normal noise."""
        return rng.standard_normal((*shape, self.dim), dtype=np.float32)

    def sample(self, out: Array, noise: Array, mask: None = None) -> Array:
        return _squash(self._normal.sample(self._clipped(out), noise))

    def sample_log_prob(self, out: Array, noise: Array) -> tuple[Array, Array]:
        """A sample and its log-density, from the noise: exact where tanh is flat or std is small.

        This is the one to differentiate through. Inverting tanh loses all of u beyond +-8, and
        (u - mean) / std loses the noise where std is below the float32 spacing at the mean.
        """
        xp, out = namespace(out), self._clipped(out)
        u = self._normal.sample(out, noise)
        density = -0.5 * noise * noise - out[..., self.dim :] - _log_slope(u)
        return _squash(u), xp.sum(density, axis=-1) - 0.5 * self.dim * _LOG_2PI

    def mode(self, out: Array, mask: None = None) -> Array:
        return _squash(self._normal.mode(out))

    def log_prob(self, out: Array, action: Array, mask: None = None) -> Array:
        """Log-density; an action of +-1 counts as the float32 next to it."""
        xp = namespace(out)
        u = xp.atanh(xp.clip(action, -_BELOW_ONE, _BELOW_ONE))
        return self._log_density(self._clipped(out), u)

    def entropy(self, out: Array, mask: None = None) -> Array:
        """By Gauss-Hermite quadrature, as there is no closed form: h(u) + E[log |d tanh(u)/du|]."""
        xp = namespace(out)
        out = self._clipped(out)
        mean, log_std = self._normal._split(out)
        u = mean[..., None] + xp.exp(log_std)[..., None] * constant(_NODES, out)
        weights = constant(_WEIGHTS / math.sqrt(2.0 * math.pi), out)
        squeeze = xp.sum(xp.sum(_log_slope(u) * weights, axis=-1), axis=-1)
        return self._normal.entropy(out) + squeeze

    def kl(self, out_p: Array, out_q: Array, mask: None = None) -> Array:
        """That of the unsquashed normals: a bijection does not change it."""
        return self._normal.kl(self._clipped(out_p), self._clipped(out_q))

    @property
    def _normal(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.dim)

    def _clipped(self, out: Array) -> Array:
        xp = namespace(out)
        return xp.concat([out[..., : self.dim], xp.clip(out[..., self.dim :], -20.0, 2.0)], axis=-1)

    def _log_density(self, out: Array, u: Array) -> Array:
        return self._normal.log_prob(out, u) - namespace(u).sum(_log_slope(u), axis=-1)


def for_space(kind: str, n: tuple[int, ...], dim: int, squash: bool = False) -> Distribution:
    """The distribution for an action space.

    Args:
        kind: "discrete", "multidiscrete" or "box".
        n: number of choices of each discrete component.
        dim: number of floats of a box.
        squash: a box's actions stay within (-1, 1).

    Raises:
        ValueError: for any other kind.
    """
    if kind == "discrete":
        return Categorical(n[0])
    if kind == "multidiscrete":
        return MultiCategorical(n)
    if kind == "box":
        return TanhGaussian(dim) if squash else DiagonalGaussian(dim)
    raise ValueError(f"no distribution for actions of kind {kind!r}")


def _allowed(logits: Array, mask: Array | None) -> Array:
    return logits if mask is None else namespace(logits).where(mask, logits, _FORBIDDEN)


def _log_softmax(out: Array, mask: Array | None) -> Array:
    xp, logits = namespace(out), _allowed(out, mask)
    z = logits - stop_gradient(xp.max(logits, axis=-1, keepdims=True))
    return z - xp.log(xp.sum(xp.exp(z), axis=-1, keepdims=True))


def _gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
    # The logarithm of an exact 0 would be infinite, and beat even the logit of a masked choice.
    return -np.log(np.maximum(rng.standard_exponential(shape, dtype=np.float32), _TINY))


def _total(terms: Iterable[Array]) -> Array:
    return reduce(operator.add, terms)


def _squash(u: Array) -> Array:
    """tanh, kept inside the open interval, which float32 rounds it out of beyond |u| = 9."""
    xp = namespace(u)
    return xp.clip(xp.tanh(u), -_BELOW_ONE, _BELOW_ONE)


def _log_slope(u: Array) -> Array:
    """log(1 - tanh(u)^2) without cancellation: 2 (log 2 - |u| - log(1 + exp(-2 |u|)))."""
    xp = namespace(u)
    size = xp.abs(u)
    return 2.0 * (math.log(2.0) - size - xp.log1p(xp.exp(-2.0 * size)))
