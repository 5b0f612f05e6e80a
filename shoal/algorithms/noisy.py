"""Noisy networks (Fortunato et al. 2018, arXiv:1706.10295): exploration by noise in the weights.

Every fully connected layer y = x w + b has a second pair of parameters, and w + sigma_w * e stands
for w. The noise is the same for all rows of a call, so it is put into the weights before the call
and the network knows nothing of it; without noise the means act.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from shoal.algorithms.base import Params
from shoal.ops.kernels import Array, namespace, ndarray


class Layer(NamedTuple):
    """A fully connected layer, and where its noise begins in the vector of all."""

    name: str
    size_in: int
    size_out: int
    at: int


def layers(shapes: Mapping[str, tuple[int, ...]]) -> list[Layer]:
    """Those of a network with parameters of these shapes."""
    out: list[Layer] = []
    at = 0
    for name, shape in shapes.items():
        if name.endswith("/w") and len(shape) == 2:
            out.append(Layer(name[:-2], *shape, at))
            at += sum(shape)
    return out


def width(found: Iterable[Layer]) -> int:
    """Normal numbers that the noise of all layers takes."""
    return sum(layer.size_in + layer.size_out for layer in found)


def init(
    found: Iterable[Layer], params: Mapping[str, ndarray], rng: np.random.Generator, sigma: float
) -> dict[str, ndarray]:
    """The paper's initial values for factorised noise (section 3.2): means are uniform in
    +-1 / sqrt(p), deviations sigma / sqrt(p), of a layer of p inputs.
    """
    out = dict(params)
    for name, size_in, size_out, _ in found:
        bound = 1.0 / math.sqrt(size_in)
        for part, shape in (("w", (size_in, size_out)), ("b", (size_out,))):
            out[f"{name}/{part}"] = rng.uniform(-bound, bound, shape).astype(np.float32)
            out[f"{name}/sigma_{part}"] = np.full(shape, sigma * bound, np.float32)
    return out


def perturbed(found: Iterable[Layer], params: Mapping[str, Array], noise: Array) -> Params:
    """The parameters with this noise ``[width]`` in them, factorised (eq. 10 and 11)."""
    xp = namespace(noise)
    f = xp.sign(noise) * xp.sqrt(xp.abs(noise))
    out = dict(params)
    for name, size_in, size_out, at in found:
        of_in, of_out = f[at : at + size_in], f[at + size_in : at + size_in + size_out]
        w, b = f"{name}/w", f"{name}/b"
        out[w] = params[w] + params[f"{name}/sigma_w"] * of_in[:, None] * of_out
        out[b] = params[b] + params[f"{name}/sigma_b"] * of_out
    return out
