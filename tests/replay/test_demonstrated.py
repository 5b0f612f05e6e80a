"""Is a row a demonstration as often as declared, and are the two buffers kept apart?

R2D3 (Paine et al. 2019, arXiv:1909.01387).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import Trainer
from shoal.algorithms.dqn import DQN
from shoal.config.replay import Replay
from shoal.errors import ConfigError
from shoal.nets.network import Network
from shoal.recording import record
from shoal.replay.settings import make
from shoal.spaces.base import MEMORY
from tests.worlds import TINY, Scripts, difference, settings, worker

LSTM = Network(hidden=(6,), memory="lstm", memory_size=5)
SHAPE: dict[str, Any] = {"sequence": 4, "burn_in": 2, "overlap": 2}
RECURRENT = DQN(network=LSTM, **SHAPE)
PLAIN = DQN(network=TINY)
FAR = 1000.0  # rewards of demonstrations are this much more: a row says where it is from


def episodes(algorithm: DQN, count: int = 5) -> list[Any]:
    """Demonstrations of one slot: what a worker of its own sampled, cut after each end."""
    rollout = {"envs_per_worker": 1, "fragment_length": 40}
    made = worker(replace(settings("dqn", Scripts(length=8), rollout=rollout), algorithm=PLAIN), 7)
    found = []
    for number in range(count):
        batch = made.sample(number).batch
        obs = {"obs": batch["obs"]["obs"][:9].copy()}
        obs["obs"][8] = batch["final"]["obs"][0]
        step = {k: batch[k][:8] for k in ("action", "terminated", "truncated", "mask")}
        reward = batch["reward"][:8] + FAR
        none = {"records": {}, "final_t": np.zeros(0, int), "final_b": np.zeros(0, int)}
        found.append({"obs": obs, "reward": reward, **step, **none})
    return found


def filled(algorithm: DQN, alpha: float = 0.9, capacity: int = 600) -> Any:
    """A buffer with demonstrations beside it, and the worker whose samples it holds."""
    rollout = {"envs_per_worker": 2, "fragment_length": 30}
    made = worker(replace(settings("dqn", Scripts(), rollout=rollout), algorithm=algorithm))
    small = Replay(capacity=capacity, warmup=8, batch_size=8, alpha=alpha)
    buffer = make(small, algorithm, made.model, {}, 2, episodes(algorithm))
    for number in range(4):
        buffer.store(0, made.sample(number).batch)
    return buffer, made


def shown(batch: Any) -> np.ndarray:
    """Which rows are demonstrations."""
    reward = batch["reward"] if batch["reward"].ndim == 1 else batch["reward"][:, 0]
    return reward > FAR / 2


@pytest.mark.parametrize("algorithm", [RECURRENT, PLAIN], ids=["sequences", "transitions"])
@pytest.mark.parametrize("ratio", [1 / 256, 0.25])
def test_each_row_is_a_demonstration_with_the_declared_probability(
    algorithm: DQN, ratio: float
) -> None:
    """100,000 draws, within four standard deviations; and one does not depend on another."""
    buffer, _ = filled(algorithm)
    settings = Replay(demos="here", batch_size=8)
    rng, count, pairs, total = np.random.default_rng(0), 0, 0, 100_000
    for _ in range(total // 8000):
        own = shown(buffer.draw(settings.uniforms(rng, 1000, ratio), 0.4).batch)
        assert len(own) == 8000
        count += int(own.sum())
        pairs += int((own[::2] & own[1::2]).sum())
    total = total // 8000 * 8000
    assert abs(count - total * ratio) < 4 * np.sqrt(total * ratio * (1 - ratio))
    assert abs(pairs - total / 2 * ratio**2) < 4 * np.sqrt(total / 2 * ratio**2) + 1


@pytest.mark.parametrize("algorithm", [RECURRENT, PLAIN], ids=["sequences", "transitions"])
def test_weights_are_those_of_each_buffers_own_probabilities(algorithm: DQN) -> None:
    """(N P)^-beta over the largest of the batch; late priorities go to where a row is from."""
    buffer, _ = filled(algorithm)
    rng = np.random.default_rng(1)
    value: dict[int, float] = {}
    for _ in range(30):
        drawn = buffer.draw(rng.random((1, 16, 2)) - [0.0, 0.5], 0.6)
        assert (shown(drawn.batch) == (drawn.rows < 0)).all()
        sizes = [buffer.size, buffer.demos.size]
        found = []
        for row in drawn.rows.tolist():
            mass = buffer.demos.mass if row < 0 else buffer.mass
            found.append(sizes[row < 0] * value.get(row, 1.0) / mass)
        weight = (np.array(found) / min(found)) ** -0.6
        np.testing.assert_allclose(drawn.batch["weight"], weight, rtol=1e-5)
        priority = rng.uniform(0.1, 3.0, 16)
        assert buffer.set_priorities(drawn.rows, priority) == 0
        value |= dict(zip(drawn.rows.tolist(), (priority**0.9).tolist(), strict=True))


def test_a_demonstration_begins_with_the_initial_memory_and_is_never_overwritten() -> None:
    buffer, made = filled(RECURRENT, capacity=120)
    before = buffer.demos.everything().batch
    assert before["obs"]["obs"].shape[0] == 5 * 4  # sequences of 4 steps, each 2 steps, of 8
    assert not any(x.any() for path, x in before["obs"].items() if path.startswith(MEMORY))
    assert before["begins"][::4, 2].all()
    for number in range(4, 20):
        buffer.store(0, made.sample(number).batch)
    assert difference(buffer.demos.everything().batch, before) == ""


def test_priorities_of_demonstrations_are_saved_and_rolled_back() -> None:
    buffer, made = filled(RECURRENT)
    rng = np.random.default_rng(2)

    def learn() -> None:
        rows = buffer.draw(rng.random((1, 16, 2)) - [0.0, 0.5], 0.6).rows
        buffer.set_priorities(rows, rng.uniform(0.1, 3.0, 16))

    learn()
    buffer.forget(buffer.changes)
    before, mark = copy.deepcopy(buffer.get_state()), buffer.changes
    for number in range(4, 7):
        learn()
        buffer.store(0, made.sample(number).batch)
    after = copy.deepcopy(buffer.get_state())
    assert difference(after["demos"], before["demos"]) != ""
    other, _ = filled(RECURRENT)
    other.set_state(after)
    u = rng.random((2, 8, 2)) - [0.0, 0.5]
    assert difference(vars(other.draw(u, 0.6)), vars(buffer.draw(u, 0.6))) == ""
    buffer.rollback(mark)
    assert difference(buffer.get_state(), before) == ""


# ------------------------------------------------------------------ runs


GIVEN: dict[str, Any] = {
    **{"network": LSTM, **SHAPE, "n_step": 2, "learner": "torch", "report_every": 1},
    # Two gradient steps for each fragment, which both plans take at once.
    **{"envs_per_worker": 4, "fragment_length": 4, "capacity": 400, "warmup": 64, "batch_size": 4},
    **{"replay_ratio": 2.0},
    **{"workers": 1, "in_process": True},
}


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three episodes of CartPole by an untrained policy."""
    pytest.importorskip("minari")
    folder = tmp_path_factory.mktemp("demos")
    with Trainer("dqn", "CartPole-v1", network=TINY) as trainer:
        record(trainer.policy, "CartPole-v1", 3, folder / "set")
    return str(folder / "set")


def state(trainer: Trainer) -> dict[str, Any]:
    own = {"learner": trainer.learner.get_state(), "run": trainer.run.get_state()}
    buffer = trainer.run.buffer
    return own if buffer is None else own | {"buffer": buffer.get_state()}


@pytest.mark.parametrize("plan", ["sync_replay", "async_replay"])
def test_without_any_drawn_it_is_r2d2_to_the_bit(plan: str, demos: str) -> None:
    own = {"slack": 0, "sync_every": 1} if plan == "async_replay" else {}
    found = []
    for system, fields in (("r2d2", {}), ("r2d3", {"demos": demos, "demo_ratio": 0.0})):
        with Trainer(system, "CartPole-v1", plan=plan, **GIVEN, **own, **fields) as trainer:
            while trainer.learner.gradient_steps < 20:
                trainer.train()
            found.append(state(trainer))
    assert difference(*found) == ""


def test_in_lock_step_the_asynchronous_plan_is_the_synchronous_one(demos: str) -> None:
    found = []
    for plan, own in (("sync_replay", {}), ("async_replay", {"slack": 0, "sync_every": 1})):
        fields = {"demos": demos, "demo_ratio": 0.25, "alpha": 0.0}
        with Trainer("r2d3", "CartPole-v1", plan=plan, **GIVEN, **own, **fields) as trainer:
            while trainer.learner.gradient_steps < 20:
                trainer.train()
            found.append(trainer.learner.get_state())
    for part in ("params", "optimiser", "targets"):
        assert difference(found[0][part], found[1][part]) == "", part


def test_a_saved_run_goes_on_bit_for_bit(demos: str, tmp_path: Path) -> None:
    given = {**GIVEN, "plan": "sync_replay", "demos": demos, "demo_ratio": 0.25}
    with Trainer("r2d3", "CartPole-v1", **given) as whole:
        for i in range(20):
            if i == 14:
                whole.save(tmp_path)
            whole.train()
        assert whole.learner.gradient_steps > 10
        with Trainer.restore(tmp_path) as resumed:
            for _ in range(6):
                resumed.train()
            assert difference(state(whole), state(resumed)) == ""


@pytest.mark.parametrize(
    ("system", "fields", "why"),
    [
        ("r2d3", {}, "replay.demos names none"),
        ("r2d3", {"demos": "here", "scale_reward": True}, "cannot be scaled"),
        ("gorila", {"demos": "here"}, "draws no demonstrations"),
    ],
)
def test_what_cannot_be_is_refused(system: str, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Trainer(system, "CartPole-v1", **fields)
