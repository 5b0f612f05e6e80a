"""Are transitions replayed as often as declared, and does a run resume as if never cut?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.fleet.local import LocalFleet
from shoal.fleet.worker import Worker
from shoal.trainer import Trainer
from tests.worlds import TINY, difference, interrupt

SMALL: dict[str, Any] = {
    "network": TINY,
    "envs_per_worker": 3,
    "fragment_length": 4,
    "capacity": 500,
    "warmup": 40,
    "batch_size": 8,
    "target_every": 7,
    "learner": "torch",
}


@pytest.fixture(autouse=True)
def one_update_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)


def make(system: str = "rainbow", **fields: Any) -> Trainer:
    return Trainer(system, "CartPole-v1", **{**SMALL, **fields})


@pytest.mark.parametrize("ratio", [0.5, 2.0, 8.0, 13.7])
def test_what_is_trained_on_keeps_the_declared_ratio(ratio: float) -> None:
    with make("dqn", replay_ratio=ratio) as trainer:
        for _ in range(25):
            report = trainer.train()
            begun, run = trainer.run.counters.learning_from, trainer.run
            if begun is None:
                assert report["gradient_steps"] == 0 and run.local_replay.buffer.stored < 40
                continue
            # The next call learns first, so what this one sampled is not yet due.
            owed = ratio * (run.local_replay.buffer.stored - begun)
            assert run.counters.replayed_steps <= owed
            assert owed - run.counters.replayed_steps < 8 + ratio * 12
            assert run.counters.replayed_steps == 8 * report["gradient_steps"]
            assert report["env_steps"] == report["trained_steps"] == run.local_replay.buffer.stored


def test_a_ratio_that_no_single_call_can_keep_samples_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At most two gradient steps fit into a call: then it learns until nothing is due."""
    monkeypatch.setattr("shoal.replay.settings.FUSED", 2 * 2 * 8 * 16)
    with make("dqn", replay_ratio=8.0) as trainer:
        for _ in range(40):
            report = trainer.train()
    run = trainer.run
    owed = 8.0 * (run.local_replay.buffer.stored - run.counters.learning_from)
    assert 0 <= owed - report["replayed_steps"] < 8 + 8.0 * 12


@pytest.mark.parametrize("system", ["dqn", "rainbow"])
@pytest.mark.parametrize("cut", [2, 6])
def test_a_saved_run_goes_on_bit_for_bit(system: str, cut: int, tmp_path: Any) -> None:
    """In the warm-up and after it, buffer, priorities and target network included."""
    with make(system) as whole:
        for i in range(9):
            if i == cut:
                whole.save(tmp_path)
            whole.train()
        with Trainer.restore(tmp_path) as resumed:
            for _ in range(9 - cut):
                resumed.train()
            for part in ("learner", "run"):
                states = [getattr(t, part).get_state() for t in (whole, resumed)]
                assert difference(*states) == ""
            memories = [t.run.local_replay.buffer.get_state() for t in (whole, resumed)]
            assert difference(*memories) == ""


@pytest.mark.parametrize("when", ["update", "sample"])
def test_an_interrupted_round_is_repeated_as_if_it_had_never_begun(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make() as whole, make() as cut:
        for _ in range(6):
            whole.train(), cut.train()
        interrupt(cut, cut.learner if when == "update" else Worker, when, monkeypatch)
        for _ in range(3):
            whole.train(), cut.train()
        assert difference(whole.learner.get_state(), cut.learner.get_state()) == ""
        assert (
            difference(
                whole.run.local_replay.buffer.get_state(), cut.run.local_replay.buffer.get_state()
            )
            == ""
        )


def test_several_gradient_steps_in_one_call_are_the_same_as_one_after_the_other() -> None:
    """On both learners, target network included: 6 steps at once, and 6 times one."""
    for kind in ("jax", "torch"):
        with make("double-dqn", learner=kind) as one, make("double-dqn", learner=kind) as other:
            one.train(), other.train()
            drawn = one.run.local_replay.buffer.draw(np.random.default_rng(0).random((6, 8)))
            hyper = one.run.hyper()
            batch = {**drawn.batch, "step": {}}
            together, rows = one.learner.update(
                batch, np.arange(48, dtype=np.int32).reshape(6, 8), hyper
            )
            told = []
            for i in range(6):
                index = np.arange(8 * i, 8 * i + 8, dtype=np.int32)[None]
                told.append(other.learner.update(batch, index, hyper)[1]["priority"])
            states = [t.learner.get_state() for t in (one, other)]
            for part in ("params", "targets"):
                for name, x in states[0][part].items():
                    np.testing.assert_allclose(x, states[1][part][name], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(rows["priority"], np.concatenate(told), rtol=1e-5)
            assert together["gradient_steps"] == 6


def test_both_learners_take_the_same_steps() -> None:
    found = []
    for kind in ("jax", "torch"):
        with make("rainbow", learner=kind) as trainer:
            for _ in range(6):
                trainer.train()
            found.append(trainer.learner.get_state())
    for part in ("params", "targets"):
        for name, x in found[0][part].items():
            np.testing.assert_allclose(x, found[1][part][name], rtol=1e-3, atol=1e-5)


def test_two_workers_in_processes_fill_the_slots_of_one_buffer(one_ray: None) -> None:
    with make("dqn", workers=2) as trainer:
        for _ in range(6):
            report = trainer.train()
        head = trainer.run.local_replay.buffer.get_state()["head"]
        assert len(head) == 6 and (head >= 20).all()
        assert (
            report["env_steps"] == report["trained_steps"] == trainer.run.local_replay.buffer.stored
        )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"capacity": 10**13}, "lower replay.capacity"),
        ({"warmup": 600}, "the buffer holds at most"),
        ({"batch_size": 64}, "raise replay.warmup"),
        ({"n_step": 400}, "too few for 400 steps at once"),
        ({"replay_ratio": 0.0}, "replay.replay_ratio"),
        ({"plan": "sync_samples"}, "this plan has no replay buffer"),
    ],
)
def test_what_cannot_be_is_refused_with_the_numbers(fields: Any, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        make("dqn", **fields)
    assert told in str(error.value)


def test_a_trajectory_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError, match="not from single transitions"):
        Trainer("ppo", "CartPole-v1", plan="sync_replay")


class Headless(LocalFleet):
    """Its barrier goes on without member 0, as when that one's node is gone."""

    def map(self, verb: str, *args: Any, **how: Any) -> list[tuple[int, Any]]:
        return super().map(verb, *args, **how)[1:]


@pytest.mark.parametrize("system", ["ppo", "dqn"])
def test_what_a_worker_sampled_is_its_own_though_another_is_missing(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics name worker 1, and its transitions lie in its own slots of the buffer."""
    small: dict[str, Any] = {"network": TINY, "envs_per_worker": 1, "learner": "torch"}
    monkeypatch.setattr("shoal.fleet.group.LocalFleet", Headless)
    with Trainer(system, "CartPole-v1", workers=2, in_process=True, **small) as trainer:
        stored: list[int] = []
        if system == "dqn":
            store = trainer.run.local_replay.buffer.store
            trainer.run.local_replay.buffer.store = lambda index, batch: (
                stored.append(index),
                store(index, batch),
            )
        report = trainer.train()
        assert {name.split("/")[1] for name in report if name.startswith("worker/")} == {"1"}
        assert stored == ([1] if system == "dqn" else [])
