"""Is one environment object ever taken for two copies, or used by two at once?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit

import shoal
from shoal.envs import make, make_for_evaluation
from shoal.errors import EnvError
from tests.envs.micro import Bandit


def shared(wrap: Callable[[Any], Any] = lambda env: env) -> Callable[[], Any]:
    env = Bandit()
    return lambda: wrap(env)


def vector() -> Callable[..., Any]:
    env = Bandit()
    return lambda num_envs: SyncVectorEnv([lambda: env] * num_envs)


@pytest.mark.parametrize(
    "factory",
    [shared(), shared(lambda env: TimeLimit(env, 9)), vector()],
    ids=["alone", "wrapped anew", "vector"],
)
def test_one_object_is_not_two_copies(factory: Callable[..., Any]) -> None:
    with pytest.raises(EnvError, match="returned the same environment twice") as caught:
        make(factory, 2)
    assert "env=lambda: Maze(...)" in str(caught.value)
    assert "test_copies.py" in str(caught.value)


def test_an_id_registered_with_one_object_is_refused() -> None:
    gym.register("OneBandit-v0", shared())
    try:
        with pytest.raises(EnvError, match="the same environment twice"):
            make("OneBandit-v0", 2)
    finally:
        gym.registry.pop("OneBandit-v0")


def test_one_copy_may_be_an_object_made_before_and_again_once_closed() -> None:
    factory = shared()
    make(factory, 1).close()
    make(factory, 1).close()


def test_an_environment_in_use_is_not_used_twice_nor_closed() -> None:
    class Watched(Bandit):
        closed = False

        def close(self) -> None:
            self.closed = True

    env = Watched()
    first = make(lambda: env, 1)
    with pytest.raises(EnvError, match="in use already"):
        make(lambda: env, 1)
    with pytest.raises(EnvError, match="in use already"):
        make_for_evaluation(lambda: env, 1, range(1), render_mode="rgb_array")
    assert not env.closed
    first.close()
    assert env.closed


def test_evaluation_leaves_the_environment_of_training_alone() -> None:
    env = Bandit()
    with shoal.Trainer("ppo", env=lambda: env, envs_per_worker=1, fragment_length=64) as trainer:
        with pytest.raises(EnvError, match="in use already"):
            trainer.evaluate(1)
        trainer.train()
