"""Targets and losses of Q-learning, as array functions of rows."""

from __future__ import annotations

from shoal.ops.kernels import Array, arange, namespace

_NEVER = -1e8  # the value of an action that is not allowed


def dueling(v: Array, advantage: Array) -> Array:
    """Q = V + A - mean A over actions (Wang et al. 2016, arXiv:1511.06581, eq. 9).

    ``v [..., 1, atoms]``, ``advantage [..., actions, atoms]``.
    """
    return v + advantage - namespace(v).mean(advantage, axis=-2, keepdims=True)


def allowed(q: Array, mask: Array | None) -> Array:
    """``q [..., actions]``, very low where ``mask`` (bool, the same shape) forbids the action."""
    xp = namespace(q)
    return q if mask is None else xp.where(mask, q, xp.full_like(q, _NEVER))


def pick(x: Array, action: Array) -> Array:
    """Of ``x [N, actions, ...]`` the entries of ``action [N]``: [N, ...]."""
    return x[arange(x.shape[0], action), action]


def huber(x: Array, delta: float = 1.0) -> Array:
    """x^2 / 2 near 0, linear beyond +-delta: its gradient is x clipped (Mnih et al. 2015)."""
    xp = namespace(x)
    size = xp.abs(x)
    inner = xp.clip(size, None, delta)
    return inner * (size - 0.5 * inner)


def project(p: Array, z: Array, reward: Array, discount: Array) -> Array:
    """The distribution of ``reward + discount Z`` on Z's own atoms (Bellemare et al. 2017,
    arXiv:1707.06887, Algorithm 1).

    In the form in which atom i gets of atom j the share 1 - |Tz_j - z_i| / dz, if that is positive:
    no rounding to neighbours, so nothing is lost where Tz_j falls on an atom.

    Args:
        p: [N, atoms], probabilities of the atoms.
        z: [atoms], equally spaced.
        reward, discount: [N].

    Returns:
        [N, atoms].
    """
    xp = namespace(p)
    moved = xp.clip(reward[:, None] + discount[:, None] * z, z[0], z[-1])
    share = 1.0 - xp.abs(moved[:, None, :] - z[:, None]) / (z[1] - z[0])
    return xp.sum(xp.clip(share, 0.0, 1.0) * p[:, None, :], axis=-1)


def log_softmax(x: Array) -> Array:
    """Over the last axis."""
    xp = namespace(x)
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
