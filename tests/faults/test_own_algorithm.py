"""Does a user's own algorithm train, and is it never mistaken for the one it derives from?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.config.settings import to_dict
from shoal.errors import ConfigError
from shoal.systems.configure import configure
from shoal.systems.table import SYSTEMS
from shoal.trainer import Trainer
from tests.faults.broken import Broken, Contrary, Halved, Patient
from tests.worlds import TINY


def test_it_takes_the_row_of_what_it_derives_from() -> None:
    config = configure(Halved(lr=1.0), "CartPole-v1")
    assert (config.system, config.plan, config.rollout) == (
        "a2c",
        SYSTEMS["a2c"].plan,
        SYSTEMS["a2c"].rollout,
    )
    assert type(config.algorithm) is Halved and config.algorithm.lr == 1.0


def test_what_is_no_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError, match="object is no algorithm"):
        configure(object(), "CartPole-v1")


def test_its_own_loss_is_what_is_trained_on_after_a_restore_too(tmp_path: Path) -> None:
    """Metrics are the parent's, the gradient is half as long."""
    with Trainer(Halved(network=TINY), Broken, stop_steps=40) as trainer:
        half = trainer.train()["learn/grad_norm"]
        trainer.save(tmp_path)
    with Trainer(shoal.A2C(network=TINY), Broken, stop_steps=40) as trainer:
        np.testing.assert_allclose(trainer.train()["learn/grad_norm"], 2 * half, rtol=1e-5)
    with Trainer.restore(tmp_path, Broken, algorithm=Halved(lr=9.0), stop_steps=80) as trainer:
        assert type(trainer.config.algorithm) is Halved
        assert trainer.config.algorithm.lr == Halved().lr  # the run's own
        trainer.train()


def saved(folder: Path, algorithm: Any, plan: Any = None) -> Trainer:
    with Trainer(algorithm, Broken, plan=plan, stop_steps=40) as trainer:
        trainer.train()
        trainer.save(folder)
    return trainer


def test_a_checkpoint_does_not_pass_for_its_parents(tmp_path: Path) -> None:
    saved(tmp_path, Halved(network=TINY))
    with pytest.raises(
        ConfigError, match=r"'tests\.faults\.broken:Halved' there: code is imported"
    ):
        Trainer.restore(tmp_path, Broken)
    with pytest.raises(ConfigError, match=r"class tests\.faults\.broken:Halved, and shoal\."):
        Trainer.restore(tmp_path, Broken, algorithm=shoal.A2C())


def test_a_policy_is_loaded_without_the_class_that_only_learns_otherwise(tmp_path: Path) -> None:
    trainer = saved(tmp_path, Halved(network=TINY), Patient(pauses=5))
    policy = shoal.load(tmp_path)
    assert type(policy.algorithm) is shoal.A2C
    obs = np.random.default_rng(0).standard_normal((30, 2), dtype=np.float32)
    np.testing.assert_array_equal(policy.act(obs), trainer.policy.act(obs))
    assert isinstance(shoal.load(tmp_path, algorithm=Halved()).algorithm, Halved)


def test_a_class_that_acts_in_its_own_way_is_needed_to_act(tmp_path: Path) -> None:
    trainer = saved(tmp_path, Contrary(network=TINY))
    with pytest.raises(ConfigError, match=r"algorithm is 'tests\.faults\.broken:Contrary' there"):
        shoal.load(tmp_path)
    obs = np.random.default_rng(0).standard_normal((30, 2), dtype=np.float32)
    for policy in (
        shoal.load(tmp_path, algorithm="tests.faults.broken:Contrary"),
        shoal.load(tmp_path, trust=True),
    ):
        np.testing.assert_array_equal(policy.act(obs), trainer.policy.act(obs))


@pytest.mark.parametrize("plan", [Patient(), "tests.faults.broken:Patient"])
def test_a_run_under_a_plan_of_ones_own_goes_on_with_its_options(tmp_path: Path, plan: Any) -> None:
    saved(tmp_path, shoal.A2C(network=TINY), Patient(pauses=5))
    with pytest.raises(ConfigError, match=r"plan is 'tests\.faults\.broken:Patient' there"):
        Trainer.restore(tmp_path, Broken)
    with Trainer.restore(tmp_path, Broken, plan=plan, stop_steps=80) as trainer:
        assert trainer.config.plan == Patient(pauses=5)
        assert trainer.train()["env_steps"] >= 80


def test_names_stand_for_systems_algorithms_and_plans() -> None:
    here = "tests.faults.broken"
    config = configure(f"{here}:Halved", "CartPole-v1", {}, {"lr": 1.0}, plan=f"{here}:Patient")
    assert config.algorithm == Halved(lr=1.0) and config.plan == Patient()
    config = configure("ppo", "CartPole-v1", algorithm=f"{here}:Halved")
    assert config.algorithm == Halved() and config.rollout == SYSTEMS["ppo"].rollout


def test_a_config_file_repeats_a_run_of_ones_own_only_if_it_is_trusted(tmp_path: Path) -> None:
    config = configure(Halved(lr=1.0), "CartPole-v1", plan=Patient(pauses=5))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(config)))
    assert configure(None, None, file, trust=True) == config
    with pytest.raises(ConfigError, match="algorithm is"):
        configure(None, None, file)
    assert configure(None, None, file, algorithm=Halved(), plan=Patient()).plan == Patient()
