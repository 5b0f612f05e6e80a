"""Fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from shoal.nets.init import HIDDEN_GAIN, Param
from shoal.ops.kernels import Array

_GELU = math.sqrt(2 / math.pi)


def tanh(xp: Any, x: Array) -> Array:
    return xp.tanh(x)


def relu(xp: Any, x: Array) -> Array:
    """max(x, 0) with gradient 0 at 0; a tie in ``maximum`` would pass half of it on."""
    if xp is np:
        return np.maximum(x, 0)
    return xp.relu(x) if hasattr(xp, "relu") else x * (x > 0)


def silu(xp: Any, x: Array) -> Array:
    """x sigmoid(x) (Hendrycks & Gimpel 2016, arXiv:1606.08415), written so that none overflows."""
    return 0.5 * x * (1 + xp.tanh(0.5 * x))


def gelu(xp: Any, x: Array) -> Array:
    """x Phi(x) in the tanh approximation of the same paper, section 2."""
    return 0.5 * x * (1 + xp.tanh(_GELU * (x + 0.044715 * x * x * x)))


ACTIVATIONS: dict[str, Callable[[Any, Array], Array]] = {
    "tanh": tanh,
    "relu": relu,
    "silu": silu,
    "gelu": gelu,
}


def linear(name: str, size_in: int, size_out: int, gain: float = HIDDEN_GAIN) -> Iterator[Param]:
    """Parameters of ``x @ w + b``."""
    yield Param(f"{name}/w", (size_in, size_out), gain)
    yield Param(f"{name}/b", (size_out,), None)


class MLP:
    """``[N, size_in] -> [N, size]``; without hidden layers it passes its input on."""

    def __init__(self, name: str, size_in: int, hidden: tuple[int, ...], activation: str) -> None:
        self._sizes = (size_in, *hidden)
        self._names = [f"{name}/{i}" for i in range(len(hidden))]
        self._keys = [(f"{layer}/w", f"{layer}/b") for layer in self._names]
        self._activation = ACTIVATIONS[activation]
        self.size = self._sizes[-1]

    def parameters(self) -> Iterator[Param]:
        for name, size_in, size_out in zip(
            self._names, self._sizes[:-1], self._sizes[1:], strict=True
        ):
            yield from linear(name, size_in, size_out)

    def __call__(self, xp: Any, params: Any, x: Array) -> Array:
        activation = self._activation
        for w, b in self._keys:
            x = activation(xp, x @ params[w] + params[b])
        return x
