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
    """A tree of at least ``leaves`` leaves, all zero."""
    return np.zeros(2 << max(leaves - 1, 0).bit_length())


@njit(cache=True, nogil=True)
def set_leaves(tree: ndarray, leaves: ndarray, values: ndarray) -> int:
    """``tree[leaves] = values`` (float64); of a leaf's values the last one.

    Returns how many more leaves than before are above zero.
    """
    count, more = len(leaves), 0
    touched = np.empty(count, np.int64)
    for j in range(count):
        i = len(tree) // 2 + leaves[j]
        more += int(values[j] > 0.0) - int(tree[i] > 0.0)
        tree[i] = values[j]
        touched[j] = i
    # Level by level: entries of one do not wait for each other, and neighbours share their parent.
    level = len(tree) // 2
    while level > 1:
        level //= 2
        kept, last = 0, 0
        for j in range(count):
            i = touched[j] >> 1
            if i != last:
                tree[i] = tree[2 * i] + tree[2 * i + 1]
                touched[kept] = last = i
                kept += 1
        count = kept
    return more


@njit(cache=True, nogil=True)
def descend(tree: ndarray, u: ndarray) -> ndarray:
    """The leaves at which the running sum first exceeds each of ``u [N]`` in [0, root), int64 [N].

    A leaf of value zero is never found, as long as the root is above zero.
    """
    found, rest = np.ones(len(u), np.int64), u.copy()
    level = 1
    # Level by level, so that a draw's wait for memory and its wrong guess of a branch are others'
    # time to go on: four times as quick as one draw after the other.
    while level < len(tree) // 2:
        level *= 2
        for j in range(len(u)):
            i = 2 * found[j]
            left = tree[i]
            # The second condition is for a rest that rounding has brought up to the whole sum.
            right = (rest[j] >= left) & (tree[i + 1] > 0.0)
            rest[j] -= left if right else 0.0
            found[j] = i + right
    return found - level


@njit(cache=True, nogil=True)
def drawn_leaves(tree: ndarray, u: ndarray) -> ndarray:
    """Leaves drawn by ``u [parts, k]`` in [0, 1), in each part one from each of k equal parts of
    the sum; int64 [parts k]."""
    parts, k = u.shape
    sums = np.empty(parts * k)
    for part in range(parts):
        for j in range(k):
            sums[part * k + j] = (j + u[part, j]) * (tree[1] / k)
    return descend(tree, sums)
