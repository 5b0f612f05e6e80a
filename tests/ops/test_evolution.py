"""Do returns become the steps that the papers and their code make of them?"""

from __future__ import annotations

import numpy as np
import pytest

from shoal.algorithms.ars import ARS
from shoal.algorithms.es import ES
from shoal.ops.evolution import centred_ranks, combine, next_cap, rank_weights, search_weights

RETURNS = np.array([[3.0, 1.0], [10.0, -5.0], [2.0, 7.0]])


def test_ranks_and_weights_are_those_of_the_released_code() -> None:
    ranks = centred_ranks(RETURNS)
    np.testing.assert_allclose(ranks, [[0.1, -0.3], [0.5, -0.5], [-0.1, 0.3]], atol=1e-15)
    np.testing.assert_allclose(6 * rank_weights(ranks), [0.4, 1.0, -0.4], atol=1e-15)


def test_random_search_keeps_the_best_directions_and_divides_by_their_spread() -> None:
    weights = search_weights(RETURNS, top=2)
    kept = RETURNS[1:]
    assert np.std(kept) == pytest.approx(5.678908, abs=1e-6)
    assert weights[0] == 0.0
    expected = (kept[:, 0] - kept[:, 1]) / np.std(kept) / 2
    np.testing.assert_allclose(weights[1:], expected)
    np.testing.assert_allclose(weights[1:], [1.320676, -0.440225], atol=1e-6)


def test_equal_returns_share_a_rank() -> None:
    ranks = centred_ranks(np.array([[1.0, 2.0], [2.0, 5.0]]))
    np.testing.assert_allclose(ranks, [[-0.5, 0.0], [0.0, 0.5]], atol=1e-15)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e12])
def test_flat_returns_say_nothing(value: float) -> None:
    flat = np.full((4, 2), value)
    for algorithm in (ES(), ES(shaping="centered_sign_rank"), ARS(), ARS(top=2)):
        assert not np.any(algorithm.weigh(flat))


def test_a_monotone_transform_of_returns_changes_no_rank() -> None:
    returns = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_array_equal(centred_ranks(returns), centred_ranks(np.exp(3 * returns)))


def test_a_power_of_two_of_rewards_changes_no_bit_of_random_search() -> None:
    returns = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_array_equal(search_weights(returns, 5), search_weights(1024 * returns, 5))
    for scale in (1000.0, 1e-20):
        np.testing.assert_allclose(search_weights(returns, 5), search_weights(scale * returns, 5))


def test_signs_are_summed_step_by_step() -> None:
    rewards = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(ES(shaping="sign").score(rewards), [-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(ES().score(rewards), rewards)
    np.testing.assert_array_equal(ARS(survival_bonus=1.0).score(rewards), [-3.0, -1.0, 2.0])


@pytest.mark.parametrize("size", [1, 5, 300])
def test_combine_is_the_weighted_sum_of_slices(size: int) -> None:
    rng = np.random.default_rng(0)
    table, at = rng.standard_normal(2000, np.float32), rng.integers(0, 2000 - size + 1, 3000)
    weights = rng.normal(size=3000) * (rng.random(3000) < 0.5)
    found = combine(weights, table, at, size)
    expected = sum(w * table[i : i + size].astype(float) for w, i in zip(weights, at, strict=True))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_last_slice_of_the_table_can_be_taken() -> None:
    table = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(combine(np.ones(1), table, np.array([7]), 3), [7, 8, 9])


def test_the_step_is_unbiased_on_a_quadratic() -> None:
    """E[(F+ - F-) eps] / 2 sigma is the gradient of F = -|theta - t|^2, whatever sigma."""
    rng, sigma, pairs, d = np.random.default_rng(0), 0.7, 100_000, 3
    theta, target = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.0])
    table = rng.standard_normal(d * pairs).astype(np.float32)
    at = np.arange(pairs) * d
    eps = table.reshape(pairs, d).astype(float)
    plus, minus = (-(((theta + s * sigma * eps) - target) ** 2).sum(1) for s in (1, -1))
    found = combine((plus - minus) / (2 * sigma * pairs), table, at, d)
    np.testing.assert_allclose(found, -2 * (theta - target), rtol=0.03, atol=0.03)


def test_the_cap_grows_when_enough_episodes_reach_it() -> None:
    lengths = np.array([[10, 10], [4, 5]])
    assert next_cap(10, lengths, share=0.5, ratio=1.5) == 15
    assert next_cap(10, lengths, share=0.51, ratio=1.5) == 10
    assert next_cap(1, np.ones((1, 2)), share=0.5, ratio=1.2) == 2
