"""Is each switch of DQN its paper's, and are all of them off DQN?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms import noisy
from shoal.algorithms.dqn import DQN
from shoal.algorithms.off_policy import FLOOR, TARGET
from shoal.errors import SpaceError
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.spaces.gym import GymSpaces
from tests.worlds import LINEAR

SPACES = GymSpaces(Box(-1, 1, (2,), np.float32), Discrete(3))
ROWS = 5


def batch_of(rng: np.random.Generator, rows: int = ROWS) -> dict[str, Any]:
    return {
        "obs": {"obs": rng.standard_normal((rows, 2), np.float32)},
        "next_obs": {"obs": rng.standard_normal((rows, 2), np.float32)},
        "action": rng.integers(0, 3, rows).astype(np.int32),
        "reward": rng.standard_normal(rows, np.float32),
        "discount": rng.choice(np.array([0, 0.9], np.float32), rows),
        "weight": rng.random(rows).astype(np.float32),
        "mask": np.ones(rows, np.float32),
        "step": {},
    }


def arrays_of(library: str, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: arrays_of(library, x) for k, x in tree.items()}
    if library == "torch":
        import torch

        return torch.tensor(tree)
    if library == "jax":
        import jax.numpy as jnp

        return jnp.asarray(tree)
    return tree


def setup(dqn: DQN, seed: int = 0) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Model, parameters, and targets that differ from them."""
    rng = np.random.default_rng(seed)
    model = dqn.model(SPACES, build)
    params = {k: rng.standard_normal(x.shape, np.float32) for k, x in dqn.init(model, rng).items()}
    other = {k: rng.standard_normal(x.shape, np.float32) for k, x in params.items()}
    return model, params, dqn.targets(other)


def linear(params: Any, x: np.ndarray, prefix: str = "") -> np.ndarray:
    return x @ params[f"{prefix}q/out/w"] + params[f"{prefix}q/out/b"]


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
@pytest.mark.parametrize("double", [False, True])
def test_loss_is_the_formula(double: bool, library: str) -> None:
    """mean w Huber(r + Gamma Q'(s', a*) - Q(s, a)), a* of the target or of the online network."""
    dqn = DQN(double=double, network=LINEAR)
    model, params, targets = setup(dqn)
    batch = batch_of(np.random.default_rng(1))
    loss, metrics = dqn.loss(model, *(arrays_of(library, x) for x in (params, targets, batch)))
    expected, priorities = 0.0, []
    for i in range(ROWS):
        now, then = batch["obs"]["obs"][i], batch["next_obs"]["obs"][i]
        valued = linear(targets, then, TARGET)
        judge = linear(params, then) if double else valued
        y = batch["reward"][i] + batch["discount"][i] * valued[np.argmax(judge)]
        error = abs(y - linear(params, now)[batch["action"][i]])
        expected += batch["weight"][i] * (error**2 / 2 if error < 1 else error - 0.5) / ROWS
        priorities.append(error + FLOOR)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(np.asarray(metrics.rows["priority"]), priorities, rtol=1e-5)


@pytest.mark.parametrize(("double", "y"), [(True, 3.7), (False, 10.0)])
def test_golden_double(double: bool, y: float) -> None:
    """Q(s') = [1, 5, 2], Q'(s') = [10, 3, 7], r = 1, gamma = .9."""
    dqn = DQN(double=double, network=LINEAR)
    model = dqn.model(SPACES, build)
    w = np.zeros((2, 3), np.float32)
    params = {"q/out/w": w, "q/out/b": np.array([1, 5, 2], np.float32)}
    targets = dqn.targets({"q/out/w": w, "q/out/b": np.array([10, 3, 7], np.float32)})
    one = np.ones(1, np.float32)
    zeros = {"obs": np.zeros((1, 2), np.float32)}
    batch = {"obs": zeros, "next_obs": zeros, "action": np.zeros(1, np.int32), "step": {}}
    batch |= {"reward": one, "discount": 0.9 * one, "weight": one, "mask": one}
    _, metrics = dqn.loss(model, params, targets, batch)
    td = metrics.rows["priority"][0] - FLOOR
    assert td == pytest.approx(y - 1.0, rel=1e-6)  # Q(s, 0) = 1


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_nothing_flows_into_targets(library: str) -> None:
    """The gradient is that of Q(s, a) alone: -w clip(y - Q) dQ / mean."""
    dqn = DQN(double=True, network=LINEAR)
    model, params, targets = setup(dqn)
    batch = batch_of(np.random.default_rng(1))
    if library == "jax":
        import jax

        gradient = jax.grad(lambda p: dqn.loss(model, p, targets, batch)[0])(params)
    else:
        import torch

        leaves = {k: torch.tensor(x, requires_grad=True) for k, x in params.items()}
        loss, _ = dqn.loss(model, leaves, arrays_of("torch", targets), arrays_of("torch", batch))
        found = torch.autograd.grad(loss, list(leaves.values()))
        gradient = dict(zip(leaves, found, strict=True))
    expected = np.zeros(3)
    for i in range(ROWS):
        then = batch["next_obs"]["obs"][i]
        best = np.argmax(linear(params, then))
        y = batch["reward"][i] + batch["discount"][i] * linear(targets, then, TARGET)[best]
        a = batch["action"][i]
        td = y - linear(params, batch["obs"]["obs"][i])[a]
        expected[a] -= batch["weight"][i] * np.clip(td, -1, 1) / ROWS
    np.testing.assert_allclose(np.asarray(gradient["q/out/b"]), expected, rtol=1e-4, atol=1e-6)


def test_c51_is_the_cross_entropy_of_the_projected_target() -> None:
    dqn = DQN(atoms=5, v_min=-1.0, v_max=1.0, network=LINEAR)
    model, params, targets = setup(dqn)
    batch = batch_of(np.random.default_rng(1))
    loss, metrics = dqn.loss(model, params, targets, batch)
    z = np.linspace(-1, 1, 5)

    def p_of(tree: Any, x: np.ndarray, prefix: str = "") -> np.ndarray:
        e = np.exp(linear(tree, x, prefix).reshape(3, 5).astype(np.float64))
        return e / e.sum(1, keepdims=True)

    expected, kl = 0.0, []
    for i in range(ROWS):
        then = p_of(targets, batch["next_obs"]["obs"][i], TARGET)
        best = then[np.argmax(then @ z)]
        m = np.zeros(5)
        for j in range(5):  # Algorithm 1 of the paper
            tz = np.clip(batch["reward"][i] + batch["discount"][i] * z[j], -1, 1)
            b = (tz + 1) / 0.5
            low, high = int(np.floor(b)), int(np.ceil(b))
            m[low] += best[j] * (high - b if high > low else 1.0)
            m[high] += best[j] * (b - low)
        log_p = np.log(p_of(params, batch["obs"]["obs"][i])[batch["action"][i]])
        expected -= batch["weight"][i] * (m @ log_p) / ROWS
        some = m > 0
        kl.append(float(m[some] @ (np.log(m[some]) - log_p[some])))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(metrics.rows["priority"], np.array(kl) + FLOOR, rtol=1e-3)


def test_dueling_streams_have_a_last_hidden_layer_each() -> None:
    dqn = DQN(dueling=True, network=Network(hidden=(8, 4)))
    shapes = dqn.model(SPACES, build).net.shapes()
    assert shapes["trunk/0/w"] == (2, 8)
    hidden = [name for name, shape in shapes.items() if shape == (8, 4)]
    assert len(hidden) == 2 and shapes["a/out/w"] == (4, 3) and shapes["v/out/w"] == (4, 1)


def test_every_action_of_a_dueling_network_is_v_plus_its_advantage() -> None:
    dqn = DQN(dueling=True, network=Network(hidden=(8, 4)))
    model, params, _ = setup(dqn)
    obs = {"obs": np.ones((2, 2), np.float32)}
    q = dqn.values(model, params, obs)[..., 0]
    a, v = model.net(params, obs, ("a", "v"))
    np.testing.assert_allclose(q, v + a - a.mean(-1, keepdims=True), rtol=1e-5)


class TestNoisy:
    dqn = DQN(noisy=True, network=LINEAR)

    def test_moments_of_the_output_are_the_papers(self) -> None:
        """E y = mu x + mu_b; Var y_j = sum_i sigma_ij^2 x_i^2 E|e| E|e| + sigma_bj^2 E|e|."""
        model, params, _ = setup(self.dqn)
        rng = np.random.default_rng(0)
        x = {"obs": np.array([[0.5, -2.0]], np.float32)}
        draws = np.array(
            [
                self.dqn.values(model, params, x, noise)[0, :, 0]
                for noise in rng.standard_normal((20_000, model.dist.width), np.float32)
            ]
        )
        mean = linear(params, x["obs"])[0]
        c = np.sqrt(2 / np.pi)
        variance = (params["q/out/sigma_w"].T ** 2 * x["obs"][0] ** 2).sum(1) * c * c
        variance = variance + params["q/out/sigma_b"] ** 2 * c
        assert np.all(np.abs(draws.mean(0) - mean) < 4 * np.sqrt(variance / len(draws)))
        np.testing.assert_allclose(draws.var(0), variance, rtol=0.1)

    def test_initial_values_are_the_papers(self) -> None:
        model = self.dqn.model(SPACES, build)
        params = self.dqn.init(model, np.random.default_rng(0))
        np.testing.assert_allclose(params["q/out/sigma_w"], 0.5 / np.sqrt(2), rtol=1e-6)
        assert np.abs(params["q/out/w"]).max() <= 1 / np.sqrt(2)

    def test_without_noise_the_means_act(self) -> None:
        model, params, _ = setup(self.dqn)
        obs = {"obs": np.random.default_rng(0).standard_normal((20, 2), np.float32)}
        action, _ = self.dqn.act(model, params, obs, None)
        np.testing.assert_array_equal(action, linear(params, obs["obs"]).argmax(1))

    def test_online_and_target_networks_are_given_noise_of_their_own(self) -> None:
        model, params, targets = setup(self.dqn)
        drawn = self.dqn.draw(model, np.random.default_rng(0), 7, 4)["noise"]
        assert drawn.shape == (7, 3, noisy.width(noisy.layers(model.net.shapes())))
        batch = batch_of(np.random.default_rng(1))
        losses = []
        for changed in (None, 0, 2):
            noise = np.zeros((3, model.dist.width), np.float32)
            if changed is not None:
                noise[changed] = 1.0
            batch["step"] = {"noise": noise}
            losses.append(float(self.dqn.loss(model, params, targets, batch)[0]))
        assert len(set(losses)) == 3


def test_epsilon_is_the_share_of_random_actions() -> None:
    dqn = DQN(network=LINEAR)
    model, params, _ = setup(dqn)
    obs = {"obs": np.zeros((100_000, 2), np.float32)}
    noise = model.dist.noise(np.random.default_rng(0), (100_000,))
    params["explore/epsilon"] = np.float32(0.3)
    action, _ = dqn.act(model, params, obs, noise)
    share = np.bincount(action, minlength=3) / 100_000
    expected = np.full(3, 0.1)
    expected[params["q/out/b"].argmax()] += 0.7
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_epsilon_falls_in_env_steps() -> None:
    dqn = DQN(epsilon_start=1.0, epsilon=0.1, epsilon_steps=1000)
    found = [float(dqn.exploration(n, 1)["explore/epsilon"]) for n in (0, 500, 1000, 5000)]
    assert found == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_forbidden_actions_are_neither_taken_nor_bootstrapped_from() -> None:
    dqn = DQN(network=LINEAR)
    model, params, targets = setup(dqn)
    rng = np.random.default_rng(0)
    batch = batch_of(rng, 50)
    mask = np.ones((50, 3), bool)
    mask[:, int(targets[f"{TARGET}q/out/b"].argmax())] = False
    batch["next_obs"]["action_mask"] = mask
    _, metrics = dqn.loss(model, params, targets, batch)
    for i in range(50):
        valued = np.where(mask[i], linear(targets, batch["next_obs"]["obs"][i], TARGET), -np.inf)
        y = batch["reward"][i] + batch["discount"][i] * valued.max()
        error = abs(y - linear(params, batch["obs"]["obs"][i])[batch["action"][i]])
        assert metrics.rows["priority"][i] == pytest.approx(error + FLOOR, rel=1e-4)
    params["explore/epsilon"] = np.float32(0.5)
    obs = {"obs": batch["obs"]["obs"], "action_mask": mask}
    for _ in range(20):
        action, _ = dqn.act(model, params, obs, model.dist.noise(rng, (50,)))
        assert mask[np.arange(50), action].all()


def test_targets_are_copied_every_so_many_gradient_steps() -> None:
    dqn = DQN(target_every=3, network=LINEAR)
    _, params, targets = setup(dqn)
    for step in range(1, 7):
        after = dqn.after_step(params, targets, np.int32(step))
        wanted = dqn.targets(params) if step in (3, 6) else targets
        for name, x in wanted.items():
            np.testing.assert_array_equal(after[name], x)


def test_a_continuous_action_space_is_refused_with_what_takes_it() -> None:
    with pytest.raises(SpaceError, match="sac, td3, ddpg, qt-opt or ppo"):
        DQN().model(GymSpaces(Box(-1, 1, (2,), np.float32), Box(-1, 1, (1,), np.float32)), build)
