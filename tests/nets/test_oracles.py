"""Does each network compute what idiomatic PyTorch computes with the same weights?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from shoal.nets.base import Head
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.spaces.gym import GymSpaces

HEADS = {"pi": Head(3), "v": Head(1)}
LIBRARIES = pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
ACTIVATIONS = {
    "tanh": nn.Tanh(),
    "relu": nn.ReLU(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU("tanh"),
}


def linear(params: Any, name: str) -> nn.Linear:
    w = torch.tensor(params[f"{name}/w"])
    layer = nn.Linear(*w.shape)
    layer.weight, layer.bias = nn.Parameter(w.T), nn.Parameter(torch.tensor(params[f"{name}/b"]))
    return layer


def conv(params: Any, name: str, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    w = torch.tensor(params[f"{name}/w"])
    layer = nn.Conv2d(w.shape[1], w.shape[0], w.shape[2], stride, padding)
    layer.weight, layer.bias = nn.Parameter(w), nn.Parameter(torch.tensor(params[f"{name}/b"]))
    return layer


def nature(params: Any, name: str, strides: tuple[int, ...] = (4, 2, 1)) -> nn.Module:
    layers: list[nn.Module] = []
    for i, stride in enumerate(strides):
        layers += [conv(params, f"{name}/conv{i}", stride), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), linear(params, f"{name}/fc"), nn.ReLU())


small = partial(nature, strides=(2, 2, 2))


class Residual(nn.Module):
    def __init__(self, params: Any, name: str) -> None:
        super().__init__()
        first, second = (conv(params, f"{name}/{i}", padding=1) for i in (0, 1))
        self.branch = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)  # type: ignore[no-any-return]


def impala(params: Any, name: str) -> nn.Module:
    layers: list[nn.Module] = []
    for s in range(3):
        layers += [conv(params, f"{name}/{s}/conv", padding=1), nn.MaxPool2d(3, 2, 1)]
        layers += [Residual(params, f"{name}/{s}/res{r}") for r in range(2)]
    fc = linear(params, f"{name}/fc")
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), fc, nn.ReLU())


def random(net: Any, seed: int = 0) -> dict[str, Any]:
    """Parameters of which none is zero."""
    rng = np.random.default_rng(seed)
    return {k: x + rng.normal(0, 0.1, x.shape).astype("f") for k, x in net.init(rng).items()}


def pixels(x: Any) -> torch.Tensor:
    return torch.tensor(x).permute(0, 3, 1, 2) / 255


def agree(outs: Any, oracle: list[torch.Tensor]) -> None:
    for out, expected in zip(outs, oracle, strict=True):
        np.testing.assert_allclose(out, expected.detach().numpy(), atol=1e-5, rtol=1e-5)


@LIBRARIES
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp(
    library: str, activation: str, vector: Any, observe: Callable[..., Any], run: Any
) -> None:
    net = build(Network(hidden=(16, 8), activation=activation), vector, HEADS)  # type: ignore[arg-type]
    params, obs = random(net), observe(vector, 5)
    act = ACTIVATIONS[activation]
    oracle = [
        nn.Sequential(*(f(params, f"{head}/{i}") for i in (0, 1) for f in (linear, lambda *_: act)))
        for head in HEADS
    ]
    x = torch.tensor(obs["obs"])
    expected = [
        linear(params, f"{head}/out")(trunk(x)) for head, trunk in zip(HEADS, oracle, strict=True)
    ]
    agree(run(library, net, params, obs, ("pi", "v")), expected)


@LIBRARIES
@pytest.mark.parametrize(
    ("encoder", "oracle"), [("nature", nature), ("impala", impala), ("small", small)]
)
def test_image_encoders(
    library: str, encoder: Any, oracle: Any, image: Any, observe: Any, run: Any
) -> None:
    net = build(Network(encoder), image, HEADS)
    params, obs = random(net), observe(image, 3)
    features = oracle(params, "trunk/obs")(pixels(obs["obs"]))
    expected = [linear(params, f"{head}/out")(features) for head in HEADS]
    agree(run(library, net, params, obs, ("pi", "v")), expected)


@LIBRARIES
def test_every_kind_of_leaf_together(library: str, mixed: Any, observe: Any, run: Any) -> None:
    """Leaves in the order of the space: the image's features first, then the vector ones."""
    net = build(Network(hidden=(16,)), mixed, {"pi": Head(2, free=2), "v": Head(1)})
    params, obs = random(net), observe(mixed, 6)
    one_hot = nn.functional.one_hot
    given = {path: torch.tensor(x) for path, x in obs.items()}
    parts = [
        nature(params, "trunk/camera")(pixels(obs["camera"])),
        *(one_hot(given["grid"][:, i], n) for i, n in enumerate((2, 4, 3))),
        given["joints/left"].reshape(6, 6),
        given["joints/right"][:, None],
        given["lamps"],
        one_hot(given["room"], 5),
        given["ticks/0"] / 9,  # integers are scaled by their bounds
    ]
    joined = torch.cat([part.float() for part in parts], 1)
    features = torch.tanh(linear(params, "trunk/0")(joined))
    mean = linear(params, "pi/out")(features)
    log_std = torch.tensor(params["pi/free"]).expand(6, 2)
    expected = [torch.cat([mean, log_std], 1), linear(params, "v/out")(features)]
    agree(run(library, net, params, obs, ("pi", "v")), expected)


@LIBRARIES
def test_without_hidden_layers_it_is_linear(
    library: str, vector: Any, observe: Any, run: Any
) -> None:
    net = build(Network(hidden=()), vector, HEADS)
    assert set(net.shapes()) == {f"{head}/out/{kind}" for head in HEADS for kind in "wb"}
    params, obs = random(net), observe(vector, 4)
    agree(
        run(library, net, params, obs, ("pi",)),
        [linear(params, "pi/out")(torch.tensor(obs["obs"]))],
    )


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_both_image_layouts_are_the_same_image(layout: str) -> None:
    shape = (40, 44, 4) if layout == "HWC" else (4, 40, 44)
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    net = build(Network(), GymSpaces(space, gym.spaces.Discrete(2)), {"pi": Head(2)})
    params = random(net)
    chw = np.random.default_rng(0).integers(0, 256, (2, 4, 40, 44), np.uint8)
    obs = chw.transpose(0, 2, 3, 1) if layout == "HWC" else chw
    expected = linear(params, "pi/out")(nature(params, "trunk/obs")(torch.tensor(chw) / 255))
    agree(net(params, {"obs": obs}, ("pi",)), [expected])


def test_size_of_the_nature_cnn_on_atari() -> None:
    """Counted by the formula: out * (in * k * k + 1) per convolution, out * (in + 1) per layer."""
    space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    net = build(Network(), GymSpaces(space, gym.spaces.Discrete(6)), {"pi": Head(6), "v": Head(1)})
    sizes = {name: math.prod(shape) for name, shape in net.shapes().items()}
    layer = {name: sizes[f"{name}/w"] + sizes[f"{name}/b"] for name in {k[:-2] for k in sizes}}
    assert layer == {
        "trunk/obs/conv0": 32 * (4 * 64 + 1),
        "trunk/obs/conv1": 64 * (32 * 16 + 1),
        "trunk/obs/conv2": 64 * (64 * 9 + 1),
        "trunk/obs/fc": 512 * (7 * 7 * 64 + 1),
        "pi/out": 6 * 513,
        "v/out": 513,
    }
    assert sum(layer.values()) == 1_687_719


def test_size_of_the_impala_network_on_dmlab() -> None:
    """Three sections of five 3x3 convolutions; 72x96 pixels are halved three times to 9x12."""
    space = gym.spaces.Box(0, 255, (72, 96, 3), np.uint8)
    net = build(Network("impala"), GymSpaces(space, gym.spaces.Discrete(6)), {"v": Head(1)})
    sections = [(3, 16), *4 * [(16, 16)], (16, 32), *4 * [(32, 32)], (32, 32), *4 * [(32, 32)]]
    assert sum(math.prod(s) for name, s in net.shapes().items() if name.startswith("trunk")) == (
        sum(o * (9 * i + 1) for i, o in sections) + 256 * (9 * 12 * 32 + 1)
    )
