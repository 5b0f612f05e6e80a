"""Does the sum tree draw each leaf as often as its value says?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from shoal.replay.tree import descend, drawn_leaves, set_leaves, sum_tree


def tree_of(values: list[float]) -> np.ndarray:
    tree = sum_tree(len(values))
    set_leaves(tree, np.arange(len(values)), np.array(values, float))
    return tree


def test_the_root_is_the_sum_after_a_million_updates() -> None:
    rng = np.random.default_rng(0)
    tree, expected = sum_tree(1000), np.zeros(1000)
    for _ in range(1000):
        leaves, values = rng.integers(0, 1000, 1000), rng.exponential(size=1000) ** 4
        set_leaves(tree, leaves, values)
        expected[leaves] = values  # of a leaf's values the last one, in NumPy too
    assert tree[1] == pytest.approx(expected.sum(), rel=1e-13)


@pytest.mark.parametrize("k", [1, 4])
def test_draws_follow_the_priorities(k: int) -> None:
    """The golden P of p = 1, 2, 4, 8 with alpha = 0.6; stratified, they are nearer still."""
    p = np.array([0.120550, 0.182720, 0.276951, 0.419779])
    tree = tree_of([float(x) ** 0.6 for x in (1, 2, 4, 8)])
    rng = np.random.default_rng(1)
    drawn = np.concatenate([drawn_leaves(tree, rng.random((1, k))) for _ in range(100_000 // k)])
    counts = np.bincount(drawn, minlength=4)
    assert chisquare(counts, p / p.sum() * counts.sum()).pvalue > 0.01


def test_each_part_of_the_sum_gives_one() -> None:
    tree = tree_of([1.0] * 64)
    for seed in range(20):
        drawn = drawn_leaves(tree, np.random.default_rng(seed).random((1, 64)))
        assert drawn.tolist() == list(range(64))


def test_what_has_no_value_is_never_found() -> None:
    """Not even by the whole sum, to which rounding may bring a number."""
    tree = tree_of([0.0, 0.1, 0.0, 0.2, 0.7, 0.0, 0.0])
    ends = np.array([0.0, np.nextafter(0.1, 0), 0.1, tree[1], np.nextafter(tree[1], 9)])
    assert descend(tree, np.array(ends)).tolist() == [1, 1, 3, 4, 4]


@pytest.mark.parametrize("leaves", [1, 2, 3, 1000])
def test_every_leaf_can_be_found(leaves: int) -> None:
    tree = tree_of([1.0] * leaves)
    assert descend(tree, np.arange(leaves) + 0.5).tolist() == list(range(leaves))
