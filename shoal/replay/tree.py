"""A sum tree: draws leaves in proportion to their values (Schaul et al. 2016, arXiv:1511.05952,
appendix B.2.1), compiled with Numba.

The tree is one float64 array of ``2 size`` entries, ``size`` a power of two: entry 1 is the root,
the children of i are 2i and 2i + 1, leaf i is entry ``size + i``. Parents are computed anew from
their children and never corrected by differences, so no rounding accumulates.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from shoal.trajectory import ndarray


def sum_tree(leaves: int) -> ndarray:
    """A tree of at least so many leaves, all zero."""
    return np.zeros(2 << max(leaves - 1, 0).bit_length())


@njit(cache=True, nogil=True)
def set_leaf(tree: ndarray, leaf: int, value: float) -> int:
    """``tree[leaf] = value``; returns how many more leaves than before are above zero."""
    i = len(tree) // 2 + leaf
    more = int(value > 0.0) - int(tree[i] > 0.0)
    tree[i] = value
    while i > 1:
        i >>= 1
        tree[i] = tree[2 * i] + tree[2 * i + 1]
    return more


@njit(cache=True, nogil=True)
def set_leaves(tree: ndarray, leaves: ndarray, values: ndarray) -> int:
    """``tree[leaves] = values`` (float64), one after the other: of a leaf's values the last one.

    Returns how many more leaves than before are above zero.
    """
    more = 0
    for j in range(len(leaves)):
        more += set_leaf(tree, leaves[j], values[j])
    return more


@njit(cache=True, nogil=True)
def descend(tree: ndarray, u: float) -> int:
    """The leaf at which the running sum first exceeds ``u``, in [0, root).

    A leaf of value zero is never found, as long as the root is above zero.
    """
    size, i = len(tree) // 2, 1
    while i < size:
        i *= 2
        left = tree[i]
        # The second condition is for a rest that rounding has brought up to the whole sum.
        if u >= left and tree[i + 1] > 0.0:
            u -= left
            i += 1
    return i - size


@njit(cache=True, nogil=True)
def drawn_leaves(tree: ndarray, u: ndarray) -> ndarray:
    """Leaves drawn by ``u [parts, k]`` in [0, 1), in each part one from each of k equal parts of
    the sum; int64 [parts k]."""
    parts, k = u.shape
    leaves = np.empty(parts * k, np.int64)
    for part in range(parts):
        for j in range(k):
            leaves[part * k + j] = descend(tree, (j + u[part, j]) * (tree[1] / k))
    return leaves
