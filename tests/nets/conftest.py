"""Random observations, and nets run in each array library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from shoal.nets.base import Net
from shoal.spaces.gym import GymSpaces

LIBRARIES = "numpy", "jax", "torch"


def to_library(name: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    if name == "torch":
        import torch

        return {key: torch.tensor(x) for key, x in tree.items()}
    if name == "jax":
        import jax

        return dict(jax.device_put(dict(tree)))
    return dict(tree)


@pytest.fixture
def observe() -> Callable[..., dict[str, Any]]:
    """Random observations [*lead, ...] of some spaces."""

    def observations(spaces: GymSpaces, *lead: int, seed: int = 0) -> dict[str, Any]:
        space = spaces.observation
        space.seed(seed)
        count = int(np.prod(lead))
        singles = [spaces.flatten(space.sample()) for _ in range(count)]
        return {
            path: np.stack([single[path] for single in singles]).reshape(*lead, *x.shape)
            for path, x in singles[0].items()
        }

    return observations


@pytest.fixture
def run() -> Callable[..., tuple[Any, ...]]:
    """The net's outputs in a library ("jax" is compiled), as NumPy arrays."""

    def outputs(
        library: str, net: Net, params: Any, obs: Any, heads: tuple[str, ...]
    ) -> tuple[Any, ...]:
        def call(params: Any, obs: Any) -> tuple[Any, ...]:
            return net(params, obs, heads)

        if library == "jax":
            import jax

            call = jax.jit(call)
        outs = call(to_library(library, params), to_library(library, obs))
        assert all("float32" in str(out.dtype) for out in outs)
        return tuple(np.asarray(out) for out in outs)

    return outputs


@pytest.fixture
def vector() -> GymSpaces:
    return GymSpaces(gym.spaces.Box(-2, 2, (4,), np.float32), gym.spaces.Discrete(3))


@pytest.fixture
def image() -> GymSpaces:
    return GymSpaces(gym.spaces.Box(0, 255, (44, 40, 3), np.uint8), gym.spaces.Discrete(3))


@pytest.fixture
def mixed() -> GymSpaces:
    """Every kind of leaf, nested."""
    box = gym.spaces.Box
    observation = gym.spaces.Dict(
        {
            "camera": box(0, 255, (38, 36, 2), np.uint8),
            "grid": gym.spaces.MultiDiscrete([2, 4, 3]),
            "joints": gym.spaces.Dict(
                {"left": box(-2, 2, (2, 3), np.float32), "right": box(-2, 2, (), np.float32)}
            ),
            "lamps": gym.spaces.MultiBinary(3),
            "room": gym.spaces.Discrete(5, start=2),
            "ticks": gym.spaces.Tuple([box(0, 9, (2,), np.int64)]),
        }
    )
    return GymSpaces(observation, gym.spaces.Box(-1, 1, (2,), np.float32))
