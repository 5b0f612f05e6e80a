"""Is SAC its papers', for floats and for choices?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from shoal.algorithms.off_policy import FLOOR, TARGET
from shoal.algorithms.sac import LOG_ALPHA, SAC
from shoal.errors import SpaceError
from shoal.learners.choose import create_learner
from shoal.nets.factory import build
from shoal.ops.squashed import TanhGaussian
from shoal.spaces.gym import GymSpaces
from tests.algorithms.test_ddpg import ROWS, batch_of, q
from tests.algorithms.test_dqn import arrays_of
from tests.algorithms.test_dqn import batch_of as batch_of_choices
from tests.worlds import LINEAR, TINY

FLOATS = GymSpaces(Box(-1, 1, (2,), np.float32), Box(-3, 3, (2,), np.float32))
CHOICES = GymSpaces(Box(-1, 1, (2,), np.float32), Discrete(3))


def setup(sac: SAC, spaces: GymSpaces) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    model = sac.model(spaces, build)
    start = sac.init(model, rng)
    params = {k: 0.5 * rng.standard_normal(x.shape).astype(np.float32) for k, x in start.items()}
    other = {k: rng.standard_normal(x.shape, np.float32) for k, x in params.items()}
    return model, params, sac.targets(other)


def test_densities_are_the_golden_ones() -> None:
    """mu = .3, sigma = .5, u = .8: log N = -.725791, squashed -.144284."""
    dist = TanhGaussian(1)
    out = np.array([[0.3, np.log(0.5)]])
    noise = np.array([[(0.8 - 0.3) / 0.5]])
    action, log_prob = dist.sample_log_prob(out, noise)
    assert action[0, 0] == pytest.approx(np.tanh(0.8))
    assert log_prob[0] == pytest.approx(-0.144284, abs=1e-6)


def sampled(params: Any, x: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
    """An action and its log-density, as appendix C has it."""
    out = x @ params["pi/out/w"] + params["pi/out/b"]
    mean, log_std = out[:2], np.clip(out[2:], -20, 2)
    u = mean + np.exp(log_std) * noise
    log_n = np.sum(-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi))
    return np.tanh(u), float(log_n - np.sum(np.log(1 - np.tanh(u) ** 2)))


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
def test_loss_of_floats_is_the_formula(library: str) -> None:
    """Critics to y = r + Gamma (min Q' - alpha log pi), the policy's and the temperature's."""
    sac = SAC(network=LINEAR)
    model, params, targets = setup(sac, FLOATS)
    batch = batch_of(1)
    noise = np.random.default_rng(2).standard_normal((2, ROWS, 2), np.float32)
    batch["step"] = {"noise": noise}
    loss, metrics = sac.loss(model, *(arrays_of(library, x) for x in (params, targets, batch)))
    alpha, expected, entropy, priorities = np.exp(params[LOG_ALPHA][0]), 0.0, 0.0, []
    for i in range(ROWS):
        s, s_next, a = batch["obs"]["obs"][i], batch["next_obs"]["obs"][i], batch["action"][i]
        then, log_prob = sampled(params, s_next, noise[0, i])
        low = min(q(targets, k, s_next, then, TARGET) for k in range(2))
        y = batch["reward"][i] + batch["discount"][i] * (low - alpha * log_prob)
        td = [y - q(params, k, s, a) for k in range(2)]
        expected += batch["weight"][i] * sum(x * x for x in td) / ROWS
        own, log_prob = sampled(params, s, noise[1, i])
        expected += (alpha * log_prob - min(q(params, k, s, own) for k in range(2))) / ROWS
        entropy -= log_prob / ROWS
        priorities.append(np.mean(np.abs(td)) + FLOOR)
    expected += alpha * (entropy - -2.0)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(metrics.scalars["entropy"]) == pytest.approx(entropy, rel=1e-4)
    np.testing.assert_allclose(np.asarray(metrics.rows["priority"]), priorities, rtol=1e-4)


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
def test_loss_of_choices_is_the_formula(library: str) -> None:
    """Christodoulou 2019, equations 10 to 12: expectations over actions instead of samples."""
    sac = SAC(network=LINEAR, target_entropy=0.7)
    model, params, targets = setup(sac, CHOICES)
    batch = batch_of_choices(np.random.default_rng(1), ROWS)
    loss, _ = sac.loss(model, *(arrays_of(library, x) for x in (params, targets, batch)))
    alpha, expected, entropy = np.exp(params[LOG_ALPHA][0]), 0.0, 0.0

    def line(of: Any, name: str, x: np.ndarray, prefix: str = "") -> np.ndarray:
        return x @ of[f"{prefix}{name}/out/w"] + of[f"{prefix}{name}/out/b"]

    def policy(x: np.ndarray) -> np.ndarray:
        e = np.exp(line(params, "pi", x))
        return e / e.sum()

    for i in range(ROWS):
        s, s_next, a = batch["obs"]["obs"][i], batch["next_obs"]["obs"][i], batch["action"][i]
        p = policy(s_next)
        low = np.minimum(*(line(targets, f"q{k}", s_next, TARGET) for k in range(2)))
        y = batch["reward"][i] + batch["discount"][i] * (p @ (low - alpha * np.log(p)))
        values = [line(params, f"q{k}", s) for k in range(2)]
        expected += batch["weight"][i] * sum((y - v[a]) ** 2 for v in values) / ROWS
        p = policy(s)
        expected += p @ (alpha * np.log(p) - np.minimum(*values)) / ROWS
        entropy -= p @ np.log(p) / ROWS
    expected += alpha * (entropy - 0.7)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_the_soft_backup_is_the_golden_one() -> None:
    """Q = (1, 0), alpha = 1 and the policy softmax(Q): V = 1.313262."""
    sac = SAC(network=LINEAR, alpha=1.0)
    spaces = GymSpaces(Box(-1, 1, (1,), np.float32), Discrete(2))
    model = sac.model(spaces, build)
    params = {k: np.zeros_like(x) for k, x in sac.init(model, np.random.default_rng(0)).items()}
    params["pi/out/b"] = np.array([1, 0], np.float32)
    targets = sac.targets({**params, **{f"q{k}/out/b": params["pi/out/b"] for k in range(2)}})
    one = np.ones(1, np.float32)
    obs = {"obs": np.zeros((1, 1), np.float32)}
    batch = {"obs": obs, "next_obs": obs, "action": np.zeros(1, np.int32), "reward": 0 * one}
    batch |= {"discount": one, "weight": one, "mask": one, "step": {}}
    _, metrics = sac.loss(model, params, targets, batch)
    assert metrics.rows["priority"][0] == pytest.approx(1.313262, abs=1e-5)  # Q itself is 0


@pytest.mark.parametrize("spaces", [FLOATS, CHOICES], ids=["floats", "choices"])
def test_no_part_of_the_loss_moves_what_is_not_its_own(spaces: GymSpaces) -> None:
    """Without weight on TD errors critics stand still; the temperature moves no policy."""
    sac = SAC(network=TINY)
    model = sac.model(spaces, build)
    params = sac.init(model, np.random.default_rng(0))
    learner = create_learner("torch", sac, model, params, 1)
    rng = np.random.default_rng(1)
    batch = batch_of(1) if spaces is FLOATS else batch_of_choices(rng, ROWS)
    batch["step"] = {"noise": rng.standard_normal((2, ROWS, 2), np.float32)}
    batch["weight"] = np.zeros(ROWS, np.float32)
    grads, metrics, _ = learner.gradients(batch, {"lr": 0.0})
    assert all(not grads[name].any() for name in grads if name.startswith("q"))
    assert grads[LOG_ALPHA][0] == pytest.approx(
        metrics["entropy"] - sac.wanted(spaces, batch), rel=1e-4
    )
    still = SAC(network=TINY, tune_alpha=False)
    fixed, _, _ = create_learner("torch", still, model, params, 1).gradients(batch, {"lr": 0.0})
    assert not fixed[LOG_ALPHA].any()
    for name in grads:
        if name.startswith("pi/"):
            np.testing.assert_array_equal(grads[name], fixed[name])


def test_the_temperature_finds_the_wanted_entropy() -> None:
    """In a bandit whose rewards pull at the policy: within .1 of -dim A."""
    sac = SAC(network=LINEAR, lr=1e-2)
    spaces = GymSpaces(Box(-1, 1, (1,), np.float32), Box(-1, 1, (1,), np.float32))
    model = sac.model(spaces, build)
    rng = np.random.default_rng(0)
    params = sac.init(model, rng)
    learner = create_learner("jax", sac, model, params, 1)
    steps, rows = 1500, 64
    obs = {"obs": np.zeros((steps * rows, 1), np.float32)}
    action = rng.uniform(-1, 1, (steps * rows, 1)).astype(np.float32)
    ones = np.ones(steps * rows, np.float32)
    batch = {"obs": obs, "next_obs": obs, "action": action, "weight": ones, "mask": ones}
    batch |= {"reward": 2.0 * action[:, 0], "discount": 0.0 * ones}
    batch["step"] = sac.draw(model, rng, steps, rows)
    index = np.arange(steps * rows, dtype=np.int32).reshape(steps, rows)
    learner.update(batch, index, {"lr": 1e-2})
    last = {k: x[-1] for k, x in sac.draw(model, rng, 1, 4096).items()}
    wide = {
        k: x[:1].repeat(4096, 0) for k, x in batch.items() if k not in ("obs", "next_obs", "step")
    }
    at = {"obs": np.zeros((4096, 1), np.float32)}
    _, metrics, _ = learner.gradients(
        {**wide, "obs": at, "next_obs": at, "step": last}, {"lr": 0.0}
    )
    assert metrics["entropy"] == pytest.approx(-1.0, abs=0.1)


def test_several_choices_at_once_are_refused() -> None:
    with pytest.raises(SpaceError, match="one choice of several"):
        SAC().model(GymSpaces(Box(-1, 1, (2,), np.float32), MultiDiscrete([2, 3])), build)


def test_the_wanted_entropy_of_free_choices_is_half_of_the_most() -> None:
    assert SAC().wanted(CHOICES, {"obs": {}}) == pytest.approx(0.5 * np.log(3.0))


def test_the_wanted_entropy_is_within_reach_where_few_choices_are_allowed() -> None:
    """Half of log 3, log 2 and log 1: with one choice the temperature rests."""
    masks = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0]], bool)
    batch = {"obs": {"action_mask": masks}, "mask": np.ones(3, np.float32)}
    expected = np.mean(0.5 * np.log([3.0, 2.0, 1.0]))
    assert SAC().wanted(CHOICES, batch) == pytest.approx(expected, rel=1e-6)
    batch["mask"] = np.array([0, 0, 1], np.float32)
    assert SAC().wanted(CHOICES, batch) == 0.0


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
def test_log_densities_are_those_of_high_precision(library: str) -> None:
    """From std 2e-9 at a mean where float32 is 1e-6 apart, to std 7."""
    rng = np.random.default_rng(0)
    mean, log_std, noise = rng.uniform(-9, 9, 400), rng.uniform(-20, 2, 400), rng.normal(size=400)
    out = np.stack([mean, log_std], -1).astype(np.float32)
    given = arrays_of(library, {"out": out, "noise": noise[:, None].astype(np.float32)})
    _, log_prob = TanhGaussian(1).sample_log_prob(given["out"], given["noise"])
    mean, log_std = out.astype(np.longdouble).T
    u = mean + np.exp(log_std) * noise
    slope = -2 * (np.logaddexp(u, -u) - np.log(np.longdouble(2)))  # log (1 - tanh^2) = -2 log cosh
    normal = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(
        np.asarray(log_prob), (normal - slope).astype(float), rtol=2e-5, atol=2e-5
    )
