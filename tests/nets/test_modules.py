"""A user's own network, in each of the three forms: it acts, learns, and is left alone."""

from __future__ import annotations

import pickle
from typing import Any

import flax.linen
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from shoal.nets.base import Head
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces

HEADS = {"pi": Head(3), "v": Head(1)}


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.pi, self.v = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, obs: torch.Tensor) -> Any:
        x = torch.tanh(self.body(obs))
        return self.pi(x), self.v(x)[:, 0]


class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, obs: Any) -> Any:
        x = jnp.tanh(flax.linen.Dense(8)(obs))
        return {"v": flax.linen.Dense(1)(x)[:, 0], "pi": flax.linen.Dense(3)(x)}


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.body = nnx.Linear(4, 8, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(8, n, rngs=rngs) for n in (3, 1)])

    def __call__(self, obs: Any) -> Any:
        x = jnp.tanh(self.body(obs))
        return tuple(head(x) for head in self.heads)


MAKE: dict[str, Any] = {"torch": Torch, "linen": Linen, "nnx": lambda: Nnx(nnx.Rngs(0))}
KINDS = pytest.mark.parametrize("kind", MAKE)


def gradients(net: Any, params: Any, obs: Any, heads: tuple[str, ...]) -> dict[str, Any]:
    """Of the sum of the squared outputs."""
    if net.framework == "jax":

        def loss(trained: Any, obs: Any) -> Any:
            outs = net({**params, **trained}, obs, heads)
            return sum((out * out).sum() for out in outs)

        trained = {name: x for name, x in params.items() if name not in net.frozen}
        return dict(jax.jit(jax.grad(loss))(trained, obs))
    tensors = {name: torch.tensor(x) for name, x in params.items()}
    trained = {k: x.requires_grad_() for k, x in tensors.items() if k not in net.frozen}
    outs = net(tensors, {path: torch.tensor(x) for path, x in obs.items()}, heads)
    sum((out * out).sum() for out in outs).backward()
    return {name: x.grad for name, x in trained.items()}


@KINDS
def test_it_acts_in_numpy_and_gives_gradients_in_its_framework(
    kind: str, vector: Any, observe: Any
) -> None:
    net = build(MAKE[kind](), vector, HEADS)
    params, obs = net.init(np.random.default_rng(0)), observe(vector, 5)
    pi, v = net(params, obs, ("pi", "v"))
    assert type(pi) is np.ndarray and pi.dtype == v.dtype == np.float32
    assert pi.shape == (5, 3) and v.shape == (5, 1)
    assert {name: x.shape for name, x in params.items()} == net.shapes()
    assert net.frozen == frozenset() and net.framework == ("torch" if kind == "torch" else "jax")

    # The gradient against finite differences of the acting path, which is the other code path.
    found = gradients(net, params, obs, ("pi", "v"))
    assert set(found) == set(params)
    rng = np.random.default_rng(1)
    direction = {name: rng.normal(size=x.shape).astype("f") for name, x in params.items()}

    def loss(step: float) -> float:
        moved = {name: (x + step * direction[name]).astype("f") for name, x in params.items()}
        return sum(float((out.astype(float) ** 2).sum()) for out in net(moved, obs, ("pi", "v")))

    slope = sum(float((np.asarray(found[name]) * direction[name]).sum()) for name in params)
    assert slope == pytest.approx((loss(1e-3) - loss(-1e-3)) / 2e-3, rel=1e-2)


@KINDS
def test_weights_are_arguments_and_the_users_object_keeps_its_own(
    kind: str, vector: Any, observe: Any
) -> None:
    net = build(MAKE[kind](), vector, HEADS)
    params, obs = net.init(np.random.default_rng(0)), observe(vector, 5)
    first = net(params, obs, ("pi",))[0].copy()
    zero = {name: np.zeros_like(x) for name, x in params.items()}
    assert not net(zero, obs, ("pi",))[0].any()
    np.testing.assert_array_equal(net(params, obs, ("pi",))[0], first)
    after = net.init(np.random.default_rng(0))
    assert all(np.array_equal(after[name], params[name]) for name in params)


@KINDS
@pytest.mark.parametrize("lead", [(), (2, 3), (0,), (5,)])
def test_leading_axes_are_rows(kind: str, lead: tuple[int, ...], vector: Any, observe: Any) -> None:
    net = build(MAKE[kind](), vector, HEADS)
    params, rows = net.init(np.random.default_rng(0)), observe(vector, 6)["obs"]
    n = int(np.prod(lead))
    (v,) = net(params, {"obs": rows[:n].reshape((*lead, 4))}, ("v",))
    assert v.shape == (*lead, 1)
    (expected,) = net(params, {"obs": rows}, ("v",))
    np.testing.assert_allclose(v.reshape(n, 1), expected[:n], atol=1e-6)


@KINDS
def test_it_is_normalised_like_a_built_in_one(kind: str, vector: Any, observe: Any) -> None:
    net = build(MAKE[kind](), vector, HEADS)
    params, obs = net.init(np.random.default_rng(0)), observe(vector, 5)["obs"]
    norm = {
        "norm/obs/mean": np.array([1, 2, 3, 4], "f"),
        "norm/obs/std": np.array([1, 2, 3, 0.1], "f"),
    }
    by_hand = np.clip((obs - norm["norm/obs/mean"]) / norm["norm/obs/std"], -10, 10)
    (out,) = net({**params, **norm, "hyper/lr": np.float32(1)}, {"obs": obs}, ("pi",))
    np.testing.assert_allclose(out, net(params, {"obs": by_hand}, ("pi",))[0], atol=1e-5)


@KINDS
def test_a_gaussians_free_parameter_is_added_where_the_module_leaves_it(
    kind: str, vector: Any, observe: Any
) -> None:
    net = build(MAKE[kind](), vector, {"pi": Head(3, free=3), "v": Head(1)})
    params, obs = net.init(np.random.default_rng(0)), observe(vector, 5)
    assert net.shapes()["pi/free"] == (3,) and not params["pi/free"].any()
    params["pi/free"] = np.array([1, 2, 3], "f")
    (pi,) = net(params, obs, ("pi",))
    np.testing.assert_array_equal(pi[:, 3:], np.tile(params["pi/free"], (5, 1)))
    found = gradients(net, params, obs, ("pi",))
    np.testing.assert_allclose(found["pi/free"], 5 * 2 * params["pi/free"])
    complete = build(MAKE[kind](), vector, {"pi": Head(1, free=2), "v": Head(1)})
    assert "pi/free" not in complete.shapes()  # it returns all three itself


@KINDS
def test_a_net_survives_a_process_border_with_what_it_has_compiled(
    kind: str, vector: Any, observe: Any
) -> None:
    net = build(MAKE[kind](), vector, HEADS)
    params, obs = net.init(np.random.default_rng(0)), observe(vector, 5)
    expected = net(params, obs, ("pi",))[0]
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again(params, obs, ("pi",))[0], expected)


@pytest.mark.parametrize("source", ["string", "class"])
@KINDS
def test_a_class_is_called_and_takes_its_values_from_the_seed(
    kind: str, source: str, vector: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Inherited(Nnx):
        """Takes its random streams by an __init__ that is not its own."""

    cls: Any = {"torch": Torch, "linen": Linen, "nnx": Inherited}[kind]
    if source == "string":
        (tmp_path / "mine_for_shoal.py").write_text(
            "import torch\nfrom torch import nn\n"
            "class Outer:\n"
            "    class Net(nn.Sequential):\n"
            "        def __init__(self, spaces):\n"
            "            super().__init__(nn.Linear(*spaces.leaves[0].shape, 3))\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        cls = "mine_for_shoal:Outer.Net"
    before = torch.random.get_rng_state()
    net = build(cls, vector, HEADS if source == "class" else {"pi": Head(3)})
    one, same, other = (net.init(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), before)


class Senses(nn.Module):
    """Uses everything that the mixed observation holds, in the form that is promised."""

    def __init__(self) -> None:
        super().__init__()
        self.room = nn.Embedding(7, 3)
        self.out = nn.LazyLinear(2)

    def forward(self, obs: Any) -> torch.Tensor:
        assert obs["camera"].dtype == torch.uint8 and obs["grid"].dtype == torch.int64
        parts = [obs["camera"].float().flatten(1) / 255, obs["grid"], obs["lamps"]]
        parts += [obs["joints"]["left"].flatten(1), obs["joints"]["right"][:, None]]
        assert {x.dtype for x in (*parts[2:], *obs["ticks"])} == {torch.float32}
        parts += [self.room(obs["room"]), *obs["ticks"]]
        return self.out(torch.cat(parts, 1))  # type: ignore[no-any-return]


def test_observations_arrive_nested_and_typed(mixed: Any, observe: Any) -> None:
    net = build(Senses(), mixed, {"pi": Head(2)})
    params, obs = net.init(np.random.default_rng(0)), observe(mixed, 3)
    (acted,) = net(params, obs, ("pi",))
    tensors, inputs = ({k: torch.tensor(x) for k, x in tree.items()} for tree in (params, obs))
    (learned,) = net(tensors, inputs, ("pi",))
    np.testing.assert_allclose(acted, learned.detach(), atol=1e-6)
    columns = net.shapes()["module/out.weight"][1]
    assert columns == 38 * 36 * 2 + 3 + 3 + 6 + 1 + 3 + 2


def test_a_mask_in_the_observation_reaches_the_module(observe: Any) -> None:
    observation = gym.spaces.Dict(
        {"action_mask": gym.spaces.MultiBinary(3), "x": gym.spaces.Box(-1, 1, (4,))}
    )

    class Masking(nn.Module):
        def forward(self, obs: Any) -> torch.Tensor:
            assert obs["action_mask"].dtype == torch.bool
            return obs["action_mask"] * obs["x"][:, :1]  # type: ignore[no-any-return]

    net = build(Masking(), GymSpaces(observation, gym.spaces.Discrete(3)), {"pi": Head(3)})
    obs = {"x": np.ones((2, 4), "f"), "action_mask": np.array([[1, 0, 1], [0, 0, 1]], bool)}
    np.testing.assert_array_equal(net({}, obs, ("pi",))[0], obs["action_mask"])


class Normed(nn.Module):
    """Has what BatchNorm has: a trained weight, float buffers and an integer one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out, self.still = nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Linear(3, 3)
        self.still.requires_grad_(False)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.still(self.out(self.norm(obs)))  # type: ignore[no-any-return]


def test_torch_buffers_travel_but_are_neither_trained_nor_changed(
    vector: Any, observe: Any
) -> None:
    module = Normed().eval()
    net = build(module, vector, {"pi": Head(3)})
    buffers = {f"module/norm.{x}" for x in ("running_mean", "running_var", "num_batches_tracked")}
    assert net.frozen == buffers | {"module/still.weight", "module/still.bias"}
    params, obs = net.init(np.random.default_rng(0)), observe(vector, 4)
    params["module/norm.running_mean"] = np.ones(4, "f")
    before = {name: x.copy() for name, x in params.items()}
    (out,) = net(params, obs, ("pi",))
    (expected,) = net(params, obs, ("pi",))
    np.testing.assert_array_equal(out, expected)
    assert set(gradients(net, params, obs, ("pi",))) == set(params) - net.frozen
    assert all(np.array_equal(params[name], before[name]) for name in params)
    assert module.norm.num_batches_tracked == 0
    at_mean = net(params, {"obs": np.ones((4, 4), "f")}, ("pi",))[0]
    zero = net({**params, "module/norm.running_mean": np.zeros(4, "f")}, obs, ("pi",))[0]
    assert not np.array_equal(zero, out)  # its running statistics, not those of the batch
    assert at_mean.std(0).max() < 1e-6


class LinenNormed(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, obs: Any) -> Any:
        return flax.linen.Dense(3)(flax.linen.BatchNorm(use_running_average=True)(obs))


class NnxNormed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm, self.out = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, obs: Any) -> Any:
        return self.drop(self.out(self.norm(obs)))


def test_flax_statistics_travel_but_are_not_trained(vector: Any, observe: Any) -> None:
    module = NnxNormed(nnx.Rngs(0))
    module.eval()  # type: ignore[no-untyped-call]
    linen = build(LinenNormed(), vector, {"pi": Head(3)})
    nnx_net = build(module, vector, {"pi": Head(3)})
    assert linen.frozen == {f"module/batch_stats/BatchNorm_0/{x}" for x in ("mean", "var")}
    assert nnx_net.frozen == {"module/norm/mean", "module/norm/var"}  # random streams stay behind
    obs = observe(vector, 4)
    for net in (linen, nnx_net):
        params = net.init(np.random.default_rng(0))
        (mean,) = (name for name in net.frozen if name.endswith("mean"))
        (shifted,) = net({**params, mean: np.ones(4, "f")}, obs, ("pi",))
        (expected,) = net(params, {"obs": obs["obs"] - 1}, ("pi",))
        np.testing.assert_allclose(shifted, expected, atol=1e-5)
        assert set(gradients(net, params, obs, ("pi",))) == set(params) - net.frozen


def test_few_shapes_are_compiled_for_many_batch_sizes(vector: Any) -> None:
    """How many observations end an episode differs from fragment to fragment."""
    traced: list[int] = []

    class Counting(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, obs: Any) -> Any:
            traced.append(len(obs))
            return flax.linen.Dense(3)(obs)

    net = build(Counting(), vector, {"pi": Head(3)})
    params = net.init(np.random.default_rng(0))
    traced.clear()
    for n in range(1, 129):
        (out,) = net(params, {"obs": np.ones((n, 4), "f")}, ("pi",))
        assert out.shape == (n, 3)
    assert len(traced) <= 24 and max(traced) == 128


def test_a_torch_forward_may_write_to_its_input(vector: Any) -> None:
    class Greedy(nn.Module):
        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return obs.mul_(2)[:, :3]

    net = build(Greedy(), vector, {"pi": Head(3)})
    obs = np.ones((2, 4), "f")
    obs.setflags(write=False)
    np.testing.assert_array_equal(net({}, {"obs": obs[:, ::-1]}, ("pi",))[0], 2 * np.ones((2, 3)))
    assert (obs == 1).all()
