"""Does a plan of a user's own, in a file of its own, run like Shoal's?"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from shoal.algorithms.dqn import DQN
from shoal.app.cli import main
from shoal.config.trust import find
from shoal.plans.base import Plan
from shoal.trainer import Trainer
from tests.plans.fakes import ROWS, World, lags
from tests.worlds import TINY

FILE = Path(__file__).parents[2] / "examples" / "own_plan.py"
NAME = f"{FILE}:BackupWorkers"
BackupWorkers: Any = find(NAME, "plan")


def test_the_file_is_short() -> None:
    assert len(FILE.read_text().splitlines()) <= 40


def test_an_update_does_not_wait_for_the_slowest_worker() -> None:
    """Worker 0 takes ten times as long; what it brings is of old weights, dropped and counted."""
    world = World(BackupWorkers(spare=1), 3, lambda i, call: 9.5 if i == 0 else 1.0)
    updates = list(islice(world.updates, 30))
    counters = world.run.counters
    assert lags(updates) == [0] * 60 and counters.trained_steps == 60 * ROWS
    assert world.fleet.now == pytest.approx(30.0, abs=1.0)
    late = sum(work.lag is None for update in updates for work in update.work)
    assert late == 3 and world.in_flight == 0


def test_what_it_refuses_follows_from_what_it_offers() -> None:
    reason = BackupWorkers().refuses(DQN)
    assert reason is not None and "no replay buffer" in reason


def test_a_plan_needs_no_more_than_run() -> None:
    class Own(Plan):
        def run(self, fleet: Any, learner: Any, run: Any) -> Any: ...

    assert Own().name == "own" and Own().refuses(DQN) is not None
    assert Own().member() is None  # workers that only sample


@pytest.mark.parametrize("plan", [BackupWorkers(spare=2), NAME])
def test_it_trains_in_python(plan: Any) -> None:
    sampled: dict[str, Any] = {"workers": 3, "in_process": True, "envs_per_worker": 2}
    given = {**sampled, "fragment_length": 8, "report_every": 1, "network": TINY}
    with Trainer("a2c", "CartPole-v1", plan=plan, **given) as trainer:
        report = trainer.train()
        assert report["trained_steps"] == 16 * (3 - trainer.config.plan.spare)


def test_it_is_named_on_the_command_line_and_resumed(tmp_path: Path) -> None:
    given = ["--workers", "2", "--cluster.in-process", "true", "--out", str(tmp_path)]
    train = ["train", "CartPole-v1", "--system", "a2c", "--plan", NAME, "--plan.spare", "0", *given]
    assert main([*train, "--stop-steps", "400"]) == 0
    assert main(["resume", str(tmp_path), "--stop-steps", "800", "--plan", NAME]) == 0
    with Trainer.restore(tmp_path, plan=NAME) as trainer:
        assert trainer.config.plan == BackupWorkers(spare=0)
        assert trainer.run.counters.env_steps >= 800
