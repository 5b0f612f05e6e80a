"""The few array operations that the array API standard lacks: here, and nowhere else, a library is
asked which one it is. JAX and PyTorch are imported by the first array of theirs that arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from typing import Any

import array_api_compat as compat
import numpy as np
import numpy.typing as npt

Array = Any  # of NumPy, JAX (concrete or traced) or PyTorch
ndarray = npt.NDArray[Any]

BLOCK = 1 << 18  # entries: 1 MB of float32

_NAMESPACES: dict[type, Any] = {np.ndarray: np}


def namespace(x: Array, *others: Array) -> Any:
    """The array API namespace that the given arrays share.

    NumPy itself for its arrays (it conforms since 2.1, and its functions cost less than wrapped
    ones), ``jax.numpy`` for JAX's, ``array_api_compat.torch`` for PyTorch's.

    Raises:
        TypeError: for arrays of different libraries, or for what is no array.
    """
    xp = _NAMESPACES.get(type(x))
    if xp is not None and not others:  # 0.2 us: this is called several times per acting step
        return xp
    xp = compat.array_namespace(x, *others)
    if compat.is_numpy_namespace(xp):
        xp = np
    if not others:
        _NAMESPACES[type(x)] = xp
    return xp


def in_blocks(
    f: Callable[[dict[str, Array]], dict[str, Array]],
    arrays: Mapping[str, Array],
    out: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """``f(arrays)`` for a function that works entry by entry and returns arrays of these names.

    Operation after operation over long vectors waits for memory, so they are processed in blocks
    that stay in a core's cache; JAX's compiler does this by itself. Results are written into
    ``out`` if given, which may be ``arrays``: the first touch of new memory costs as much as all
    operations (Adam on 3.3 million parameters in PyTorch: 41 ms at once, 26 ms in blocks, 12 ms
    into old memory).
    """
    x = next(iter(arrays.values()))
    if _at_once(x):
        return f(dict(arrays))
    found = dict(out or {})
    for start in range(0, x.shape[0], BLOCK):
        part = slice(start, start + BLOCK)
        for name, value in f({name: x[part] for name, x in arrays.items()}).items():
            if name not in found:
                found[name] = namespace(x).empty_like(arrays[name])
            found[name][part] = value
    return found


def _at_once(x: Array) -> bool:
    """Whether blocks would win nothing: no long vector, or none of a CPU's that is run eagerly."""
    if x.ndim != 1 or x.shape[0] <= BLOCK or compat.is_jax_array(x):
        return True
    return str(getattr(x, "device", "cpu")) != "cpu"


def sum_of_squares(x: Array) -> Array:
    """Sum of the squares of all entries."""
    if _at_once(x):
        return namespace(x).sum(x * x)
    parts = (x[start : start + BLOCK] for start in range(0, x.shape[0], BLOCK))
    return reduce(add, (namespace(x).sum(part * part) for part in parts))


def stop_gradient(x: Array) -> Array:
    """The same values as a constant: no gradient flows through them."""
    xp = namespace(x)
    if xp is np:
        return x
    if compat.is_torch_namespace(xp):
        return x.detach()
    import jax

    return jax.lax.stop_gradient(x)


def arange(n: int, like: Array) -> Array:
    """The integers 0 to n - 1, in the library and on the device of ``like``."""
    xp = namespace(like)
    if compat.is_torch_namespace(xp):
        return xp.arange(n, device=like.device)
    return xp.arange(n)


def constant(x: ndarray, like: Array) -> Array:
    """A NumPy array in the library, with the dtype and on the device, of ``like``."""
    xp = namespace(like)
    if compat.is_torch_namespace(xp):
        return xp.asarray(x, dtype=like.dtype, device=like.device)
    return xp.asarray(x, dtype=like.dtype)


def scan(
    f: Callable[[Any, tuple[Array, ...]], tuple[Any, Any]],
    carry: Any,
    xs: tuple[Array, ...],
    reverse: bool = False,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """Thread ``carry`` through time: ``carry, y[t] = f(carry, (x[t] for x in xs))``.

    A Python loop in NumPy and PyTorch, ``lax.scan`` in JAX.

    Args:
        f: the recursion; its y is an array or a tuple of arrays.
        carry: what it starts from; keeps its shapes and dtypes.
        xs: arrays ``[T, B, ...]`` with T >= 1.
        reverse: from t = T - 1 down to 0; y is in the order of time all the same.
        unroll: steps that JAX compiles as one, if an iteration of a loop costs as much as a step.

    Returns:
        The last carry, and every y stacked to ``[T, ...]``.
    """
    xp = namespace(xs[0])
    if compat.is_jax_namespace(xp):
        import jax

        return jax.lax.scan(f, carry, xs, reverse=reverse, unroll=unroll)
    rows = list(zip(*xs, strict=True))
    ys = []
    for row in reversed(rows) if reverse else rows:
        carry, y = f(carry, row)
        ys.append(y)
    if reverse:
        ys.reverse()
    if isinstance(ys[0], tuple):
        return carry, tuple(xp.stack(y) for y in zip(*ys, strict=True))
    return carry, xp.stack(ys)
