"""Can a trainer take over new settings, and another's checkpoint, without beginning anew?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.checkpoint import files as checkpoint
from shoal.errors import ConfigError

SMALL: dict[str, Any] = {
    "envs_per_worker": 2,
    "fragment_length": 16,
    "epochs": 1,
    "minibatch_size": 32,
    "report_every": 32,
    "hidden": (8,),
}


def small(**fields: Any) -> shoal.Trainer:
    return shoal.Trainer("ppo", "CartPole-v1", **{**SMALL, **fields})


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_what_is_set_is_what_the_optimiser_takes(tmp_path: Path) -> None:
    with small(lr=1e-3) as trainer:
        trainer.train()
        before = trainer.learner.weights()
        trainer.set(lr=1e-12)
        report = trainer.train()
        after = trainer.learner.weights()
        assert report["hyper/lr"] == 1e-12
        assert max(np.abs(after[k] - before[k]).max() for k in after) < 1e-9  # steps of that size
        path = trainer.save(tmp_path)
    with shoal.Trainer.restore(path) as again:
        assert again.config.algorithm.lr == 1e-12 and again.train()["hyper/lr"] == 1e-12


def test_a_change_of_the_stop_changes_what_is_annealed() -> None:
    with small(lr="linear(1, 0)", stop_steps=1000) as trainer:
        trainer.set(stop_steps=64)
        trainer.train()
        assert trainer.train()["hyper/lr"] == pytest.approx(0.5)


@pytest.mark.parametrize("fields", [{"epochs": 2}, {"envs_per_worker": 4}, {"gamma": 0.5}])
def test_what_programs_and_workers_hold_cannot_be_set(fields: dict[str, Any]) -> None:
    with small(lr=1e-3) as trainer:
        with pytest.raises(ConfigError, match="cannot change while this trainer runs"):
            trainer.set(lr=1.0, **fields)
        assert trainer.config.algorithm.lr == 1e-3


def test_a_checkpoint_of_the_same_seed_goes_on_exactly(tmp_path: Path) -> None:
    with small() as trainer:
        trainer.train()
        path = trainer.save(tmp_path)
        trainer.train()
        trainer.train()
        there = trainer.learner.weights()
        trainer.load(path)  # back, in the same trainer
        trainer.train()
        trainer.train()
        assert equal(trainer.learner.weights(), there)


def test_settings_of_a_checkpoint_do_not_come_along(tmp_path: Path) -> None:
    with small(lr=0.5, clip=0.3) as donor:
        donor.train()
        path = donor.save(tmp_path)
    with small(lr=0.25, clip=0.1, seed=1) as trainer:
        trainer.train()
        trainer.load(path)
        report = trainer.train()
        assert (report["hyper/lr"], report["hyper/clip"]) == (0.25, 0.1)
        assert (
            checkpoint.load(trainer.save(tmp_path / "own"))[1]["config"]["algorithm"]["lr"] == 0.25
        )


def test_a_copy_has_what_was_learned_and_randomness_of_its_own(tmp_path: Path) -> None:
    with small(normalise_obs=True) as donor:
        for _ in range(3):
            donor.train()
        path = donor.save(tmp_path)
        state, _ = checkpoint.load(path)
        donor.train()
        theirs = donor.learner.weights()
    with small(normalise_obs=True, seed=1) as copy:
        copy.train()
        copy.load(path)
        own = copy.learner.get_state()
        for part in ("params", "optimiser"):
            assert equal(own[part], state["learner"][part])
        assert copy.run.get_state()["moments"].keys() == state["run"]["moments"].keys()
        assert copy.run.counters.env_steps == state["run"]["counters"]["env_steps"]
        assert copy.recorder.return_mean() is not None
        copy.train()
        assert not equal(copy.learner.weights(), theirs)
