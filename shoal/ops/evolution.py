"""From returns of perturbed weights to a step: evolution strategies and random search.

``n`` directions, each tried in both signs: returns are ``[n, 2]``, + in column 0, - in column 1. A
weight ``[n]`` is what a direction counts for, so that the step goes along ``sum_k weight_k eps_k``.
"""

from __future__ import annotations

import numpy as np

from shoal.ops.kernels import BLOCK, ndarray


def centred_ranks(returns: ndarray) -> ndarray:
    """Ranks of all entries together, mapped to [-0.5, 0.5]; float64, of the same shape.

    Equal returns share the mean of their ranks, so that returns that are all equal become 0
    (Salimans et al. 2017, arXiv:1703.03864, section 2.1, "fitness shaping").
    """
    flat = np.asarray(returns, np.float64).reshape(-1)
    values, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - counts + last - 1) / 2.0  # mean of the ranks that each value has
    if len(flat) < 2 or len(values) < 2:
        return np.zeros(np.shape(returns))
    return (ranks[inverse] / (len(flat) - 1) - 0.5).reshape(np.shape(returns))


def rank_weights(shaped: ndarray) -> ndarray:
    """The weights [n] of Salimans et al.: (w_k+ - w_k-) / 2n, without 1 / sigma.

    Their code leaves that to Adam, whose step does not depend on the gradient's scale.
    """
    weights: ndarray = (shaped[:, 0] - shaped[:, 1]) / shaped.size
    return weights


def search_weights(returns: ndarray, top: int | None = None) -> ndarray:
    """The weights [n] of Mania et al. 2018 (arXiv:1803.07055), Algorithm 2.

    (r_k+ - r_k-) / (b sigma_R) for the ``top`` directions (None: all) by max(r_k+, r_k-), and 0 for
    the others; directions as good as the last of these count too, as in the authors' code, and b is
    the number that count. sigma_R is the population standard deviation of their 2b returns. All are
    0 if that is.
    """
    best = returns.max(axis=1)
    least = -np.inf if top is None or top >= len(best) else np.sort(best)[-top]
    kept = best >= least
    spread = float(np.std(returns[kept]))
    weights = np.zeros(len(best))
    if spread > 1e-12 * float(np.abs(returns[kept]).max()):
        weights[kept] = (returns[kept, 0] - returns[kept, 1]) / (np.count_nonzero(kept) * spread)
    return weights


def combine(weights: ndarray, table: ndarray, at: ndarray, size: int) -> ndarray:
    """``sum_k weights_k table[at_k : at_k + size]``, float32 [size].

    Entry by entry in the order of k and without a matrix product, so that it has the same bits on
    every machine that computes it.
    """
    out = np.zeros(size, np.float32)
    rows = np.lib.stride_tricks.sliding_window_view(table, size)
    counted = np.flatnonzero(weights)
    block = max(BLOCK // size, 1)
    for start in range(0, len(counted), block):
        part = counted[start : start + block]
        products = weights[part, None].astype(np.float32) * rows[at[part]]
        for row in products if size > 256 else (products.sum(axis=0),):
            out += row
    return out


def next_cap(cap: int, lengths: ndarray, share: float, ratio: float) -> int:
    """The cap of the next generation's episodes: longer if at least ``share`` of them reached it.

    The rule of the authors' code ("adaptive:start,threshold,ratio").
    """
    reached = np.count_nonzero(lengths >= cap) >= share * lengths.size
    return max(int(cap * ratio), cap + 1) if reached else cap
