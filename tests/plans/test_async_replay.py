"""Do workers, shards and the learner stay within the declared ratio, and lose nothing unsaid?"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from shoal.algorithms.dqn import DQN
from shoal.config.replay import Replay
from shoal.errors import ConfigError
from shoal.fleet.parcel import Lost, Parcel
from shoal.fleet.replay_shard import ReplayShard
from shoal.fleet.worker import Worker
from shoal.learners.choose import create_learner
from shoal.plans.async_replay import AsyncReplay
from shoal.plans.shard_ledger import ShardLedger
from shoal.trainer import Trainer
from shoal.trajectory import flat
from tests.fleet.members import pid_of
from tests.plans.test_sync_replay import SMALL
from tests.worlds import RECURRENT, difference, settings, worker


@pytest.fixture(autouse=True)
def one_update_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)


def make(system: str = "ape-x", **fields: Any) -> Trainer:
    plan = AsyncReplay(
        **{k: fields.pop(k) for k in ("shards", "slack", "sync_every") if k in fields}
    )
    return Trainer(system, "CartPole-v1", plan=plan, **{**SMALL, "workers": 2, **fields})


def accounts(report: dict[str, Any]) -> None:
    known = sum(report[f"{kind}_steps"] for kind in ("trained", "dropped", "in_flight"))
    assert report["env_steps"] == known, report


# ----------------------------------------------------------------------------- one process


@pytest.mark.parametrize("system", ["dqn", "double-dqn"])
def test_in_lock_step_with_one_worker_and_one_shard_it_is_the_synchronous_plan(
    system: str,
) -> None:
    """To the bit: the same draws, the same steps, weights to the worker after each of them."""
    # Two gradient steps for each fragment, which both plans take at once.
    fields: dict[str, Any] = {
        "workers": 1,
        "in_process": True,
        "envs_per_worker": 4,
        "replay_ratio": 1.0,
        "warmup": 48,
    }
    one = Trainer(system, "CartPole-v1", **{**SMALL, **fields})
    other = make(system, slack=0, sync_every=1, **fields)
    with one, other:
        for each in (one, other):
            while each.learner.gradient_steps < 20:
                each.train()
        a, b = (each.learner.get_state() for each in (one, other))
        assert a["gradient_steps"] == b["gradient_steps"] == 20
        for part in ("params", "optimiser", "targets"):
            assert difference(a[part], b[part]) == "", part


def test_each_row_gets_the_priority_that_the_learner_found(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    found: list[Any] = []
    told: list[Any] = []
    exchange = ReplayShard.exchange

    def seen(shard: ReplayShard, number: int, parcels: Any, priorities: Any, *others: Any) -> Any:
        told.extend(priorities)
        answer = exchange(shard, number, parcels, priorities, *others)
        drawn.extend([] if answer.drawn is None else [answer.drawn.rows])
        return answer

    monkeypatch.setattr(ReplayShard, "exchange", seen)
    with make(in_process=True, warmup=48) as trainer:
        update = trainer.learner.update

        def updated(*args: Any) -> Any:
            metrics, rows = update(*args)
            found.append(rows["priority"])
            return metrics, rows

        monkeypatch.setattr(trainer.learner, "update", updated)
        while len(told) < 10:
            trainer.train()
    for (rows, priority), own_rows, own in zip(told, drawn, found, strict=False):
        np.testing.assert_array_equal(rows, own_rows)
        np.testing.assert_array_equal(priority, own)
    assert np.ptp(found[0]) > 0


def test_a_worker_gets_weights_after_its_own_number_of_env_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fragment has 12, and two may be in flight."""
    since: dict[int, int] = {}
    gaps: list[int] = []
    set_weights, sample = Worker.set_weights, Worker.sample_apart

    def sent(worker: Worker, *args: Any) -> None:
        set_weights(worker, *args)
        gaps.append(since.pop(id(worker), 0))

    def sampled(worker: Worker, *args: Any) -> Any:
        result = sample(worker, *args)
        since[id(worker)] = since.get(id(worker), 0) + result.env_steps
        return result

    monkeypatch.setattr(Worker, "set_weights", sent)
    monkeypatch.setattr(Worker, "sample_apart", sampled)
    with make(in_process=True, sync_every=60) as trainer:
        while len(gaps) < 10:
            trainer.train()
    assert gaps[:2] == [0, 0]  # before the first fragment
    assert all(60 <= gap <= 60 + 2 * 12 for gap in gaps[2:]), gaps


@pytest.mark.parametrize("ratio", [0.5, 4.0, 13.7])
@pytest.mark.parametrize("shards", [1, 2])
def test_the_ratio_holds_and_every_step_is_accounted_for(ratio: float, shards: int) -> None:
    with make(replay_ratio=ratio, shards=shards, in_process=True, slack=4) as trainer:
        for _ in range(60):
            report = trainer.train()
            accounts(report)
        run = trainer.run
        owed = ratio * (run.counters.trained_steps - (run.counters.learning_from or 0))
        assert owed >= run.counters.replayed_steps
        # What may be due: the slack, and what two workers bring in the meantime.
        assert owed - run.counters.replayed_steps <= 8 * (4 + 1) + ratio * 12 * 4


def test_shards_are_drawn_from_in_proportion_to_what_they_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers on one shard and one on the other: twice as much is held, and drawn."""
    held: dict[int, int] = {}
    drawn: dict[int, int] = {}
    exchange = ReplayShard.exchange

    def seen(shard: ReplayShard, *args: Any) -> Any:
        answer = exchange(shard, *args)
        held[id(shard)] = answer.held
        rows = 0 if answer.drawn is None else len(answer.drawn.rows)
        drawn[id(shard)] = drawn.get(id(shard), 0) + rows
        return answer

    monkeypatch.setattr(ReplayShard, "exchange", seen)
    with make("dqn", workers=3, shards=2, in_process=True, slack=2, capacity=5000) as trainer:
        for _ in range(400):
            trainer.train()
    for counts in (held, drawn):
        assert max(counts.values()) / min(counts.values()) == pytest.approx(2.0, rel=0.1)


class Masked(gym.Env[Any, Any]):
    """Walks among random numbers; one of three actions is not allowed. Episodes are cut, or end."""

    observation_space, action_space = gym.spaces.Box(-9.0, 9.0, (2,)), gym.spaces.Discrete(3)

    def seen(self) -> tuple[Any, dict[str, Any]]:
        allowed = np.ones(3, np.int8)
        allowed[self.np_random.integers(3)] = 0
        return self.np_random.standard_normal(2).astype("f"), {"action_mask": allowed}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.seen()

    def step(self, action: Any) -> Any:
        obs, info = self.seen()
        end, cut = self.np_random.random(2) < 0.1
        return obs, float(self.np_random.normal()), bool(end), bool(cut), info


@pytest.mark.parametrize(
    ("system", "env", "switches"),
    [
        ("ape-x", "CartPole-v1", {}),
        ("ape-x", "CartPole-v1", {"atoms": 11}),
        ("ape-x", Masked, {}),
        ("ape-x-dpg", "Pendulum-v1", {}),
    ],
    ids=["ape-x", "of distributions", "masked", "ape-x-dpg"],
)
def test_initial_priorities_are_what_the_learner_would_find(
    system: str, env: Any, switches: dict[str, Any]
) -> None:
    """With the weights that sampled, and targets equal to them; over ends and short windows."""
    rollout = {"envs_per_worker": 3, "fragment_length": 40}
    config = settings(system, env, rollout=rollout, **switches)
    made = worker(config)
    algorithm: Any = config.algorithm
    model, weights = made.model, dict(made.weights)
    made.set_weights({**algorithm.exploration(100_000, 3), **weights}, 0)
    batch = made.sample_apart().batch.open()
    found = batch["priority"]
    learner = create_learner(
        "jax", algorithm, model, algorithm.init(model, np.random.default_rng(0)), 1
    )
    learner.set_weights(weights, 1)
    shard = ReplayShard(config.replay, algorithm, model, {}, 3)
    shard.exchange(1, [(0, Parcel(batch))], [], None, 0.0)
    drawn = shard._buffer.everything()
    _, _, rows = learner.gradients({**drawn.batch, "step": {}}, {"lr": 0.0})
    told = found.T[batch["mask"].T]
    np.testing.assert_allclose(rows["priority"], told, rtol=1e-5, atol=1e-6)
    assert len(set(np.round(flat(found), 6).tolist())) > 50


def test_epsilons_are_a_ladder_over_all_environments() -> None:
    """The golden ones of 8 workers of one environment: .4, .16, ... .00065536."""
    dqn = DQN(epsilon=0.4, ladder=7.0)
    golden = [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536]
    np.testing.assert_allclose(dqn.exploration(0, 8)["explore/epsilon"], golden, rtol=1e-5)
    assert dqn.exploration(10**6, 1)["explore/epsilon"] == pytest.approx([0.4])


@pytest.mark.parametrize("index, part", [(0, [0, 1]), (1, [2, 3]), (2, [0, 1])])
def test_a_worker_explores_with_the_epsilons_of_its_own_environments(
    index: int, part: list[int]
) -> None:
    """One that joined later shares another's."""
    config = settings("ape-x", "CartPole-v1", rollout={"workers": 2, "envs_per_worker": 2})
    made = worker(config, index)
    ladder = config.algorithm.exploration(0, 4)["explore/epsilon"]
    made.set_weights({**made.weights, "explore/epsilon": ladder}, 5)
    assert made.weights["explore/epsilon"].tolist() == ladder[part].tolist()


def test_a_run_is_reported_and_ends_before_its_learning_begins() -> None:
    """The wait for the warm-up is seen, and can be stopped."""
    with Trainer("ape-x", "CartPole-v1", in_process=True, warmup=50_000, stop_steps=4_000) as run:
        reports = list(run)
    assert 4_000 <= reports[-1]["env_steps"] < 50_000
    assert reports[-1]["gradient_steps"] == 0
    assert reports[-1]["episodes"] > 0


# ----------------------------------------------------------------------------- faults


class Gone:
    """A parcel whose worker died with it."""

    def open(self) -> Any:
        raise Lost("gone")


def test_a_fragment_that_died_with_its_worker_is_left_out_whole() -> None:
    """And the one after it is not taken for its continuation."""
    config = settings("dqn", "CartPole-v1", rollout={"envs_per_worker": 1, "fragment_length": 10})
    made = worker(config)
    fragments = [made.sample().batch for _ in range(3)]
    shard = ReplayShard(config.replay, config.algorithm, made.model, {}, 1)
    gone: Any = Gone()
    parcels = [(0, Parcel(fragments[0])), (0, gone), (0, Parcel(fragments[2]))]
    served = shard.exchange(1, parcels, [], None, 0.0)
    assert served.stored == 20
    drawn = shard._buffer.everything().batch
    seen = np.concatenate([f["obs"]["obs"][:, 0] for f in (fragments[0], fragments[2])])
    known = {tuple(x) for x in seen.tolist()}
    finals = [f["final"]["obs"] for f in (fragments[0], fragments[2])]
    known |= {tuple(x) for x in np.concatenate(finals).tolist()}
    assert all(tuple(x) in known for x in drawn["obs"]["obs"].tolist())
    assert all(tuple(x) in known for x in drawn["next_obs"]["obs"].tolist())


def test_late_priorities_never_land_on_a_row_that_took_the_place() -> None:
    config = settings("ape-x", "CartPole-v1", rollout={"envs_per_worker": 1, "fragment_length": 30})
    made = worker(config)
    small = Replay(capacity=64, batch_size=4, warmup=8, alpha=0.6)
    shard = ReplayShard(small, replace(config.algorithm, n_step=1), made.model, {}, 1)
    first = shard.exchange(1, [(0, Parcel(made.sample().batch))], [], np.zeros((1, 4)), 0.4)
    for i in range(4):
        shard.exchange(2 + i, [(0, Parcel(made.sample().batch))], [], None, 0.4)
    before = shard._buffer.mass
    assert first.drawn is not None
    shard.exchange(9, [], [(first.drawn.rows, np.full(4, 1e6))], None, 0.4)
    assert shard._buffer.mass == before


SEQUENCES: dict[str, Any] = {"network": RECURRENT, "sequence": 6, "burn_in": 3, "overlap": 3}


@pytest.mark.parametrize("own", [{}, SEQUENCES], ids=["transitions", "sequences"])
def test_a_shard_that_is_killed_is_said_counted_and_replaced(
    own: dict[str, Any],
    one_ray: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: dict[int, int] = {}  # env steps that each shard is known to hold
    take = ShardLedger.take

    def taken(ledger: ShardLedger, index: int, answer: Any) -> Any:
        held[index] = answer.held
        return take(ledger, index, answer)

    monkeypatch.setattr(ShardLedger, "take", taken)
    with make(shards=2, capacity=5000, cpus_per_worker=0.0, **own) as trainer:
        # On a busy machine one worker may fill its shard long before the other has begun.
        for _ in range(2000):
            if held.get(0) and trainer.run.counters.trained_steps >= 1000:
                break
            accounts(trainer.train())
        assert held[0] > 0
        (shards,) = trainer.fleet._spawned  # type: ignore[attr-defined]
        os.kill(pid_of(shards, 0), signal.SIGKILL)
        for _ in range(200):
            report = trainer.train()
            accounts(report)
            if report["lost_steps"]:
                break
        assert 0 < report["lost_steps"] < report["trained_steps"]
        assert "replay shard 0 was lost, with " in caplog.text
        for _ in range(5):
            accounts(trainer.train())


@pytest.mark.parametrize("own", [{}, SEQUENCES], ids=["transitions", "sequences"])
def test_a_worker_killed_in_mid_transfer_costs_whole_fragments(
    own: dict[str, Any], one_ray: None
) -> None:
    with make(capacity=5000, cpus_per_worker=0.0, **own) as trainer:
        for _ in range(8):
            accounts(trainer.train())
        os.kill(pid_of(trainer.fleet, 0), signal.SIGKILL)
        for _ in range(30):
            report = trainer.train()
            accounts(report)
        assert trainer.fleet.stats.restarts == {0: 1}
        assert report["lost_steps"] == 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"shards": 0}, "plan.shards"),
        ({"slack": -1}, "plan.slack"),
        ({"sync_every": 0}, "plan.sync_every"),
    ],
)
def test_options_that_mean_nothing_are_refused(fields: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        AsyncReplay(**fields)


def test_trajectory_algorithms_are_refused() -> None:
    with pytest.raises(ConfigError, match="not from single transitions"):
        Trainer("impala", "CartPole-v1", plan="async_replay", workers=2)
