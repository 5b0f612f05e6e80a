"""How a leaf of the observation enters a network: always float32, flat or as an image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from shoal.ops.kernels import Array, constant, stop_gradient
from shoal.spaces import Leaf

_CLIP = 10.0  # of normalised observations (PPO detail 29)


class Floats:
    """A leaf of numbers as float32 ``[N, *shape]``, normalised where ``params`` say how.

    That is ``clip((x - mean) / std, -10, 10)`` with the float32 arrays ``"norm/<path>/mean"`` and
    ``"norm/<path>/std"``, to which no gradient flows; else pixels are divided by ``scale``.
    """

    def __init__(self, leaf: Leaf, scale: float = 1.0) -> None:
        self.path, self.size = leaf.path, math.prod(leaf.shape)
        self._cast = leaf.dtype != np.float32
        self._scale = scale
        self._mean, self._std = f"norm/{leaf.path}/mean", f"norm/{leaf.path}/std"

    def __call__(self, xp: Any, params: Any, x: Array) -> Array:
        if self._cast:
            x = xp.astype(x, xp.float32)
        if self._mean in params:
            mean, std = stop_gradient(params[self._mean]), stop_gradient(params[self._std])
            return xp.clip((x - mean) / std, -_CLIP, _CLIP)
        return x if self._scale == 1.0 else x / self._scale


class Flat(Floats):
    """The same as float32 ``[N, size]``."""

    def __init__(self, leaf: Leaf) -> None:
        super().__init__(leaf, 255.0 if leaf.image else 1.0)

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


class Image:
    """An image as ``[N, C, H, W]``: uint8, which the first convolution scales (PPO detail 22).

    Of the first and the last axis the smaller one is the channels; a tie is HWC, as Gymnasium
    renders.
    """

    def __init__(self, leaf: Leaf) -> None:
        self.path = leaf.path
        first, middle, last = leaf.shape
        self._channels_last = last <= first
        self.shape = (last, first, middle) if self._channels_last else leaf.shape

    def __call__(self, xp: Any, params: Any, x: Array) -> Array:
        return xp.permute_dims(x, (0, 3, 1, 2)) if self._channels_last else x
