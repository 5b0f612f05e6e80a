"""Does the output of a user's module fit? If not: what it returns, what is needed, and the fix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shoal.errors import NetworkError
from shoal.nets.base import Head
from shoal.nets.init import ndarray

ROWS = 2  # of the dry run: one would hide a lost batch axis


def by_head(raw: Any, heads: Mapping[str, Head]) -> Mapping[str, Any]:
    """Outputs by the names of their heads, in whichever form the module returns them."""
    if isinstance(raw, Mapping):
        return raw
    if isinstance(raw, tuple | list):
        return dict(zip(heads, raw, strict=True)) if len(raw) == len(heads) else {}
    return dict.fromkeys(heads, raw) if len(heads) == 1 else {}


def check_outputs(
    module: Any, raw: Any, heads: Mapping[str, Head], numpy: Callable[[Any], ndarray | None]
) -> tuple[str, ...]:
    """Heads whose free outputs are missing, which is allowed. Raises NetworkError for a misfit."""
    outputs = by_head(raw, heads)
    if not set(heads) <= set(outputs):
        order = ", ".join(heads)
        several = f"a tuple of one array per head, in the order ({order}), or a dict by name"
        fix = f"return {several if len(heads) > 1 else f'one array, that of {order}'}"
        raise _misfit(module, raw, heads, fix)
    without = []
    for name, head in heads.items():
        x = numpy(outputs[name])
        if x is None or x.dtype.kind not in "fV":
            raise _misfit(module, raw, heads, f"let {name} be an array of floats")
        if x.ndim == 0 or x.shape[0] != ROWS:
            raise _misfit(module, raw, heads, f"keep the batch as the first axis of {name}")
        if x.shape not in _allowed(head):
            sizes = " or ".join(str(n) for n in dict.fromkeys((head.size, head.size + head.free)))
            fix = f"give the last layer of {name} {sizes} outputs"
            raise _misfit(module, raw, heads, fix)
        if np.isnan(x.astype(np.float32)).any():
            raise NetworkError(
                f"{type(module).__qualname__} returns NaN in {name} for an observation of zeros",
                where(module),
                "look for a division by zero, a logarithm or a root, or for NaN in its parameters",
            )
        if head.free and x.shape != (ROWS, head.size + head.free):
            without.append(name)
    return tuple(without)


def memory_of(module: Any) -> dict[str, ndarray]:
    """The initial memory of a module that has one, by name. Raises NetworkError for what is none.

    What the user's ``initial_memory`` raises keeps its type.
    """
    initial = getattr(module, "initial_memory", None)
    if initial is None:
        return {}
    found = initial()
    if not isinstance(found, Mapping) or not found:
        raise NetworkError(
            f"{type(module).__qualname__}.initial_memory() returns {_shown(found, {})}",
            where(module),
            'return a dict of arrays, of one environment: {"h": np.zeros(64, np.float32)}',
        )
    return {str(name): np.asarray(x) for name, x in found.items()}


def check_memory(
    module: Any,
    raw: Any,
    memory: Mapping[str, ndarray],
    numpy: Callable[[Any], ndarray | None],
) -> Any:
    """The outputs of a module that remembers. Raises NetworkError if its next memory is none."""
    name = type(module).__qualname__
    if not (isinstance(raw, tuple | list) and len(raw) == 2 and isinstance(raw[1], Mapping)):
        raise NetworkError(
            f"{name} has a memory, but returns {_shown(raw, {})}",
            where(module),
            "return a pair: the outputs, and the next memory as a dict",
        )
    outputs, then = raw
    for key, initial in memory.items():
        expected = f"{initial.dtype} {[ROWS, *initial.shape]}"
        x = numpy(then[key]) if key in then else None
        if x is None or x.shape != (ROWS, *initial.shape) or x.dtype != initial.dtype:
            found = "missing" if x is None else f"{x.dtype} {list(x.shape)}"
            raise NetworkError(
                f"the next memory {key!r} of {name} is {found}; expected {expected}, as "
                "initial_memory() says",
                where(module),
                f"return it with this shape and dtype, for {ROWS} observations",
            )
    return outputs


def _allowed(head: Head) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(ROWS, head.size)]
    if head.free:
        shapes.append((ROWS, head.size + head.free))
    return [*shapes, (ROWS,)] if head.size == 1 else shapes


def _misfit(module: Any, raw: Any, heads: Mapping[str, Head], fix: str) -> NetworkError:
    expected = (
        f"{name} {' or '.join(str(list(shape)) for shape in _allowed(head))}"
        for name, head in heads.items()
    )
    return NetworkError(
        f"{type(module).__qualname__} returns {_shown(raw, heads)} for {ROWS} observations; "
        f"expected {', '.join(expected)}",
        where(module),
        fix,
    )


def _shown(x: Any, heads: Mapping[str, Head]) -> str:
    if isinstance(x, Mapping):
        return "{" + ", ".join(f"{key!r}: {_shown(value, {})}" for key, value in x.items()) + "}"
    if isinstance(x, tuple | list):
        names = [f"{head} " for head in heads] if len(x) == len(heads) else [""] * len(x)
        parts = (name + _shown(part, {}) for name, part in zip(names, x, strict=True))
        return ", ".join(parts) or "an empty tuple"
    if not hasattr(x, "shape"):
        return type(x).__name__
    dtype = str(x.dtype).removeprefix("torch.")
    return str(list(x.shape)) if "float" in dtype else f"{dtype} {list(x.shape)}"


def refuse_other_floats(module: Any, values: Mapping[str, Any]) -> None:
    """Raises NetworkError for a parameter of half or double precision."""
    for name, x in values.items():
        dtype = str(x.dtype).removeprefix("torch.")
        if "float" in dtype and dtype != "float32":
            raise NetworkError(
                f"{name!r} of {type(module).__qualname__} is {dtype}, but weights are float32",
                where(module),
                "make its parameters float32: module.float() in torch, param_dtype in flax",
            )


def alike(left: list[ndarray | None], right: list[ndarray | None]) -> bool:
    """Whether outputs are the same, but for what another order of sums makes of them."""
    pairs = [(np.float32(a), np.float32(b)) for a, b in zip(left, right, strict=True)]
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs)


def in_training_mode(module: Any, why: str) -> NetworkError:
    """The error for a module with layers that act otherwise in training than in evaluation."""
    return NetworkError(
        f"{type(module).__qualname__} is in training mode, and computes something else there than "
        f"in evaluation mode{f': {why}' if why else ''}",
        where(module),
        "give it in evaluation mode: .eval() in torch and nnx, deterministic=True and "
        "use_running_average=True in linen; or take these layers out (LayerNorm has no modes)",
    )


def where(module: Any) -> str:
    """Name, file and line of the class of the user's module."""
    cls = type(module)
    try:
        return f"{cls.__qualname__}, {inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):  # typed at a prompt, or not written in Python
        return f"{cls.__module__}.{cls.__qualname__}"
