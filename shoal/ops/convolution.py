"""Convolution and pooling: the frameworks' own, and NumPy's from strided views and products."""

from __future__ import annotations

from functools import reduce

import array_api_compat as compat
import numpy as np
from numpy.lib.stride_tricks import as_strided

from shoal.ops.kernels import Array, namespace, ndarray

PIXEL = 255.0  # the largest value of a uint8 pixel
_NUMBERS = {2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}  # by their bytes
_SHORT = 256  # bytes of a run of memory that is worth making longer before it is copied often
_SMALL = 1_000_000  # multiplications up to which OpenBLAS has kernels that do not copy first
_FEW = 16  # rows up to which a product takes as long as its matrix takes to be rearranged
_LEAST = 48  # of an axis that is cut in pieces: below, calls and sums cost more than is won


def conv2d(x: Array, w: Array, b: Array, stride: int, padding: int = 0) -> Array:
    """Two-dimensional convolution (cross-correlation, as all frameworks have it).

    Args:
        x: ``[N, C, H, W]``, float; or uint8, pixels that are divided by 255.
        w: ``[O, C, kh, kw]``.
        b: ``[O]``.
        stride: of both axes.
        padding: zeros on each of the four sides.

    Returns:
        ``[N, O, (H + 2 padding - kh) // stride + 1, (W + 2 padding - kw) // stride + 1]``.
    """
    xp = namespace(x)
    if xp is np:
        return _conv2d_numpy(x, w, b, stride, padding)
    if compat.is_torch_namespace(xp):
        import torch

        if x.dtype == torch.uint8:
            # Channels innermost in memory are a seventh faster on a CPU; and what is to be rounded
            # is rounded at once: the largest of all arrays is copied twice and not three times.
            low = torch.is_autocast_enabled(x.device.type)
            x = x.to(torch.get_autocast_dtype(x.device.type) if low else w.dtype)
            x = x.contiguous(memory_format=torch.channels_last)
            w = w * (1 / PIXEL)
        return torch.nn.functional.conv2d(x, w, b, stride, padding)
    import jax

    if x.dtype == xp.uint8:
        x = xp.astype(x, xp.float32) / PIXEL
    pads = ((padding, padding), (padding, padding))
    return jax.lax.conv_general_dilated(x, w, (stride, stride), pads) + b[:, None, None]


def matmul(x: Array, w: Array) -> Array:
    """``x [N, K] @ w [K, M]``, for large K: in NumPy, of few rows, at up to twice the speed."""
    if namespace(x) is np and x.shape[0] <= _FEW:
        return _by_terms(x, w)
    return x @ w


def max_pool2d(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """Maximum over square windows of ``x [N, C, H, W]``; what is padded never wins."""
    xp = namespace(x)
    if xp is np:
        return _max_pool2d_numpy(x, window, stride, padding)
    if compat.is_torch_namespace(xp):
        import torch

        return torch.nn.functional.max_pool2d(x, window, stride, padding)
    import jax

    pads = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    size, strides = (1, 1, window, window), (1, 1, stride, stride)
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, size, strides, pads)


def _conv2d_numpy(x: ndarray, w: ndarray, b: ndarray, stride: int, padding: int) -> ndarray:
    """A strided view of all windows, copied once into rows, times one matrix.

    What that costs is the number of runs of memory that are copied, so they are made long: channels
    stay innermost if memory has them there, and where runs are short all the same, blocks of
    stride x stride pixels become channels, if they tile the kernel.
    """
    if x.dtype == np.uint8:
        w = w * np.float32(1 / PIXEL)
    x = _pad(x, padding, 0.0)
    n, c, h, wide = x.shape
    o, _, kh, kw = w.shape
    out = (h - kh) // stride + 1, (wide - kw) // stride + 1
    run = kw * x.itemsize * (c if x.strides[1] < x.strides[3] else 1)
    if run < _SHORT and stride > 1 and kh % stride == 0 and kw % stride == 0:
        x, w = _blocks(x, w, out, stride)
        c, kh, kw, stride = w.shape[1], w.shape[2], w.shape[3], 1
    if x.dtype == np.uint8:
        x = x.astype(np.float32)
    sn, sc, sh, sw = x.strides
    windows = as_strided(
        x,
        (n, *out, c, kh, kw),
        (sn, sh * stride, sw * stride, sc, sh, sw),
        writeable=False,
    )
    if sc < sw:
        windows, w = windows.transpose(0, 1, 2, 4, 5, 3), w.transpose(2, 3, 1, 0)
    else:
        w = w.transpose(1, 2, 3, 0)
    y = _by_rows(windows.reshape(-1, c * kh * kw), w.reshape(-1, o))
    y += b  # an array of our own
    return y.reshape(n, *out, o).transpose(0, 3, 1, 2)


def _blocks(x: ndarray, w: ndarray, out: tuple[int, int], s: int) -> tuple[ndarray, ndarray]:
    """The same convolution with stride 1: blocks of s x s pixels as channels, innermost in memory.

    ``x [N, C, H, W]`` becomes ``[N, C s s, H / s, W / s]``, ``w`` accordingly.
    """
    n, c = x.shape[:2]
    o, _, kh, kw = w.shape
    h, wide = (size - 1 + k // s for size, k in zip(out, (kh, kw), strict=True))
    x = x[:, :, : h * s, : wide * s]
    w = w.reshape(o, c, kh // s, s, kw // s, s)
    if x.strides[1] < x.strides[3]:
        rows = _wide(x.transpose(0, 2, 3, 1).reshape(n, h * s, wide, s * c))
        blocks = rows.reshape(n, h, s, wide, rows.shape[-1]).swapaxes(2, 3)
        w = w.transpose(0, 3, 5, 1, 2, 4)
    else:
        rows = _wide(x.reshape(n, c, h * s, wide, s))
        blocks = rows.reshape(n, c, h, s, wide, rows.shape[-1]).transpose(0, 2, 4, 1, 3, 5)
        w = w.transpose(0, 1, 3, 5, 2, 4)
    blocks = np.ascontiguousarray(blocks).view(x.dtype).reshape(n, h, wide, c * s * s)
    return blocks.transpose(0, 3, 1, 2), w.reshape(o, c * s * s, kh // s, kw // s)


def _wide(x: ndarray) -> ndarray:
    """The same memory, the last axis as one number where there are such: copies go by numbers."""
    size = x.shape[-1] * x.itemsize
    if x.strides[-1] != x.itemsize or size not in _NUMBERS:
        return x
    return x.view(_NUMBERS[size])


def _by_rows(x: ndarray, w: ndarray) -> ndarray:
    """``x [N, K] @ w [K, M]`` of many rows, in pieces of rows; the last axis of x is innermost."""
    (n, k), m = x.shape, w.shape[1]
    rows = _piece(n, k * m)
    y: ndarray = (x.reshape(n // rows, rows, k) @ w).reshape(n, m)
    return y


def _by_terms(x: ndarray, w: ndarray) -> ndarray:
    """``x [N, K] @ w [K, M]`` of few rows, in pieces of the sum."""
    (n, k), m = x.shape, w.shape[1]
    terms = _piece(k, n * m)
    if terms >= k:
        y: ndarray = x @ w
        return y
    pieces = x.reshape(n, k // terms, terms).swapaxes(0, 1) @ w.reshape(k // terms, terms, m)
    y = pieces.sum(0)
    return y


def _piece(length: int, work: int) -> int:
    """The largest piece of an axis that divides it and is small enough for OpenBLAS not to copy.

    ``work``: multiplications for each entry of the axis. The whole, where there is no such piece.
    """
    top = min(length, _SMALL // max(work, 1))
    if top < _LEAST:
        return max(length, 1)
    return next(
        (size for size in range(top, max(top // 2, _LEAST) - 1, -1) if length % size == 0),
        max(length, 1),
    )


def _max_pool2d_numpy(x: ndarray, window: int, stride: int, padding: int) -> ndarray:
    x = _pad(x, padding, -np.inf)
    h, w = ((size - window) // stride * stride + 1 for size in x.shape[2:])
    shifts = range(window)
    return reduce(
        np.maximum,
        (x[:, :, i : i + h : stride, j : j + w : stride] for i in shifts for j in shifts),
    )


def _pad(x: ndarray, padding: int, value: float) -> ndarray:
    """Pad height and width, keeping the order of the axes in memory."""
    if padding == 0:
        return x
    n, c, h, w = x.shape
    shape = n, h + 2 * padding, w + 2 * padding, c
    if x.strides[1] < x.strides[3]:
        out = np.full(shape, value, x.dtype).transpose(0, 3, 1, 2)
    else:
        out = np.full((shape[0], c, *shape[1:3]), value, x.dtype)
    out[:, :, padding : padding + h, padding : padding + w] = x
    return out
