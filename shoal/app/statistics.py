"""Statistics of scores over runs, as rliable has them.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv:2108.13264, sections 4.1 and 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ndarray = npt.NDArray[Any]
RESAMPLES = 2000


def iqm(scores: ndarray) -> float:
    """The interquartile mean: of the middle half of all scores (25 % trimmed at each end).

    As scipy.stats.trim_mean(scores, 0.25) has it: floor(n / 4) scores are cut off at each end.
    """
    flat = np.sort(np.asarray(scores, float), axis=None)
    cut = flat.size // 4
    return float(flat[cut : flat.size - cut].mean())


def interval(
    scores: Sequence[ndarray],
    of: Callable[[ndarray], float] = iqm,
    *,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """A stratified bootstrap confidence interval: runs are resampled within each task.

    Args:
        scores: of the runs on each task: arrays [runs], whose lengths may differ.
        of: the statistic of all scores together.
        level: the share of resamples within the interval (percentiles).
    """
    rng = np.random.default_rng(seed)
    drawn = [task[rng.integers(len(task), size=(RESAMPLES, len(task)))] for task in scores]
    values = [of(np.concatenate([task[i] for task in drawn])) for i in range(RESAMPLES)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
