"""A normal distribution squashed by tanh: actions inside (-1, 1), as SAC has them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shoal.ops.distributions import DiagonalGaussian, Normals
from shoal.ops.kernels import Array, constant, namespace

_LOG_2PI = math.log(2.0 * math.pi)
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)  # for means over a standard normal


@dataclass(frozen=True)
class TanhGaussian(Normals):
    """tanh of independent normals: actions float ``[..., dim]`` within (-1, 1).

    Haarnoja et al. 2018 (arXiv:1801.01290), appendix C. The log standard deviations are clipped to
    [-20, 2] as in the authors' code.
    """

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


def _squash(u: Array) -> Array:
    """tanh, kept inside the open interval, which float32 rounds it out of beyond |u| = 9."""
    xp = namespace(u)
    return xp.clip(xp.tanh(u), -_BELOW_ONE, _BELOW_ONE)


def _log_slope(u: Array) -> Array:
    """log(1 - tanh(u)^2) without cancellation: 2 (log 2 - |u| - log(1 + exp(-2 |u|)))."""
    xp = namespace(u)
    size = xp.abs(u)
    return 2.0 * (math.log(2.0) - size - xp.log1p(xp.exp(-2.0 * size)))
