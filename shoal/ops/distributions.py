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

from shoal.ops.kernels import Array, arange, namespace, ndarray, stop_gradient

_FORBIDDEN = -1e8  # the logit of a masked choice: exp(-1e8) is 0, yet its gradient stays finite
_TINY = float(np.finfo(np.float32).tiny)
_LOG_2PI = math.log(2.0 * math.pi)


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
class Normals:
    """What distributions made of ``dim`` independent normals share: outputs and noise."""

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


@dataclass(frozen=True)
class DiagonalGaussian(Normals):
    """Independent normals: ``dim`` means, then ``dim`` log standard deviations (PPO details 23-25).

    Actions are float ``[..., dim]``, anywhere in the reals: what an environment cannot take is
    clipped when it is sent there, never before its log-probability is taken (detail 27).
    """

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


def for_space(kind: str, n: tuple[int, ...], dim: int) -> Distribution:
    """The distribution for an action space.

    Args:
        kind: "discrete", "multidiscrete" or "box".
        n: number of choices of each discrete component.
        dim: number of floats of a box.

    Raises:
        ValueError: for any other kind.
    """
    if kind == "discrete":
        return Categorical(n[0])
    if kind == "multidiscrete":
        return MultiCategorical(n)
    if kind == "box":
        return DiagonalGaussian(dim)
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
