"""What the bounds and axes of a leaf say about it: whether it is an image, and how it is scaled."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.spaces.base import Leaf

WIDE = 64.0  # floats are scaled if their bounds lie further apart: Acrobot's widest are 57
FAR = 65_536.0  # bounds further apart are a guard against overflow, and say nothing about values
LARGE = 36  # rows and columns from which on any bounded Box of 3 or 4 axes is an image
_PIXELS = (0.0, 255.0)  # bounds of pixels


def scale(leaf: Leaf) -> tuple[Any, Any] | None:
    """`(shift, width)` of `(x - shift) / width`, which maps bounds to [0, 1] if the lower one
    is 0, else to [-1, 1]. Numbers, or float32 [*shape] if components differ. None: as it is.

    Integers are scaled by their bounds; floats only if these are more than `WIDE` apart: a
    network can take smaller ones as they are. Bounds that are infinite or more than `FAR` apart
    say nothing about the values.
    """
    if leaf.low is None:
        return None
    low, high = (np.asarray(bound, np.float64) for bound in (leaf.low, leaf.high))
    with np.errstate(invalid="ignore"):
        span = high - low
    scaled = (span > (WIDE if leaf.dtype.kind == "f" else 0.0)) & (span <= FAR)
    low, high = np.where(scaled, low, -1.0), np.where(scaled, high, 1.0)
    shift = np.where(low == 0, 0.0, (low + high) / 2).astype(np.float32)
    width = np.where(low == 0, high, (high - low) / 2).astype(np.float32)
    if not shift.any() and (width == 1).all():
        return None
    if (shift == shift.flat[0]).all() and (width == width.flat[0]).all():
        return float(shift.flat[0]), float(width.flat[0])
    return shift, width


def pixels(leaf: Leaf) -> bool:
    """Whether every bound is that of a pixel: 0 and 255."""
    low, high = _PIXELS
    return leaf.low is not None and bool((leaf.low == low).all() and (leaf.high == high).all())


def grid(leaf: Leaf) -> tuple[int, int] | None:
    """Which axes are the rows and columns of an image; None if there are not 2 to 4 axes.

    Those two neighbours that span the most; other axes are channels (or frames). Where several
    span the same, channels are last, as Gymnasium renders, and frames are first.
    """
    if leaf.kind != "box":
        return None
    places = {2: (0,), 3: (0, 1), 4: (1, 2, 0)}.get(len(leaf.shape))
    if places is None:
        return None
    row = max(places, key=lambda axis: leaf.shape[axis] * leaf.shape[axis + 1])
    return row, row + 1


def image(leaf: Leaf) -> bool:
    """Whether it is an image, by its axes and bounds together.

    Pixels (0 to 255) of 3 or 4 axes are one of any size, others if they are `LARGE` and have
    bounds; two axes are one only if they are large and hold pixels. So a small board of 0 and 1
    is a vector.
    """
    found = grid(leaf)
    if found is None or leaf.low is None:
        return False
    large = min(leaf.shape[axis] for axis in found) >= LARGE
    if pixels(leaf):
        return large or len(leaf.shape) > 2
    with np.errstate(invalid="ignore"):
        span = np.subtract(leaf.high, leaf.low, dtype=np.float64)
    return large and len(leaf.shape) > 2 and bool((span <= FAR).all())
