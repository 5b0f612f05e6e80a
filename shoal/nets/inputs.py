"""How a leaf of the observation enters a network: float32, flat or as an image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from shoal.ops.kernels import Array, constant, stop_gradient
from shoal.spaces import axes
from shoal.spaces.base import Leaf

_CLIP = 10.0  # of normalised observations (PPO detail 29)


def float32(xp: Any, x: Array) -> Array:
    return xp.astype(x, xp.float32, copy=False)


class Floats:
    """A leaf of numbers as float32 ``[N, *shape]``, normalised where ``params`` say how.

    That is ``clip((x - mean) / std, -10, 10)`` with the float32 arrays ``"norm/<path>/mean"`` and
    ``"norm/<path>/std"``, to which no gradient flows; else, if ``scaled``, `axes.scale` maps the
    bounds of the space to [0, 1] or [-1, 1].
    """

    def __init__(self, leaf: Leaf, scaled: bool = True) -> None:
        self.path, self.size = leaf.path, math.prod(leaf.shape)
        self._leaf = leaf
        self._cast, self._narrow = leaf.dtype != np.float32, leaf.wide
        self._scale = axes.scale(leaf) if scaled else None
        self._mean, self._std = f"norm/{leaf.path}/mean", f"norm/{leaf.path}/std"

    def __call__(self, xp: Any, params: Any, x: Array) -> Array:
        if self._cast:
            x = self._leaf.narrow(x, params) if self._narrow and xp is np else float32(xp, x)
        if self._mean in params:
            mean, std = stop_gradient(params[self._mean]), stop_gradient(params[self._std])
            return xp.clip((x - mean) / std, -_CLIP, _CLIP)
        if self._scale is None:
            return x
        shift, width = self._scale
        if isinstance(width, np.ndarray):
            return (x - constant(shift, x)) / constant(width, x)
        return (x - shift if shift else x) / width


class Flat(Floats):
    """The same as float32 ``[N, size]``."""

    def __call__(self, xp: Any, params: Any, x: Array) -> Array:
        x = super().__call__(xp, params, x)
        return xp.reshape(x, (x.shape[0], self.size))


class OneHot:
    """A leaf of choices as float32 ``[N, sum(n)]``: one-hot, component after component."""

    def __init__(self, leaf: Leaf) -> None:
        self.path, self.size = leaf.path, sum(leaf.n)
        self._choices = len(leaf.n)
        # Column j is 1 where component `_component[j]` has the value `_value[j]`.
        self._component = np.repeat(np.arange(self._choices), leaf.n)
        self._value = np.concatenate([np.arange(n) for n in leaf.n])

    def __call__(self, xp: Any, params: Any, x: Array) -> Array:
        x = xp.reshape(x, (x.shape[0], self._choices))
        if self._choices > 1:
            x = xp.take(x, constant(self._component, x), axis=-1)
        return xp.astype(x == constant(self._value, x), xp.float32)


def vector(leaf: Leaf) -> Floats | OneHot:
    """What turns this leaf into a float32 vector."""
    if leaf.n:
        return OneHot(leaf)
    return Floats(leaf) if len(leaf.shape) == 1 else Flat(leaf)


class Image(Floats):
    """An image as ``[N, C, H, W]``: float32, or uint8 pixels, which the first convolution scales
    (PPO detail 22).

    Rows and columns are `axes.grid`; all other axes together are the channels.
    """

    def __init__(self, leaf: Leaf) -> None:
        super().__init__(leaf)
        grid = axes.grid(leaf)
        assert grid is not None
        row, column = grid
        others = [axis for axis in range(len(leaf.shape)) if axis not in grid]
        height, width = leaf.shape[row], leaf.shape[column]
        self.shape = (math.prod(leaf.shape[axis] for axis in others), height, width)
        self._axes = (0, *(axis + 1 for axis in (*others, row, column)))
        self._permuted = self._axes != tuple(range(len(self._axes)))
        self._reshaped = len(others) != 1
        self._pixels = leaf.dtype == np.uint8 and axes.pixels(leaf)

    def __call__(self, xp: Any, params: Any, x: Array) -> Array:
        if not self._pixels:
            x = super().__call__(xp, params, x)
        if self._permuted:
            x = xp.permute_dims(x, self._axes)
        return xp.reshape(x, (x.shape[0], *self.shape)) if self._reshaped else x


def append(xp: Any, out: Array, free: Array) -> Array:
    """``[N, size]`` and ``[free]`` to ``[N, size + free]``."""
    return xp.concat([out, xp.broadcast_to(free, (out.shape[0], free.shape[0]))], axis=-1)
