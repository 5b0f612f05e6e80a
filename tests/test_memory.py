"""Does a policy's memory travel with the observation, everywhere?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from shoal import Differentiable, Metrics, Model, Policy, Trainer
from shoal.algorithms.dqn import DQN
from shoal.evaluation import evaluate
from shoal.fleet.worker import Worker
from shoal.nets.base import Build, Head
from shoal.nets.factory import build
from shoal.ops.distributions import for_space
from shoal.ops.kernels import namespace
from shoal.ops.optimisers import Optimiser
from shoal.replay.buffer import Buffer
from shoal.replay.layout import layout
from shoal.spaces.base import MEMORY
from shoal.spaces.gym import GymSpaces
from tests.worlds import TINY, Script, Scripts, difference, settings

COUNT = f"{MEMORY}count"


@dataclass(frozen=True)
class Counting(Differentiable):
    """Counts the steps it has seen, acts by the count, and records twice the count."""

    gamma: float = 0.9
    network: Any = TINY

    def model(self, spaces: GymSpaces, build: Build) -> Model:
        dist = for_space(spaces.action_kind, spaces.action_n, spaces.action_dim)
        return Model(spaces, build(self.network, spaces, {"pi": Head(dist.n_out)}), dist)

    def memory(self, model: Model) -> dict[str, Any]:
        return {"count": np.zeros((2,), np.float32)}

    def records(self, model: Model) -> dict[str, Any]:
        return {"double": np.zeros((), np.float32)}

    def act(self, model: Model, params: Any, obs: Any, noise: Any) -> Any:
        count = obs[COUNT]
        action = namespace(count).astype(count[..., 0] % 3, np.int64)
        return action, {COUNT: count + 1.0, "double": 2.0 * count[..., 0]}

    def postprocess(self, model: Model, params: Any, trajectory: Any) -> Any:
        batch = {"obs": trajectory.rows(), "action": trajectory.action.reshape(-1)}
        return batch | {
            "double": trajectory.records["double"].reshape(-1),
            "mask": trajectory.valid.reshape(-1).astype(np.float32),
        }

    def loss(self, model: Model, params: Any, aux: Any, batch: Any) -> Any:
        (out,) = model.net(params, batch["obs"], ("pi",))
        xp = namespace(out)
        error = xp.mean(
            batch["mask"] * (out[:, 0] - batch["double"] - batch["obs"][COUNT][:, 1]) ** 2
        )
        return error, Metrics({"error": error})

    def hyper(self, progress: float) -> dict[str, float]:
        return {"lr": 1e-3}

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("sgd")


def made(env: Any, slots: int = 2, length: int = 8) -> Worker:
    rollout = {"envs_per_worker": slots, "fragment_length": length}
    config = replace(settings("a2c", env, rollout=rollout), algorithm=Counting())
    worker = Worker(config, 0)
    worker.set_weights(config.algorithm.init(worker.model, np.random.default_rng(0)), 0)
    return worker


def steps_before(logs: list[Any]) -> list[list[int]]:
    """Of each env step of each log: how many its episode had before it."""
    found: list[list[int]] = []
    for log in logs:
        count, own = 0, []
        for step in log:
            own.append(count)
            count = 0 if step.terminated or step.truncated else count + 1
        found.append(own)
    return found


def next_step_autoreset(scripts: Scripts) -> Any:
    mode = gym.vector.AutoresetMode.NEXT_STEP
    return lambda num_envs=2: gym.vector.SyncVectorEnv([scripts] * num_envs, autoreset_mode=mode)


@pytest.mark.parametrize("autoreset", ["same step", "next step"])
def test_it_counts_the_steps_of_each_episode(autoreset: str) -> None:
    """Across fragments, back to its beginning with each episode, and with what followed it."""
    scripts = Scripts()
    worker = made(scripts if autoreset == "same step" else next_step_autoreset(scripts))
    rows: list[list[float]] = [[], []]
    for _ in range(4):
        worker._begin(None)
        trajectory, *_ = worker.play(worker._collect(8, False))
        counts = trajectory.obs[COUNT][..., 0]
        for b in range(2):
            rows[b] += counts[:-1, b][trajectory.valid[:, b]].tolist()
        for k, (t, b) in enumerate(zip(trajectory.final_t, trajectory.final_b, strict=True)):
            assert trajectory.final[COUNT][k, 0] == counts[t, b] + 1
            assert counts[t + 1, b] == 0
        assert (trajectory.records["double"] == 2 * counts[:-1]).all()
    assert rows == [[float(n) for n in own] for own in steps_before(scripts.logs)]


def test_a_run_that_is_resumed_remembers(tmp_path: Path) -> None:
    """Bit for bit the run that never stopped, in mid-episode."""
    given: dict[str, Any] = {"envs_per_worker": 2, "fragment_length": 5, "report_every": 1}

    def end(trainer: Trainer) -> Any:
        worker = trainer.fleet.map("get_state")[0][1]
        return {"learner": trainer.learner.get_state()["params"], "obs": worker["obs"]}

    with Trainer(Counting(), lambda: Script(length=7), **given, stop_steps=10**6) as whole:
        for _ in range(6):
            whole.train()
        wanted = end(whole)
    with Trainer(Counting(), lambda: Script(length=7), **given, stop_steps=10**6) as first:
        for _ in range(3):
            first.train()
        first.save(tmp_path)
        remembered = first.fleet.map("get_state")[0][1]["obs"][COUNT]
        assert remembered.any()
    again = Trainer.restore(tmp_path, lambda: Script(length=7), algorithm=Counting())
    with again as trainer:
        for _ in range(3):
            trainer.train()
        assert difference(end(trainer), wanted) == ""


def policy() -> Policy:
    spaces = GymSpaces(Script.observation_space, Script.action_space)
    algorithm = Counting()
    params = algorithm.init(algorithm.model(spaces, build), np.random.default_rng(0))
    return Policy(algorithm, spaces, params)


def test_a_policy_remembers_until_it_is_reset() -> None:
    acting, obs = policy(), np.zeros(3, np.float32)
    assert [acting.act(obs) for _ in range(5)] == [0, 1, 2, 0, 1]
    acting.reset()
    assert [acting.act(obs) for _ in range(2)] == [0, 1]


def test_a_policy_remembers_for_each_environment_of_a_batch() -> None:
    acting, obs = policy(), np.zeros((3, 3), np.float32)
    acting.act(obs)
    acting.act(obs)
    acting.reset(np.array([False, True, False]))
    assert acting.act(obs).tolist() == [2, 0, 2]
    assert acting.act(np.zeros((2, 3), np.float32)).tolist() == [0, 0]  # other environments


def test_evaluation_begins_each_episode_without_memory() -> None:
    """Rewards are a quarter of the action besides what the seed draws: so the actions are known."""
    scripts = Scripts(length=4)
    evaluate(policy(), scripts, 5)
    for log in scripts.logs:
        for i, step in enumerate(log):
            assert step.action == (i % 4) % 3


def test_a_replay_buffer_keeps_memory_and_records_beside_observations() -> None:
    scripts = Scripts()
    worker, algorithm = made(scripts), Counting()
    spaces = worker.model.spaces
    columns = layout(spaces, {}, algorithm.memory(worker.model), algorithm.records(worker.model))
    buffer = Buffer(columns, 2, 200)
    for number in range(3):
        worker._begin(number)
        trajectory, *_ = worker.play(worker._collect(8, False))
        buffer.store(0, trajectory.steps(algorithm.records(worker.model)))
    batch = buffer.everything().batch
    counts = [float(n) for own in steps_before(scripts.logs) for n in own]
    assert batch["obs"][COUNT][:, 0].tolist() == counts
    assert batch["records"]["double"].tolist() == [2 * n for n in counts]
    going = batch["discount"] > 0
    assert (batch["next_obs"][COUNT] == batch["obs"][COUNT] + 1)[going].all()


@dataclass(frozen=True)
class CountingDQN(DQN):
    """Records twice its memory: a replay buffer must not mix up the two."""

    network: Any = TINY

    def memory(self, model: Model) -> dict[str, Any]:
        return {"count": np.zeros((), np.float32)}

    def records(self, model: Model) -> dict[str, Any]:
        return {"double": np.zeros((), np.float32)}

    def act(self, model: Model, params: Any, obs: Any, noise: Any) -> Any:
        action, records = super().act(model, params, obs, noise)
        return action, {**records, COUNT: obs[COUNT] + 1, "double": 2 * obs[COUNT]}

    def loss(self, model: Model, params: Any, aux: Any, batch: Any) -> Any:
        loss, metrics = super().loss(model, params, aux, batch)
        if "known" in batch:  # first priorities are taken without observations
            return loss, metrics
        xp = namespace(loss)
        wrong = xp.mean(xp.abs(batch["records"]["double"] - 2 * batch["obs"][COUNT]))
        seen = xp.max(batch["obs"][COUNT])
        return loss, metrics._replace(scalars={**metrics.scalars, "wrong": wrong, "seen": seen})


@pytest.mark.parametrize("plan", ["sync_replay", "async_replay", "async_gradients"])
def test_replay_under_each_plan_keeps_them_together(plan: str) -> None:
    given: dict[str, Any] = {"in_process": True, "workers": 2, "envs_per_worker": 2}
    given |= {"fragment_length": 8, "warmup": 64, "alpha": 0.6, "report_every": 400}
    with Trainer(CountingDQN(), lambda: Script(length=9), plan=plan, **given) as trainer:
        report = trainer.train()
    assert report["learn/wrong"] == 0.0 and report["learn/seen"] > 4.0


def test_a_key_of_an_environment_is_no_memory() -> None:
    """Whatever it is called."""
    space = Dict({COUNT: Box(-1, 1, (2,)), "~0memory": Dict({"count": Box(-1, 1, (2,))})})
    paths = {leaf.path for leaf in GymSpaces(space, Discrete(2)).leaves}
    assert len(paths) == 2 and COUNT not in paths


def test_a_memory_of_another_shape_is_refused() -> None:
    class Wrong(Counting):
        def act(self, model: Model, params: Any, obs: Any, noise: Any) -> Any:
            action, records = super().act(model, params, obs, noise)
            return action, {**records, COUNT: records[COUNT][..., 0]}

    spaces = GymSpaces(Script.observation_space, Script.action_space)
    acting = Policy(
        Wrong(), spaces, Wrong().init(Wrong().model(spaces, build), np.random.default_rng(0))
    )
    with pytest.raises(ValueError, match="act must record '~memory/count' as float32"):
        acting.act(np.zeros(3, np.float32))
