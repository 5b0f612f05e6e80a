"""Are DDPG and TD3 their papers', and is TD3 without its changes DDPG?"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.ddpg import DDPG, TD3
from shoal.algorithms.off_policy import FLOOR, TARGET
from shoal.errors import SpaceError
from shoal.learners.choose import create_learner
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.spaces.base import OWN
from shoal.spaces.gym import GymSpaces
from tests.algorithms.test_dqn import arrays_of
from tests.worlds import LINEAR, TINY, difference

SPACES = GymSpaces(Box(-1, 1, (2,), np.float32), Box(-3, 3, (2,), np.float32))
ROWS = 6


def batch_of(seed: int, rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "obs": {"obs": rng.standard_normal((rows, 2), np.float32)},
        "next_obs": {"obs": rng.standard_normal((rows, 2), np.float32)},
        "action": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "reward": rng.standard_normal(rows, np.float32),
        "discount": rng.choice(np.array([0, 0.9], np.float32), rows),
        "weight": rng.random(rows).astype(np.float32),
        "mask": np.ones(rows, np.float32),
        "step": {"noise": rng.standard_normal((rows, 2), np.float32)},
    }


def setup(algorithm: Any, seed: int = 0) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Model, parameters, and targets that differ from them."""
    rng = np.random.default_rng(seed)
    model = algorithm.model(SPACES, build)
    start = algorithm.init(model, rng)
    params = {k: rng.standard_normal(x.shape, np.float32) for k, x in start.items()}
    other = {k: rng.standard_normal(x.shape, np.float32) for k, x in params.items()}
    return model, params, algorithm.targets(other)


def mu(params: Any, x: np.ndarray, prefix: str = "") -> np.ndarray:
    return np.tanh(x @ params[f"{prefix}pi/out/w"] + params[f"{prefix}pi/out/b"])


def q(params: Any, i: int, x: np.ndarray, a: np.ndarray, prefix: str = "") -> float:
    joined = np.concatenate([x, a])
    return float((joined @ params[f"{prefix}q{i}/out/w"] + params[f"{prefix}q{i}/out/b"])[0])


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
@pytest.mark.parametrize(
    "algorithm", [DDPG(network=LINEAR), TD3(network=LINEAR)], ids=["ddpg", "td3"]
)
def test_loss_is_the_formula(algorithm: Any, library: str) -> None:
    """sum_i mean w (y - Q_i(s, a))^2 - mean Q_0(s, mu(s)), y = r + Gamma min_i Q'_i(s', a~)."""
    model, params, targets = setup(algorithm)
    batch = batch_of(1)
    given = (arrays_of(library, x) for x in (params, targets, batch))
    loss, metrics = algorithm.loss(model, *given)
    expected, priorities = 0.0, []
    for i in range(ROWS):
        s, s_next, a = batch["obs"]["obs"][i], batch["next_obs"]["obs"][i], batch["action"][i]
        then = mu(targets, s_next, TARGET)
        if algorithm.target_noise:
            noise = np.clip(0.2 * batch["step"]["noise"][i], -0.5, 0.5)
            then = np.clip(then + noise, -1, 1)
        low = min(q(targets, k, s_next, then, TARGET) for k in range(algorithm.critics))
        y = batch["reward"][i] + batch["discount"][i] * low
        td = [y - q(params, k, s, a) for k in range(algorithm.critics)]
        expected += batch["weight"][i] * sum(x * x for x in td) / ROWS
        expected -= q(params, 0, s, mu(params, s)) / ROWS
        priorities.append(np.mean(np.abs(td)) + FLOOR)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(np.asarray(metrics.rows["priority"]), priorities, rtol=1e-4)


def test_the_lower_critic_counts() -> None:
    """r = 1, gamma = 0.9, Q' = (4, 6): y = 4.6."""
    algorithm = TD3(network=LINEAR, target_noise=0.0)
    model, params, targets = setup(algorithm)
    for name in targets:
        targets[name] = np.zeros_like(targets[name])
    for name in params:
        params[name] = np.zeros_like(params[name])
    targets[f"{TARGET}q0/out/b"] += 4.0
    targets[f"{TARGET}q1/out/b"] += 6.0
    batch = batch_of(0, 1) | {"reward": np.ones(1, np.float32)}
    batch["discount"] = np.full(1, 0.9, np.float32)
    _, metrics = algorithm.loss(model, params, targets, batch)
    assert metrics.rows["priority"][0] == pytest.approx(4.6, rel=1e-5)


def stepped(algorithm: Any, steps: int, kind: str = "torch") -> list[dict[str, Any]]:
    """Parameters and targets after each gradient step of a learner."""
    model = algorithm.model(SPACES, build)
    params = algorithm.init(model, np.random.default_rng(0))
    learner = create_learner(kind, algorithm, model, params, 1)
    found = [learner.get_state()]
    for i in range(steps):
        batch = batch_of(i)
        batch["step"] = {"noise": batch["step"]["noise"][None]}
        learner.update(batch, np.arange(ROWS, dtype=np.int32)[None], {"lr": 1e-2})
        found.append(learner.get_state())
    return found


@pytest.mark.parametrize("kind", ["jax", "torch"])
def test_td3_without_its_changes_is_ddpg(kind: str) -> None:
    """To the bit, over several gradient steps."""
    stripped = TD3(
        lr=1e-3, critics=1, policy_every=1, target_noise=0.0, target_every=1, network=TINY
    )
    one, other = (stepped(algorithm, 4, kind) for algorithm in (stripped, DDPG(network=TINY)))
    for a, b in zip(one, other, strict=True):
        assert difference(a["params"], b["params"]) == ""
        assert difference(a["targets"], b["targets"]) == ""


@pytest.mark.parametrize("kind", ["jax", "torch"])
def test_the_policy_and_the_targets_move_in_every_second_step_alone(kind: str) -> None:
    states = stepped(TD3(network=TINY), 4, kind)
    for i, (a, b) in enumerate(pairwise(states), 1):
        moved = {k for k in a["params"] if not np.array_equal(a["params"][k], b["params"][k])}
        policy = {k for k in a["params"] if k.startswith("pi/")}
        assert moved >= {k for k in a["params"] if k.startswith("q")}
        assert moved & policy == (policy if i % 2 == 0 else set())
        assert (difference(a["targets"], b["targets"]) == "") == (i % 2 == 1)


def test_what_is_delayed_steps_as_if_the_others_had_not_been() -> None:
    """Adam's averages and its bias corrections count the steps taken, not those waited."""
    algorithm = TD3(network=TINY)
    optimiser = algorithm.optimiser
    plain = replace(optimiser, groups=())
    rng = np.random.default_rng(0)
    params = {"pi/w": np.zeros(3, np.float32), "q0/w": np.zeros(3, np.float32)}
    state, alone = optimiser.init(params), plain.init({"pi/w": params["pi/w"]})
    reference = {"pi/w": params["pi/w"]}
    for t in range(1, 9):
        grads = {k: rng.standard_normal(3).astype(np.float32) for k in params}
        params, state, _ = optimiser.update(params, grads, state, 0.1)
        if t % 2 == 0:
            reference, alone, _ = plain.update(reference, {"pi/w": grads["pi/w"]}, alone, 0.1)
        np.testing.assert_allclose(params["pi/w"], reference["pi/w"], rtol=1e-6)


def test_no_gradient_of_the_policys_loss_reaches_the_critics() -> None:
    """With TD errors of zero weight the critics stand still, and the policy moves."""
    algorithm = DDPG(network=TINY)
    model = algorithm.model(SPACES, build)
    params = algorithm.init(model, np.random.default_rng(0))
    learner = create_learner("torch", algorithm, model, params, 1)
    batch = batch_of(0) | {"weight": np.zeros(ROWS, np.float32)}
    grads, _, _ = learner.gradients(batch, {"lr": 0.0})
    assert all(not grads[name].any() for name in grads if name.startswith("q"))
    assert any(grads[name].any() for name in grads if name.startswith("pi/"))


def test_a_policy_climbs_a_known_critic() -> None:
    """Q(s, a) = -(a - 2 s)^2 has mu(s) = 2 s at its top; here tanh of a line, near 0."""
    algorithm = DDPG(network=LINEAR, tau=1.0)
    model = algorithm.model(
        GymSpaces(Box(-1, 1, (1,), np.float32), Box(-1, 1, (1,), np.float32)), build
    )

    class Known:
        critic_names = ("q0/out/w",)

        def __call__(self, params: Any, obs: Any, heads: Any) -> Any:
            return model.net(params, obs, heads)

        def critic(self, params: Any, obs: Any, heads: Any) -> Any:
            return (-((obs[OWN] - 2.0 * obs["obs"]) ** 2) + 0.0 * params["q0/out/w"][0],)

    import torch

    rng = np.random.default_rng(0)
    params = {k: torch.tensor(x) for k, x in algorithm.init(model, rng).items()}
    known = model._replace(net=Known())
    optimiser = algorithm.optimiser
    state = optimiser.init(params)
    for _ in range(300):
        obs = torch.tensor(rng.uniform(-0.2, 0.2, (64, 1)).astype(np.float32))
        zeros = torch.zeros(64)
        batch = {
            "obs": {"obs": obs},
            "next_obs": {"obs": obs},
            "action": obs,
            "reward": zeros,
            "discount": zeros,
            "weight": zeros,
            "mask": torch.ones(64),
            "step": {},
        }
        leaves = {k: x.detach().requires_grad_() for k, x in params.items()}
        aux = {f"{TARGET}{k}": x.detach() for k, x in params.items()}
        loss, _ = algorithm.loss(known, leaves, aux, batch)
        names = [k for k in leaves if k.startswith("pi/")]
        grads = dict(zip(names, torch.autograd.grad(loss, [leaves[k] for k in names]), strict=True))
        grads |= {k: torch.zeros_like(x) for k, x in params.items() if k not in grads}
        with torch.no_grad():
            params, state, _ = optimiser.update(params, grads, state, 0.03)
    (out,) = model.net(params, {"obs": torch.tensor([[0.1], [-0.15]])}, ("pi",))
    np.testing.assert_allclose(np.tanh(out.detach().numpy()), [[0.2], [-0.3]], atol=0.02)


def test_actions_are_random_first_and_then_noisy_ones_of_the_policy() -> None:
    algorithm = DDPG(network=LINEAR, noise=0.2, random_steps=10)
    model, params, _ = setup(algorithm)
    params = {k: 0.3 * x for k, x in params.items()}
    obs = {"obs": np.zeros((50_000, 2), np.float32)}
    noise = model.dist.noise(np.random.default_rng(0), (50_000,))
    told = {n: algorithm.exploration(n, 1) for n in (9, 10)}
    action, _ = algorithm.act(model, params | told[9], obs, noise)
    np.testing.assert_allclose(action.std(0), 1 / np.sqrt(3), rtol=0.02)
    action, _ = algorithm.act(model, params | told[10], obs, noise)
    np.testing.assert_allclose(action.mean(0), mu(params, np.zeros(2)), atol=0.01)
    assert np.abs(action).max() <= 1.0 and action.std() > 0.1
    greedy, _ = algorithm.act(model, params | told[10], obs, None)
    np.testing.assert_allclose(greedy[0], mu(params, np.zeros(2)), rtol=1e-5)


def test_choices_are_refused_with_what_takes_them() -> None:
    spaces = GymSpaces(Box(-1, 1, (2,), np.float32), Discrete(3))
    with pytest.raises(SpaceError, match="dqn, rainbow, sac or ppo"):
        TD3().model(spaces, build)


def test_images_go_through_one_encoder_for_the_policy_and_one_for_the_critics() -> None:
    image = GymSpaces(Box(0, 255, (3, 40, 40), np.uint8), Box(-1, 1, (2,), np.float32))
    algorithm = TD3(network=Network(hidden=(8,), activation="relu"))
    model = algorithm.model(image, build)
    shapes = model.net.shapes()
    kernels = [name for name, shape in shapes.items() if len(shape) == 4]
    assert {name.split("/")[0] for name in kernels} == {"trunk", "critic"}
    params = algorithm.init(model, np.random.default_rng(0))
    obs = {"obs": np.zeros((2, 3, 40, 40), np.uint8)}
    values = algorithm.q(model, params, {**obs, OWN: np.zeros((2, 2), np.float32)})
    assert [x.shape for x in values] == [(2, 1), (2, 1)]
