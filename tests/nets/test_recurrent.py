"""Recurrent nets, built in or the user's own: is an unroll what single steps are?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from shoal.errors import NetworkError
from shoal.nets.base import Head, initial_memory, step, unroll
from shoal.nets.cells import FORGET_BIAS, GRU, LSTM
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.spaces.base import MEMORY
from tests.nets.conftest import LIBRARIES, to_library

HEADS = {"pi": Head(3), "v": Head(1)}
NAMES = ("pi", "v")


class Torch(nn.Module):
    """An LSTM whose state is a dict of two."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
        self.pi, self.v = nn.Linear(6, 3), nn.Linear(6, 1)

    def initial_memory(self) -> dict[str, Any]:
        return {"h": torch.zeros(6), "c": torch.full((6,), 0.5)}

    def forward(self, obs: Any, memory: Any) -> Any:
        h, c = self.cell(obs, (memory["h"], memory["c"]))
        return (self.pi(h), self.v(h)), {"h": h, "c": c}


class Linen(flax.linen.Module):
    def initial_memory(self) -> dict[str, Any]:
        return {"h": np.zeros(6, np.float32)}

    @flax.linen.compact
    def __call__(self, obs: Any, memory: Any) -> Any:
        h, x = flax.linen.GRUCell(6)(memory["h"], obs)
        return {"pi": flax.linen.Dense(3)(x), "v": flax.linen.Dense(1)(x)}, {"h": h}


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.cell = nnx.SimpleCell(4, 6, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(6, n, rngs=rngs) for n in (3, 1)])

    def initial_memory(self) -> dict[str, Any]:
        return {"h": np.zeros(6, np.float32)}

    def __call__(self, obs: Any, memory: Any) -> Any:
        h, x = self.cell(memory["h"], obs)
        return [head(x) for head in self.heads], {"h": h}


class Counter(nn.Module):
    """Its value is how many steps it has taken since its memory was the initial one."""

    def __init__(self) -> None:
        super().__init__()
        self.pi = nn.Linear(4, 3)

    def initial_memory(self) -> dict[str, Any]:
        return {"count": np.zeros((), np.int64)}

    def forward(self, obs: Any, memory: Any) -> Any:
        count = memory["count"] + 1
        return (self.pi(obs), count.float()), {"count": count}


MAKE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "lstm": (Network(hidden=(5,), memory="lstm", memory_size=6), LIBRARIES),
    "gru, one trunk": (Network(hidden=(5,), memory="gru", memory_size=6, shared=True), LIBRARIES),
    "gru, no hidden": (Network(hidden=(), memory="gru", memory_size=6), LIBRARIES),
    "torch": (Torch, ("numpy", "torch")),
    "linen": (Linen(), ("numpy", "jax")),
    "nnx": (Nnx, ("numpy", "jax")),
    "counter": (Counter(), ("numpy", "torch")),
}
CASES = [(kind, library) for kind, (_, found) in MAKE.items() for library in found]


def stepped(
    net: Any, params: Mapping[str, Any], obs: Mapping[str, Any], begins: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Outputs [N, L, ...] of single steps in NumPy, one sequence after the other."""
    initial = initial_memory(net)
    outs: list[list[Any]] = []
    for n in range(len(begins)):
        memory = {path: obs[path][n] for path in initial}
        for t in range(begins.shape[1]):
            memory = initial if begins[n, t] else memory
            now = {path: x[n, t] for path, x in obs.items() if path not in initial}
            out, memory = step(net, params, {**now, **memory}, NAMES)
            outs.append(list(out))
    return tuple(np.stack(x).reshape(*begins.shape, -1) for x in zip(*outs, strict=True))


def remembered(net: Any, n: int, seed: int = 1) -> dict[str, Any]:
    """Memory of n slots in mid-episode."""
    rng = np.random.default_rng(seed)
    return {
        path: (3 * rng.random((n, *x.shape))).astype(x.dtype)
        for path, x in initial_memory(net).items()
    }


@pytest.mark.parametrize(("kind", "library"), CASES)
def test_an_unroll_is_its_single_steps(kind: str, library: str, vector: Any, observe: Any) -> None:
    """Wherever episodes begin, at a sequence's first and last step too."""
    net = build(MAKE[kind][0], vector, HEADS)
    params = net.init(np.random.default_rng(0))
    begins = np.random.default_rng(2).random((4, 9)) < 0.3
    begins[0, :2], begins[1], begins[2, -1] = True, False, True
    obs = {**observe(vector, 4, 9), **remembered(net, 4)}
    expected = stepped(net, params, obs, begins)

    def call(params: Any, obs: Any, begins: Any) -> Any:
        return unroll(net, params, obs, begins, NAMES)[0]

    if library == "jax":
        call = jax.jit(call)
    parts = to_library(library, params), to_library(library, obs)
    outs = call(*parts, to_library(library, {"begins": begins})["begins"])
    for out, wanted in zip(outs, expected, strict=True):
        found = out.detach().numpy() if library == "torch" else np.asarray(out)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_unroll_of_images_too(image: Any, observe: Any) -> None:
    """Also of a batch so large that NumPy convolves it in parts."""
    net = build(Network("impala", memory="lstm", memory_size=4), image, HEADS)
    params, begins = net.init(np.random.default_rng(0)), np.zeros((2, 40), bool)
    begins[1, 7] = True
    obs = {**observe(image, 2, 40), **remembered(net, 2)}
    found, _ = unroll(net, params, obs, begins, NAMES)
    for out, wanted in zip(found, stepped(net, params, obs, begins), strict=True):
        np.testing.assert_allclose(out, wanted, atol=1e-4)


def test_the_lstm_is_pytorchs() -> None:
    rng = np.random.default_rng(0)
    cell, theirs = LSTM("lstm", 3, 5), nn.LSTMCell(3, 5)
    params = {p.name: rng.standard_normal(p.shape).astype("f") for p in cell.parameters()}
    x, state = rng.standard_normal((7, 3)).astype("f"), rng.standard_normal((7, 2, 5)).astype("f")
    bias = params["lstm/b"].copy()
    bias[5:10] += FORGET_BIAS
    with torch.no_grad():
        theirs.weight_ih.copy_(torch.tensor(params["lstm/w_x"].T))
        theirs.weight_hh.copy_(torch.tensor(params["lstm/w_h"].T))
        theirs.bias_ih.copy_(torch.tensor(bias))
        theirs.bias_hh.zero_()
        h, c = theirs(torch.tensor(x), (torch.tensor(state[:, 0]), torch.tensor(state[:, 1])))
    ours = cell.next(np, params, cell.given(params, x), state)
    np.testing.assert_allclose(ours, np.stack([h, c], 1), atol=1e-6)


def test_the_gru_is_pytorchs() -> None:
    rng = np.random.default_rng(0)
    cell, theirs = GRU("gru", 3, 5), nn.GRUCell(3, 5)
    params = {p.name: rng.standard_normal(p.shape).astype("f") for p in cell.parameters()}
    x, state = rng.standard_normal((7, 3)).astype("f"), rng.standard_normal((7, 5)).astype("f")
    bias = params["gru/b"]
    with torch.no_grad():
        theirs.weight_ih.copy_(torch.tensor(params["gru/w_x"].T))
        theirs.weight_hh.copy_(torch.tensor(params["gru/w_h"].T))
        theirs.bias_ih.copy_(torch.tensor(bias[:15]))
        theirs.bias_hh.copy_(torch.tensor(np.concatenate([np.zeros(10, "f"), bias[15:]])))
        expected = theirs(torch.tensor(x), torch.tensor(state))
    ours = cell.next(np, params, cell.given(params, x), state)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru, no hidden", "linen", "nnx"])
def test_no_gradient_passes_the_beginning_of_an_episode(
    kind: str, vector: Any, observe: Any
) -> None:
    net = build(MAKE[kind][0], vector, HEADS)
    params = to_library("jax", net.init(np.random.default_rng(0)))
    obs = {**observe(vector, 1, 6), **remembered(net, 1)}
    begins = jnp.asarray(np.arange(6)[None] == 3)

    def last(leaves: Any) -> Any:
        return unroll(net, params, {**obs, **leaves}, begins, NAMES)[0][0][0, -1].sum()

    slopes = jax.grad(last)({"obs": jnp.asarray(obs["obs"])})["obs"][0]
    through = np.abs(np.asarray(slopes)).max(-1) > 0
    assert through.tolist() == [False, False, False, True, True, True]


def test_the_forget_gate_is_open_at_first(vector: Any) -> None:
    cell = LSTM("lstm", 1, 1)
    params = {p.name: np.zeros(p.shape, "f") for p in cell.parameters()}
    state = cell.next(
        np, params, cell.given(params, np.zeros((1, 1), "f")), np.ones((1, 2, 1), "f")
    )
    assert state[0, 1, 0] == pytest.approx(1 / (1 + np.exp(-1)))


@pytest.mark.parametrize("size", [0, -3, 1.5, "large"])
def test_a_cell_of_no_size_is_refused(size: Any) -> None:
    with pytest.raises(Exception, match="memory_size"):
        Network(memory="lstm", memory_size=size)


def test_an_unknown_cell_is_refused_with_those_there_are() -> None:
    with pytest.raises(Exception, match=r"network\.memory is 'rnn'") as caught:
        Network(memory="rnn")  # type: ignore[arg-type]
    assert "lstm, gru" in str(caught.value)


class Misfit(Torch):
    """``wrong`` says what its forward returns beside the outputs."""

    def __init__(self, wrong: Any) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, obs: Any, memory: Any) -> Any:
        outs, then = super().forward(obs, memory)
        return self.wrong(outs, then)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda outs, then: outs, "has a memory, but returns"),
        (lambda outs, then: (outs, {"h": then["h"]}), "'c' of Misfit is missing"),
        (lambda outs, then: (outs, {**then, "h": then["h"][:, :3]}), r"float32 \[2, 3\]; expected"),
        (lambda outs, then: (outs, {**then, "c": then["c"].long()}), "is int64"),
    ],
)
def test_a_next_memory_that_does_not_fit_is_refused(wrong: Any, says: str, vector: Any) -> None:
    with pytest.raises(NetworkError, match=says):
        build(Misfit(wrong), vector, HEADS)


def test_an_initial_memory_that_is_no_dict_is_refused(vector: Any) -> None:
    class Array(Torch):
        def initial_memory(self) -> Any:
            return torch.zeros(6)

    with pytest.raises(NetworkError, match=r"initial_memory\(\) returns \[6\]"):
        build(Array(), vector, HEADS)


def test_a_module_that_never_uses_its_memory_is_named(
    vector: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(Torch):
        def forward(self, obs: Any, memory: Any) -> Any:
            h, _ = self.cell(obs)
            return (self.pi(h), self.v(h)), memory

    with caplog.at_level(logging.WARNING, "shoal.nets"):
        build(Torch(), vector, HEADS)
        assert not caplog.records
        build(Forgetful(), vector, HEADS)
    assert [record.getMessage() for record in caplog.records if "never uses" in record.getMessage()]


def test_memory_leaves_are_named_after_what_remembers(vector: Any) -> None:
    assert set(initial_memory(build(MAKE["lstm"][0], vector, HEADS))) == {
        f"{MEMORY}pi",
        f"{MEMORY}v",
    }
    assert set(initial_memory(build(MAKE["torch"][0], vector, HEADS))) == {
        f"{MEMORY}h",
        f"{MEMORY}c",
    }
