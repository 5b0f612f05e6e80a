"""Is it the loss of the paper, and are the rows dealt out fairly?

The oracle is Schulman et al. 2017, eq. 7 and 9, row by row in Python's own floats.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.a2c import A2C
from shoal.algorithms.ppo import PPO, clipped_surrogate, k3, minibatches, value_error
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces
from shoal.trajectory import concatenate, pad, select
from tests.algorithms.conftest import Library
from tests.worlds import LINEAR, MODEL, Scripts, settings, worker

EPS = 0.2  # of the ratio
HYPER = {"clip": EPS, "entropy_coef": 0.01}


def softmax(z: np.ndarray) -> list[float]:
    e = [math.exp(x) for x in z.tolist()]
    return [x / sum(e) for x in e]


def oracle(ppo: PPO, params: Any, batch: Any) -> dict[str, float]:
    """L = -L_CLIP + c_v L_VF - c_e H over the rows that count, and what is logged."""
    rows = np.flatnonzero(batch["mask"]).tolist()
    n = len(rows)
    a_t = {i: float(batch["advantage"][i]) for i in rows}
    if ppo.normalise_advantage:
        mean = sum(a_t.values()) / n
        std = math.sqrt(sum((a - mean) ** 2 for a in a_t.values()) / n)
        a_t = {i: (a - mean) / (std + 1e-8) for i, a in a_t.items()}
    surrogate = value = entropy = outside = kl = 0.0
    for i in rows:
        x = batch["obs"]["obs"][i].astype(np.float64)
        p = softmax(x @ params["pi/out/w"].astype(np.float64) + params["pi/out/b"])
        v = float(x @ params["v/out/w"].astype(np.float64)[:, 0] + params["v/out/b"][0])
        r = p[int(batch["action"][i])] / math.exp(float(batch["log_prob"][i]))
        surrogate += min(r * a_t[i], min(max(r, 1 - EPS), 1 + EPS) * a_t[i]) / n
        goal, old = float(batch["target"][i]), float(batch["value"][i])
        error = (v - goal) ** 2
        if ppo.clip_value is not None:
            near = old + min(max(v - old, -ppo.clip_value), ppo.clip_value)
            error = max(error, (near - goal) ** 2)
        value += 0.5 * error / n
        entropy -= sum(q * math.log(q) for q in p) / n
        outside += (abs(r - 1) > EPS) / n
        kl += ((r - 1) - math.log(r)) / n
    total = -surrogate + ppo.value_coef * value - HYPER["entropy_coef"] * entropy
    return {
        "loss": total,
        "policy_loss": -surrogate,
        "value_loss": value,
        "entropy": entropy,
        "clip_fraction": outside,
        "kl": kl,
    }


@pytest.mark.parametrize("clip_value", [None, 0.3])
@pytest.mark.parametrize("normalise", [True, False])
def test_loss_and_metrics_are_the_papers(
    lib: Any, model: Any, params: Any, batch: Any, clip_value: float | None, normalise: bool
) -> None:
    ppo = PPO(clip_value=clip_value, normalise_advantage=normalise, network=LINEAR)
    total, metrics = lib.loss(ppo, model, params, batch, **HYPER)
    wanted = oracle(ppo, params, batch)
    assert 0 < wanted["clip_fraction"] < 1  # rows on both sides of the clip
    assert {"loss": total, **metrics} == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("advantage", "ratio", "objective", "slope"),
    [(1.0, 0.5, 0.5, 0.5), (1.0, 1.5, 1.2, 0.0), (-1.0, 0.5, -0.8, 0.0), (-1.0, 1.5, -1.5, -1.5)],
)
def test_clip_holds_back_only_what_would_gain(
    differentiable: Any, advantage: float, ratio: float, objective: float, slope: float
) -> None:
    """``slope`` is d objective / d log r: r A where the row still pulls, 0 where it is clipped."""

    def f(log_ratio: Any) -> Any:
        return clipped_surrogate(log_ratio, advantage + 0 * log_ratio, EPS)[0].sum()

    x = np.log(np.array([ratio], np.float32))
    if differentiable.name == "jax":
        import jax

        value, grad = jax.value_and_grad(f)(jax.numpy.asarray(x))
    else:
        import torch

        leaf = torch.tensor(x, requires_grad=True)
        value = f(leaf)
        (grad,) = torch.autograd.grad(value, leaf)
        value = value.detach()
    assert float(value) == pytest.approx(objective)
    assert float(grad[0]) == pytest.approx(slope)


def test_schedule_of_the_clip_reaches_the_loss(
    lib: Any, model: Any, params: Any, batch: Any
) -> None:
    wide = lib.loss(PPO(network=LINEAR), model, params, batch, clip=1e3)[1]
    assert wide["clip_fraction"] == 0.0


@pytest.mark.parametrize(
    ("v", "error"),
    [
        (1.0, 0.5 * 1.8**2),  # moved towards the target by more than .2: as if by .2
        (0.1, 0.5 * 1.9**2),  # within the clip: itself
        (-1.0, 0.5 * 3.0**2),  # away from the target: no mercy
    ],
)
def test_clipped_value_error_is_the_worse_of_two(v: float, error: float) -> None:
    one = np.ones(1, np.float32)
    assert value_error(v * one, 2 * one, 0 * one, 0.2)[0] == pytest.approx(error)


def test_k3_golden_value() -> None:
    assert np.mean(k3(np.array([0.1, -0.2]))) == pytest.approx(0.011951, abs=1e-6)


def test_masked_rows_change_nothing(
    lib: Any, torch_lib: Any, model: Any, params: Any, batch: Any
) -> None:
    """Whatever values they hold."""
    ppo = PPO(clip_value=0.3, network=LINEAR)
    keep = select(batch, np.flatnonzero(batch["mask"]))
    n = len(keep["mask"])
    garbage = pad(keep, n + 5)
    garbage["obs"]["obs"][n:] = 50.0
    for name in ("advantage", "target", "value"):
        garbage[name][n:] = 1e4
    garbage["log_prob"][n:] = -3.0
    clean = lib.loss(ppo, model, params, keep)
    dirty = lib.loss(ppo, model, params, garbage)
    assert dirty[0] == pytest.approx(clean[0], rel=1e-5)
    assert dirty[1] == pytest.approx(clean[1], rel=1e-5, abs=1e-6)
    wanted = torch_lib.grad(ppo, model, params, keep)
    for name, g in torch_lib.grad(ppo, model, params, garbage).items():
        np.testing.assert_allclose(g, wanted[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_normalised_advantages_have_no_scale_and_no_offset(
    lib: Any, model: Any, params: Any, batch: Any
) -> None:
    ppo = PPO(network=LINEAR)
    before = lib.loss(ppo, model, params, batch)[0]
    batch["advantage"] = 30 * batch["advantage"] + 7
    assert lib.loss(ppo, model, params, batch)[0] == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize(("rows", "size"), [(12, 4), (13, 4), (10, 3), (7, 7), (5, 4), (9, 8)])
def test_every_row_is_used_once_per_epoch(rows: int, size: int) -> None:
    epochs = 3
    ppo = PPO(epochs=epochs, minibatch_size=size)
    index = ppo.indices(MODEL, np.random.default_rng(0), (rows,))
    steps = math.ceil(rows / size)
    assert len(index) == epochs * steps
    for epoch in range(epochs):
        used = index[epoch * steps : (epoch + 1) * steps]
        assert sorted(used[used >= 0].tolist()) == list(range(rows))


@pytest.mark.parametrize(("rows", "size"), [(13, 4), (10, 3), (5, 4), (9, 8), (2049, 64)])
def test_minibatches_are_of_one_size_give_or_take_a_row(rows: int, size: int) -> None:
    each = (minibatches(np.random.default_rng(0), rows, size) >= 0).sum(1)
    assert each.max() <= size
    assert each.max() - each.min() <= 1


def test_every_epoch_has_an_order_of_its_own() -> None:
    index = PPO(epochs=4, minibatch_size=16).indices(MODEL, np.random.default_rng(0), (64,))
    orders = {tuple(epoch.ravel().tolist()) for epoch in index.reshape(4, -1)}
    assert len(orders) == 4
    assert tuple(range(64)) not in orders


def test_a_row_is_as_likely_in_any_minibatch() -> None:
    """Over 2000 epochs row 0 falls into each of the 4 minibatches about 500 times."""
    rng = np.random.default_rng(0)
    where = [int(np.argmax((minibatches(rng, 10, 3) == 0).any(1))) for _ in range(2000)]
    assert np.bincount(where, minlength=4) / 2000 == pytest.approx([0.3, 0.3, 0.2, 0.2], abs=0.04)


@pytest.mark.parametrize("continuous", [False, True])
def test_the_first_minibatch_sees_the_policy_that_sampled(lib: Any, continuous: bool) -> None:
    """Then r = 1: no KL, nothing clipped. It fails where the old log-probabilities are others."""
    from gymnasium.spaces import Box

    from tests.worlds import Script

    class Continuous(Script):
        action_space = Box(-2.0, 2.0, (2,), np.float32)

    made = worker(settings("ppo", Continuous if continuous else Scripts()))
    batch = made.sample().batch
    rows = select(batch, PPO(minibatch_size=8).indices(MODEL, np.random.default_rng(0), (16,))[0])
    _, metrics = lib.loss(made.config.algorithm, made.model, made.weights, rows)
    assert metrics["clip_fraction"] == 0.0
    assert abs(metrics["kl"]) < 1e-6
    log_prob = batch["log_prob"]
    assert np.isfinite(log_prob).all() and len(set(log_prob.tolist())) > 4  # they are not all 0


def test_one_step_on_the_whole_batch_is_a2c(
    differentiable: Any, model: Any, params: Any, batch: Any
) -> None:
    """At the policy that sampled, the ratio's gradient is the score's; A2C's error lacks a 1/2."""
    out = model.net(params, batch["obs"], ("pi",))[0]
    batch["log_prob"] = model.dist.log_prob(out, batch["action"])
    ppo = PPO(normalise_advantage=False, value_coef=0.5, network=LINEAR)
    a2c = A2C(value_coef=0.25, network=LINEAR)
    wanted = differentiable.grad(a2c, model, params, batch)
    for name, g in differentiable.grad(ppo, model, params, batch, clip=1e3).items():
        np.testing.assert_allclose(g, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.abs(g).max() > 1e-3


def test_gradient_is_the_slope_of_the_papers_loss(
    differentiable: Any, model: Any, params: Any, batch: Any
) -> None:
    """Central differences of the oracle, for which advantages and targets are constants."""
    ppo = PPO(clip_value=0.3, network=LINEAR)
    found = differentiable.grad(ppo, model, params, batch, **HYPER)
    rng, h = np.random.default_rng(3), 1e-5
    for _ in range(8):
        way = {k: rng.standard_normal(x.shape) for k, x in params.items()}
        ends = [
            oracle(ppo, {k: x + s * h * way[k] for k, x in params.items()}, batch)["loss"]
            for s in (1, -1)
        ]
        slope = sum(float((found[k] * way[k]).sum()) for k in params)
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=2e-3, abs=2e-4)


def test_policy_and_value_do_not_pull_at_each_other(
    torch_lib: Any, model: Any, params: Any, batch: Any
) -> None:
    """With separate networks neither loss may reach the other's parameters."""
    with_value = torch_lib.grad(PPO(value_coef=0.5, network=LINEAR), model, params, batch)
    without = torch_lib.grad(PPO(value_coef=0.0, network=LINEAR), model, params, batch)
    for name, g in with_value.items():
        if name.startswith("pi/"):
            np.testing.assert_array_equal(g, without[name])
        else:
            assert np.abs(g).max() > 0 and not without[name].any()


def test_kl_stop_is_asked_for_only_past_the_target(
    lib: Any, model: Any, params: Any, batch: Any
) -> None:
    kl = lib.loss(PPO(network=LINEAR), model, params, batch)[1]["kl"]
    for target, stop in ((0.9 * kl, True), (1.1 * kl, False)):
        ppo = PPO(target_kl=target, network=LINEAR)
        assert lib.loss(ppo, model, params, batch)[1]["stop"] == stop


def test_batches_of_workers_are_joined_row_by_row(batch: Any) -> None:
    first, second = select(batch, np.arange(2)), select(batch, np.arange(2, 6))
    joined = concatenate([first, second])
    for name, x in batch.items():
        pairs = [(joined[name][k], x[k]) for k in x] if name == "obs" else [(joined[name], x)]
        for found, wanted in pairs:
            np.testing.assert_array_equal(found, wanted)


def test_a_policy_that_moved_beyond_all_bounds_has_a_finite_loss(lib: Library) -> None:
    """An action with a probability of 0 in float32 when it was taken, and one that lost its own."""
    rng = np.random.default_rng(0)
    spaces = GymSpaces(Box(-1, 1, (3,), np.float32), Discrete(4))
    ppo = PPO(network=LINEAR, normalise_advantage=False)
    model = ppo.model(spaces, build)
    params = {k: 0 * x for k, x in ppo.init(model, rng).items()}
    ones = np.ones(2, np.float32)
    batch = {"obs": {"obs": np.ones((2, 3), np.float32)}, "action": np.array([0, 1]), "mask": ones}
    batch |= {"log_prob": np.array([-200.0, 200.0], np.float32), "advantage": -ones}
    batch |= {"value": ones, "target": ones}
    loss, metrics = lib.loss(ppo, model, params, batch)
    assert loss == pytest.approx((np.exp(20.0) + 0.8) / 2, rel=1e-4)
    assert np.isfinite(list(metrics.values())).all()
