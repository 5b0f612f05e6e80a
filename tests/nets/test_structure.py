"""Trunks, leading axes, normalisation, and the choice of an encoder."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from shoal.errors import ConfigError, NetworkError
from shoal.nets.array_net import Trunk
from shoal.nets.base import Head
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.spaces.gym import GymSpaces

HEADS = {"pi": Head(3), "v": Head(1)}
LIBRARIES = pytest.mark.parametrize("library", ["numpy", "jax", "torch"])


def spaces(shape: tuple[int, ...], dtype: Any = np.uint8) -> GymSpaces:
    return GymSpaces(gym.spaces.Box(0, 255, shape, dtype), gym.spaces.Discrete(3))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("differentiate", ["jax", "torch"])
def test_the_value_moves_the_policy_iff_the_trunk_is_shared(
    shared: bool, differentiate: str, vector: Any, observe: Any
) -> None:
    net = build(Network(shared=shared), vector, HEADS)
    params, obs = net.init(np.random.default_rng(0)), observe(vector, 5)
    if differentiate == "jax":
        import jax

        gradients = jax.grad(lambda p: net(p, jax.device_put(obs), ("v",))[0].sum())(params)
    else:
        import torch

        tensors = {name: torch.tensor(x, requires_grad=True) for name, x in params.items()}
        (v,) = net(tensors, {"obs": torch.tensor(obs["obs"])}, ("v",))
        found = torch.autograd.grad(v.sum(), list(tensors.values()), materialize_grads=True)
        gradients = dict(zip(tensors, found, strict=True))
    moved = {name for name, x in gradients.items() if np.asarray(x).any()}
    own = {"v/out/w", "v/out/b"}
    trunk = "trunk" if shared else "v"
    assert moved == own | {f"{trunk}/{i}/{kind}" for i in (0, 1) for kind in "wb"}
    assert any(name.startswith("pi/0") for name in params) is not shared


def test_a_shared_trunk_is_computed_once_and_separate_ones_only_when_asked(
    vector: Any, observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    original = Trunk.__call__

    def counted(self: Trunk, *args: Any) -> Any:
        calls.append(self.name)
        return original(self, *args)

    monkeypatch.setattr(Trunk, "__call__", counted)
    for shared, heads, expected in [
        (True, ("pi", "v"), ["trunk"]),
        (False, ("pi", "v"), ["pi", "v"]),
        (False, ("v",), ["v"]),
    ]:
        net = build(Network(shared=shared), vector, HEADS)
        calls.clear()
        net(net.init(np.random.default_rng(0)), observe(vector, 2), heads)
        assert calls == expected


def test_by_default_images_share_a_trunk_and_vectors_do_not(
    vector: Any, image: Any, mixed: Any
) -> None:
    def prefixes(spaces: GymSpaces, network: Network) -> set[str]:
        return {name.split("/")[0] for name in build(network, spaces, HEADS).shapes()}

    assert prefixes(vector, Network()) == {"pi", "v"}
    assert prefixes(image, Network()) == {"trunk", "pi", "v"}
    assert prefixes(mixed, Network()) == {"trunk", "pi", "v"}
    assert prefixes(image, Network("mlp")) == {"pi", "v"}
    assert prefixes(image, Network(shared=False)) == {"pi", "v"}


@LIBRARIES
@pytest.mark.parametrize("lead", [(), (3, 2), (0,), (0, 2)])
def test_leading_axes_are_rows(
    library: str, lead: tuple[int, ...], mixed: Any, observe: Any, run: Any
) -> None:
    net = build(Network("nature"), mixed, {"pi": Head(2, free=2), "v": Head(1)})
    params = net.init(np.random.default_rng(0))
    rows = observe(mixed, 6)
    n = int(np.prod(lead))
    obs = {path: x[:n].reshape((*lead, *x.shape[1:])) for path, x in rows.items()}
    pi, v = run(library, net, params, obs, ("pi", "v"))
    expected = net(params, rows, ("pi", "v"))
    assert pi.shape == (*lead, 4) and v.shape == (*lead, 1)
    np.testing.assert_allclose(pi.reshape(n, 4), expected[0][:n], atol=1e-5)
    np.testing.assert_allclose(v.reshape(n, 1), expected[1][:n], atol=1e-5)


def test_numpy_convolves_a_trajectory_in_bounded_memory(
    image: GymSpaces, observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = build(Network("impala"), image, HEADS)
    params, rows = net.init(np.random.default_rng(0)), observe(image, 150)["obs"]
    expected = net(params, {"obs": rows}, ("pi", "v"))
    seen: list[int] = []
    original = Trunk.__call__

    def counted(self: Trunk, xp: Any, params: Any, images: Any, vector: Any) -> Any:
        seen.append(len(images["obs"]))
        return original(self, xp, params, images, vector)

    monkeypatch.setattr(Trunk, "__call__", counted)
    outs = net(params, {"obs": rows.reshape(50, 3, *rows.shape[1:])}, ("pi", "v"))
    assert seen == [64, 64, 22]
    for out, whole in zip(outs, expected, strict=True):
        np.testing.assert_allclose(out.reshape(150, -1), whole, rtol=1e-5, atol=1e-5)


def test_nothing_is_written_to(mixed: Any, observe: Any) -> None:
    """Weights and observations may come read-only out of shared memory."""
    net = build(Network(), mixed, {"pi": Head(2, free=2), "v": Head(1)})
    params, obs = net.init(np.random.default_rng(0)), observe(mixed, 3)
    for x in [*params.values(), *obs.values()]:
        x.setflags(write=False)
    net(params, obs, ("pi", "v"))


@LIBRARIES
def test_normalisation_is_of_the_observation_and_clipped(
    library: str, mixed: Any, observe: Any, run: Any
) -> None:
    net = build(Network("mlp"), mixed, {"pi": Head(2)})
    params, obs = net.init(np.random.default_rng(0)), observe(mixed, 4)
    mean = np.arange(6, dtype="f").reshape(2, 3)
    std = np.array([[1, 2, 3], [4, 5, 1e-4]], "f")  # the last one leaves the range of +-10
    norm = {"norm/joints/left/mean": mean, "norm/joints/left/std": std}
    by_hand = dict(obs)
    by_hand["joints/left"] = np.clip((obs["joints/left"] - mean) / std, -10, 10)
    assert np.abs(by_hand["joints/left"]).max() == 10
    (out,) = run(library, net, {**params, **norm}, obs, ("pi",))
    (expected,) = net(params, by_hand, ("pi",))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_no_gradient_flows_into_the_normalisation(vector: Any, observe: Any) -> None:
    import jax

    net = build(Network(), vector, HEADS)
    norm = {"norm/obs/mean": np.ones(4, "f"), "norm/obs/std": np.full(4, 2, "f")}
    params, obs = {**net.init(np.random.default_rng(0)), **norm}, jax.device_put(observe(vector, 3))
    gradients = jax.grad(lambda p: net(p, obs, ("v",))[0].sum())(params)
    assert not any(gradients[name].any() for name in norm)
    assert gradients["v/0/w"].any()


@pytest.mark.parametrize("differentiate", ["jax", "torch"])
def test_relu_has_gradient_zero_at_zero(differentiate: str, vector: Any) -> None:
    """A first observation of zeros meets biases of zero: every unit is then exactly at the kink."""
    net = build(Network(hidden=(8,), activation="relu"), vector, {"v": Head(1)})
    params, name = net.init(np.random.default_rng(0)), "v/0/b"
    if differentiate == "jax":
        import jax

        obs = jax.numpy.zeros((1, 4))
        gradient = jax.grad(lambda p: net(p, {"obs": obs}, ("v",))[0].sum())(params)[name]
    else:
        import torch

        tensors = {key: torch.tensor(x, requires_grad=True) for key, x in params.items()}
        net(tensors, {"obs": torch.zeros(1, 4)}, ("v",))[0].sum().backward()
        gradient = tensors[name].grad
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "gelu"])
def test_activations_are_finite_without_warnings_for_huge_inputs(
    activation: Any, vector: Any
) -> None:
    net = build(Network(activation=activation), vector, {"v": Head(1)})
    obs = {"obs": np.array([[1e10, -1e10, 1e10, 0]], "f")}
    with np.errstate(all="raise", under="ignore"):
        (v,) = net(net.init(np.random.default_rng(0)), obs, ("v",))
    assert np.isfinite(v).all()


@pytest.mark.parametrize(
    ("shape", "layer", "there"),
    [
        ((36, 36, 1), "trunk/obs/conv0/w", True),
        ((35, 36, 1), "trunk/obs/conv0/w", False),
        ((35, 36, 1), "trunk/obs/0/conv/w", True),
        ((7, 7, 3), "trunk/obs/0/conv/w", True),
        ((4, 9, 3), "trunk/obs/0/conv/w", False),
        ((4, 9, 3), "pi/0/w", True),
    ],
)
def test_auto_takes_the_first_encoder_that_fits(
    shape: tuple[int, ...], layer: str, there: bool, run: Any
) -> None:
    net = build(Network(), spaces(shape), HEADS)
    assert (layer in net.shapes()) is there
    obs = {"obs": np.zeros((2, *shape), np.uint8)}
    for library in ("numpy", "torch"):
        run(library, net, net.init(np.random.default_rng(0)), obs, ("pi",))


def test_pixels_are_scaled_wherever_they_go(vector: Any) -> None:
    net = build(Network("mlp", hidden=()), spaces((4, 9, 3)), {"pi": Head(3)})
    params = net.init(np.random.default_rng(0))
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 9, 3), np.uint8)
    (out,) = net(params, {"obs": x}, ("pi",))
    np.testing.assert_allclose(out, x.reshape(2, -1) / 255 @ params["pi/out/w"], atol=1e-5)


def test_hidden_layers_follow_the_encoder_only_where_vectors_join(image: Any, mixed: Any) -> None:
    assert "trunk/0/w" not in build(Network(), image, HEADS).shapes()
    joined = build(Network(), mixed, HEADS).shapes()["trunk/0/w"]
    assert joined == (512 + (2 + 4 + 3) + 6 + 1 + 3 + 5 + 2, 64)


def test_a_small_image_is_refused_with_its_name_and_what_would_fit() -> None:
    observation = gym.spaces.Dict({"camera": gym.spaces.Box(0, 255, (24, 30, 3), np.uint8)})
    with pytest.raises(NetworkError) as error:
        build(Network("nature"), GymSpaces(observation, gym.spaces.Discrete(2)), HEADS)
    assert str(error.value) == (
        "encoder=\"nature\" needs images of at least 36x36 pixels, but the observation 'camera' is "
        "uint8 [24, 30, 3]\n"
        "  where: observation 'camera'\n"
        '  to do: use encoder="impala" or encoder="small" or encoder="mlp", or larger images'
    )
    with pytest.raises(NetworkError, match=r"at least 5x5 .*\[3, 9, 2\]"):
        build(Network("impala"), spaces((3, 9, 2)), HEADS)


def test_an_image_encoder_without_an_image_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"only 'obs' float32 \[84, 3\]") as error:
        build(Network("nature"), spaces((84, 3), np.float32), HEADS)
    assert 'encoder="auto"' in str(error.value.fix)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder": "natur"}, "'natur'.*auto, mlp, nature, impala, small"),
        ({"activation": "swish"}, "'swish'.*tanh, relu, silu, gelu"),
        ({"hidden": (64, 0)}, r"\(64, 0\)"),
        ({"hidden": 64}, "64"),
    ],
)
def test_impossible_settings_are_refused(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        Network(**settings)
    import re

    assert re.search(words, str(error.value), re.DOTALL)


def test_acting_needs_neither_jax_nor_torch() -> None:
    code = """
import sys, numpy as np, gymnasium as gym
from shoal.nets.base import Head
from shoal.nets.network import Network
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces
box = gym.spaces.Box(0, 255, (44, 40, 3), np.uint8)
net = build(Network(), GymSpaces(box, gym.spaces.Discrete(3)), {"pi": Head(3)})
net(net.init(np.random.default_rng(0)), {"obs": np.zeros((2, 44, 40, 3), np.uint8)}, ("pi",))
assert not {"jax", "torch", "flax"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
