"""Does the critic see the whole environment, and the policy only what its agent sees?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.algorithms.actor_critic import evaluate
from shoal.errors import ShoalError
from shoal.fleet.worker import Worker
from shoal.spaces.base import STATE
from shoal.systems.table import default_config
from tests.agents import Alone, InTurn, Together

SMALL: dict[str, Any] = {"envs_per_worker": 4, "fragment_length": 32, "central": True}


def member(form: Any, system: str = "ppo") -> Worker:
    config = default_config(system, form)
    algorithm = replace(config.algorithm, central=True)
    made = Worker(replace(config, algorithm=algorithm), 0)
    made.set_weights(algorithm.init(made.model, np.random.default_rng(0)), 0)
    return made


@pytest.mark.parametrize("form", [Together, InTurn])
def test_the_state_is_that_of_the_moment_also_where_an_episode_ends(form: Any) -> None:
    worker = member(form)
    t = worker.play(worker.sampling(None))[1]
    state, seen = t.obs[STATE], t.obs["obs"]
    np.testing.assert_array_equal(state[:-1][t.valid][:, 0], seen[:-1][t.valid][:, 1])
    assert len(t.final_t) > 5
    np.testing.assert_array_equal(t.final[STATE][:, 0], t.final["obs"][:, 1])


def test_the_policy_does_not_see_the_state_and_the_value_does() -> None:
    worker = member(Together)
    batch = worker.sample().batch
    one = evaluate(worker.model, worker.weights, batch)
    other = {**batch, "obs": {**batch["obs"], STATE: batch["obs"][STATE] + 100}}
    two = evaluate(worker.model, worker.weights, other)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert np.all(one[2] != two[2])


def test_policy_and_value_see_observations_normalised_alike() -> None:
    worker = member(Together)
    batch = worker.sample().batch
    seen = batch["obs"]["obs"]
    mean, std = np.float32([1, 2, 3]), np.float32([2, 4, 8])
    by_hand = {**batch, "obs": {**batch["obs"], "obs": (seen - mean) / std}}

    def found(mean: Any, std: Any, rows: Any) -> Any:
        norm = {"norm/obs/mean": np.float32(mean), "norm/obs/std": np.float32(std)}
        return evaluate(worker.model, {**worker.weights, **norm}, rows)

    pairs = zip(found([0] * 3, [1] * 3, by_hand), found(mean, std, batch), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("system", ["ppo", "a2c", "impala", "appo"])
def test_every_actor_critic_learns_and_acts_without_the_state(system: str, tmp_path: Path) -> None:
    with shoal.Trainer(system, Together, in_process=True, **SMALL) as trainer:
        trainer.train()
        trainer.save(tmp_path)
        found = trainer.evaluate(3)
    policy = shoal.load(tmp_path)
    assert policy.act(np.zeros(3, np.float32)) in (0, 1, 2)
    assert shoal.evaluate(policy, Together, 3, seed=1_000_003) == found


def test_a_policy_by_agent_can_have_a_central_critic() -> None:
    policies = {"a": shoal.PPO(central=True, minibatch_size=16), "b": shoal.A2C()}
    algorithm = shoal.Policies(policies, {"ann": "a", "*": "b"})
    fields = {"envs_per_worker": 2, "fragment_length": 32}
    with shoal.Trainer(algorithm, Together, **fields) as trainer:
        trainer.train()
        weights = trainer.learner.weights()
    assert any(name.startswith("a/central/") for name in weights)
    assert not any(name.startswith("b/central/") for name in weights)


class Stateless(Together):
    def __init__(self) -> None:
        super().__init__()
        del self.state_space


@pytest.mark.parametrize(
    ("env", "more", "text"),
    [
        (Stateless, {}, "has none: there is no state_space"),
        (Alone, {}, "has none: there is no state_space"),
        ("CartPole-v1", {}, "of several agents, and 'CartPole-v1' is none"),
        (Together, {"memory": "lstm"}, "cannot have a network with memory"),
        (Together, {"hide": (0,)}, "do not go together with algorithm.central"),
    ],
)
def test_what_has_no_state_to_see_is_refused(env: Any, more: Any, text: str) -> None:
    with pytest.raises(ShoalError, match=text):
        shoal.Trainer("ppo", env, **SMALL, **more)
