"""Is an evaluator in a process of its own one that samplers, learner and user can rely on?"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.checkpoint import files as checkpoint
from shoal.evaluating import first_seed
from shoal.process.tracebacks import frames_of
from shoal.trainer import Trainer
from tests.test_evaluating import SMALL, Told

pytestmark = pytest.mark.usefixtures("one_ray")


class Mortal(Told):
    """The first evaluator that plays in it is killed, if ``mark`` names a file."""

    def __init__(self, worker_index: int = 0, mark: str = "", fails: bool = False) -> None:
        super().__init__(worker_index, fails)
        self.mark = mark

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.mark and self.worker < 0 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def impala(**fields: Any) -> Trainer:
    own = {"workers": 1, "evaluate_every": 64, "evaluate_episodes": 3, "stop_steps": 20_000}
    return Trainer("impala", Mortal, **{**SMALL, **own, **fields})


def test_one_that_is_killed_is_replaced_and_what_is_saved_is_what_it_played(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "killed"
    with (
        caplog.at_level(logging.WARNING, "shoal"),
        impala(env_kwargs={"mark": str(mark)}) as trainer,
    ):
        report = next(r for r in trainer if "evaluation/return_mean" in r)
        assert 64 <= report["evaluation/env_steps"] < report["env_steps"]
        _, meta = checkpoint.load(trainer.save_best(tmp_path), parts=())
        assert meta["counters"]["env_steps"] == report["evaluation/env_steps"]
    said = [record.getMessage() for record in caplog.records]
    assert mark.exists() and any(
        text.startswith("evaluator 0: its process was killed during 'evaluate'")
        and text.endswith("it is replaced")
        for text in said
    )
    best = shoal.load(tmp_path, best=True)
    oracle = shoal.evaluate(best, Mortal, 3, seed=first_seed(0))
    assert report["evaluation/return_mean"] == oracle["return_mean"]


def test_what_its_environment_raises_arrives_as_itself() -> None:
    with (
        impala(env_kwargs={"fails": True}) as trainer,
        pytest.raises(ValueError, match="the wheel fell off") as caught,
    ):
        list(trainer)
    notes = " ".join(caught.value.__notes__)
    assert "evaluating the weights of" in notes and "in the evaluator (process" in notes
    assert Path(frames_of(caught.value)[-1][0]).name == "test_evaluating.py"


def test_the_last_report_has_the_evaluation_of_the_last_weights() -> None:
    """The run has ended by then, and waits for it."""
    with impala(evaluate_every=512, stop_steps=512) as trainer:
        *_, report = trainer
        oracle = shoal.evaluate(trainer.policy, Mortal, 3, seed=first_seed(0))
    assert report["evaluation/env_steps"] == report["env_steps"] >= 512
    assert report["evaluation/return_mean"] == oracle["return_mean"]
