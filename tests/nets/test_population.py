"""Does a population compute what each of its policies would alone?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from shoal.nets.base import Head
from shoal.nets.cnn import convolved
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.nets.population import Population
from shoal.spaces.gym import GymSpaces

VECTOR = Box(-1.0, 1.0, (3,), np.float64)
IMAGE = Box(0, 255, (2, 36, 36), np.uint8)
SPACES: dict[str, Any] = {
    "vector": VECTOR,
    "nested": Dict({"x": VECTOR, "n": Discrete(4)}),
    "image": IMAGE,
    "both": Dict({"x": VECTOR, "image": IMAGE}),
}
N = 4


def made(name: str, network: Network) -> tuple[Any, Any, Any, Any]:
    """A network, N sets of its parameters as a matrix, one of them by names, and observations."""
    spaces = GymSpaces(SPACES[name], Discrete(2))
    net = build(network, spaces, {"pi": Head(2), "v": Head(1)})
    rng = np.random.default_rng(0)
    like = net.init(rng)
    matrix = rng.normal(size=(N, sum(x.size for x in like.values()))).astype(np.float32) / 10
    SPACES[name].seed(0)
    obs = spaces.flatten(SPACES[name].sample())
    rows = {path: np.stack([x] * N) for path, x in obs.items()}
    rows = {
        p: x + rng.integers(0, 2, x.shape).astype(x.dtype) * (p != "n") for p, x in rows.items()
    }
    return net, matrix, like, rows


def own(matrix: Any, like: Any, i: int) -> dict[str, Any]:
    out, at = {}, 0
    for name, x in like.items():
        out[name] = matrix[i, at : at + x.size].reshape(x.shape)
        at += x.size
    return out


@pytest.mark.parametrize("hidden", [(), (5, 6)])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_each_row_is_its_own_policy(name: str, shared: bool, hidden: tuple[int, ...]) -> None:
    net, matrix, like, obs = made(name, Network(hidden=hidden, shared=shared))
    norm = {"norm/obs/mean": np.ones(3, np.float32), "norm/obs/std": np.full(3, 2, np.float32)}
    norm = norm if name == "vector" else {}
    found = Population(net, matrix, like, norm)(obs, ("pi", "v"))
    for i in range(N):
        row = {path: x[i : i + 1] for path, x in obs.items()}
        expected = net({**norm, **own(matrix, like, i)}, row, ("pi", "v"))
        for got, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(got[i], wanted[0], rtol=1e-5, atol=1e-6)
    assert len({x.tobytes() for x in found[0]}) == N


@pytest.mark.parametrize("encoder", ["nature", "impala"])
def test_a_reference_batch_normalises_itself(encoder: Any) -> None:
    """The first layer's output has mean = bias and deviation 1 there, in every channel."""
    net, matrix, like, _ = made("image", Network(encoder=encoder))
    params = own(10 * matrix, like, 0)
    reference = {"obs": np.random.default_rng(1).integers(0, 256, (6, 2, 36, 36), np.uint8)}
    found = net.statistics(params, reference)
    assert all(name.endswith(("/mean", "/std")) for name in found)
    convolutions = [name for name, x in like.items() if x.ndim == 4]
    assert len(found) == 2 * len(convolutions)
    first, x = convolutions[0].removesuffix("/w"), reference["obs"]
    stride, padding = (4, 0) if encoder == "nature" else (1, 1)
    y = convolved(np, {**params, **found}, first, x, stride, padding, None)
    y -= params[f"{first}/b"].reshape(-1, 1, 1)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, atol=1e-3)


def test_each_policy_has_statistics_of_its_own() -> None:
    net, matrix, like, obs = made("image", Network())
    reference = {"obs": np.random.default_rng(1).integers(0, 256, (6, 2, 36, 36), np.uint8)}
    (found,) = Population(net, matrix, like, {}, reference)(obs, ("pi",))
    for i in range(N):
        params = own(matrix, like, i)
        (wanted,) = net(
            {**params, **net.statistics(params, reference)},
            {"obs": obs["obs"][i : i + 1]},
            ("pi",),
        )
        np.testing.assert_allclose(found[i], wanted[0], rtol=1e-5, atol=1e-6)
