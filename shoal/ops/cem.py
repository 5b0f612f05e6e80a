"""The cross-entropy method: the maximum of a function that can only be evaluated.

Rubinstein 1999; as QT-Opt has it (Kalashnikov et al. 2018, arXiv:1806.10293, section 4.2): actions
drawn from a Gaussian, which is fitted to the best of them, and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shoal.ops.kernels import Array, arange, namespace


class Fit(NamedTuple):
    """What was found for each of N rows."""

    action: Array  # [N, D]: the best that was scored: any that was drawn, and the last mean
    value: Array  # [N]: its score
    mean: Array  # [N, D]: of the last iteration's best
    std: Array  # [N, D]: likewise, with the floor


def maximise(
    score: Callable[[Array], Array],
    noise: Array,
    mean: Array,
    std: Array,
    low: Array | float = -1.0,
    high: Array | float = 1.0,
    *,
    elites: int = 6,
    floor: float = 1e-3,
    choices: tuple[int, ...] = (),
) -> Fit:
    """The action of the highest score, for each of N rows.

    Args:
        score: actions [N, M, D] to their scores [N, M]. It is given [1, M, D] where all rows have
            the same actions, as in a first iteration that begins alike for all of them.
        noise: standard normal, [iterations, M, D], the same for all rows; or
            [iterations, N, M, D].
        mean: [D] or [N, D], where the first iteration begins.
        std: likewise.
        low: least of each component, [D] or a number; draws beyond are clipped.
        high: most of each component.
        elites: how many of the M actions the next Gaussian is fitted to.
        floor: added to its standard deviations, so that they never collapse.
        choices: the last ``sum(choices)`` components are so many choices, one-hot: the largest
            number that was drawn for a choice becomes 1, the others 0.
    """
    xp, dim = namespace(noise), noise.shape[-1]
    mean, std = (xp.reshape(x, (-1, 1, dim)) for x in (mean, std))
    tops: list[tuple[Array, Array]] = []  # the best of each iteration, and its score
    for normal in noise:
        drawn = one_hot(xp.clip(mean + std * normal, low, high), choices)
        scores = score(drawn)
        row = arange(scores.shape[0], scores)[:, None]
        best = xp.argsort(-scores, axis=-1, stable=True)[:, :elites]
        kept = xp.broadcast_to(drawn, (*scores.shape, dim))[row, best]
        tops.append((kept[:, 0], scores[row, best][:, 0]))
        mean = xp.mean(kept, axis=1, keepdims=True)
        std = xp.std(kept, axis=1, keepdims=True) + floor
    middle = one_hot(mean, choices)
    action, value = middle[:, 0], score(middle)[:, 0]
    for top, found in tops:
        action = xp.where((found > value)[:, None], top, action)
        value = xp.where(found > value, found, value)
    return Fit(action, value, mean[:, 0], std[:, 0])


def one_hot(x: Array, choices: tuple[int, ...]) -> Array:
    """``x [..., D]`` with a 1 for the largest entry of each choice, and 0 for its others.

    Choices of these sizes are the last components; ones before are as they were.
    """
    if not choices:
        return x
    xp, at = namespace(x), x.shape[-1] - sum(choices)
    parts = [x[..., :at]] if at else []
    for size in choices:
        chosen = xp.argmax(x[..., at : at + size], axis=-1)
        parts.append(xp.astype(chosen[..., None] == arange(size, x), x.dtype))
        at += size
    return xp.concat(parts, axis=-1)
