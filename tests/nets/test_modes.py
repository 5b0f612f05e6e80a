"""Do users' modules act and learn in evaluation mode, and are those refused that would not?"""

from __future__ import annotations

from typing import Any

import flax
import gymnasium as gym
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

import shoal
from shoal.errors import NetworkError
from shoal.nets.base import Head
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces

SPACES = GymSpaces(gym.spaces.Box(-2, 2, (4,), np.float32), gym.spaces.Discrete(3))
HEADS = {"pi": Head(3)}


class Layered(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), *layers, nn.Linear(16, 3))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.body(obs)  # type: ignore[no-any-return]


class Functional(Layered):
    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.always = always

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return functional.dropout(super().forward(obs), 0.5, self.training or self.always)


class Linen(flax.linen.Module):
    layer: Any

    @flax.linen.compact
    def __call__(self, obs: Any) -> Any:
        return flax.linen.Dense(3)(self.layer(flax.linen.Dense(16)(obs)))


class Nnx(nnx.Module):
    def __init__(self, layer: Any, rngs: nnx.Rngs) -> None:
        self.first, self.out = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)
        self.layer = layer

    def __call__(self, obs: Any) -> Any:
        return self.out(self.layer(self.first(obs)))


def nnx_module(layer: Any, *args: Any) -> Nnx:
    rngs = nnx.Rngs(0)
    return Nnx(layer(*args, rngs=rngs), rngs)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (Layered(nn.Dropout(0.5)), r"body.1 \(Dropout\)"),
        (Layered(nn.BatchNorm1d(16)), r"body.1 \(BatchNorm1d\)"),
        (Functional(), "training mode"),
        (Linen(flax.linen.Dropout(0.5, deterministic=False)), "(?i)dropout"),
        (Linen(flax.linen.BatchNorm(use_running_average=False)), "batch_stats|BatchNorm"),
        (nnx_module(nnx.Dropout, 0.5), r"layer \(Dropout\)"),
        (nnx_module(nnx.BatchNorm, 16), r"layer \(BatchNorm\)"),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, str) else "",
)
def test_a_layer_in_training_mode_is_refused_by_name(module: Any, named: str) -> None:
    with pytest.raises(NetworkError, match="is in training mode") as caught:
        build(module, SPACES, HEADS)
    with pytest.raises(NetworkError, match=named):
        raise caught.value
    assert ".eval() in torch and nnx, deterministic=True" in str(caught.value)


def test_what_is_random_in_evaluation_mode_is_refused() -> None:
    with pytest.raises(NetworkError, match="gives two answers for one observation"):
        build(Functional(always=True).eval(), SPACES, HEADS)


@pytest.mark.parametrize(
    "module",
    [
        Layered(nn.Dropout(0.5), nn.BatchNorm1d(16)).eval(),
        Layered(nn.Dropout(0.0), nn.LayerNorm(16)),  # in training mode, which changes nothing
        Functional().eval(),
        Linen(flax.linen.Dropout(0.5, deterministic=True)),
        Linen(flax.linen.BatchNorm(use_running_average=True)),
    ],
)
def test_in_evaluation_mode_they_act_on_one_observation_alike(module: Any) -> None:
    net = build(module, SPACES, HEADS)
    params, obs = net.init(np.random.default_rng(0)), np.float32([[1, -1, 0.5, 2]])
    (alone,) = net(params, {"obs": obs}, ("pi",))
    (among,) = net(params, {"obs": np.concatenate([obs, -obs])}, ("pi",))
    np.testing.assert_allclose(alone[0], among[0], atol=1e-6)


def test_nnx_in_evaluation_mode_keeps_its_statistics_and_leaves_the_users_object_alone() -> None:
    module = nnx_module(nnx.BatchNorm, 16)
    module.eval()  # type: ignore[no-untyped-call]
    net = build(module, SPACES, HEADS)
    module.train()  # type: ignore[no-untyped-call]  # later: it is the owner's
    params, obs = net.init(np.random.default_rng(0)), np.float32([[1, -1, 0.5, 2]])
    before = net(params, {"obs": obs}, ("pi",))[0]
    shifted = {**params, "module/layer/mean": np.ones(16, "f")}
    assert not np.allclose(net(shifted, {"obs": obs}, ("pi",))[0], before)


def test_the_loss_sees_the_function_that_acted() -> None:
    """The first minibatch of PPO's first epoch has a ratio of exactly 1."""
    from tests.envs.micro import Bandit

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.pi, self.v = nn.Dropout(0.5), nn.Linear(1, 2), nn.Linear(1, 1)

        def forward(self, obs: torch.Tensor) -> Any:
            return self.pi(self.drop(obs)), self.v(obs)

    settings = {"epochs": 1, "minibatch_size": 2048, "fragment_length": 256}
    with shoal.Trainer("ppo", env=Bandit, network=Net().eval(), **settings) as trainer:
        report = trainer.train()
    assert abs(report["learn/kl"]) < 1e-6, sorted(report)
