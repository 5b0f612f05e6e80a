"""Do episodes depend on the seeds that they are begun with, and on nothing that was before?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.envs import make

SEEDS = [11, 12, 13, 14, 15, 16]


def played(world: Any, seeds: list[int], steps: int = 30) -> list[Any]:
    """Observations, rewards and ends of every slot."""
    rng = np.random.default_rng(0)
    found = [world.play(seeds)["obs"].copy()]
    for _ in range(steps):
        action = rng.integers(2, size=world.slots)
        step = world.step(action)
        found += [step.obs["obs"].copy(), step.reward.copy(), step.over.copy()]
    return found


@pytest.mark.parametrize("slots", [4, 6])  # a loop, and CartPole's own vector form
def test_what_follows_depends_on_the_seeds_alone(slots: int) -> None:
    seeds = SEEDS[:slots]
    fresh, used = (make("CartPole-v1", slots, seed=i) for i in range(2))
    played(used, [seed + 100 for seed in seeds])
    for a, b in zip(played(fresh, seeds), played(used, seeds), strict=True):
        np.testing.assert_array_equal(a, b)
    first = [world.play([seed + 1 for seed in seeds])["obs"] for world in (fresh, used)]
    np.testing.assert_array_equal(*first)
    assert np.any(first[0] != fresh.play(seeds)["obs"])


def test_a_copy_that_has_ended_stands_still_until_the_next_is_played() -> None:
    world = make("CartPole-v1", 2)
    world.play([1])
    ends = np.zeros(2, int)
    for _ in range(200):
        ends += world.step(np.zeros(2, np.int64)).over
    assert ends.tolist() == [1, 0]
    world.play([1, 2])
    for _ in range(200):
        ends += world.step(np.zeros(2, np.int64)).over
    assert ends.tolist() == [2, 1]


def test_each_copy_begins_the_episode_of_its_own_seed() -> None:
    world, alone = make("CartPole-v1", 3), make("CartPole-v1", 1)
    found = world.play([5, 6, 7])["obs"]
    for row, seed in zip(found, [5, 6, 7], strict=True):
        np.testing.assert_array_equal(row, alone.play([seed])["obs"][0])
