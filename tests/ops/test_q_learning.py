"""Are targets and losses of Q-learning the papers'?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.ops.q_learning import (
    backup,
    dueling,
    huber,
    mixed_priority,
    project,
    rescaled,
    unscaled,
)

Z = np.array([-1.0, -0.5, 0.0, 0.5, 1.0], np.float32)
P = np.array([[0.1, 0.2, 0.4, 0.2, 0.1]], np.float32)


@pytest.mark.parametrize(
    ("reward", "discount", "expected"),
    [
        (0.5, 0.5, [0.0, 0.0, 0.2, 0.6, 0.2]),
        (0.3, 0.0, [0.0, 0.0, 0.4, 0.6, 0.0]),  # terminal
        (2.0, 0.5, [0.0, 0.0, 0.0, 0.0, 1.0]),  # beyond the support
        (0.0, 1.0, [0.1, 0.2, 0.4, 0.2, 0.1]),  # each atom falls on itself
    ],
)
def test_golden_projections(
    reward: float, discount: float, expected: list[float], lib: Any
) -> None:
    row = [np.array([x], np.float32) for x in (reward, discount)]
    m = lib.run(project, P, Z, *row)
    np.testing.assert_allclose(m[0], expected, atol=1e-6)


@settings(deadline=None)
@given(
    reward=st.floats(-0.5, 0.5, width=32),
    discount=st.floats(0, 0.5, width=32),
    seed=st.integers(0, 2**31),
)
def test_no_mass_is_lost_and_the_mean_is_the_bellman_target(
    reward: float, discount: float, seed: int
) -> None:
    """Nothing is clipped here: |r + discount z| <= 1."""
    p = np.random.default_rng(seed).dirichlet(np.ones(5), 1)
    m = project(p, Z.astype(float), np.array([reward]), np.array([discount]))
    assert m.sum() == pytest.approx(1)
    assert (m @ Z)[0] == pytest.approx(reward + discount * (p @ Z)[0], abs=1e-9)


def test_dueling_golden_and_mean(lib: Any) -> None:
    v, a = np.float32([[[2.0]]]), np.float32([[[1.0], [3.0], [-1.0]]])
    q = lib.run(dueling, v, a)
    assert q[0, :, 0].tolist() == [2.0, 4.0, 0.0]
    shifted = lib.run(dueling, v, a + np.float32(7.0))
    np.testing.assert_allclose(shifted, q, atol=1e-6)


@given(st.floats(-50, 50))
def test_huber_has_the_clipped_error_for_its_gradient(x: float) -> None:
    h = 1e-6
    slope = (huber(np.array(x + h)) - huber(np.array(x - h))) / (2 * h)
    assert slope == pytest.approx(np.clip(x, -1, 1), abs=1e-4)


EPS = 1e-3  # of R2D2's h


@pytest.mark.parametrize(("x", "h"), [(1, 0.4152136), (3, 1.003), (-3, -1.003), (100, 9.1498756)])
def test_golden_rescaling(x: float, h: float, lib: Any) -> None:
    found = lib.run(lambda x: rescaled(x, EPS), np.array([x], np.float32))
    np.testing.assert_allclose(found, h, rtol=1e-6)


@settings(deadline=None)
@given(x=st.floats(-1e4, 1e4))
def test_rescaling_is_undone(x: float) -> None:
    found = unscaled(rescaled(np.array([x]), EPS), EPS)
    assert abs(found[0] - x) < 1e-8 * max(1.0, abs(x))


def test_the_inverse_loses_nothing_near_zero_in_single_precision(lib: Any) -> None:
    x = np.array([0.0, 1e-4, -1e-3, 0.01], np.float32)
    np.testing.assert_allclose(lib.run(lambda x: unscaled(x, EPS), x), 2.0 * x, atol=2e-4)


def test_a_golden_target_of_rescaled_values(lib: Any) -> None:
    """Two rewards of 1 and 2, gamma = .997, and 1.5 to bootstrap from."""
    given = np.array([1.0 + 0.997 * 2.0]), np.array([0.997**2]), np.array([1.5])
    found = lib.run(lambda *x: backup(*x, EPS), *(x.astype(np.float32) for x in given))
    np.testing.assert_allclose(found, 2.039129, rtol=1e-6)


def test_a_golden_priority_of_a_sequence(lib: Any) -> None:
    """0.9 max + 0.1 mean of .1, .2 and 2; what is masked counts in neither."""
    priority = np.array([[0.1, 0.2, 2.0, 9.0], [9.0, 9.0, 9.0, 9.0]], np.float32)
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], np.float32)
    found = lib.run(lambda *x: mixed_priority(*x, 0.9), priority, mask)
    np.testing.assert_allclose(found, [1.876667, 0.0], rtol=1e-6)
