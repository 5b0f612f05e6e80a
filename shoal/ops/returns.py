"""Return estimators: what each transition turned out to be worth. All time-major, ``[T, B]``.

The names say which end of a transition an array belongs to, as in rlax: acting in a state of value
``v_tm1`` gave the reward ``r_t`` and led to a state of value ``v_t``. Every function takes

* ``r_t``: rewards, float.
* ``discount_t``: gamma * (1 - terminated), float. An ending is worth nothing afterwards.
* ``v_t``: value of the observation that *really* followed: on a time limit the episode's final one,
  at the fragment's end the one to act on next. Never that of an automatic reset.
* ``v_tm1``: value of the observation acted on.
* ``last_t``: bool, True where the episode ended with this transition, terminated or truncated. No
  estimator runs across it; a truncated episode bootstraps from ``v_t``.

The results are float like the inputs. They are targets: a loss that differentiates through the
values it passes in stops the gradient itself.
"""

from __future__ import annotations

from shoal.ops.kernels import Array, namespace, scan


def discounted_returns(r_t: Array, discount_t: Array, v_t: Array, last_t: Array) -> Array:
    """Sum of discounted rewards up to the episode's or the fragment's end, bootstrapped there.

    G_t = r_t + discount_t G_{t+1}, with v_t in place of G_{t+1} at an end: lambda = 1.
    """
    return lambda_returns(r_t, discount_t, v_t, last_t, 1.0)


def n_step_returns(r_t: Array, discount_t: Array, v_t: Array, last_t: Array, n: int) -> Array:
    """n rewards, then the value; fewer before the end of the episode or the fragment.

    G_t = r_t + discount_t r_{t+1} + ... + (product of m discounts) v_{t+m-1}, m <= n. Sutton and
    Barto, Reinforcement Learning (2nd ed.), eq. 7.1.
    """
    xp = namespace(r_t)
    g_t = r_t + discount_t * v_t
    for _ in range(min(n, r_t.shape[0]) - 1):
        g_tp1 = xp.concat([g_t[1:], v_t[-1:]])
        g_t = r_t + discount_t * xp.where(last_t, v_t, g_tp1)
    return g_t


def lambda_returns(
    r_t: Array, discount_t: Array, v_t: Array, last_t: Array, lambda_: float | Array
) -> Array:
    """Exponentially weighted mixture of all n-step returns, TD(lambda)'s target.

    G_t = r_t + discount_t ((1 - lambda) v_t + lambda G_{t+1}). Sutton and Barto, section 12.8.
    """
    lambda_t = lambda_ * _goes_on(last_t, r_t)
    one_step = r_t + discount_t * (1.0 - lambda_t) * v_t
    return _accumulate(v_t[-1], one_step, discount_t * lambda_t)


def gae(
    r_t: Array, discount_t: Array, v_tm1: Array, v_t: Array, last_t: Array, lambda_: float | Array
) -> Array:
    """Generalised advantage estimates: the lambda-return minus the value, without its cancellation.

    A_t = delta_t + discount_t lambda A_{t+1}, delta_t = r_t + discount_t v_t - v_tm1. Schulman et
    al. 2016 (arXiv:1506.02438), eq. 16.
    """
    delta_t = r_t + discount_t * v_t - v_tm1
    decay_t = discount_t * (lambda_ * _goes_on(last_t, r_t))
    return _accumulate(namespace(v_t).zeros_like(v_t[-1]), delta_t, decay_t)


def vtrace(
    r_t: Array,
    discount_t: Array,
    v_tm1: Array,
    v_t: Array,
    last_t: Array,
    rho_t: Array,
    lambda_: float | Array = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
) -> tuple[Array, Array]:
    """V-trace: values of the target policy from what another policy did.

    Espeholt et al. 2018 (arXiv:1802.01561), eq. 1, Remarks 1 and 2, and section 4.2.

    Args:
        r_t, discount_t, v_tm1, v_t, last_t: see the module.
        rho_t: importance ratios pi(a|x) / mu(a|x) of target to behaviour policy, not clipped.
        lambda_: shortens the traces c_t, as in Retrace.
        clip_rho: rho-bar, decides which policy's value the fixed point is; ``math.inf`` for pi's.
        clip_c: c-bar <= rho-bar, decides only the speed of convergence.
        clip_pg_rho: rho-bar of the policy gradient.

    Returns:
        The targets v_s and the policy-gradient advantages, each ``[T, B]``.
    """
    xp = namespace(r_t)
    goes_on = _goes_on(last_t, r_t)
    delta_t = xp.clip(rho_t, None, clip_rho) * (r_t + discount_t * v_t - v_tm1)
    decay_t = discount_t * lambda_ * xp.clip(rho_t, None, clip_c) * goes_on
    vs = v_tm1 + _accumulate(xp.zeros_like(v_t[-1]), delta_t, decay_t)
    vs_tp1 = xp.where(last_t, v_t, xp.concat([vs[1:], v_t[-1:]]))
    advantage = xp.clip(rho_t, None, clip_pg_rho) * (r_t + discount_t * vs_tp1 - v_tm1)
    return vs, advantage


def _goes_on(last_t: Array, like: Array) -> Array:
    """1 where the same episode goes on after the transition, else 0."""
    return namespace(last_t).astype(~last_t, like.dtype)


def _accumulate(start: Array, x_t: Array, decay_t: Array) -> Array:
    """y_t = x_t + decay_t y_{t+1}, backwards from y_T = start: the recursion of all the above."""
    return scan(_recurse, start, (x_t, decay_t), reverse=True)[1]


def _recurse(y_tp1: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
    x_t, decay_t = row
    y_t = x_t + decay_t * y_tp1
    return y_t, y_t
