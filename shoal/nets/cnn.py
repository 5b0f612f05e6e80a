"""Image encoders: ``[N, C, H, W]``, uint8 or in [0, 1], to ``[N, size]`` features.

``dense=False`` leaves out the fully connected layer at the end, for heads that have their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

from shoal.nets.init import HIDDEN_GAIN, Param
from shoal.nets.mlp import linear, relu
from shoal.ops.convolution import conv2d, matmul, max_pool2d
from shoal.ops.kernels import Array

Seen = dict[str, Array] | None  # statistics of a reference batch, being measured
STD = 1e-5  # added to standard deviations, so that dead channels stay finite


def conv(name: str, size_in: int, size_out: int, kernel: int) -> Iterator[Param]:
    """Parameters of a convolution with a square kernel."""
    yield Param(f"{name}/w", (size_out, size_in, kernel, kernel), HIDDEN_GAIN)
    yield Param(f"{name}/b", (size_out,), None)


def convolved(
    xp: Any, params: Any, name: str, x: Array, stride: int, padding: int, seen: Seen
) -> Array:
    """A convolution; normalised, before its bias is added, if ``params`` say by what.

    That is virtual batch normalisation (Salimans et al. 2016, arXiv:1606.03498, section 3.5):
    ``"<name>/mean"`` and ``"<name>/std"``, [channels], come from a reference batch. If ``x`` is
    that batch, they are put into ``seen`` under these names, and used at once.
    """
    bias = params[f"{name}/b"]
    y = conv2d(x, params[f"{name}/w"], bias, stride, padding)
    found = params if seen is None else seen
    if seen is not None:
        seen[f"{name}/mean"] = xp.mean(y, axis=(0, 2, 3))
        seen[f"{name}/std"] = xp.std(y, axis=(0, 2, 3)) + STD
    mean = found.get(f"{name}/mean")
    if mean is None:
        return y
    std, shape = found[f"{name}/std"], (-1, 1, 1)
    return (y - xp.reshape(mean, shape)) / xp.reshape(std, shape) + xp.reshape(bias, shape)


class Nature:
    """Mnih et al. 2015 (Nature 518, Methods, "Model architecture"): three convolutions, fc 512."""

    features = 512
    least: ClassVar[int] = 36  # pixels a side that leave one after the last convolution
    _layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, kernel, stride

    def __init__(self, name: str, shape: tuple[int, ...], dense: bool = True) -> None:
        self._channels, *sides = shape
        for _, kernel, stride in self._layers:
            sides = [(side - kernel) // stride + 1 for side in sides]
        self._flat = self._layers[-1][0] * math.prod(sides)
        self._convs = [(f"{name}/conv{i}", stride) for i, (_, _, stride) in enumerate(self._layers)]
        self._fc = f"{name}/fc" if dense else None
        self.size = self.features if dense else self._flat

    def parameters(self) -> Iterator[Param]:
        size_in = self._channels
        for (name, _), (size_out, kernel, _) in zip(self._convs, self._layers, strict=True):
            yield from conv(name, size_in, size_out, kernel)
            size_in = size_out
        if self._fc is not None:
            yield from linear(self._fc, self._flat, self.features)

    def __call__(self, xp: Any, params: Any, x: Array, seen: Seen = None) -> Array:
        for name, stride in self._convs:
            x = relu(xp, convolved(xp, params, name, x, stride, 0, seen))
        x = xp.reshape(x, (x.shape[0], self._flat))
        if self._fc is None:
            return x
        return relu(xp, matmul(x, params[f"{self._fc}/w"]) + params[f"{self._fc}/b"])


class Small(Nature):
    """A Nature CNN for small images: shorter kernels and steps, fc 256."""

    features = 256
    least: ClassVar[int] = 16
    _layers = ((16, 4, 2), (32, 3, 2), (32, 3, 2))


class Impala:
    """The large network of Espeholt et al. 2018 (arXiv:1802.01561, figure 3), without its LSTM.

    Three sections of a convolution, a pooling that halves the sides and two residual blocks; fc
    256. All convolutions are 3x3 and keep the sides.
    """

    features = 256
    least: ClassVar[int] = 5  # pixels a side that leave the last pooling something to halve
    _channels = (16, 32, 32)
    _blocks = 2

    def __init__(self, name: str, shape: tuple[int, ...], dense: bool = True) -> None:
        self._channels_in, *sides = shape
        for _ in self._channels:
            sides = [(side + 1) // 2 for side in sides]
        self._flat = self._channels[-1] * math.prod(sides)
        self._sections = [
            (
                f"{name}/{s}/conv",
                [(f"{name}/{s}/res{r}/0", f"{name}/{s}/res{r}/1") for r in range(self._blocks)],
            )
            for s in range(len(self._channels))
        ]
        self._fc = f"{name}/fc" if dense else None
        self.size = self.features if dense else self._flat

    def parameters(self) -> Iterator[Param]:
        size_in = self._channels_in
        for (name, blocks), size_out in zip(self._sections, self._channels, strict=True):
            yield from conv(name, size_in, size_out, 3)
            for first, second in blocks:
                yield from conv(first, size_out, size_out, 3)
                yield from conv(second, size_out, size_out, 3)
            size_in = size_out
        if self._fc is not None:
            yield from linear(self._fc, self._flat, self.features)

    def __call__(self, xp: Any, params: Any, x: Array, seen: Seen = None) -> Array:
        def same(name: str, x: Array) -> Array:
            return convolved(xp, params, name, x, 1, 1, seen)

        for name, blocks in self._sections:
            x = max_pool2d(same(name, x), 3, 2, 1)
            for first, second in blocks:
                x = x + same(second, relu(xp, same(first, relu(xp, x))))
        x = relu(xp, xp.reshape(x, (x.shape[0], self._flat)))
        if self._fc is None:
            return x
        return relu(xp, matmul(x, params[f"{self._fc}/w"]) + params[f"{self._fc}/b"])


ENCODERS: dict[str, type[Nature] | type[Impala]] = {
    "nature": Nature,
    "impala": Impala,
    "small": Small,
}
