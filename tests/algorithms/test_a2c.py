"""Is it Algorithm S3 of Mnih et al. 2016, in one batch?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shoal.algorithms.a2c import A2C
from shoal.nets.factory import build
from shoal.trajectory import Trajectory, concatenate, select
from tests.worlds import LINEAR, Scripts, settings, worker

BETA = 0.01  # entropy_coef of the fixtures


def oracle(params: Any, batch: Any, value_coef: float) -> dict[str, float]:
    """mean of -log pi(a|s) A - beta H(pi(s)) + c_v (R - V(s))^2, row by row."""
    rows = np.flatnonzero(batch["mask"]).tolist()
    policy = value = entropy = 0.0
    for i in rows:
        x = batch["obs"]["obs"][i].astype(np.float64)
        z = [math.exp(q) for q in x @ params["pi/out/w"] + params["pi/out/b"]]
        p = [q / sum(z) for q in z]
        v = float(x @ params["v/out/w"][:, 0] + params["v/out/b"][0])
        policy -= math.log(p[int(batch["action"][i])]) * float(batch["advantage"][i]) / len(rows)
        value += (float(batch["target"][i]) - v) ** 2 / len(rows)
        entropy -= sum(q * math.log(q) for q in p) / len(rows)
    total = policy + value_coef * value - BETA * entropy
    return {"loss": total, "policy_loss": policy, "value_loss": value, "entropy": entropy}


def fragment(rewards: list[float], **ended: list[bool]) -> Trajectory:
    """One slot; observation t is the t-th unit vector."""
    t = len(rewards)
    flags: dict[str, Any] = {name: np.zeros((t, 1), bool) for name in ("terminated", "truncated")}
    for name, x in ended.items():
        flags[name] = np.array(x)[:, None]
    return Trajectory(
        obs={"obs": np.eye(3, dtype=np.float32)[: t + 1, None]},
        action=np.zeros((t, 1), np.int64),
        reward=np.array(rewards, np.float32)[:, None],
        valid=np.ones((t, 1), bool),
        final_t=np.zeros(0, np.int64),
        final_b=np.zeros(0, np.int64),
        final={"obs": np.zeros((0, 3), np.float32)},
        **flags,
    )


def test_loss_and_metrics_are_the_papers(lib: Any, model: Any, params: Any, batch: Any) -> None:
    total, metrics = lib.loss(A2C(value_coef=0.3, network=LINEAR), model, params, batch)
    wanted = oracle(params, batch, 0.3)
    assert {"loss": total, **metrics} == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_returns_and_advantages_golden_values(model: Any, params: Any) -> None:
    """r = [1, 2], V = [.5, .4], bootstrap .3, gamma .9."""
    values = {
        "v/out/w": np.array([[0.5], [0.4], [0.3]], np.float32),
        "v/out/b": np.zeros(1, np.float32),
    }
    a2c = A2C(gamma=0.9, network=LINEAR)
    batch = a2c.postprocess(model, {**params, **values}, fragment([1.0, 2.0]))
    assert batch["target"].tolist() == pytest.approx([3.043, 2.27])
    assert batch["advantage"].tolist() == pytest.approx([2.543, 1.87])
    aux = {"hyper/entropy_coef": np.float32(0)}
    value_loss = a2c.loss(model, {**params, **values}, aux, batch)[1].scalars["value_loss"]
    assert 0.5 * value_loss == pytest.approx(2.490937)


@pytest.mark.parametrize(("kind", "target"), [("terminated", 2.0), ("truncated", 2.0 + 0.9 * 0.3)])
def test_an_ending_is_worth_nothing_but_a_time_limit_goes_on(
    model: Any, params: Any, kind: str, target: float
) -> None:
    values = {
        "v/out/w": np.array([[0.5], [0.4], [0.3]], np.float32),
        "v/out/b": np.zeros(1, np.float32),
    }
    trajectory = fragment([1.0, 2.0], **{kind: [False, True]})
    batch = A2C(gamma=0.9, network=LINEAR).postprocess(model, {**params, **values}, trajectory)
    assert batch["target"].tolist() == pytest.approx([1.0 + 0.9 * target, target])


def test_many_environments_average_their_gradients(
    differentiable: Any, model: Any, params: Any, batch: Any
) -> None:
    """The gradient of N environments' rows is the mean of the N gradients."""
    a2c = A2C(network=LINEAR)
    batch["mask"][:] = 1
    parts = [select(batch, np.arange(i, i + 2)) for i in (0, 2, 4)]
    together = differentiable.grad(a2c, model, params, concatenate(parts))
    alone = [differentiable.grad(a2c, model, params, part) for part in parts]
    for name, g in together.items():
        mean = np.mean([one[name] for one in alone], axis=0)
        np.testing.assert_allclose(g, mean, rtol=1e-5, atol=1e-6, err_msg=name)


def test_gradient_is_the_slope_on_a_two_state_mdp(differentiable: Any) -> None:
    """Central differences, parameter by parameter, of -sum log pi A - beta H."""
    from gymnasium.spaces import Discrete

    from shoal.spaces.gym import GymSpaces

    a2c = A2C(value_coef=0.0, network=LINEAR)
    model = a2c.model(GymSpaces(Discrete(2), Discrete(2)), build)
    rng = np.random.default_rng(0)
    params = {k: rng.normal(0, 1, s).astype(np.float32) for k, s in model.net.shapes().items()}
    state, action = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 0, 1])
    advantage = np.array([1.0, -0.5, 2.0, 0.3, -1.2], np.float32)
    batch = {
        "obs": {"obs": state},
        "action": action,
        "advantage": advantage,
        "target": np.zeros(5, np.float32),
        "mask": np.ones(5, np.float32),
    }

    def loss(w: np.ndarray, b: np.ndarray) -> float:
        total = 0.0
        for s, a, adv in zip(state, action, advantage.tolist(), strict=True):
            z = np.exp(w[s] + b)
            p = z / z.sum()
            total += -math.log(p[a]) * adv + BETA * float((p * np.log(p)).sum())
        return total / len(state)

    found = differentiable.grad(a2c, model, params, batch, entropy_coef=BETA)
    w, b, h = params["pi/out/w"].astype(float), params["pi/out/b"].astype(float), 1e-6
    for i, j in np.ndindex(2, 2):
        e = np.zeros((2, 2))
        e[i, j] = h
        slope = (loss(w + e, b) - loss(w - e, b)) / (2 * h)
        assert found["pi/out/w"][i, j] == pytest.approx(slope, rel=1e-4, abs=1e-6)
    assert not found["v/out/w"].any()


def test_targets_are_constants_of_the_value_loss(
    differentiable: Any, model: Any, params: Any, batch: Any
) -> None:
    """d/dw mean (R - w x)^2 = mean -2 (R - w x) x: nothing flows through R, though R was made of
    the same values."""
    rows = batch["mask"] > 0
    x, v = batch["obs"]["obs"][rows], batch["value"][rows]
    own = model.net(params, {"obs": x}, ("v",))[0][:, 0]
    batch["target"][rows] = v + own
    found = differentiable.grad(A2C(value_coef=1.0, network=LINEAR), model, params, batch)
    wanted = np.mean(-2 * (batch["target"][rows] - own)[:, None] * x, axis=0)
    np.testing.assert_allclose(found["v/out/w"][:, 0], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("inside", "step"), [(True, 0.534522), (False, 0.666667)])
def test_rmsprop_golden_first_step(inside: bool, step: float) -> None:
    """g = 2, alpha .99, eta .1, eps .1, in the optimiser that A2C asks for."""
    a2c = A2C(rmsprop_decay=0.99, rmsprop_eps=0.1, rmsprop_eps_inside=inside, max_grad_norm=None)
    x, g = {"x": np.zeros(1, np.float32)}, {"x": np.full(1, 2.0, np.float32)}
    after, _, norm = a2c.optimiser.update(x, g, a2c.optimiser.init(x), np.float32(0.1))
    assert after["x"][0] == pytest.approx(-step, rel=1e-5)
    assert norm == 2.0


def test_eps_stands_inside_the_root_unless_told_otherwise() -> None:
    assert A2C().optimiser.eps_inside


def test_lambda_one_is_the_n_step_return_of_the_log() -> None:
    """Over a real fragment: R_i = r_i + gamma R_{i+1}, from the value where it is cut."""
    scripts = Scripts()
    made = worker(replace(settings("a2c", scripts, gamma=0.9), seed=5))
    batch = made.sample().batch

    def v(obs: np.ndarray) -> float:
        return float(made.model.net(made.weights, {"obs": obs[None]}, ("v",))[0][0, 0])

    for slot, log in enumerate(scripts.logs):
        goal = v(log[-1].next_obs)
        targets = []
        for step in reversed(log):
            if step.terminated or step.truncated:
                goal = 0.0 if step.terminated else v(step.next_obs)
            goal = step.reward + 0.9 * goal
            targets.append(goal)
        assert batch["target"][slot::2].tolist() == pytest.approx(targets[::-1], rel=1e-4, abs=1e-5)
