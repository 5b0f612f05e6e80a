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


def cross_entropy(logit: Array, target: Array) -> Array:
    """-y log s - (1 - y) log(1 - s) of s = sigmoid(logit), for targets y in [0, 1].

    In the form that never overflows; its gradient is s - y.
    """
    xp = namespace(logit)
    tail = xp.log1p(xp.exp(-xp.abs(logit)))
    return xp.where(logit > 0, logit, xp.zeros_like(logit)) - logit * target + tail


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written so that none overflows."""
    return 0.5 * (1.0 + namespace(x).tanh(0.5 * x))


def rescaled(x: Array, eps: float) -> Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x (Pohlen et al. 2018, arXiv:1805.11593, prop. A.2).

    Values of any size become numbers that one step size suits; rewards need not be clipped.
    """
    xp = namespace(x)
    return xp.sign(x) * (xp.sqrt(xp.abs(x) + 1.0) - 1.0) + eps * x


def unscaled(x: Array, eps: float) -> Array:
    """The inverse of ``rescaled``, in a form that loses nothing near 0."""
    xp = namespace(x)
    size = xp.abs(x) + (1.0 + eps)
    root = 2.0 * size / (xp.sqrt(1.0 + 4.0 * eps * size) + 1.0)
    return xp.sign(x) * (root * root - 1.0)


def backup(reward: Array, discount: Array, then: Array, eps: float | None = None) -> Array:
    """reward + discount then; with ``eps``, of values that are ``rescaled``: h(r + d h^-1(v)).

    R2D2 (Kapturowski et al. 2019, ICLR, section 2.3).
    """
    if eps is None:
        return reward + discount * then
    return rescaled(reward + discount * unscaled(then, eps), eps)


def mixed_priority(priority: Array, mask: Array, eta: float) -> Array:
    """eta max + (1 - eta) mean over the valid env steps of each sequence: [N, M] to [N].

    R2D2 (Kapturowski et al. 2019, ICLR, section 2.3), eta = 0.9.
    """
    xp = namespace(priority)
    own = xp.where(mask > 0, priority, xp.zeros_like(priority))
    mean = xp.sum(own, axis=1) / xp.clip(xp.sum(mask, axis=1), 1.0, None)
    return eta * xp.max(own, axis=1) + (1.0 - eta) * mean


def project(p: Array, z: Array, reward: Array, discount: Array, eps: float | None = None) -> Array:
    """The distribution of ``reward + discount Z`` on Z's own atoms (Bellemare et al. 2017,
    arXiv:1707.06887, Algorithm 1).

    In the form in which atom i gets of atom j the share 1 - |Tz_j - z_i| / dz, if that is positive:
    no rounding to neighbours, so nothing is lost where Tz_j falls on an atom.

    Args:
        p: [N, atoms], probabilities of the atoms.
        z: [atoms], equally spaced.
        reward, discount: [N].
        eps: of rescaled atoms; see ``backup``.

    Returns:
        [N, atoms].
    """
    xp = namespace(p)
    moved = xp.clip(backup(reward[:, None], discount[:, None], z, eps), z[0], z[-1])
    share = 1.0 - xp.abs(moved[:, None, :] - z[:, None]) / (z[1] - z[0])
    return xp.sum(xp.clip(share, 0.0, 1.0) * p[:, None, :], axis=-1)


def log_softmax(x: Array) -> Array:
    """Over the last axis."""
    xp = namespace(x)
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
