"""Does a saved policy act as it did in training, on every kind of observation?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from shoal.algorithms.ppo import PPO
from shoal.errors import CheckpointError, SpaceError
from shoal.nets.factory import build
from shoal.policy import Policy, load
from shoal.spaces.gym import GymSpaces
from shoal.trainer import Trainer
from tests.worlds import TINY, Script


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


VECTOR = Box(-np.inf, np.inf, (3,), np.float32)


def policy(observation: Any, action: Any, masked: bool = False, **weights: Any) -> Policy:
    """With initial weights, but for those given."""
    spaces, ppo = GymSpaces(observation, action, masked), PPO(network=TINY)
    made = ppo.init(ppo.model(spaces, build), np.random.default_rng(0))
    return Policy(ppo, spaces, {**made, **weights})


def logits(*values: float) -> dict[str, Any]:
    """Weights of a policy that does not look."""
    return {"pi/out/w": np.zeros((8, len(values)), np.float32), "pi/out/b": f32(*values)}


# --------------------------------------------------------------------------------- acting


def test_takes_the_likeliest_action() -> None:
    made = policy(VECTOR, Discrete(3), **logits(0.0, 2.0, 1.0))
    assert [made.act(np.zeros(3)) for _ in range(20)] == [1] * 20


def test_explores_as_its_distribution_says() -> None:
    made = policy(VECTOR, Discrete(2), **logits(np.log(3.0), 0.0))
    actions = made.act(np.zeros((20_000, 3)), explore=True)
    assert float(np.mean(actions)) == pytest.approx(0.25, abs=0.01)


def test_exploring_is_decided_by_the_seed() -> None:
    first, second = (policy(VECTOR, Discrete(4)) for _ in range(2))
    other = policy(VECTOR, Discrete(4))
    other.rng = np.random.default_rng(1)
    obs = np.zeros((50, 3))
    actions = [p.act(obs, explore=True).tolist() for p in (first, second, other)]
    assert actions[0] == actions[1] != actions[2]


@pytest.mark.parametrize("lead", [(), (5,), (2, 5)])
@pytest.mark.parametrize("explore", [False, True])
def test_one_observation_or_a_batch_of_any_shape(lead: tuple[int, ...], explore: bool) -> None:
    """Each of a batch is acted on as it would be alone."""
    made = policy(VECTOR, Box(-2.0, 2.0, (2,), np.float32))
    obs = np.random.default_rng(1).standard_normal((*lead, 3), dtype=np.float32)
    actions = made.act(obs, explore=explore)
    assert actions.shape == (*lead, 2)
    assert actions.dtype == np.float32
    if not explore:
        alone = [made.act(row) for row in obs.reshape(-1, 3)]
        np.testing.assert_allclose(actions.reshape(-1, 2), alone, rtol=1e-5, atol=1e-7)


def test_bounded_actions_are_rescaled_and_never_beyond() -> None:
    """A mean of -.5 in [-1, 1] is a quarter of the way from 10 to 30; one of 7 is the top."""
    space = Box(f32(10, 10), f32(30, 30))
    made = policy(VECTOR, space, **logits(-0.5, 7.0))
    assert made.act(np.zeros(3)).tolist() == [15.0, 30.0]
    actions = made.act(np.zeros((1000, 3)), explore=True)
    assert actions.min() >= 10 and actions.max() <= 30


def test_a_discrete_spaces_start_is_added() -> None:
    made = policy(VECTOR, Discrete(3, start=-1), **logits(0.0, 0.0, 9.0))
    assert made.act(np.zeros(3)) == 1
    assert made.spaces.action.contains(made.act(np.zeros(3)))


def test_a_mask_given_apart_forbids() -> None:
    made = policy(VECTOR, Discrete(3), masked=True, **logits(5.0, 9.0, 0.0))
    allowed = np.array([[True, False, True], [False, False, True]])
    assert made.act(np.zeros((2, 3)), action_mask=allowed).tolist() == [0, 2]
    explored = made.act(np.zeros((500, 3)), explore=True, action_mask=np.tile(allowed[1], (500, 1)))
    assert set(explored.tolist()) == {2}


def test_a_mask_within_the_observation_forbids() -> None:
    space = Dict({"x": VECTOR, "action_mask": MultiBinary(3)})
    made = policy(space, Discrete(3), **logits(5.0, 9.0, 0.0))
    obs = {"x": np.zeros(3, np.float32), "action_mask": np.array([1, 0, 1], np.int8)}
    assert made.act(obs) == 0


def test_an_observation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"expected float32 \[3\]"):
        policy(VECTOR, Discrete(2)).act(np.zeros(4))


def test_normalisation_belongs_to_the_policy() -> None:
    mean, std = f32(1, 2, 3), f32(2, 4, 8)
    plain = policy(VECTOR, Box(-1, 1, (1,), np.float32))
    normal = Policy(
        plain.algorithm,
        plain.spaces,
        {**plain.weights, "norm/obs/mean": mean, "norm/obs/std": std},
    )
    obs = np.random.default_rng(0).standard_normal((20, 3), dtype=np.float32) * 5
    np.testing.assert_allclose(normal.act(obs), plain.act((obs - mean) / std), rtol=1e-5, atol=1e-7)
    assert np.ptp(plain.act(obs)) > 1e-4


# -------------------------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """A trained policy of Pendulum with everything that belongs to it, and its checkpoint."""
    trainer = Trainer(
        "ppo",
        "Pendulum-v1",
        learner="torch",
        network=TINY,
        envs_per_worker=2,
        fragment_length=32,
        epochs=2,
        normalise_obs=True,
        scale_reward=True,
        stop_steps=200,
    )
    list(trainer)
    path = tmp_path_factory.mktemp("run")
    trainer.save(path)
    return trainer, path


OBS = np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32)


def test_a_loaded_policy_acts_as_the_trained_one(run: tuple[Trainer, Path]) -> None:
    trainer, path = run
    loaded, own = load(path), trainer.policy
    for explore in (False, True):
        a, b = (p.act(OBS, explore=explore) for p in (loaded, own))
        np.testing.assert_array_equal(a, b)
        assert np.ptp(a) > 0


def test_a_policy_acts_as_the_worker_that_trained_it(run: tuple[Trainer, Path]) -> None:
    """The same noise gives the same actions, from the observation to what env.step takes."""
    trainer, path = run
    noise = trainer.model.dist.noise(np.random.default_rng(trainer.config.seed), (40,))
    act = trainer.config.algorithm.act
    sampled, _ = act(trainer.model, trainer.learner.weights(), {"obs": OBS}, noise)
    wanted = trainer.spaces.to_env(sampled)
    np.testing.assert_array_equal(load(path).act(OBS, explore=True), wanted)


def test_a_policy_does_not_change_when_training_goes_on(run: tuple[Trainer, Path]) -> None:
    trainer, _path = run
    kept = trainer.policy
    before = kept.act(OBS)
    trainer.train()
    np.testing.assert_array_equal(kept.act(OBS), before)
    assert (trainer.policy.act(OBS) != before).any()


def test_acting_needs_neither_learner_nor_fleet(run: tuple[Trainer, Path]) -> None:
    """In a fresh process: no JAX, no PyTorch, no Ray, and the same actions."""
    program = """
import sys
import numpy as np
import shoal
policy = shoal.load(sys.argv[1])
obs = np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32)
heavy = {"jax", "torch", "ray", "optax", "flax"} & set(sys.modules)
assert not heavy, heavy
print(policy.act(obs).tobytes().hex())
"""
    root = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(run[1])]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert out.strip() == load(run[1]).act(OBS).tobytes().hex()


def test_a_user_environment_is_not_needed_to_act(tmp_path: Path) -> None:
    trainer = Trainer("a2c", Script, network=TINY, learner="torch")
    trainer.save(tmp_path)
    obs = np.zeros((5, 3), np.float32)
    np.testing.assert_array_equal(load(tmp_path).act(obs), trainer.policy.act(obs))


def test_a_users_own_network_is_needed_and_must_be_the_same(tmp_path: Path) -> None:
    import torch

    class Net(torch.nn.Module):
        def __init__(self, width: int = 5) -> None:
            super().__init__()
            self.body = torch.nn.Linear(3, width)
            self.pi, self.v = torch.nn.Linear(width, 4), torch.nn.Linear(width, 1)

        def forward(self, x: Any) -> Any:
            x = torch.tanh(self.body(x))
            return self.pi(x), self.v(x)

    from shoal.errors import ConfigError

    trainer = Trainer("ppo", Script, network=Net(), stop_steps=100)
    trainer.train()
    trainer.save(tmp_path)
    obs = np.random.default_rng(0).standard_normal((30, 3), dtype=np.float32)
    found = load(tmp_path, network=Net()).act(obs, explore=True)
    np.testing.assert_array_equal(found, trainer.policy.act(obs, explore=True))
    with pytest.raises(ConfigError, match="network"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="do not fit the network"):
        load(tmp_path, network=Net(width=6))


def test_evaluating_a_loaded_policy_plays_whole_episodes(run: tuple[Trainer, Path]) -> None:
    """Against an episode played by hand."""
    from shoal.evaluation import evaluate

    made = load(run[1])
    found = evaluate(made, "Pendulum-v1", 2, seed=3)
    env = gymnasium.make("Pendulum-v1")
    totals = []
    for seed in (3, 4):
        obs, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(made.act(obs))
            total, over = total + float(reward), terminated or truncated
        totals.append(total)
    assert found["returns"] == pytest.approx(totals)
    assert found["length_mean"] == 200
