"""Does a user's own algorithm train, and is it never mistaken for the one it derives from?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import shoal
from shoal.configure import configure
from shoal.errors import ConfigError
from shoal.systems import SYSTEMS
from shoal.trainer import Trainer
from tests.faults.broken import Broken, Halved
from tests.worlds import TINY


def test_it_takes_the_row_of_what_it_derives_from() -> None:
    config = configure(Halved(lr=1.0), "CartPole-v1")
    assert (config.system, config.plan, config.rollout) == (
        "a2c",
        SYSTEMS["a2c"].plan,
        SYSTEMS["a2c"].rollout,
    )
    assert type(config.algorithm) is Halved and config.algorithm.lr == 1.0


def test_what_derives_from_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="object is no algorithm of Shoal's"):
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


def test_a_checkpoint_does_not_pass_for_its_parents(tmp_path: Path) -> None:
    with Trainer(Halved(network=TINY), Broken, stop_steps=40) as trainer:
        trainer.train()
        trainer.save(tmp_path)
    for algorithm in (None, shoal.A2C()):
        with pytest.raises(ConfigError, match=r"of the class tests\.faults\.broken:Halved"):
            Trainer.restore(tmp_path, Broken, algorithm=algorithm)
    with pytest.raises(ConfigError, match=r"of the class tests\.faults\.broken:Halved"):
        shoal.load(tmp_path)
    assert isinstance(shoal.load(tmp_path, algorithm=Halved()).algorithm, Halved)
