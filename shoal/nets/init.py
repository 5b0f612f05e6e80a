"""Initial values: from NumPy, so that every array library starts from the same bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ndarray = npt.NDArray[Any]
HIDDEN_GAIN = math.sqrt(2)  # tanh and relu alike (PPO detail 2)


class Param(NamedTuple):
    """A parameter before it exists."""

    name: str
    shape: tuple[int, ...]
    gain: float | None  # of an orthogonal matrix; None: zeros


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...], gain: float) -> ndarray:
    """A random matrix W whose rows (or columns, the fewer) are orthogonal, of length ``gain``.

    Q of the QR decomposition of a Gaussian matrix, with signs that make it uniform over all such
    matrices (Saxe et al. 2014, arXiv:1312.6120). A convolution ``[O, C, kh, kw]`` counts as the
    matrix ``[O, C * kh * kw]``. Returns float32.
    """
    rows = shape[0]
    columns = math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    matrix = q if rows >= columns else q.T
    return (gain * matrix).astype(np.float32).reshape(shape)


def initialise(params: Iterable[Param], rng: np.random.Generator) -> dict[str, ndarray]:
    """Values for all ``params``, float32, drawn in their order."""
    return {
        name: np.zeros(shape, np.float32) if gain is None else orthogonal(rng, shape, gain)
        for name, shape, gain in params
    }
