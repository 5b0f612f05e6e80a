"""Do bounds and shape decide together how a leaf is scaled, and whether it is an image?"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import shoal
from shoal.nets.array_net import describe_inputs
from shoal.nets.base import Head
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.spaces import axes
from shoal.spaces.base import Leaf
from shoal.spaces.gym import GymSpaces

NATURE = "trunk/obs/conv0/w"
IMPALA = "trunk/obs/0/conv/w"
LINEAR = "pi/0/w"


def spaces(space: Box) -> GymSpaces:
    return GymSpaces(space, Discrete(3))


def leaf(low: Any, high: Any, shape: Any = None, dtype: Any = np.float32) -> Leaf:
    return spaces(Box(low, high, shape, dtype)).leaves[0]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "scale"),
    [
        (0, 255, np.uint8, (0.0, 255.0)),
        (0, 255, np.float32, (0.0, 255.0)),
        (0, 1, np.uint8, None),
        (0, 1, np.int8, None),
        (-1, 1, np.int8, None),
        (0, 9, np.int64, (0.0, 9.0)),
        (-128, 127, np.int8, (-0.5, 127.5)),
        (1, 3, np.int32, (2.0, 1.0)),
        (0, 65535, np.uint16, (0.0, 65535.0)),
        (0, 100, np.float64, (0.0, 100.0)),
        (-100, 100, np.float32, (0.0, 100.0)),
        (-28.3, 28.3, np.float32, None),
        (0, 1, np.float32, None),
        (0, np.inf, np.float32, None),
        (-np.inf, np.inf, np.float32, None),
        (np.finfo(np.float32).min, np.finfo(np.float32).max, np.float32, None),
        (np.iinfo(np.int64).min, np.iinfo(np.int64).max, np.int64, None),
        (0, 1e6, np.float32, None),
        (5, 5, np.int8, None),
    ],
)
def test_scaling_follows_the_bounds(low: Any, high: Any, dtype: Any, scale: Any) -> None:
    assert axes.scale(leaf(low, high, (3,), dtype)) == scale


def test_components_are_scaled_by_their_own_bounds() -> None:
    low, high = np.float32([0, -1, -np.inf, -200]), np.float32([100, 1, np.inf, 0])
    net = build(Network(hidden=()), spaces(Box(low, high)), {"pi": Head(3)})
    params = net.init(np.random.default_rng(0))
    x = np.float32([[50, 0.5, 7, -50]])
    (out,) = net(params, {"obs": x}, ("pi",))
    expected = np.float32([[0.5, 0.5, 7, 0.5]]) @ params["pi/out/w"]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "env",
    ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"],
)
def test_classic_control_is_seen_as_it_is(env: str) -> None:
    world = gym.make(env)
    assert axes.scale(spaces(world.observation_space).leaves[0]) is None


@pytest.mark.parametrize(
    ("low", "high", "shape", "dtype", "layer", "channels"),
    [
        (0, 255, (84, 84, 4), np.uint8, NATURE, 4),
        (0, 255, (4, 84, 84), np.uint8, NATURE, 4),
        (0, 255, (4, 84, 84, 1), np.uint8, NATURE, 4),
        (0, 255, (4, 3, 84, 84), np.uint8, NATURE, 12),
        (0, 255, (4, 84, 80, 3), np.uint8, NATURE, 12),
        (0, 255, (84, 84, 3, 2), np.uint8, NATURE, 6),
        (0, 255, (84, 84), np.uint8, NATURE, 1),
        (0, 255, (84, 84, 3), np.float32, NATURE, 3),
        (0, 1, (84, 84, 3), np.float32, NATURE, 3),
        (-1, 1, (3, 84, 84), np.float32, NATURE, 3),
        (0, 1, (40, 40, 2), np.uint8, NATURE, 2),
        (0, 255, (7, 7, 3), np.uint8, IMPALA, 3),
        (0, 1, (36, 36, 2), np.uint8, NATURE, 2),
        (0, 1, (35, 36, 2), np.uint8, LINEAR, 2520),
        (0, 1, (8, 8, 4), np.uint8, LINEAR, 256),
        (0, 1, (10, 10, 4), bool, LINEAR, 400),
        (0, 255, (128,), np.uint8, LINEAR, 128),
        (0, 255, (4, 128), np.uint8, LINEAR, 512),
        (-np.inf, np.inf, (40, 40, 3), np.float32, LINEAR, 4800),
        (0, 1, (64, 64), np.float32, LINEAR, 4096),
    ],
)
def test_shape_dtype_and_bounds_decide_which_network(
    low: float, high: float, shape: Any, dtype: Any, layer: str, channels: int
) -> None:
    net = build(Network(), spaces(Box(low, high, shape, dtype)), {"pi": Head(3)})
    weights = net.shapes()[layer]
    assert weights[1 if len(weights) == 4 else 0] == channels


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_layout_of_pixels_is_the_same_image(library: str, dtype: Any, run: Any) -> None:
    """[2 frames, 40, 36, 3 channels] against the same axes in other orders, and as floats."""
    image = np.random.default_rng(0).integers(0, 256, (2, 2, 40, 36, 3), np.uint8)
    orders = (1, 2, 3, 4), (1, 4, 2, 3), (2, 3, 1, 4)
    outs = []
    for order in orders:
        x = np.transpose(image, (0, *order)).astype(dtype)
        net = build(Network(), spaces(Box(0, 255, x.shape[1:], dtype)), {"pi": Head(3)})
        params = net.init(np.random.default_rng(1))
        outs.append(run(library, net, params, {"obs": x}, ("pi",))[0])
    np.testing.assert_allclose(outs[1:], outs[:1] * 2, atol=1e-4)
    assert np.abs(outs[0]).max() < 10  # scaled


def test_a_board_reaches_an_image_encoder_that_is_asked_for() -> None:
    net = build(Network("impala"), spaces(Box(0, 1, (8, 8, 4), np.uint8)), {"pi": Head(3)})
    assert net.shapes()[IMPALA] == (16, 4, 3, 3)


def test_what_is_done_to_observations_is_said() -> None:
    space = gym.spaces.Dict(
        {
            "camera": Box(0, 255, (84, 84, 3), np.uint8),
            "joints": Box(-1, 1, (3,)),
            "lidar": Box(0, 100, (8,)),
        }
    )
    lines = describe_inputs(Network(), GymSpaces(space, Discrete(2)))
    assert lines == [
        "observation 'camera' (uint8 84x84x3): an image for the Nature network, 0..255 scaled to "
        "[0, 1]",
        "observation 'lidar' (float32 8): 0..100 scaled to [0, 1]",
    ]
    assert describe_inputs(object(), GymSpaces(space, Discrete(2))) == []  # a user's own network


class Board(gym.Env):
    """Ten steps; each earns 1 for the action that the board's only full plane names."""

    action_space = Discrete(4)

    def __init__(self, dtype: str) -> None:
        self.observation_space = Box(0, 1, (8, 8, 4), np.dtype(dtype))

    def _observe(self) -> Any:
        self.plane = int(self.np_random.integers(4))
        board = np.zeros((8, 8, 4), self.observation_space.dtype)
        board[..., self.plane] = 1
        return board

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 10
        return self._observe(), {}

    def step(self, action: int) -> Any:
        reward, self.left = float(action == self.plane), self.left - 1
        return self._observe(), reward, self.left == 0, False, {}


def test_a_board_of_uint8_learns_exactly_as_its_twin_of_int8() -> None:
    weights, returns = [], []
    for dtype in ("uint8", "int8"):
        settings = {"env_kwargs": {"dtype": dtype}, "fragment_length": 64, "learner": "torch"}
        with shoal.Trainer("ppo", env=Board, lr=1e-3, **settings) as trainer:
            trainer.train()
            weights.append(trainer.policy.weights)
            returns.append(trainer.evaluate(5)["return_mean"])
    for name, x in weights[0].items():
        np.testing.assert_array_equal(x, weights[1][name])
    assert returns[0] == returns[1] > 7  # chance is 2.5
