"""Do merged parts give what one pass over everything gives, in any order?"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shoal.ops.moments import Moments

numbers = st.floats(-1e4, 1e4, width=32)
parts = st.lists(
    st.integers(0, 6).flatmap(lambda n: arrays(np.float32, (n, 2), elements=numbers)),
    min_size=1,
    max_size=6,
)


def agree(a: Moments, b: Moments, tol: float = 1e-9) -> None:
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=tol, atol=tol)
    scale = 1.0 + np.abs(b.mean) ** 2 * max(b.count, 1.0)  # what cancels in a sum of squares
    np.testing.assert_allclose(a.m2 / scale, b.m2 / scale, rtol=tol, atol=tol)


@settings(deadline=None, max_examples=200)
@given(parts, st.randoms(use_true_random=False))
def test_merging_parts_is_one_pass_in_any_order_and_grouping(parts: list[Any], random: Any) -> None:
    whole = Moments.of(np.concatenate(parts))
    each = [Moments.of(part) for part in parts]
    agree(reduce(Moments.merge, each), whole)
    random.shuffle(each)
    while len(each) > 1:
        i = random.randrange(len(each) - 1)
        each[i : i + 2] = [each[i].merge(each[i + 1])]
    agree(each[0], whole)


def test_is_the_mean_and_population_variance() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 4)).astype(np.float32)
    moments, wide = Moments.of(x), x.astype(np.float64)
    np.testing.assert_allclose(moments.mean, wide.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, wide.var(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std(eps=0.5), np.sqrt(wide.var(0) + 0.5), rtol=1e-12)


def test_survives_a_large_offset() -> None:
    """Sums of squares in float32, or a one-pass E[x^2] - E[x]^2, lose this variance altogether."""
    x = 1e6 + np.random.default_rng(1).normal(size=(100, 1000, 1))
    moments = reduce(Moments.merge, map(Moments.of, x))
    assert moments.var == pytest.approx(x.var(), rel=1e-9)


@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_no_data_changes_nothing(shape: tuple[int, ...]) -> None:
    some = Moments.of(np.random.default_rng(2).normal(size=(5, *shape)))
    nothing = Moments.zero(shape)
    for merged in (
        some.merge(nothing),
        nothing.merge(some),
        some.merge(Moments.of(np.empty((0, *shape)))),
    ):
        agree(merged, some, 0.0)
    assert nothing.merge(nothing).count == 0
    np.testing.assert_array_equal(nothing.var, np.ones(shape))  # normalising leaves data alone


def test_a_constant_can_be_divided_by() -> None:
    assert Moments.of(np.full((10, 1), 7.0)).std() == pytest.approx(1e-4)


@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_arrays_and_back_are_the_same_bits(shape: tuple[int, ...]) -> None:
    before = Moments.of(np.random.default_rng(3).normal(size=(9, *shape)))
    saved = before.arrays()
    assert all(type(x) is np.ndarray and x.dtype == np.float64 for x in saved.values())
    after = Moments.from_arrays(saved)
    assert (after.count, after.mean.tolist(), after.m2.tolist()) == (
        before.count,
        before.mean.tolist(),
        before.m2.tolist(),
    )


def test_different_shapes_do_not_merge() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        Moments.zero((2,)).merge(Moments.zero((1,)))
