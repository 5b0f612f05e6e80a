"""Does a grasp in a picture depend on what the picture shows, and on nothing else?"""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from shoal.envs import make
from shoal.envs.reach import GRASP, LIMIT, REACH, ReachVector
from shoal.errors import EnvError


def test_it_keeps_gymnasiums_contract() -> None:
    make("shoal/Reach-v0", 1).close()
    check_env(gymnasium.make("shoal/Reach-v0").unwrapped)


def centres(picture: np.ndarray) -> np.ndarray:
    """Where each colour lies, [B, 3, 2] in x and y: the mean place of its light."""
    at = (np.arange(picture.shape[1]) + 0.5) / picture.shape[1]
    light = picture.astype(float)
    total = light.sum((1, 2))
    x, y = (light.sum(axis) * 1.0 for axis in (1, 2))
    return np.stack([np.einsum("bic,i->bc", part, at) / total for part in (x, y)], -1)


def test_the_picture_shows_where_hand_and_objects_lie() -> None:
    env = ReachVector(64)
    picture, _ = env.reset(seed=0)
    inside = ((env.places > 0.1) & (env.places < 0.9)).all(-1)  # whole discs
    assert inside.sum() > 100
    np.testing.assert_allclose(centres(picture)[inside], env.places[inside], atol=0.01)


def test_closing_pays_where_the_object_lies_and_ends_the_episode() -> None:
    """At the place after the move; moving there without closing pays nothing."""
    env = ReachVector(256)
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(LIMIT - 1):
        before = env.places.copy()
        action = rng.uniform(-1, 1, (256, 3)).astype(np.float32)
        picture, reward, over, cut, _ = env.step(action)
        hand = np.clip(before[:, 0] + REACH * action[:, :2], 0, 1)
        near = np.hypot(*(hand - before[:, 1]).T) <= GRASP
        np.testing.assert_array_equal(over, action[:, 2] > 0)
        np.testing.assert_array_equal(reward, (near & over).astype(np.float32))
        assert not cut.any() and picture.dtype == np.uint8
        total += reward.sum()
        env.reset(options={"reset_mask": over})
        np.testing.assert_array_equal(env.places[~over, 1:], before[~over, 1:])
        assert (env.places[over, 1:] != before[over, 1:]).all()
    assert total > 50


def test_an_episode_without_a_grasp_is_cut() -> None:
    env = make("shoal/Reach-v0", 3)
    env.reset(seed=0)
    still = np.tile(np.array([0.1, 0.0, -1.0], np.float32), (3, 1))
    cut = []
    for _ in range(LIMIT):
        step = env.step(still)
        assert not step.terminated.any()
        cut.append(step.truncated.copy())
    np.testing.assert_array_equal(np.argmax(cut, 0), LIMIT - 1)
    assert np.sum(cut) == 3
    env.close()


def test_arguments_that_make_no_task_are_named() -> None:
    with pytest.raises(EnvError, match="size"):
        make("shoal/Reach-v0", 2, kwargs={"size": 8})
