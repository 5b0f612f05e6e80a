"""Do initial values have the properties that their definition promises?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from shoal.nets.base import Head
from shoal.nets.factory import build
from shoal.nets.init import orthogonal
from shoal.nets.network import Network

HEADS = {"pi": Head(3, gain=0.01), "v": Head(1)}


@pytest.mark.parametrize("shape", [(64, 64), (4, 64), (64, 3), (32, 4, 8, 8), (8, 4, 1, 1)])
def test_the_shorter_side_is_orthogonal_with_the_gain(shape: tuple[int, ...]) -> None:
    w = orthogonal(np.random.default_rng(0), shape, 1.7).reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 1.7**2 * np.eye(len(gram)), atol=1e-5)


def test_rotations_are_uniform_not_biased_by_the_signs_of_qr() -> None:
    """LAPACK's R has a diagonal of one sign, so an uncorrected Q has a diagonal of one sign."""
    rng = np.random.default_rng(0)
    corners = [orthogonal(rng, (2, 2), 1.0)[0, 0] for _ in range(2000)]
    assert abs(np.mean(corners)) < 4 * math.sqrt(0.5 / 2000)  # 4 standard errors


@pytest.mark.parametrize("network", [Network(), Network("nature"), Network("impala")])
def test_gains_are_sqrt_2_inside_and_the_heads_own_outside(
    network: Network, vector: Any, image: Any
) -> None:
    net = build(network, vector if network.encoder == "auto" else image, HEADS)
    params = net.init(np.random.default_rng(1))
    assert {name: x.shape for name, x in params.items()} == net.shapes()
    outside = {"pi/out/w": 0.01, "v/out/w": 1.0}
    for name, x in params.items():
        assert x.dtype == np.float32
        if name.endswith("/b"):
            assert not x.any()
        else:
            largest = np.linalg.norm(x.reshape(len(x), -1), 2)
            assert largest == pytest.approx(outside.get(name, math.sqrt(2)), rel=1e-5), name


def test_one_seed_one_set_of_bits(vector: Any) -> None:
    net = build(Network(), vector, HEADS)
    one, same, other = (net.init(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(one[name].tobytes() == same[name].tobytes() for name in one)
    assert not np.array_equal(one["pi/0/w"], other["pi/0/w"])
    assert not np.array_equal(one["pi/0/w"], one["v/0/w"])
