"""Do the estimators compute what the papers write, and does none of them see past an ending?

The oracles know nothing of traces, endings or batches: they are the sums and products of the
papers, for one episode of n transitions with rewards r[0..n-1] and values v[0..n], v[n] being what
it bootstraps from (0 after a real ending). ``by_episode`` cuts a trace into such episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from shoal.ops import returns

GAMMA, LAMBDA, N = 0.9, 0.8, 3
Trace = dict[str, Any]


# --- the papers -------------------------------------------------------------------------------


def n_step_oracle(r: list[float], v: list[float], rho: list[float], n: int = N) -> list[float]:
    def g(t: int) -> float:
        m = min(n, len(r) - t)
        return sum(GAMMA**k * r[t + k] for k in range(m)) + GAMMA**m * v[t + m]

    return [g(t) for t in range(len(r))]


def discounted_oracle(r: list[float], v: list[float], rho: list[float]) -> list[float]:
    return n_step_oracle(r, v, rho, n=len(r))


def lambda_oracle(r: list[float], v: list[float], rho: list[float]) -> list[float]:
    def g(t: int) -> float:
        last = len(r) - t
        each = {n: n_step_oracle(r, v, rho, n)[t] for n in range(1, last + 1)}
        mixture = (1 - LAMBDA) * sum(LAMBDA ** (n - 1) * each[n] for n in range(1, last))
        return mixture + LAMBDA ** (last - 1) * each[last]

    return [g(t) for t in range(len(r))]


def gae_oracle(r: list[float], v: list[float], rho: list[float]) -> list[float]:
    delta = [r[t] + GAMMA * v[t + 1] - v[t] for t in range(len(r))]
    return [
        sum((GAMMA * LAMBDA) ** k * delta[t + k] for k in range(len(r) - t)) for t in range(len(r))
    ]


def vtrace_oracle(
    r: list[float],
    v: list[float],
    rho: list[float],
    lambda_: float = LAMBDA,
    clip_rho: float = 1.3,
    clip_c: float = 1.1,
) -> list[float]:
    def target(s: int) -> float:
        total = v[s]
        for t in range(s, len(r)):
            delta = min(clip_rho, rho[t]) * (r[t] + GAMMA * v[t + 1] - v[t])
            c = math.prod(lambda_ * min(clip_c, rho[i]) for i in range(s, t))
            total += GAMMA ** (t - s) * c * delta
        return total

    return [target(s) for s in range(len(r))]


def vtrace_advantage_oracle(
    r: list[float], v: list[float], rho: list[float], clip_pg_rho: float = 1.2
) -> list[float]:
    vs = [*vtrace_oracle(r, v, rho), v[-1]]
    return [min(clip_pg_rho, rho[s]) * (r[s] + GAMMA * vs[s + 1] - v[s]) for s in range(len(r))]


# --- traces -----------------------------------------------------------------------------------

KEYS = "r_t", "discount_t", "v_tm1", "v_t", "last_t", "rho_t"


def with_flags(terminated: Any, truncated: Any, seed: int) -> Trace:
    """Random rewards, values and ratios [T, B] for given ends of episodes."""
    rng = np.random.default_rng(seed)
    terminated, truncated = np.asarray(terminated), np.asarray(truncated)
    shape = terminated.shape
    last = terminated | truncated
    v_tm1 = rng.normal(size=shape).astype(np.float32)
    v_t = rng.normal(size=shape).astype(np.float32)  # of final observations and the fragment's end
    v_t[:-1] = np.where(last[:-1], v_t[:-1], v_tm1[1:])
    return {
        "r_t": rng.normal(size=shape).astype(np.float32),
        "discount_t": (GAMMA * ~terminated).astype(np.float32),
        "v_tm1": v_tm1,
        "v_t": v_t,
        "last_t": last,
        "rho_t": np.exp(rng.normal(size=shape)).astype(np.float32),
    }


def random_trace(seed: int, t: int = 9, b: int = 6) -> Trace:
    rng = np.random.default_rng(100 + seed)
    return with_flags(rng.random((t, b)) < 0.15, rng.random((t, b)) < 0.15, seed)


def by_episode(oracle: Callable[..., list[float]], trace: Trace) -> np.ndarray:
    out = np.zeros(trace["r_t"].shape)
    steps, slots = out.shape
    for b in range(slots):
        start = 0
        for t in range(steps):
            if trace["last_t"][t, b] or t == steps - 1:
                rows = slice(start, t + 1)
                end = 0.0 if trace["discount_t"][t, b] == 0 else float(trace["v_t"][t, b])
                v = [*trace["v_tm1"][rows, b].tolist(), end]
                out[rows, b] = oracle(
                    trace["r_t"][rows, b].tolist(), v, trace["rho_t"][rows, b].tolist()
                )
                start = t + 1
    return out


# --- ours, as functions of one trace ----------------------------------------------------------


def discounted(x: Trace) -> Any:
    return returns.discounted_returns(x["r_t"], x["discount_t"], x["v_t"], x["last_t"])


def n_step(x: Trace, n: int = N) -> Any:
    return returns.n_step_returns(x["r_t"], x["discount_t"], x["v_t"], x["last_t"], n)


def lambdas(x: Trace, lambda_: float = LAMBDA) -> Any:
    return returns.lambda_returns(x["r_t"], x["discount_t"], x["v_t"], x["last_t"], lambda_)


def gae(x: Trace, lambda_: float = LAMBDA) -> Any:
    return returns.gae(*(x[k] for k in KEYS[:5]), lambda_)


def vtrace(x: Trace, *args: float) -> Any:
    return returns.vtrace(*(x[k] for k in KEYS), *(args or (LAMBDA, 1.3, 1.1, 1.2)))


ESTIMATORS: dict[str, tuple[Callable[..., Any], Callable[..., list[float]]]] = {
    "discounted": (discounted, discounted_oracle),
    "n_step": (n_step, n_step_oracle),
    "lambda": (lambdas, lambda_oracle),
    "gae": (gae, gae_oracle),
    "vtrace": (lambda x: vtrace(x)[0], vtrace_oracle),
    "vtrace_advantage": (lambda x: vtrace(x)[1], vtrace_advantage_oracle),
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def close(actual: Any, expected: Any, tol: float = 2e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tol, atol=tol)


# --- the questions ----------------------------------------------------------------------------


@every_estimator
@pytest.mark.parametrize("seed", range(3))
def test_is_what_the_paper_writes(lib: Any, name: str, seed: int) -> None:
    ours, oracle = ESTIMATORS[name]
    trace = random_trace(seed)
    close(lib.run(ours, trace), by_episode(oracle, trace))


@every_estimator
@pytest.mark.parametrize("end", ["terminated", "truncated", "both"])
@pytest.mark.parametrize("where", [2, 5], ids=["mid", "last"])
def test_time_limits(lib: Any, name: str, end: str, where: int) -> None:
    """A time limit bootstraps from the final observation; an ending, even one at the limit, does
    not; nothing crosses either."""
    ours, oracle = ESTIMATORS[name]
    here = np.zeros((6, 1), bool)
    here[where] = True
    no = np.zeros_like(here)
    trace = with_flags(no if end == "truncated" else here, no if end == "terminated" else here, 7)
    close(lib.run(ours, trace), by_episode(oracle, trace))

    # Only what happened before the end, and the final value at a time limit, may matter there.
    other = {k: x.copy() for k, x in trace.items()}
    for key in ("r_t", "v_tm1", "v_t", "rho_t"):
        other[key][where + 1 :] += 100.0
    before = lib.run(ours, trace)[: where + 1]
    close(lib.run(ours, other)[: where + 1], before)
    other["v_t"][where] += 100.0
    moved = np.abs(lib.run(ours, other)[where] - before[where]).item()
    assert (moved > 1.0) == (end == "truncated")


@every_estimator
def test_two_episodes_in_one_trace_are_each_alone(lib: Any, name: str) -> None:
    ours, _ = ESTIMATORS[name]
    trace = random_trace(11)
    trace["last_t"][3] = True
    halves = [{k: x[rows] for k, x in trace.items()} for rows in (slice(0, 4), slice(4, None))]
    together = lib.run(ours, trace)
    close(together, np.concatenate([lib.run(ours, half) for half in halves]), 1e-6)


@every_estimator
def test_slots_do_not_mix(lib: Any, name: str) -> None:
    ours, _ = ESTIMATORS[name]
    trace = random_trace(12)
    one = lib.run(ours, {k: x[:, 2:3] for k, x in trace.items()})
    close(lib.run(ours, trace)[:, 2:3], one, 1e-6)


@every_estimator
def test_constant_reward_under_a_time_limit_is_worth_one_over_one_minus_gamma(
    lib: Any, name: str
) -> None:
    ours, _ = ESTIMATORS[name]
    truncated = np.zeros((8, 1), bool)
    truncated[[3, 6]] = True
    trace = with_flags(np.zeros_like(truncated), truncated, 0)
    worth = np.full((8, 1), 1 / (1 - GAMMA), np.float32)
    trace |= {"r_t": np.ones_like(worth), "v_t": worth, "v_tm1": worth}
    is_advantage = name in ("gae", "vtrace_advantage")
    close(lib.run(ours, trace), 0.0 * worth if is_advantage else worth)


def test_gae_with_lambda_1_is_monte_carlo_minus_the_value(lib: Any) -> None:
    trace = random_trace(1)
    close(lib.run(partial(gae, lambda_=1.0), trace), lib.run(discounted, trace) - trace["v_tm1"])


def test_gae_with_lambda_0_is_the_td_error(lib: Any) -> None:
    x = random_trace(2)
    td_error = x["r_t"] + x["discount_t"] * x["v_t"] - x["v_tm1"]
    close(lib.run(partial(gae, lambda_=0.0), x), td_error, 1e-6)


def test_gae_is_the_lambda_return_minus_the_value(lib: Any) -> None:
    trace = random_trace(3)
    close(lib.run(gae, trace), lib.run(lambdas, trace) - trace["v_tm1"])


def test_lambda_returns_reach_from_one_step_to_all(lib: Any) -> None:
    trace = random_trace(4)
    close(lib.run(partial(lambdas, lambda_=0.0), trace), lib.run(partial(n_step, n=1), trace), 1e-6)
    close(lib.run(partial(lambdas, lambda_=1.0), trace), lib.run(partial(n_step, n=99), trace))


def test_vtrace_on_policy_is_the_n_step_return(lib: Any) -> None:
    trace = random_trace(5)
    trace["rho_t"] = np.ones_like(trace["rho_t"])
    vs, advantage = lib.run(lambda x: vtrace(x, 1.0), trace)
    close(vs, lib.run(discounted, trace))
    close(advantage, vs - trace["v_tm1"])


def test_vtrace_lambda_on_policy_is_the_lambda_return(lib: Any) -> None:
    trace = random_trace(6)
    trace["rho_t"] = np.ones_like(trace["rho_t"])
    close(lib.run(lambda x: vtrace(x, LAMBDA)[0], trace), lib.run(lambdas, trace))


def test_vtrace_never_visited_actions_leave_the_value(lib: Any) -> None:
    trace = random_trace(7)
    trace["rho_t"] = np.zeros_like(trace["rho_t"])
    vs, advantage = lib.run(lambda x: vtrace(x, 1.0), trace)
    close(vs, trace["v_tm1"], 0.0)
    close(advantage, 0.0 * vs, 0.0)


@pytest.mark.parametrize(
    ("clip_rho", "value"), [(1.0, 0.5 / 0.6), (math.inf, 0.9), (1e-4, 0.5)], ids=str
)
def test_vtrace_fixed_point_of_a_bandit(lib: Any, clip_rho: float, value: float) -> None:
    """One state, mu = (.5, .5), pi = (.9, .1), r = (1, 0): rho-bar chooses whose value is found."""
    arms = {"r_t": [[1.0, 0.0]], "discount_t": [[0.0, 0.0]], "rho_t": [[1.8, 0.2]]}
    trace = {k: np.asarray(x, np.float32) for k, x in arms.items()}
    trace["last_t"] = np.ones((1, 2), bool)

    def expected_update(v: float) -> float:
        here = np.full((1, 2), v, np.float32)
        vs, _ = lib.run(lambda x: vtrace(x, 1.0, clip_rho), trace | {"v_tm1": here, "v_t": here})
        return float(vs.mean()) - v  # both arms are pulled equally often

    # The expected update is affine in v, so two points of it give its root.
    at0, at1 = expected_update(0.0), expected_update(1.0)
    assert at0 / (at0 - at1) == pytest.approx(value, rel=1e-2)
    assert at0 > 0 > at1


# --- golden values ----------------------------------------------------------------------------


def column(*x: float) -> np.ndarray:
    return np.asarray(x, np.float32)[:, None]


def golden(r: list[float], v: list[float], end: float, gamma: float, terminated: Any = ()) -> Trace:
    done = np.isin(np.arange(len(r)), terminated)[:, None]
    return {
        "r_t": column(*r),
        "discount_t": np.float32(gamma) * ~done,
        "v_tm1": column(*v),
        "v_t": column(*v[1:], end),
        "last_t": done,
    }


@pytest.mark.parametrize(
    ("terminated", "expected"),
    [
        ((), [3.995498, 3.085059, 2.118086, 1.091]),
        ((1,), [1.4702, 0.4, 2.118086, 1.091]),
    ],
)
def test_gae_golden(lib: Any, terminated: Any, expected: list[float]) -> None:
    trace = golden([1.0] * 4, [0.5, 0.6, 0.7, 0.8], 0.9, 0.99, terminated)
    close(lib.run(partial(gae, lambda_=0.95), trace), column(*expected), 1e-6)


@pytest.mark.parametrize(
    ("terminated", "windows", "gammas"),
    [
        ((), [5.23, 7.94, 10.65, 8.5, 5.0], [0.729, 0.729, 0.729, 0.81, 0.9]),
        ((4,), [5.23, 7.94, 10.65, 8.5, 5.0], [0.729, 0.729, 0.0, 0.0, 0.0]),
    ],
)
def test_n_step_golden(
    lib: Any, terminated: Any, windows: list[float], gammas: list[float]
) -> None:
    trace = golden([1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 40.0, 50.0], 60.0, 0.9, terminated)
    followed_by = column(40.0, 50.0, 60.0, 60.0, 60.0)
    close(lib.run(n_step, trace), column(*windows) + column(*gammas) * followed_by, 1e-6)


def test_a2c_returns_golden(lib: Any) -> None:
    trace = golden([1.0, 2.0], [0.5, 0.4], 0.3, 0.9)
    close(lib.run(discounted, trace), column(3.043, 2.27), 1e-6)
    close(lib.run(partial(gae, lambda_=1.0), trace), column(2.543, 1.87), 1e-6)


@pytest.mark.parametrize(
    ("rho", "terminated", "clip_rho", "vs", "advantage"),
    [
        ([1, 1, 1], (), 1.0, [4.807, 4.23, 4.7], [4.307, 3.23, 5.7]),
        ([2, 0.5, 1.5], (), 1.0, [3.3535, 2.615, 4.7], [2.8535, 1.615, 5.7]),
        ([0.5] * 3, (), 1.0, [1.349625, 1.3325, 1.85], [0.849625, 0.3325, 2.85]),
        ([2, 0.5, 1.5], (1,), 1.0, [1.45, 0.5, 4.7], [0.95, -0.5, 5.7]),
        ([2, 0.5, 1.5], (), 2.0, [5.90775, 3.8975, 7.55], [4.00775, 2.8975, 5.7]),
    ],
    ids=["on-policy", "off-policy", "half", "done", "rho-bar-2"],
)
def test_vtrace_golden(
    lib: Any, rho: list[float], terminated: Any, clip_rho: float, vs: Any, advantage: Any
) -> None:
    trace = golden([1.0, 0.0, 2.0], [0.5, 1.0, -1.0], 3.0, 0.9, terminated)
    trace["rho_t"] = column(*rho)
    actual = lib.run(lambda x: vtrace(x, 1.0, clip_rho), trace)
    close(actual[0], column(*vs), 1e-6)
    close(actual[1], column(*advantage), 1e-6)
