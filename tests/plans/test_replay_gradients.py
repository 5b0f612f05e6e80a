"""Do workers that remember for themselves give the gradients of the declared ratio?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.fleet.learning import LearningWorker
from shoal.learners.torch import TorchLearner
from shoal.plans.async_gradients import AsyncGradients
from shoal.plans.parameter_server import ParameterServer
from shoal.trainer import Trainer
from tests.plans.test_sync_replay import SMALL
from tests.worlds import difference


@pytest.fixture(autouse=True)
def one_update_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)


def make(plan: str, system: str = "dqn", env: str = "CartPole-v1", **fields: Any) -> Trainer:
    given = {"workers": 2, "in_process": True, "replay_ratio": 2.0}
    return Trainer(system, env, plan=plan, **{**SMALL, **given, **fields})


@pytest.mark.parametrize("plan", ["async_gradients", "parameter_server"])
@pytest.mark.parametrize("system", ["dqn", "rainbow"])
def test_gradients_keep_the_ratio_and_every_step_is_accounted_for(plan: str, system: str) -> None:
    with make(plan, system) as trainer:
        for _ in range(40):
            report = trainer.train()
            known = sum(report[f"{kind}_steps"] for kind in ("trained", "dropped", "in_flight"))
            assert report["env_steps"] == known
            assert report["dropped_steps"] == 0  # whatever became of gradients, it is remembered
        assert report["replayed_steps"] == 8 * report["gradient_steps"]
        owed = 2.0 * (report["env_steps"] - 40)
        assert abs(owed - report["replayed_steps"]) < 2.0 * 12 * 2 * 10 + 2 * 8


def test_what_follows_in_the_worker_is_what_follows_in_the_learner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parameters and targets of one worker are the learner's of the same version, in each call."""
    learned: dict[int, Any] = {}
    versions = []
    gradient = LearningWorker.gradient

    def watched(worker: LearningWorker, hyper: Any) -> Any:
        own = worker.learner.get_state()
        if own["version"] in learned:
            leading = learned[own["version"]]
            for part in ("params", "targets"):
                assert difference(own[part], leading[part]) == "", own["version"]
            versions.append(own["version"])
        return gradient(worker, hyper)

    monkeypatch.setattr(LearningWorker, "gradient", watched)
    with make("async_gradients", workers=1, target_every=3) as trainer:
        while trainer.learner.gradient_steps < 20:
            trainer.train()
            learned[trainer.learner.version] = trainer.learner.get_state()
    assert len(set(versions)) >= 5


PLANS = {"async_gradients": AsyncGradients(), "parameter_server": ParameterServer(sync_every=1)}


@pytest.mark.parametrize("system", ["ddpg", "td3", "sac"])
@pytest.mark.parametrize("plan", PLANS)
def test_actor_critics_run_where_gradients_travel(
    plan: Any, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker's gradients, applied elsewhere, are the updates of one learner on its batches."""
    given: list[tuple[Any, Any]] = []
    gradients = TorchLearner.gradients

    def recorded(learner: TorchLearner, batch: Any, hyper: Any) -> Any:
        given.append((batch, dict(hyper)))
        return gradients(learner, batch, hyper)

    monkeypatch.setattr(TorchLearner, "gradients", recorded)
    fields: dict[str, Any] = {k: x for k, x in SMALL.items() if k != "target_every"}
    fields |= {"workers": 1, "in_process": True, "replay_ratio": 4.0, "tau": 0.5}
    with Trainer(system, "Pendulum-v1", plan=PLANS[plan], **fields) as trainer:
        algorithm, begin = trainer.config.algorithm, trainer.learner.weights()
        alone = TorchLearner(algorithm, trainer.model, begin)
        while trainer.learner.gradient_steps < 12:
            trainer.train()
        assert len(given) == trainer.learner.gradient_steps
        for batch, hyper in given:
            noise = {name: x[None] for name, x in batch["step"].items()}  # of one step
            alone.update({**batch, "step": noise}, None, hyper)
        for name, value in alone.get_state()["params"].items():
            found = trainer.learner.weights()[name]
            np.testing.assert_allclose(found, value, atol=1e-6, err_msg=name)
            assert np.abs(value - begin[name]).max() > 1e-4, name


def test_rewards_outside_of_the_support_are_said_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fields = {**SMALL, "v_min": -0.5, "v_max": 0.5}
    with Trainer("c51", "CartPole-v1", **fields) as trainer:
        for _ in range(8):
            report = trainer.train()
        assert report["learn/outside_support"] == 1.0
        assert caplog.text.count("outside of the support of returns, [-0.5, 0.5]") == 1
    caplog.clear()
    with Trainer("c51", "CartPole-v1", **SMALL) as trainer:
        for _ in range(8):
            report = trainer.train()
        assert report["learn/outside_support"] == 0.0 and "support" not in caplog.text
