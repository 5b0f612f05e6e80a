"""From Gymnasium's spaces to leaves, and from its observations to the arrays of a leaf."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.errors import SpaceError
from shoal.spaces.base import Leaf
from shoal.spaces.json import (
    MAX_CHOICES,
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_LEAVES,
    NDArray,
    kind_of,
    unsupported,
)


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
