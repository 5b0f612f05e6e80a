"""Are these the distributions they say they are, whatever the library, mask or extreme output?"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from shoal.ops.distributions import Categorical, DiagonalGaussian, MultiCategorical, for_space
from shoal.ops.squashed import TanhGaussian

ROWS = 7
CATEGORICALS = [Categorical(5), MultiCategorical((2, 4, 3))]
GAUSSIANS = [DiagonalGaussian(3), TanhGaussian(3)]
ALL = [*CATEGORICALS, *GAUSSIANS]
each = pytest.mark.parametrize("dist", ALL, ids=lambda d: type(d).__name__)
each_categorical = pytest.mark.parametrize("dist", CATEGORICALS, ids=lambda d: type(d).__name__)


def outputs(dist: Any, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(ROWS, dist.n_out))).astype(np.float32)


def masks(dist: Any, seed: int = 0) -> np.ndarray:
    """Random masks that forbid something and allow the first choice of every component."""
    mask = np.random.default_rng(seed).random((ROWS, dist.n_out)) < 0.4
    parts = np.split(mask, np.cumsum(sizes(dist))[:-1], axis=-1)
    for part in parts:
        part[:, 0], part[:, -1] = True, False
    return np.concatenate(parts, axis=-1)


def sizes(dist: Any) -> tuple[int, ...]:
    return dist.ns if isinstance(dist, MultiCategorical) else (dist.n,)


def actions(dist: Any, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return dist.sample(outputs(dist), dist.noise(rng, (ROWS,)))


def theirs(dist: Any, out: np.ndarray, mask: np.ndarray | None = None) -> list[Any]:
    """PyTorch's independent distributions whose sum of log-probabilities ours should be."""
    x = torch.tensor(out, dtype=torch.float64)
    if mask is not None:
        x = torch.where(torch.tensor(mask), x, -torch.inf)
    if isinstance(dist, DiagonalGaussian | TanhGaussian):
        log_std = x[:, dist.dim :]
        if isinstance(dist, TanhGaussian):
            log_std = log_std.clamp(-20.0, 2.0)
        normal = torch.distributions.Normal(x[:, : dist.dim], log_std.exp())
        return [torch.distributions.Independent(normal, 1)]
    parts = torch.split(x, sizes(dist), dim=-1)
    return [torch.distributions.Categorical(logits=part) for part in parts]


def close(actual: Any, expected: Any, tol: float = 1e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tol, atol=tol)


# --- against torch.distributions and scipy -----------------------------------------------------


@each
def test_log_prob(lib: Any, dist: Any) -> None:
    out, action = outputs(dist), actions(dist)
    parts, value = theirs(dist, out), torch.tensor(action)
    if isinstance(dist, TanhGaussian):
        tanh = torch.distributions.TanhTransform()
        expected = torch.distributions.TransformedDistribution(parts[0], tanh).log_prob(
            value.double()
        )
    elif isinstance(dist, DiagonalGaussian):
        expected = parts[0].log_prob(value)
    else:
        columns = value.reshape(ROWS, -1).unbind(-1)
        expected = sum(p.log_prob(a) for p, a in zip(parts, columns, strict=True))
    # atanh of a float32 near 1 has lost digits before our formula begins.
    close(lib.run(dist.log_prob, out, action), expected, 2e-4 if dist.n_out == 6 else 1e-5)


@pytest.mark.parametrize("dist", ALL[:3], ids=lambda d: type(d).__name__)
def test_entropy(lib: Any, dist: Any) -> None:
    out = outputs(dist, scale=2.0)
    close(lib.run(dist.entropy, out), sum(p.entropy() for p in theirs(dist, out)))


@pytest.mark.parametrize("mean", [0.0, 0.7, -3.0])
@pytest.mark.parametrize("log_std", [-2.0, 0.0, 1.0])
def test_entropy_of_a_squashed_gaussian(lib: Any, mean: float, log_std: float) -> None:
    normal = stats.norm(mean, np.exp(log_std))

    def integrand(u: float) -> float:
        return float(-normal.pdf(u) * (normal.logpdf(u) - 2.0 * np.log(1.0 / np.cosh(u))))

    reach = 9.0 * np.exp(log_std)
    expected, _ = integrate.quad(integrand, mean - reach, mean + reach, limit=200)
    out = np.asarray([mean, log_std], np.float32)
    close(lib.run(TanhGaussian(1).entropy, out), expected, 5e-3)


@each
def test_kl(lib: Any, dist: Any) -> None:
    p, q = outputs(dist, 1), outputs(dist, 2)
    pairs = zip(theirs(dist, p), theirs(dist, q), strict=True)
    expected = sum(torch.distributions.kl_divergence(a, b) for a, b in pairs)
    close(lib.run(dist.kl, p, q), expected)


@each
def test_kl_is_a_divergence(lib: Any, dist: Any) -> None:
    p = outputs(dist, 1)
    nearby = p + 0.3 * outputs(dist, 2)
    assert (lib.run(dist.kl, p, nearby) > 0).all()
    close(lib.run(dist.kl, p, p), np.zeros(ROWS), 1e-6)


@each_categorical
def test_probabilities_of_all_actions_sum_to_one(lib: Any, dist: Any) -> None:
    every = np.asarray(list(itertools.product(*map(range, sizes(dist)))))
    action = every if isinstance(dist, MultiCategorical) else every[:, 0]
    out = np.repeat(outputs(dist, scale=5.0)[:1], len(every), axis=0)
    assert np.exp(lib.run(dist.log_prob, out, action)).sum() == pytest.approx(1.0, abs=1e-5)


def test_density_of_a_squashed_gaussian_integrates_to_one(lib: Any) -> None:
    a = np.linspace(-1, 1, 20_001, dtype=np.float32)[1:-1, None]
    out = np.broadcast_to(np.float32([0.3, -0.5]), (len(a), 2)).copy()
    density = np.exp(lib.run(TanhGaussian(1).log_prob, out, a))
    assert integrate.trapezoid(density, a[:, 0]) == pytest.approx(1.0, abs=1e-3)


def test_squashed_gaussian_golden(lib: Any) -> None:
    out = np.asarray([0.3, np.log(0.5)], np.float32)
    raw = lib.run(DiagonalGaussian(1).log_prob, out, np.float32([0.8]))
    squashed = lib.run(TanhGaussian(1).log_prob, out, np.tanh(np.float32([0.8])))
    close(raw, -0.725791, 2e-6)
    close(squashed, -0.144284, 2e-6)
    _, sampled = lib.run(TanhGaussian(1).sample_log_prob, out, np.float32([1.0]))
    close(sampled, -0.144284, 2e-6)  # .3 + .5 * 1 = .8


# --- sampling ----------------------------------------------------------------------------------


@each
def test_same_noise_same_action_in_every_library(lib: Any, dist: Any) -> None:
    out, noise = outputs(dist), dist.noise(np.random.default_rng(3), (ROWS,))
    action = lib.run(dist.sample, out, noise)
    close(action, dist.sample(out, noise), 0.0 if dist in CATEGORICALS else 1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_categorical_frequencies(masked: bool) -> None:
    logits = np.float32([1.0, -1.0, 0.3, 2.0, 0.0])
    mask = np.asarray([True, False, True, True, False]) if masked else None
    dist, draws = Categorical(5), 100_000
    out = np.broadcast_to(logits, (draws, 5))
    action = dist.sample(out, dist.noise(np.random.default_rng(0), (draws,)), mask)
    weights = np.exp(logits.astype(float)) * (mask if masked else 1.0)
    seen, expected = np.bincount(action, minlength=5), draws * weights / weights.sum()
    assert (seen[expected == 0] == 0).all()
    possible = expected > 0
    assert stats.chisquare(seen[possible], expected[possible]).pvalue > 0.01


def test_multicategorical_components_are_independent() -> None:
    dist, draws = MultiCategorical((2, 3)), 100_000
    logits = np.float32([0.5, -0.5, 0.0, 1.0, -1.0])
    out = np.broadcast_to(logits, (draws, 5))
    action = dist.sample(out, dist.noise(np.random.default_rng(1), (draws,)))
    seen = np.bincount(action[:, 0] * 3 + action[:, 1], minlength=6)
    p, q = (
        np.exp(x) / np.exp(x).sum() for x in (logits[:2].astype(float), logits[2:].astype(float))
    )
    assert stats.chisquare(seen, draws * np.outer(p, q).ravel()).pvalue > 0.01


@pytest.mark.parametrize("dist", [DiagonalGaussian(2), TanhGaussian(2)], ids=["normal", "tanh"])
def test_gaussian_samples_follow_their_law(dist: Any) -> None:
    draws = 20_000
    out = np.broadcast_to(np.float32([0.5, -1.0, -0.7, 0.2]), (draws, 4))
    action = dist.sample(out, dist.noise(np.random.default_rng(2), (draws,))).astype(float)
    u = np.arctanh(action) if isinstance(dist, TanhGaussian) else action
    for i, (mean, log_std) in enumerate([(0.5, -0.7), (-1.0, 0.2)]):
        assert stats.kstest(u[:, i], stats.norm(mean, np.exp(log_std)).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(u[:, 0], u[:, 1]).statistic) < 0.02


@each
def test_noise_is_a_function_of_the_generator(dist: Any) -> None:
    a, b, c = (dist.noise(np.random.default_rng(seed), (4, 3)) for seed in (1, 1, 2))
    assert a.dtype == np.float32
    assert a.shape == (4, 3, *dist.noise_shape)
    assert (a == b).all()
    assert (a != c).all()


@each_categorical
def test_mode_is_the_most_likely_action(lib: Any, dist: Any) -> None:
    out, mask = outputs(dist), masks(dist)
    mode = lib.run(dist.mode, out, mask)
    best = dist.log_prob(out, mode, mask)
    for action in itertools.product(*map(range, sizes(dist))):
        other = np.broadcast_to(action if mode.ndim == 2 else action[0], mode.shape)
        assert (best >= dist.log_prob(out, other, mask) - 1e-6).all()


def test_mode_of_gaussians_is_the_mean(lib: Any) -> None:
    out = outputs(GAUSSIANS[0])
    close(lib.run(DiagonalGaussian(3).mode, out), out[:, :3], 0.0)
    close(lib.run(TanhGaussian(3).mode, out), np.tanh(out[:, :3]))


# --- masks -------------------------------------------------------------------------------------


@each_categorical
def test_masked_choices_have_probability_exactly_zero(lib: Any, dist: Any) -> None:
    out, mask = outputs(dist, scale=10.0), masks(dist)
    forbidden = np.stack([np.full(ROWS, n - 1) for n in sizes(dist)], axis=-1)
    action = forbidden if isinstance(dist, MultiCategorical) else forbidden[:, 0]
    log_prob = lib.run(dist.log_prob, out, action, mask)
    assert np.isfinite(log_prob).all()
    assert (np.exp(log_prob) == 0.0).all()


@each_categorical
def test_masked_is_the_distribution_over_what_is_allowed(lib: Any, dist: Any) -> None:
    out, mask = outputs(dist, scale=3.0), masks(dist)
    expected = theirs(dist, out, mask)
    close(lib.run(dist.entropy, out, mask), sum(_entropy(p) for p in expected))
    action = dist.mode(out, mask)
    columns = torch.tensor(action).reshape(ROWS, -1).unbind(-1)
    log_prob = sum(p.log_prob(a) for p, a in zip(expected, columns, strict=True))
    close(lib.run(dist.log_prob, out, action, mask), log_prob)


def _entropy(p: Any) -> Any:
    probs = p.probs  # torch's own entropy is not a number where a logit is -inf
    return -torch.special.xlogy(probs, probs).sum(-1)


@each_categorical
def test_masked_choices_do_not_matter(lib: Any, dist: Any) -> None:
    """Not for values whatever their logits, and so not for gradients either."""
    out, mask = outputs(dist), masks(dist)
    wild = np.where(mask, out, 1e4).astype(np.float32)
    noise = dist.noise(np.random.default_rng(5), (ROWS,))
    for f, args in [
        (dist.entropy, ()),
        (dist.log_prob, (dist.mode(out, mask),)),
        (dist.kl, (outputs(dist, 9),)),
        (dist.sample, (noise,)),
    ]:
        assert (lib.run(f, out, *args, mask) == lib.run(f, wild, *args, mask)).all()


@each_categorical
@pytest.mark.parametrize("method", ["log_prob", "entropy", "kl"])
def test_gradient_is_finite_and_zero_where_masked(
    differentiable: Any, dist: Any, method: str
) -> None:
    out, mask = outputs(dist, scale=20.0), masks(dist)
    mask[-1] = False  # a row of padding allows nothing at all
    second = {"log_prob": (actions(dist),), "entropy": (), "kl": (outputs(dist, 4),)}[method]
    args = [differentiable.array(x) for x in (*second, mask)]
    gradient = differentiable.grad(lambda x: getattr(dist, method)(x, *args), out)
    assert np.isfinite(gradient).all()
    assert (gradient[~mask] == 0.0).all()
    assert np.abs(gradient[:-1]).max() > 0.0


@each_categorical
def test_a_row_that_allows_nothing_is_finite(lib: Any, dist: Any) -> None:
    out, nothing = outputs(dist), np.zeros((ROWS, dist.n_out), bool)
    assert np.isfinite(lib.run(dist.log_prob, out, actions(dist), nothing)).all()
    assert np.isfinite(lib.run(dist.entropy, out, nothing)).all()


class StuckAtZero:
    """A generator whose exponential draws are all 0, as one in some 10^7 may be."""

    def standard_exponential(self, shape: Any, dtype: Any) -> np.ndarray:
        return np.zeros(shape, dtype)


@each_categorical
def test_no_noise_beats_a_mask(dist: Any) -> None:
    noise = dist.noise(StuckAtZero(), (ROWS,))
    mask = masks(dist)
    noise[mask] = -20.0
    action = dist.sample(outputs(dist), noise, mask)
    assert (np.exp(dist.log_prob(outputs(dist), action, mask)) > 0).all()


# --- extremes ----------------------------------------------------------------------------------


@each_categorical
def test_logits_of_any_size_are_finite(lib: Any, dist: Any) -> None:
    out = outputs(dist, scale=1e4)
    assert np.isfinite(lib.run(dist.log_prob, out, actions(dist))).all()
    close(lib.run(dist.entropy, out), np.zeros(ROWS), 1e-3)


EXTREME = np.float32([[40.0, -40.0, 0.0, 5.0, -60.0, 1.0], [1e3, -9.0, 12.0, 50.0, 0.0, -3.0]])


def test_squashed_actions_stay_inside(lib: Any) -> None:
    dist = TanhGaussian(3)
    noise = np.float32([[3.0, -3.0, 9.0], [0.0, -4.0, 4.0]])
    for action in (lib.run(dist.sample, EXTREME, noise), lib.run(dist.mode, EXTREME)):
        assert (np.abs(action) < 1.0).all()
        assert np.isfinite(lib.run(dist.log_prob, EXTREME, action)).all()
    assert np.isfinite(lib.run(dist.log_prob, EXTREME, np.ones((2, 3), np.float32))).all()


def test_squashed_sample_knows_its_log_prob(lib: Any) -> None:
    dist, noise = TanhGaussian(3), np.random.default_rng(6).normal(size=(ROWS, 3))
    out, noise = outputs(dist), noise.astype(np.float32)
    action, log_prob = lib.run(dist.sample_log_prob, out, noise)
    close(action, lib.run(dist.sample, out, noise), 0.0)
    close(log_prob, lib.run(dist.log_prob, out, action), 1e-3)


def test_gradient_through_a_saturated_sample_is_finite(differentiable: Any) -> None:
    dist, noise = TanhGaussian(3), differentiable.array(np.full((2, 3), 2.0, np.float32))
    gradient = differentiable.grad(lambda x: dist.sample_log_prob(x, noise)[1], EXTREME)
    assert np.isfinite(gradient).all()
    # Far out, log_prob = -log_std + 2 |u| + constant: exactly what a saturated tanh must not hide.
    close(gradient[0, :2], [2.0, -2.0], 1e-4)


def test_gradient_of_the_squashed_log_prob(differentiable: Any) -> None:
    """By finite differences in float64."""
    dist, out, action = TanhGaussian(3), outputs(GAUSSIANS[1]), actions(GAUSSIANS[1])
    wide = out.astype(np.float64)
    h = 1e-6
    expected = np.zeros_like(wide)
    for i in range(wide.shape[1]):
        up, down = wide.copy(), wide.copy()
        up[:, i] += h
        down[:, i] -= h
        expected[:, i] = (dist.log_prob(up, action) - dist.log_prob(down, action)) / (2 * h)
    fixed = differentiable.array(action)
    close(differentiable.grad(lambda x: dist.log_prob(x, fixed), out), expected, 1e-3)


# --- choosing one ------------------------------------------------------------------------------


def test_for_space() -> None:
    assert for_space("discrete", (4,), 1) == Categorical(4)
    assert for_space("multidiscrete", (2, 3), 2) == MultiCategorical((2, 3))
    assert for_space("box", (), 3) == DiagonalGaussian(3)
    with pytest.raises(ValueError, match="'graph'"):
        for_space("graph", (), 1)
