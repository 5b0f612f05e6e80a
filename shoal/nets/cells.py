"""Recurrent cells: one step of time, as array functions of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from shoal.nets.init import Param, ndarray
from shoal.ops.kernels import Array, namespace

FORGET_BIAS = 1.0  # so that a new cell remembers (Jozefowicz et al. 2015, ICML, section 2.2)


class Cell(ABC):
    """A cell of ``size`` units, from one state ``[N, *shape]`` to the next.

    What the gates take from the input, ``given(x)``, needs no state: for a sequence it is computed
    for all steps at once.
    """

    gates: int
    biases: int  # vectors of ``size``

    def __init__(self, name: str, size_in: int, size: int) -> None:
        self.size, self._size_in = size, size_in
        self._x, self._h, self._b = (f"{name}/{part}" for part in ("w_x", "w_h", "b"))

    def parameters(self) -> Iterator[Param]:
        yield Param(self._x, (self._size_in, self.gates * self.size), 1.0)
        yield Param(self._h, (self.size, self.gates * self.size), 1.0)
        yield Param(self._b, (self.biases * self.size,), None)

    @property
    @abstractmethod
    def initial(self) -> ndarray:
        """The state of one slot as an episode begins, float32 [*shape]."""

    def given(self, params: Any, x: Array) -> Array:
        """``x [N, size_in]`` to [N, gates size]."""
        return _product(x, params[self._x]) + params[self._b][: self.gates * self.size]

    @abstractmethod
    def next(self, xp: Any, params: Any, given: Array, state: Array) -> Array:
        """The state after one step, [N, *shape]."""

    @abstractmethod
    def output(self, state: Array) -> Array:
        """What the layers behind the cell see of its state, [N, size]."""


class LSTM(Cell):
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    Its state [2, size] is the output h and the cell c.
    """

    gates = biases = 4

    @property
    def initial(self) -> ndarray:
        return np.zeros((2, self.size), np.float32)

    def next(self, xp: Any, params: Any, given: Array, state: Array) -> Array:
        n = self.size
        z = given + _product(state[:, 0], params[self._h])
        enter, forget = sigmoid(xp, z[:, :n]), sigmoid(xp, z[:, n : 2 * n] + FORGET_BIAS)
        c = forget * state[:, 1] + enter * xp.tanh(z[:, 2 * n : 3 * n])
        h = sigmoid(xp, z[:, 3 * n :]) * xp.tanh(c)
        return xp.stack([h, c], axis=1)

    def output(self, state: Array) -> Array:
        return state[:, 0]


class GRU(Cell):
    """Cho et al. 2014 (arXiv:1406.1078), the reset gate behind the product with the state.

    So all products with the state are one, as in cuDNN. Its state is its output h [size].
    """

    gates, biases = 3, 4

    @property
    def initial(self) -> ndarray:
        return np.zeros(self.size, np.float32)

    def next(self, xp: Any, params: Any, given: Array, state: Array) -> Array:
        n = self.size
        from_state = _product(state, params[self._h])
        both = sigmoid(xp, given[:, : 2 * n] + from_state[:, : 2 * n])
        reset, keep = both[:, :n], both[:, n:]
        inner = reset * (from_state[:, 2 * n :] + params[self._b][3 * n :])
        new = xp.tanh(given[:, 2 * n :] + inner)
        return keep * state + (1.0 - keep) * new

    def output(self, state: Array) -> Array:
        return state


CELLS: dict[str, type[Cell]] = {"lstm": LSTM, "gru": GRU}


def _product(x: Array, w: Array) -> Array:
    """``x @ w``; the product may be in bfloat16, what comes after never."""
    out = x @ w
    return out if out.dtype == w.dtype else namespace(out).astype(out, w.dtype)


def sigmoid(xp: Any, x: Array) -> Array:
    """1 / (1 + exp(-x)), in a form that cannot overflow."""
    return 0.5 * xp.tanh(0.5 * x) + 0.5
