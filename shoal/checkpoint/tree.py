"""A tree of plain values as what a checkpoint's files hold: JSON, and arrays beside it.

What is written can be read back exactly, and only what Shoal writes is read: no value in a file,
however made, runs code, or costs more than its own size to refuse.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.errors import CheckpointError

ndarray = npt.NDArray[Any]

MAX_JSON = 16 << 20  # bytes; what is larger belongs into arrays
MAX_INLINE = 1 << 20  # bytes of one array that stands in the JSON itself
_MAX_DEPTH = 64  # levels of nesting
_HEX = re.compile(r"-?0x[0-9a-f]+")
_BYTES = re.compile(r"[0-9a-f]+")
_KINDS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_DTYPES = {  # NumPy's name of a dtype, and that of safetensors
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}


class Damage(Exception):
    """What is wrong with the files of a checkpoint."""


# ------------------------------------------------------------------ writing


def encode(
    value: Any,
    path: tuple[str, ...],
    arrays: dict[str, ndarray] | None,
    other: Callable[[Any], Any] | None = None,
) -> Any:
    """A tree as JSON values. A dict of one key that begins with "$" stands for what JSON lacks.

    Arrays go to ``arrays``; without it, those of up to 1 MiB stand in the JSON itself. ``other``
    gives the JSON value of an object that has no form here.

    Raises CheckpointError for a tree that is too deep, and without ``other`` for such an object.
    """
    if len(path) > _MAX_DEPTH:
        raise CheckpointError(f"{'/'.join(path)[:80]}... is nested deeper than {_MAX_DEPTH}")
    if type(value) in (dict, list, *_KINDS) or (other is None and isinstance(value, Mapping)):
        return _encode_container(value, path, arrays, other)
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        return value if abs(value) < 2**53 else {"$int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, np.generic) and value.dtype.name in _DTYPES:
        return {"$scalar": [value.dtype.name, _little(np.asarray(value)).tobytes().hex()]}
    if isinstance(value, PurePath):
        return {"$path": str(value)}
    form = _encode_array(value, path, arrays)
    if form is not None:
        return form
    if other is not None:
        return other(value)
    raise CheckpointError(
        f"{'/'.join(path)} is of type {type(value).__module__}.{type(value).__qualname__}"
        f"{f' ({value.dtype})' if isinstance(value, np.ndarray) else ''}, which cannot be saved",
        None,
        "turn it into NumPy arrays, numbers, text, lists and dicts",
    )


def _encode_array(value: Any, path: tuple[str, ...], arrays: dict[str, ndarray] | None) -> Any:
    """An array or bytes: in ``arrays``, or small ones in the JSON itself. None for all else."""
    if type(value) is bytes:
        if arrays is not None:
            return {"$bytes": _put(np.frombuffer(value, np.uint8), path, arrays)}
        return {"$hex": value.hex()} if len(value) <= MAX_INLINE else None
    if type(value) in (np.ndarray, np.memmap) and value.dtype.name in _DTYPES:
        if arrays is not None:
            return {"$array": _put(value, path, arrays)}
        if value.nbytes <= MAX_INLINE:
            return {"$inline": [value.dtype.name, [*value.shape], _little(value).tobytes().hex()]}
    return None


def _encode_container(
    value: Any,
    path: tuple[str, ...],
    arrays: dict[str, ndarray] | None,
    other: Callable[[Any], Any] | None,
) -> Any:
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            at = [(*path, str(key)) for key in value]
            pairs = zip(value.items(), at, strict=True)
            return {"$pairs": [[encode(x, p, arrays, other) for x in pair] for pair, p in pairs]}
        encoded = {key: encode(item, (*path, key), arrays, other) for key, item in value.items()}
        return {"$dict": encoded} if _is_tag(encoded) else encoded
    items = [encode(item, (*path, str(i)), arrays, other) for i, item in enumerate(value)]
    if type(value) in (set, frozenset):
        items.sort(key=json.dumps)  # in an order that does not change between processes
    return items if type(value) is list else {_KINDS[type(value)]: items}


def _is_tag(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _put(array: ndarray, path: tuple[str, ...], arrays: dict[str, ndarray]) -> str:
    """Add an array under a readable name that no other has."""
    name = "/".join(path[1:]) or path[0]
    name = name.encode("utf-8", "backslashreplace").decode()
    while name in arrays or name == "__metadata__":  # ("a/b",) and ("a", "b"); safetensors' own
        name += "'"
    arrays[name] = array
    return name


def _little(array: ndarray) -> ndarray:
    return np.asarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def pack(arrays: Mapping[str, ndarray]) -> Iterator[bytes | memoryview]:
    """Arrays in safetensors' format, piece by piece: a replay need not fit into memory twice."""
    order = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # so that each is aligned
    header, start = {}, 0
    for name, a in order:
        span = [start, start := start + a.nbytes]
        header[name] = {"dtype": _DTYPES[a.dtype.name], "shape": a.shape, "data_offsets": span}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    check_size(text)
    yield len(text).to_bytes(8, "little") + text
    for _, a in order:
        yield np.ascontiguousarray(_little(a).reshape(-1)).view(np.uint8).data


def check_size(text: bytes) -> None:
    """Raise CheckpointError for JSON that is larger than what would be read back."""
    if len(text) > MAX_JSON:
        what = f"{len(text)} bytes of this state are neither arrays nor bytes"
        fix = f"put them into few arrays: at most {MAX_JSON} are possible"
        raise CheckpointError(what, None, fix)


# ------------------------------------------------------------------ reading


def parse(text: bytes, name: str) -> Any:
    """The strict JSON of the file ``name``.

    No key twice, no NaN, no number that takes long to read; nesting is bounded by Python's stack.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is given twice")
        return found

    def number(kind: type) -> Any:
        def read(digits: str) -> Any:
            if len(digits) > 32 or not math.isfinite(float(digits)):
                raise ValueError(f"{digits[:32]}... is no number of a checkpoint")
            return kind(digits)

        return read

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(
            text.decode("ascii"),
            object_pairs_hook=once,
            parse_int=number(int),
            parse_float=number(float),
            parse_constant=constant,
        )
    except (ValueError, RecursionError) as error:
        raise Damage(f"{name} is not what Shoal writes: {error}") from error


def read_tensors(path: Path) -> dict[str, ndarray]:
    """All arrays of a safetensors file, as arrays that can be changed and that outlive it."""
    from safetensors import safe_open

    try:
        with open(path, "rb") as file:  # safetensors itself would take a name twice
            parse(file.read(min(int.from_bytes(file.read(8), "little"), MAX_JSON)), path.name)
        with safe_open(path, framework="np", backend="pread") as tensors:
            arrays = {name: tensors.get_tensor(name) for name in tuple(tensors.keys())}
    except Damage:
        raise
    except Exception as error:  # whatever another library thinks of a hostile file
        raise Damage(f"{path.name} is not a safetensors file: {error}") from error
    wrong = next((name for name, a in arrays.items() if a.dtype.name not in _DTYPES), None)
    if wrong is not None:
        raise Damage(f"{path.name} holds {wrong!r} as {arrays[wrong].dtype}")
    return arrays


def decode(value: Any, arrays: dict[str, ndarray], depth: int = 0) -> Any:
    """The tree that ``encode`` made into JSON; takes out of ``arrays`` what it refers to."""
    if depth > 2 * _MAX_DEPTH + 2:
        raise Damage("manifest.json is nested too deeply")
    if isinstance(value, list):
        return [decode(item, arrays, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if not _is_tag(value):
        return {key: decode(item, arrays, depth + 1) for key, item in value.items()}
    ((tag, inner),) = value.items()
    if isinstance(inner, list) and tag in ("$pairs", *_KINDS.values()):
        items = decode(inner, arrays, depth + 1)
        return _container(tag, items)
    if tag == "$dict" and isinstance(inner, dict):
        return {key: decode(item, arrays, depth + 1) for key, item in inner.items()}
    return _decode_atom(tag, inner, arrays)


def _container(tag: str, items: list[Any]) -> Any:
    try:
        if tag == "$pairs":
            return dict(items)
        return next(kind for kind, name in _KINDS.items() if name == tag)(items)
    except (TypeError, ValueError) as error:  # keys or members without a hash; no pairs
        raise Damage(f"manifest.json holds a {tag} that means nothing") from error


def _decode_atom(tag: str, inner: Any, arrays: dict[str, ndarray]) -> Any:
    if tag == "$scalar" and isinstance(inner, list) and len(inner) == 2:
        kind, text = map(str, inner)
        if kind in _DTYPES and len(text) == 2 * np.dtype(kind).itemsize and _BYTES.fullmatch(text):
            return np.frombuffer(bytes.fromhex(text), np.dtype(kind).newbyteorder("<"))[0]
    if tag == "$inline" and isinstance(inner, list) and len(inner) == 3:
        return _inline(*inner)
    if isinstance(inner, str):
        if tag == "$path" and "\0" not in inner:
            return Path(inner)
        if tag == "$hex" and len(inner) % 2 == 0 and _BYTES.fullmatch(inner or "00"):
            return bytes.fromhex(inner)
        if tag == "$int" and _HEX.fullmatch(inner):
            return int(inner, 16)
        if tag == "$float" and inner in ("nan", "inf", "-inf"):
            return float(inner)
        if tag in ("$array", "$bytes") and inner in arrays:
            array = arrays.pop(inner)
            return array if tag == "$array" else array.tobytes()
    raise Damage(f"manifest.json holds a {tag} that means nothing")


def _inline(kind: Any, shape: Any, text: Any) -> ndarray:
    """An array of its dtype, shape and bytes, each of which may be anything."""
    known = (
        isinstance(kind, str) and kind in _DTYPES and isinstance(shape, list) and len(shape) < 33
    )
    if known and all(type(n) is int and n >= 0 for n in shape) and isinstance(text, str):
        size = math.prod(shape) * np.dtype(kind).itemsize
        if len(text) == 2 * size and _BYTES.fullmatch(text or "00"):
            flat = np.frombuffer(bytes.fromhex(text), np.dtype(kind).newbyteorder("<"))
            with suppress(ValueError):  # a shape of numbers too large for NumPy
                return flat.astype(kind).reshape(shape)
    raise Damage("manifest.json holds an $inline that means nothing")
