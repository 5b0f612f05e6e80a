"""Do the three policies meet as they should, and is it PPO where they are one?

mu acted, pi_t is the learner's when the update begins, pi is the one that moves.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shoal.algorithms.appo import APPO, log_ratio_of
from shoal.algorithms.ppo import PPO, clipped_surrogate
from shoal.errors import ConfigError
from shoal.trajectory import select
from tests.algorithms.conftest import Policy, VTraceOracle, garbage, linear
from tests.worlds import LINEAR, MODEL

EPS = 0.2  # of the ratio
HYPER = {"clip": EPS, "entropy_coef": 0.01}
PLAIN = APPO(network=LINEAR, normalise_advantage=False)


@pytest.fixture
def later(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of pi, some gradient steps from those of pi_t (``params``)."""
    rng = np.random.default_rng(6)
    return {k: (x + rng.normal(0, 0.1, x.shape)).astype(np.float32) for k, x in params.items()}


@pytest.fixture
def rows(model: Any, params: Any, fragments: Any) -> dict[str, Any]:
    """What the gradient steps are taken on."""
    return PLAIN.label(model, params, fragments)


def oracle(appo: APPO, pi: Policy, pi_t: Policy, batch: Any) -> dict[str, float]:
    """Means over rows, from whole fragments; V-trace runs from mu to pi_t."""
    names = ("gamma", "lambda_", "clip_rho", "clip_c", "clip_pg_rho")
    told = VTraceOracle(**{name: getattr(appo, name) for name in names})(pi_t, batch)
    n = len(told)
    shift, scale = 0.0, 1.0
    if appo.normalise_advantage:
        shift = sum(a for _, a, _ in told.values()) / n
        scale = math.sqrt(sum((a - shift) ** 2 for _, a, _ in told.values()) / n) + 1e-8
    surrogate = value = entropy = kl = outside = ratios = 0.0
    for (slot, s), (target, advantage, ratio) in told.items():
        x, action = batch["obs"]["obs"][slot, s], int(batch["action"][slot, s])
        log_p, v = pi(x)
        p, old = math.exp(log_p[action]), math.exp(pi_t(x)[0][action])
        mu = math.exp(float(batch["log_prob"][slot, s]))
        a = (advantage - shift) / scale
        r = min(max(mu / old, 0.0), 2.0) * (p / mu)
        surrogate += min(r * a, min(max(r, 1 - EPS), 1 + EPS) * a) / n
        value += 0.5 * (v - target) ** 2 / n
        entropy -= sum(math.exp(q) * q for q in log_p) / n
        kl += (p / old - 1 - math.log(p / old)) / n
        outside += (abs(r - 1) > EPS) / n
        ratios += ratio / n
    total = -surrogate + appo.value_coef * value - HYPER["entropy_coef"] * entropy
    return {
        "loss": total + appo.kl_coef * kl,
        "policy_loss": -surrogate,
        "value_loss": value,
        "entropy": entropy,
        "kl": kl,
        "clip_fraction": outside,
        "rho_mean": ratios,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"normalise_advantage": True, "kl_coef": 0.7},
        {"gamma": 0.9, "lambda_": 0.8, "clip_rho": 1.4, "clip_c": 1.1, "clip_pg_rho": 1.2},
    ],
)
def test_loss_and_metrics_are_the_formulas(
    lib: Any, model: Any, params: Any, later: Any, fragments: Any, fields: Any
) -> None:
    appo = replace(PLAIN, **fields)
    prepared = lib.label(appo, model, params, fragments)
    total, metrics = lib.loss(appo, model, later, prepared, **HYPER)
    wanted = oracle(appo, linear(later), linear(params), fragments)
    assert 0 < wanted["clip_fraction"] < 1 and wanted["kl"] > 1e-3
    assert {"loss": total, **metrics} == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("log_probs", "advantage", "ratio", "surrogate", "slope"),
    [
        ((-1.0, -0.8, -0.5), 2.0, math.exp(0.3), 2.4, 0.0),
        ((-0.2, -1.2, -1.0), 1.0, 2 * math.exp(-0.8), 0.898658, 0.898658),
    ],
)
def test_golden_ratio_and_gradient(
    differentiable: Any,
    log_probs: tuple[float, float, float],
    advantage: float,
    ratio: float,
    surrogate: float,
    slope: float,
) -> None:
    """``slope`` is d surrogate / d log pi; in the second row mu / pi_t is cut to 2."""
    mu, old, new = (np.array([x], np.float32) for x in log_probs)

    def f(log_prob: Any) -> Any:
        log_ratio = log_ratio_of(log_prob, *(differentiable._put(x) for x in (old, mu)))
        return clipped_surrogate(log_ratio, advantage + 0 * log_ratio, EPS)[0].sum()

    assert math.exp(float(log_ratio_of(new, old, mu)[0])) == pytest.approx(ratio, rel=1e-6)
    if differentiable.name == "jax":
        import jax

        value, grad = jax.value_and_grad(f)(jax.numpy.asarray(new))
    else:
        import torch

        leaf = torch.tensor(new, requires_grad=True)
        value = f(leaf)
        (grad,) = torch.autograd.grad(value, leaf)
        value = value.detach()
    assert float(value) == pytest.approx(surrogate, rel=1e-5)
    assert float(grad[0]) == pytest.approx(slope, rel=1e-5)


def test_rows_are_the_fragments_with_what_the_newest_weights_say(
    lib: Any, model: Any, params: Any, fragments: Any
) -> None:
    rows = lib.label(PLAIN, model, params, fragments)
    pi_t = linear(params)
    told = VTraceOracle()(pi_t, fragments)
    slots, steps = fragments["mask"].shape
    assert all(len(x) == slots * steps for name, x in rows.items() if name != "obs")
    for (slot, t), (target, advantage, _) in told.items():
        i = slot * steps + t
        x, action = fragments["obs"]["obs"][slot, t], int(fragments["action"][slot, t])
        assert rows["obs"]["obs"][i].tolist() == x.tolist()
        assert (rows["action"][i], rows["mask"][i]) == (action, 1.0)
        assert rows["log_prob"][i] == fragments["log_prob"][slot, t]
        found = [rows[name][i] for name in ("log_prob_old", "target", "advantage")]
        wanted = [pi_t(x)[0][action], target, advantage]
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert rows["mask"].sum() == len(told)


def test_without_lag_it_is_ppo(
    differentiable: Any, model: Any, params: Any, later: Any, fragments: Any
) -> None:
    """mu = pi_t: the same gradient for the same advantages and targets, anywhere in the update."""
    out = model.net(params, fragments["obs"], ("pi",))[0][:, :-1]
    fragments["log_prob"] = model.dist.log_prob(out, fragments["action"])
    rows = PLAIN.label(model, params, fragments)
    ppo_rows = {**rows, "value": np.zeros_like(rows["target"])}
    for normalise in (False, True):
        appo = replace(PLAIN, normalise_advantage=normalise)
        ppo = PPO(network=LINEAR, normalise_advantage=normalise)
        for at in (params, later):
            wanted = differentiable.grad(ppo, model, at, ppo_rows, **HYPER)
            for name, g in differentiable.grad(appo, model, at, rows, **HYPER).items():
                np.testing.assert_allclose(g, wanted[name], rtol=1e-4, atol=1e-6, err_msg=name)
                assert np.abs(g).max() > 1e-3


def test_the_lag_is_corrected_once(lib: Any, model: Any, params: Any, rows: Any) -> None:
    """Where pi is still pi_t the ratio is 1, whatever mu was: that is in the advantages already."""
    near = rows["log_prob"] - rows["log_prob_old"] < math.log(2)
    assert rows["mask"][near].sum() > 10
    assert np.abs(rows["log_prob"] - rows["log_prob_old"])[near].max() > 0.5
    kept = select(rows, near & (rows["mask"] > 0))
    metrics = lib.loss(PLAIN, model, params, kept, **HYPER)[1]
    assert metrics["policy_loss"] == pytest.approx(-kept["advantage"].mean(), rel=1e-4)
    assert metrics["clip_fraction"] == 0.0
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kl_coef", [0.0, 0.5])
def test_gradient_is_the_slope_of_the_formulas(
    differentiable: Any, model: Any, params: Any, later: Any, fragments: Any, kl_coef: float
) -> None:
    """Central differences of the oracle: advantages, targets and pi_t are constants."""
    appo = replace(PLAIN, kl_coef=kl_coef)
    rows = PLAIN.label(model, params, fragments)
    found = differentiable.grad(appo, model, later, rows, **HYPER)
    rng, h = np.random.default_rng(3), 1e-5
    for _ in range(6):
        way = {k: rng.standard_normal(x.shape) for k, x in later.items()}
        ends = [
            oracle(
                appo,
                linear({k: x + s * h * way[k] for k, x in later.items()}),
                linear(params),
                fragments,
            )["loss"]
            for s in (1, -1)
        ]
        slope = sum(float((found[k] * way[k]).sum()) for k in later)
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_what_stands_in_masked_rows_changes_nothing(
    lib: Any, torch_lib: Any, model: Any, params: Any, later: Any, fragments: Any, normalise: bool
) -> None:
    """Not even NaN."""
    appo = replace(PLAIN, normalise_advantage=normalise, kl_coef=0.5)
    clean, dirty = (lib.label(appo, model, params, x) for x in (fragments, garbage(fragments)))
    wanted, found = (lib.loss(appo, model, later, x, **HYPER) for x in (clean, dirty))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert found[1] == pytest.approx(wanted[1], rel=1e-5, abs=1e-6)
    slopes = torch_lib.grad(appo, model, later, clean, **HYPER)
    for name, g in torch_lib.grad(appo, model, later, dirty, **HYPER).items():
        np.testing.assert_allclose(g, slopes[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_action_the_old_policy_hardly_took_does_not_overflow(
    lib: Any, model: Any, params: Any, later: Any, fragments: Any
) -> None:
    for extreme in (-1e6, 1e6):
        fragments["log_prob"][:] = extreme
        rows = lib.label(PLAIN, model, params, fragments)
        total, metrics = lib.loss(PLAIN, model, later, rows, **HYPER)
        assert all(map(math.isfinite, (total, *metrics.values())))


@pytest.mark.parametrize(("rows", "size", "epochs"), [(96, 32, 1), (50, 16, 2), (7, 128, 3)])
def test_every_row_is_used_once_per_epoch(rows: int, size: int, epochs: int) -> None:
    appo = APPO(epochs=epochs, minibatch_size=size)
    index = appo.indices(MODEL, np.random.default_rng(0), (rows, 1))
    steps = math.ceil(rows / size)
    assert index.shape[0] == epochs * steps
    orders = set()
    for epoch in np.split(index, epochs):
        used = epoch[epoch >= 0].tolist()
        assert sorted(used) == list(range(rows))
        orders.add(tuple(used))
    assert len(orders) == epochs


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gamma", -0.1),
        ("clip_c", 1.5),
        ("epochs", 0),
        ("minibatch_size", 0),
        ("kl_coef", -1.0),
        ("max_grad_norm", 0.0),
    ],
)
def test_what_means_nothing_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        APPO(**{field: value})
