"""Do workers that remember for themselves give the gradients of the declared ratio?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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


def test_one_worker_that_gives_gradients_is_the_synchronous_plan_with_one_step_at_a_time() -> None:
    """Targets follow in the worker what they follow in the learner."""
    with make("async_gradients", workers=1, target_every=3) as trainer:
        while trainer.learner.gradient_steps < 20:
            trainer.train()
            worker: Any = trainer.fleet._members[0]  # type: ignore[attr-defined]
            behind = trainer.learner.gradient_steps - worker.learner.version
            assert behind in (0, 1)
            if worker.learner.version > 0 and not behind:
                own, leading = worker.learner.get_state(), trainer.learner.get_state()
                assert difference(own["params"], leading["params"]) == ""
                if trainer.learner.gradient_steps >= 3:
                    assert difference(own["targets"], leading["targets"]) == ""


@pytest.mark.parametrize("system", ["ddpg", "td3", "sac"])
@pytest.mark.parametrize("plan", ["async_gradients", "parameter_server"])
def test_actor_critics_run_where_gradients_travel(plan: str, system: str) -> None:
    fields: dict[str, Any] = {k: x for k, x in SMALL.items() if k != "target_every"}
    fields |= {"workers": 2, "in_process": True, "replay_ratio": 4.0}
    with Trainer(system, "Pendulum-v1", plan=plan, **fields) as trainer:
        before = trainer.learner.weights()
        while trainer.learner.gradient_steps < 30:
            trainer.train()
        after = trainer.learner.weights()
        for name in ("pi/out/w", "q0/out/w"):
            assert np.abs(after[name] - before[name]).max() > 0


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
