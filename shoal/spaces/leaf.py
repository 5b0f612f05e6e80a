"""One input of a network: where it stands in the observation, its dtype, its bounds, its axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from shoal.errors import SpaceError
from shoal.spaces.json import (
    MAX_CHOICES,
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_LEAVES,
    NDArray,
    kind_of,
    unsupported,
)

WIDE = 64.0  # floats are scaled if their bounds lie further apart: Acrobot's widest are 57
FAR = 65_536.0  # bounds further apart are a guard against overflow, and say nothing about values
LARGE = 36  # rows and columns from which on any bounded Box of 3 or 4 axes is an image
_PIXELS = (0.0, 255.0)  # bounds of pixels


@dataclass(frozen=True)
class Leaf:
    """One input of a network.

    `kind` is "box", "discrete", "multidiscrete" or "multibinary"; `n` holds the number of choices
    of each discrete component (of shape () or [len(n)]), and `start` their smallest values, which
    are subtracted on the way in. `keys` leads from the environment's observation to the leaf, whose
    shape there is `raw` (a MultiDiscrete may have several axes; here it has one). `dtype` is that
    of the environment's arrays, `low` and `high` are the bounds of a Box, [*shape].
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    keys: tuple[str | int, ...] = ()
    raw: tuple[int, ...] = ()
    low: Any = field(default=None, compare=False, repr=False)
    high: Any = field(default=None, compare=False, repr=False)

    def takes(self, obs: Any) -> bool:
        """Whether an array, with any leading axes, needs no conversion."""
        shape = self.shape
        return (
            obs.__class__ is np.ndarray
            and obs.dtype == self.dtype
            and obs.shape[obs.ndim - len(shape) :] == shape
        )

    @cached_property
    def wide(self) -> bool:
        """Whether float32 holds fewer digits than the environment gives (float64, int64, ...)."""
        dtype = self.dtype
        return self.kind == "box" and dtype != np.float32 and dtype.itemsize >= 4

    @property
    def stored(self) -> np.dtype[Any]:
        """dtype in which observations are stored and trained on."""
        return np.dtype(np.float32) if self.wide else self.dtype

    def narrow(self, x: NDArray, params: Mapping[str, Any]) -> NDArray:
        """`x [..., *shape]` as it is stored, of dtype `stored`.

        The array `params["norm/<path>/origin"]`, if there is one, is subtracted first: timestamps
        of 1.7e9 would be the same number in float32 for two minutes. Does nothing to what is
        narrow already.
        """
        if not self.wide or x.dtype == np.float32:
            return x
        origin = params.get(f"norm/{self.path}/origin")
        return (x if origin is None else x - origin).astype(np.float32)

    @cached_property
    def scale(self) -> tuple[Any, Any] | None:
        """`(shift, width)` of `(x - shift) / width`, which maps bounds to [0, 1] if the lower one
        is 0, else to [-1, 1]. Numbers, or float32 [*shape] if components differ. None: as it is.

        Integers are scaled by their bounds; floats only if these are more than `WIDE` apart: a
        network can take smaller ones as they are. Bounds that are infinite or more than `FAR` apart
        say nothing about the values.
        """
        if self.low is None:
            return None
        low, high = (np.asarray(bound, np.float64) for bound in (self.low, self.high))
        with np.errstate(invalid="ignore"):
            span = high - low
        scaled = (span > (WIDE if self.dtype.kind == "f" else 0.0)) & (span <= FAR)
        low, high = np.where(scaled, low, -1.0), np.where(scaled, high, 1.0)
        shift = np.where(low == 0, 0.0, (low + high) / 2).astype(np.float32)
        width = np.where(low == 0, high, (high - low) / 2).astype(np.float32)
        if not shift.any() and (width == 1).all():
            return None
        if (shift == shift.flat[0]).all() and (width == width.flat[0]).all():
            return float(shift.flat[0]), float(width.flat[0])
        return shift, width

    @cached_property
    def pixels(self) -> bool:
        """Whether every bound is that of a pixel: 0 and 255."""
        low, high = _PIXELS
        return self.low is not None and bool((self.low == low).all() and (self.high == high).all())

    @cached_property
    def grid(self) -> tuple[int, int] | None:
        """Which axes are the rows and columns of an image; None if there are not 2 to 4 axes.

        Those two neighbours that span the most; other axes are channels (or frames). Where several
        span the same, channels are last, as Gymnasium renders, and frames are first.
        """
        if self.kind != "box":
            return None
        places = {2: (0,), 3: (0, 1), 4: (1, 2, 0)}.get(len(self.shape))
        if places is None:
            return None
        row = max(places, key=lambda axis: self.shape[axis] * self.shape[axis + 1])
        return row, row + 1

    @cached_property
    def image(self) -> bool:
        """Whether it is an image, by its axes and bounds together.

        Pixels (0 to 255) of 3 or 4 axes are one of any size, others if they are `LARGE` and have
        bounds; two axes are one only if they are large and hold pixels. So a small board of 0 and 1
        is a vector.
        """
        if self.grid is None or self.low is None:
            return False
        large = min(self.shape[axis] for axis in self.grid) >= LARGE
        if self.pixels:
            return large or len(self.shape) > 2
        with np.errstate(invalid="ignore"):
            span = np.subtract(self.high, self.low, dtype=np.float64)
        return large and len(self.shape) > 2 and bool((span <= FAR).all())


def path_of(keys: tuple[str | int, ...]) -> str:
    """The name of a leaf: its keys joined by "/". One that begins with "~" followed by anything but
    a 0 is none of an environment's, as in JSON Pointer (RFC 6901)."""
    return "/".join(str(key).replace("~", "~0") for key in keys) or "obs"


def collect(
    space: Any, keys: tuple[str | int, ...], found: list[Leaf], skip: str | None = None
) -> None:
    """Append the leaves of a space to ``found``, but for the key ``skip`` of its top level.

    Raises SpaceError for what Shoal does not support.
    """
    if len(keys) > MAX_DEPTH:
        raise unsupported(space, path_of(keys), f"nested deeper than {MAX_DEPTH}")
    kind = kind_of(space)
    if kind == "dict":
        for key, part in space.spaces.items():
            if not isinstance(key, str):
                raise unsupported(space, path_of(keys), f"the key {key!r} is not a string")
            if key != skip:
                collect(part, (*keys, key), found)
    elif kind == "tuple":
        for index, part in enumerate(space.spaces):
            collect(part, (*keys, index), found)
    else:
        found.append(leaf_of(space, keys))
    if len(found) > MAX_LEAVES:
        raise unsupported(space, path_of(keys), f"more than {MAX_LEAVES} entries")


def leaf_of(space: Any, keys: tuple[str | int, ...]) -> Leaf:
    """The leaf of a space that holds no others. Raises SpaceError for any other space."""
    kind, path = kind_of(space), path_of(keys)
    if kind in ("discrete", "multidiscrete"):
        nvec = np.reshape(space.n if kind == "discrete" else space.nvec, -1)
        start = np.reshape(space.start, -1)
        n = tuple(map(int, nvec))
        if sum(n) > MAX_CHOICES:
            raise unsupported(space, path, f"more than {MAX_CHOICES} choices")
        shape = () if kind == "discrete" else (len(n),)
        dtype, raw = np.dtype(np.int64), tuple(space.shape)
        return Leaf(path, kind, shape, dtype, n, tuple(map(int, start)), keys, raw)
    if kind not in ("box", "multibinary"):
        raise unsupported(space, path, "not a space Shoal knows")
    size = int(np.prod(space.shape))
    if not 0 < size <= MAX_ELEMENTS:
        raise unsupported(space, path, f"{size} numbers, outside 1 to {MAX_ELEMENTS}")
    shape = tuple(space.shape)
    form: np.dtype[Any] = space.dtype
    if form.kind == "f":
        form = np.dtype(np.float32 if form.itemsize <= 4 else np.float64)
    bounds = {"low": space.low, "high": space.high} if kind == "box" else {}
    return Leaf(path, kind, shape, form, keys=keys, raw=shape, **bounds)


def cast(leaf: Leaf, value: Any) -> NDArray:
    """`value`, with any leading axes, in the dtype and shape of the leaf; else SpaceError."""
    x: NDArray = np.asarray(value)
    kinds = "fiub" if leaf.dtype.kind == "f" else "iub"
    lead = x.ndim - len(leaf.raw)
    if x.dtype.kind not in kinds or lead < 0 or x.shape[lead:] != leaf.raw:
        raise SpaceError(
            f"the observation {leaf.path!r} is {x.dtype} {list(x.shape)}, "
            f"expected {leaf.dtype} {list(leaf.raw)}",
            where=f"observation, {leaf.path!r}",
            fix="give what the observation space says",
        )
    x = x.astype(leaf.dtype, copy=False)
    if leaf.raw != leaf.shape:
        x = x.reshape(x.shape[:lead] + leaf.shape)
    if any(leaf.start):
        x = x - np.reshape(leaf.start, leaf.shape)
    return x
