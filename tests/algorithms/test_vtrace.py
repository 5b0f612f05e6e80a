"""Is it the loss of Espeholt et al. 2018, on fragments that end in every way?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from shoal.algorithms.a2c import A2C
from shoal.algorithms.base import Model
from shoal.algorithms.vtrace import VTrace
from shoal.config.config import Rollout
from shoal.errors import ConfigError
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces
from shoal.systems.configure import configure
from shoal.trajectory import Trajectory, concatenate, pad, select
from tests.algorithms.conftest import SLOTS, Policy, VTraceOracle, garbage, linear
from tests.worlds import LINEAR, TINY, Scripts, settings, worker

BETA = 0.01  # entropy_coef of the fixtures
PLAIN = VTrace(network=LINEAR)
OTHER = {"gamma": 0.9, "lambda_": 0.8, "clip_rho": 1.4, "clip_c": 1.1, "clip_pg_rho": 1.2}


def oracle(
    vtrace: VTrace, pi: Policy, batch: Any, before: Policy | None = None
) -> dict[str, float]:
    """Sum of -log pi(a_s|x_s) A_s + c_v (v_s - V(x_s))^2 / 2 - beta H, and means over rows.

    Targets and advantages are those of ``before``, if it is another policy than ``pi``.
    """
    names = ("gamma", "lambda_", "clip_rho", "clip_c", "clip_pg_rho", "corrected")
    corrections = VTraceOracle(**{name: getattr(vtrace, name) for name in names})
    told = corrections(before or pi, batch)
    policy = value = entropy = ratios = clipped = 0.0
    for (slot, s), (target, advantage, ratio) in told.items():
        log_p, v = pi(batch["obs"]["obs"][slot, s])
        policy -= log_p[int(batch["action"][slot, s])] * advantage
        value += 0.5 * (target - v) ** 2
        entropy -= sum(math.exp(q) * q for q in log_p)
        ratios += ratio
        clipped += ratio > vtrace.clip_rho
    n = len(told)
    return {
        "loss": policy + vtrace.value_coef * value - BETA * entropy,
        "policy_loss": policy / n,
        "value_loss": value / n,
        "entropy": entropy / n,
        "rho_mean": ratios / n,
        "clip_fraction": clipped / n,
    }


@pytest.mark.parametrize("fields", [{}, OTHER, {"corrected": False}, {**OTHER, "corrected": False}])
def test_loss_and_metrics_are_the_papers(
    lib: Any, model: Any, params: Any, fragments: Any, fields: Any
) -> None:
    vtrace = replace(PLAIN, **fields)
    total, metrics = lib.loss(vtrace, model, params, fragments)
    wanted = oracle(vtrace, linear(params), fragments)
    assert 0.1 < wanted["clip_fraction"] < 0.9  # ratios on both sides of the clip
    assert {"loss": total, **metrics} == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("rho", "fields", "vs", "advantage"),
    [
        ([1, 1, 1], {}, [4.807, 4.23, 4.7], [4.307, 3.23, 5.7]),
        ([2, 0.5, 1.5], {}, [3.3535, 2.615, 4.7], [2.8535, 1.615, 5.7]),
        ([0.5, 0.5, 0.5], {}, [1.349625, 1.3325, 1.85], [0.849625, 0.3325, 2.85]),
        ([2, 0.5, 1.5], {"clip_rho": 2.0}, [5.90775, 3.8975, 7.55], [4.00775, 2.8975, 5.7]),
        ([2, 0.5, 1.5], {"terminated": 1}, [1.45, 0.5, 4.7], [0.95, -0.5, 5.7]),
    ],
)
def test_golden_targets_and_advantages(
    lib: Any, rho: list[float], fields: dict[str, Any], vs: list[float], advantage: list[float]
) -> None:
    """r = [1, 0, 2], V = [.5, 1, -1], bootstrap 3, gamma .9."""
    clips = {name: x for name, x in fields.items() if name != "terminated"}
    ended = np.arange(3) == fields.get("terminated")
    found = corrected(lib, replace(PLAIN, gamma=0.9, **clips), [0.5, 1, -1, 3], rho, ended)
    assert found[0] == pytest.approx(vs)
    assert found[1] == pytest.approx(advantage)


def corrected(
    lib: Any, vtrace: VTrace, v: list[float], rho: list[float], ended: Any, r: Any = (1, 0, 2)
) -> list[Any]:
    """Targets and advantages of one slot."""
    batch = {
        "reward": np.array([r], np.float32),
        "terminated": np.array([ended]),
        "last": np.array([ended]),
        "cut": np.zeros((1, len(rho)), bool),
        "v_final": np.zeros((1, len(rho)), np.float32),
        "mask": np.ones((1, len(rho)), np.float32),
        "log_prob": -np.log(np.array([rho], np.float32)),
    }
    log_prob, values = np.zeros((1, len(rho)), np.float32), np.array([v], np.float32)
    found = vtrace.correct(lib._put(batch), lib._put(log_prob), lib._put(values))
    return [np.asarray(x)[0].tolist() for x in found]


@pytest.mark.parametrize(("clip_rho", "value"), [(1.0, 0.9 / 1.08), (math.inf, 0.9), (1e-4, 0.5)])
def test_fixed_point_lies_between_the_two_policies(clip_rho: float, value: float, lib: Any) -> None:
    """A bandit with mu = (.5, .5), pi = (.9, .1), r = (1, 0): that of min(clip mu, pi)."""
    vtrace = replace(PLAIN, gamma=0.0, clip_rho=clip_rho, clip_c=min(1.0, clip_rho))
    both = np.ones(2, bool)
    vs = corrected(lib, vtrace, [value, value, 0.0], [1.8, 0.2], both, r=(1, 0))[0]
    assert np.mean(vs) - value == pytest.approx(0.0, abs=1e-6)
    away = corrected(lib, vtrace, [value - 0.1, value - 0.1, 0.0], [1.8, 0.2], both, r=(1, 0))[0]
    assert np.mean(away) - (value - 0.1) > 1e-6  # from elsewhere it leads there


def recorded(env: Any, seed: int = 0) -> tuple[Any, Trajectory]:
    """A worker and the trajectory of its first fragment."""
    config = replace(settings("a2c", env, seed), rollout=Rollout(0, 3, 10))
    made = worker(replace(config, algorithm=VTrace(network=TINY)))
    seen: list[Trajectory] = []

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(config.algorithm, name)

        def postprocess(self, model: Any, params: Any, trajectory: Trajectory) -> Any:
            seen.append(trajectory)
            return {"mask": np.ones(1)}

    object.__setattr__(made.config, "algorithm", Spy())
    made.sample()
    return made, seen[0]


def targets(model: Model, weights: Any, vtrace: VTrace, trajectory: Trajectory) -> Any:
    """Targets and advantages [T, B] for weights that are also those that sampled."""
    batch = vtrace.postprocess(model, weights, trajectory)
    out, v = model.net(weights, batch["obs"], ("pi", "v"))
    log_prob = model.dist.log_prob(out[:, :-1], batch["action"])
    return [x.T for x in vtrace.correct(batch, log_prob, v[..., 0])[:2]]


@pytest.mark.parametrize("shared", [False, True])
def test_on_policy_targets_are_the_n_step_returns(shared: bool) -> None:
    """Eq. 2 of the paper; the returns are A2C's, of the same trajectory, with its own ends."""
    made, trajectory = recorded(Scripts())
    network = replace(TINY, shared=shared)
    model = VTrace(network=network).model(made.model.spaces, build)
    weights = model.net.init(np.random.default_rng(0))
    trajectory.records = {}  # of the worker's own network
    n_step = A2C(network=network).postprocess(model, weights, trajectory)
    vs, advantage = targets(model, weights, VTrace(network=network), trajectory)
    assert trajectory.terminated.any() and (trajectory.last & ~trajectory.terminated).any()
    np.testing.assert_allclose(vs.ravel(), n_step["target"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(advantage.ravel(), n_step["advantage"], rtol=1e-4, atol=1e-5)


def test_a_row_is_a_slots_fragment_as_its_environment_saw_it() -> None:
    scripts = Scripts()
    config = settings("a2c", scripts)
    made = worker(replace(config, algorithm=VTrace(network=TINY)))
    batch = made.sample().batch

    def heads(obs: np.ndarray) -> Any:
        return made.model.net(made.weights, {"obs": obs}, ("pi", "v"))

    cuts = 0
    for slot, log in enumerate(scripts.logs):
        obs = np.stack([step.obs for step in log])
        np.testing.assert_array_equal(batch["obs"]["obs"][slot, :-1], obs)
        action = np.array([step.action for step in log])
        assert batch["action"][slot].tolist() == action.tolist()
        assert batch["reward"][slot].tolist() == [step.reward for step in log]
        out, v = heads(obs)
        mu = made.model.dist.log_prob(out, action)
        np.testing.assert_allclose(batch["log_prob"][slot], mu, rtol=1e-5, atol=1e-6)
        followed = np.stack([step.next_obs for step in log])
        v = heads(followed)[1][:, 0]
        for t, step in enumerate(log):
            assert batch["terminated"][slot, t] == step.terminated
            assert batch["last"][slot, t] == (step.terminated or step.truncated)
            if not batch["cut"][slot, t]:
                np.testing.assert_array_equal(batch["obs"]["obs"][slot, t + 1], followed[t])
            elif step.truncated and not step.terminated:
                cuts += 1
                assert batch["v_final"][slot, t] == pytest.approx(v[t], rel=1e-4, abs=1e-5)
    assert cuts > 0


def test_left_uncorrected_it_takes_the_ratios_for_one(
    lib: Any, model: Any, params: Any, fragments: Any
) -> None:
    """n-step actor-critic on whatever was sampled: as if the newest weights had acted."""
    stale = lib.loss(replace(PLAIN, corrected=False), model, params, fragments)[0]
    out = model.net(params, fragments["obs"], ("pi",))[0][:, :-1]
    fragments["log_prob"] = model.dist.log_prob(out, fragments["action"])
    assert stale == pytest.approx(lib.loss(PLAIN, model, params, fragments)[0], rel=1e-5)


def test_gradient_is_the_slope_of_the_papers_loss(
    differentiable: Any, model: Any, params: Any, fragments: Any
) -> None:
    """Central differences of the oracle, for which targets and advantages are constants."""
    vtrace = replace(PLAIN, **OTHER)
    found = differentiable.grad(vtrace, model, params, fragments)
    rng, h = np.random.default_rng(3), 1e-5
    for _ in range(8):
        way = {k: rng.standard_normal(x.shape) for k, x in params.items()}
        ends = [
            oracle(
                vtrace,
                linear({k: x + s * h * way[k] for k, x in params.items()}),
                fragments,
                before=linear(params),
            )["loss"]
            for s in (1, -1)
        ]
        slope = sum(float((found[k] * way[k]).sum()) for k in params)
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=2e-3, abs=2e-4)


def test_advantages_do_not_teach_the_values(
    differentiable: Any, model: Any, params: Any, fragments: Any
) -> None:
    """Without a loss of their own they get no gradient: it would come through the advantages."""
    found = differentiable.grad(replace(PLAIN, value_coef=0.0), model, params, fragments)
    assert not found["v/out/w"].any() and not found["v/out/b"].any()
    assert np.abs(found["pi/out/w"]).max() > 0.1


def test_what_stands_in_masked_rows_changes_nothing(
    lib: Any, torch_lib: Any, model: Any, params: Any, fragments: Any
) -> None:
    """Not even NaN."""
    spoilt = garbage(fragments)
    assert np.isnan(spoilt["reward"]).sum() == "".join(SLOTS).count(".")
    clean, dirty = (lib.loss(PLAIN, model, params, x) for x in (fragments, spoilt))
    assert dirty[0] == pytest.approx(clean[0], rel=1e-6)
    assert dirty[1] == pytest.approx(clean[1], rel=1e-6)
    wanted = torch_lib.grad(PLAIN, model, params, fragments)
    for name, g in torch_lib.grad(PLAIN, model, params, spoilt).items():
        np.testing.assert_allclose(g, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_masked_action_that_is_no_number_has_no_gradient(differentiable: Any) -> None:
    """A Gaussian's gradient is the action itself, so that a weight of 0 would not stop it."""
    model = PLAIN.model(
        GymSpaces(Box(-1, 1, (3,), np.float32), Box(-1, 1, (2,), np.float32)), build
    )
    rng = np.random.default_rng(0)
    params = {k: rng.normal(0, 1, s).astype(np.float32) for k, s in model.net.shapes().items()}
    flags = np.zeros((1, 4), bool)
    batch = {
        "obs": {"obs": rng.standard_normal((1, 5, 3), dtype=np.float32)},
        "action": rng.standard_normal((1, 4, 2), dtype=np.float32),
        "reward": np.ones((1, 4), np.float32),
        "log_prob": np.full((1, 4), -2.0, np.float32),
        "v_final": np.zeros((1, 4), np.float32),
        "mask": np.array([[1, 1, 0, 1]], np.float32),
        "terminated": flags,
        "last": np.array([[False, True, False, False]]),
        "cut": flags,
    }
    wanted = differentiable.grad(PLAIN, model, params, batch)
    batch["action"][0, 2] = np.nan
    for name, g in differentiable.grad(PLAIN, model, params, batch).items():
        np.testing.assert_array_equal(g, wanted[name])
        assert np.abs(g).max() > 0


def test_slots_of_padding_change_nothing(lib: Any, model: Any, params: Any, fragments: Any) -> None:
    clean = lib.loss(PLAIN, model, params, fragments)
    padded = lib.loss(PLAIN, model, params, pad(fragments, 10))
    assert padded[0] == pytest.approx(clean[0], rel=1e-6)
    assert padded[1] == pytest.approx(clean[1], rel=1e-6)


@pytest.mark.parametrize("clip", [1.0, math.inf])
def test_an_action_the_old_policy_hardly_took_does_not_overflow(
    lib: Any, model: Any, params: Any, fragments: Any, clip: float
) -> None:
    fragments["log_prob"][:] = -1e6
    vtrace = replace(PLAIN, clip_rho=clip, clip_pg_rho=clip)
    total, metrics = lib.loss(vtrace, model, params, fragments)
    assert all(map(math.isfinite, (total, *metrics.values())))


def test_losses_of_several_workers_add_up(
    differentiable: Any, model: Any, params: Any, fragments: Any
) -> None:
    """A sum over time and batch: gradients of parts are added, not averaged."""
    parts = [select(fragments, np.array(rows)) for rows in ([0, 1], [2], [3, 4, 5, 6])]
    together = differentiable.grad(PLAIN, model, params, concatenate(parts))
    alone = [differentiable.grad(PLAIN, model, params, part) for part in parts]
    for name, g in together.items():
        total = np.sum([one[name] for one in alone], axis=0)
        np.testing.assert_allclose(g, total, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("gamma", 1.01), ("clip_c", 2.0), ("clip_rho", 0.0), ("lambda_", -1), ("max_grad_norm", 0.0)],
)
def test_what_means_nothing_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        VTrace(**{field: value})


def test_the_optimiser_is_the_papers() -> None:
    """Section D.1: TensorFlow's RMSProp, whose epsilon stands under the root, clipped at 40."""
    algorithm = configure("impala", "ALE/Pong-v5", use_tuned=True).algorithm
    optimiser = algorithm.optimiser
    assert (optimiser.kind, optimiser.decay, optimiser.momentum) == ("rmsprop", 0.99, 0.0)
    assert (optimiser.eps_inside, optimiser.clip_norm) == (True, 40.0)
