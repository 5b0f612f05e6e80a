"""Does the cross-entropy method find the maximum, draw by draw as the paper says?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.ops.cem import maximise, one_hot
from shoal.ops.kernels import namespace
from tests.ops.conftest import Library


def oracle(
    q: Any, noise: np.ndarray, mean: float, std: float, elites: int, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row's best action, and the last mean and std: Kalashnikov et al. 2018, section 4.2."""
    mu, sigma = np.full(noise.shape[-1], mean), np.full(noise.shape[-1], std)
    seen: list[np.ndarray] = []
    for z in noise:
        a = np.clip(mu + sigma * z, -1.0, 1.0)
        best = sorted(a, key=lambda x: -q(x))[:elites]
        mu, sigma = np.mean(best, 0), np.std(best, 0) + floor
        seen += [*a, mu]
    return max([*seen[:-1], mu], key=q), mu, sigma


def test_it_is_the_papers_iteration(lib: Library) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 16, 3)).astype(np.float32)
    goal = rng.uniform(-1.5, 1.5, (5, 3)).astype(np.float32)  # some beyond the box
    start = np.full(3, 0.1, np.float32), np.full(3, 0.5, np.float32)

    def run(noise: Any, goal: Any, *start: Any) -> Any:
        xp = namespace(noise)
        return maximise(
            lambda a: -xp.sum((a - goal[:, None]) ** 2, axis=-1), noise, *start, elites=4
        )

    action, value, mean, std = lib.run(run, noise, goal, *start)
    for i, a in enumerate(goal):
        wanted = oracle(lambda x, a=a: -np.sum((x - a) ** 2), noise, 0.1, 0.5, 4, 1e-3)
        for found, x in zip((action[i], mean[i], std[i]), wanted, strict=True):
            np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(value[i], -np.sum((action[i] - a) ** 2), rtol=1e-4)


@pytest.mark.parametrize(("iterations", "median"), [(1, 0.217), (2, 0.095)])
def test_golden_distances_of_the_default_search(iterations: int, median: float) -> None:
    """q(a) = -|a - a*|^2 in four dimensions, from N(0, 0.5^2), 64 draws and 6 elites."""
    found = []
    for seed in range(500):
        rng = np.random.default_rng(seed)
        goal = rng.uniform(-0.5, 0.5, 4)
        noise = rng.standard_normal((iterations, 64, 4))
        fit = maximise(
            lambda a, g=goal: -((a - g) ** 2).sum(-1), noise, np.zeros(4), np.full(4, 0.5)
        )
        found.append(np.linalg.norm(fit.mean[0] - goal))
    assert np.median(found) == pytest.approx(median, abs=5e-4)


def test_rows_may_have_draws_and_beginnings_of_their_own() -> None:
    """What a row finds does not depend on the others."""
    rng = np.random.default_rng(1)
    noise, goal = rng.standard_normal((2, 3, 16, 2)), rng.uniform(-1, 1, (3, 2))
    mean, std = rng.uniform(-1, 1, (3, 2)), rng.uniform(0.1, 1, (3, 2))

    def found(rows: slice) -> Any:
        return maximise(
            lambda a: -((a - goal[rows, None]) ** 2).sum(-1),
            noise[:, rows],
            mean[rows],
            std[rows],
        )

    for i in range(3):
        for alone, together in zip(found(slice(i, i + 1)), found(slice(0, 3)), strict=True):
            np.testing.assert_array_equal(alone[0], together[i])


def test_what_is_drawn_stays_in_the_box_and_never_collapses() -> None:
    scored: list[np.ndarray] = []
    low, high = np.array([-1.0, 0.0]), np.array([-0.5, 0.25])

    def score(actions: np.ndarray) -> np.ndarray:
        scored.append(actions)
        return actions.sum(-1)  # the corner is best, so that all elites come to it

    noise = np.random.default_rng(0).standard_normal((8, 64, 2))
    fit = maximise(score, noise, np.zeros(2), np.full(2, 5.0), low, high, floor=0.01)
    assert all((x >= low).all() and (x <= high).all() for x in scored)
    np.testing.assert_array_equal(fit.action[0], high)
    assert (fit.std >= 0.01).all()


@pytest.mark.parametrize("matters", [True, False])
def test_choices_are_scored_as_one_hot(lib: Library, matters: bool) -> None:
    """A number and a choice of three: every action that is scored has one choice, the largest.

    The last mean too, whose best draws may not agree on a choice that does not matter.
    """

    def search(noise: Any) -> Any:
        xp = namespace(noise)
        start = xp.zeros_like(noise[0, 0]), xp.ones_like(noise[0, 0])

        def score(a: Any) -> Any:
            ones = xp.sum(xp.astype(a[..., 1:] == 1.0, a.dtype), axis=-1)
            zeros = xp.sum(xp.astype(a[..., 1:] == 0.0, a.dtype), axis=-1)
            worth = matters * a[..., 2] - (a[..., 0] - 0.25) ** 2  # the second choice
            return xp.where((ones == 1.0) & (zeros == 2.0), worth, worth + 100.0)

        return maximise(score, noise, *start, choices=(3,))

    noise = np.random.default_rng(0).standard_normal((3, 64, 4)).astype(np.float32)
    action, value, _, _ = lib.run(search, noise if matters else noise[:1])
    assert abs(action[0, 0] - 0.25) < 0.05 and matters - 0.01 < value[0] <= matters
    if matters:
        np.testing.assert_array_equal(action[0, 1:], [0.0, 1.0, 0.0])


def test_the_largest_number_of_a_choice_is_its_one(lib: Library) -> None:
    mixed = np.array([[0.3, 0.1, 0.9, -1.0, -3.0]], np.float32)
    np.testing.assert_array_equal(
        lib.run(lambda x: one_hot(x, (2, 2)), mixed), np.array([[0.3, 0, 1, 1, 0]], np.float32)
    )
