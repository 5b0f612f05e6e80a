"""Gymnasium spaces as plain JSON data, and back from files that may be hostile."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.errors import SpaceError, cut

MAX_ELEMENTS = 2**24  # of one array leaf: a 4096 x 4096 image
MAX_CHOICES = 2**20  # of one discrete leaf, which a network sees as one-hot
MAX_LEAVES = 1024
MAX_DEPTH = 16

NDArray = npt.NDArray[Any]


def kind_of(space: Any) -> str | None:
    """The kind of a supported space, None for any other."""
    from gymnasium import spaces

    kinds: dict[Any, str] = {
        spaces.Box: "box",
        spaces.Discrete: "discrete",
        spaces.MultiDiscrete: "multidiscrete",
        spaces.MultiBinary: "multibinary",
        spaces.Dict: "dict",
        spaces.Tuple: "tuple",
    }
    return next((kinds[base] for base in type(space).__mro__ if base in kinds), None)


def to_json(space: Any) -> dict[str, Any]:
    """A supported Gymnasium space as plain JSON data; infinities are written as strings."""
    kind = kind_of(space)
    if kind == "box":
        return {
            "kind": kind,
            "dtype": space.dtype.name,
            "shape": list(space.shape),
            "low": _bound_to_json(space.low),
            "high": _bound_to_json(space.high),
        }
    if kind == "discrete":
        n, start = int(space.n), int(space.start)
        return {"kind": kind, "n": n, "start": start, "dtype": space.dtype.name}
    if kind == "multidiscrete":
        nvec, starts = space.nvec.tolist(), space.start.tolist()
        return {"kind": kind, "nvec": nvec, "start": starts, "dtype": space.dtype.name}
    if kind == "multibinary":
        return {"kind": kind, "shape": list(space.shape)}
    if kind == "dict":
        return {"kind": kind, "spaces": [[key, to_json(s)] for key, s in space.spaces.items()]}
    if kind == "tuple":
        return {"kind": kind, "spaces": [to_json(part) for part in space.spaces]}
    raise unsupported(space, "space", "no JSON form")


def from_json(value: Any, where: str = "space") -> Any:
    """The Gymnasium space that `to_json` wrote.

    Raises SpaceError for any unexpected key, type, number, size or depth: the value may come from
    a hostile file.
    """
    size = _size(value, where, 0)
    if size > MAX_ELEMENTS:
        raise malformed(where, f"{size} numbers, more than {MAX_ELEMENTS}")
    return _space(value, where)


def _size(value: Any, where: str, depth: int) -> int:
    """Numbers in the space; counted before anything is allocated, and with it the form checked."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _JSON_KEYS:
        raise malformed(where, f"expected a space, found {shown(value)}")
    expect_keys(value, {"kind", *_JSON_KEYS[kind]}, where)
    if depth > MAX_DEPTH:
        raise malformed(where, f"nested deeper than {MAX_DEPTH}")
    if kind in ("dict", "tuple"):
        parts = value["spaces"]
        if not isinstance(parts, list) or not 0 < len(parts) <= MAX_LEAVES:
            raise malformed(where, f"expected a list of 1 to {MAX_LEAVES} spaces")
        if kind == "dict" and not all(_is_entry(part) for part in parts):
            raise malformed(where, "expected pairs of a key and a space")
        named = parts if kind == "dict" else list(enumerate(parts))
        if len({key for key, _ in named}) < len(named):
            raise malformed(where, "a key occurs twice")
        return sum(_size(part, f"{where}/{key}", depth + 1) for key, part in named)
    return int(np.prod(_shape(value["shape"], where))) if "shape" in value else 1


def _is_entry(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and isinstance(part[0], str)


def _space(value: dict[str, Any], where: str) -> Any:
    from gymnasium import spaces

    kind = value["kind"]
    try:
        if kind == "dict":  # from a list of pairs, which keeps the order
            return spaces.Dict([(k, _space(part, f"{where}/{k}")) for k, part in value["spaces"]])
        if kind == "tuple":
            parts = enumerate(value["spaces"])
            return spaces.Tuple([_space(part, f"{where}/{i}") for i, part in parts])
        if kind == "multibinary":
            shape = _shape(value["shape"], where)
            return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        dtype = _dtype(value["dtype"], where, "biuf" if kind == "box" else "iu")
        if kind == "box":
            shape = _shape(value["shape"], where)
            low, high = (_bound(value[key], shape, dtype, where) for key in ("low", "high"))
            return spaces.Box(low, high, dtype=dtype.type)
        n, start = (_integers(value[key], where) for key in (_JSON_KEYS[kind][0], "start"))
        if kind == "multidiscrete":
            return spaces.MultiDiscrete(n, start=start, dtype=dtype.type)
        if n.ndim or start.ndim:
            raise malformed(where, "expected whole numbers")
        return spaces.Discrete(int(n), start=int(start), dtype=dtype.type)
    except (ValueError, TypeError, OverflowError, AssertionError) as error:
        raise malformed(where, str(error)) from error


_JSON_KEYS = {
    "box": ("dtype", "shape", "low", "high"),
    "discrete": ("n", "start", "dtype"),
    "multidiscrete": ("nvec", "start", "dtype"),
    "multibinary": ("shape",),
    "dict": ("spaces",),
    "tuple": ("spaces",),
}
_DTYPES = {
    *("bool", "float16", "float32", "float64", "uint8", "uint16", "uint32", "uint64"),
    *("int8", "int16", "int32", "int64"),
}


def _dtype(value: Any, where: str, kinds: str) -> np.dtype[Any]:
    if not isinstance(value, str) or value not in _DTYPES or np.dtype(value).kind not in kinds:
        raise malformed(where, f"unknown dtype {shown(value)}")
    return np.dtype(value)


def _shape(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8 or not all(type(x) is int for x in value):
        raise malformed(where, f"expected a shape, found {shown(value)}")
    size = 1
    for dim in value:
        size *= dim
        if not 0 < dim <= MAX_ELEMENTS or size > MAX_ELEMENTS:
            raise malformed(where, f"the shape {shown(value)} is empty or too large")
    return tuple(value)


def _bound_to_json(bound: NDArray) -> Any:
    """One number where all are equal, else all of them in C order."""
    flat = bound.reshape(-1)
    if (flat == flat[0]).all():
        flat = flat[:1]
    numbers = [str(x) if np.isinf(x) else x for x in flat.tolist()]
    return numbers[0] if len(numbers) == 1 else numbers


def _bound(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> NDArray:
    numbers = value if isinstance(value, list) else [value]
    allowed = (bool,) if dtype.kind == "b" else (int,) if dtype.kind in "iu" else (int, float)
    infinite = ("inf", "-inf") if dtype.kind == "f" else ()
    size = int(np.prod(shape))
    if len(numbers) not in (1, size):
        raise malformed(where, f"{len(numbers)} bounds for {size} numbers")
    if not all(type(x) in allowed or (isinstance(x, str) and x in infinite) for x in numbers):
        raise malformed(where, f"a bound is not a number of dtype {dtype}")
    with np.errstate(over="ignore"):
        array = np.array([float(x) if isinstance(x, str) else x for x in numbers], dtype)
    if not np.array_equal(np.isinf(array), [isinstance(x, str) for x in numbers]):
        raise malformed(where, f"a bound exceeds {dtype}")
    return np.array(np.broadcast_to(array, size)).reshape(shape)


def _integers(value: Any, where: str, depth: int = 0) -> NDArray:
    """A number or a nested list of numbers as int64."""
    if type(value) is not int:
        if not isinstance(value, list) or not 0 < len(value) <= MAX_LEAVES or depth > 8:
            raise malformed(where, f"expected whole numbers, found {shown(value)}")
        return np.array([_integers(part, where, depth + 1) for part in value], np.int64)
    return np.asarray(value, np.int64)


def expect_keys(value: Any, keys: set[str], where: str) -> None:
    if not isinstance(value, dict) or set(value) != keys:
        raise malformed(where, f"expected the keys {sorted(keys)}, found {shown(value)}")


def unsupported(space: Any, where: str, why: str) -> SpaceError:
    return SpaceError(
        f"the space {space} is not supported: {why}",
        where=where if where in ("action", "space") else f"observation, {where!r}",
        fix="observations: Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple; actions: "
        "Discrete, MultiDiscrete, MultiBinary, Box of floats; wrap the environment to give these",
    )


def malformed(where: str, why: str) -> SpaceError:
    return SpaceError(f"a saved space cannot be read: {cut(why)}", where=where)


def shown(value: Any) -> str:
    if not isinstance(value, dict):
        return cut(repr(value)[:200], 80)
    return f"keys {cut(str(sorted(map(str, value))), 80)}"
