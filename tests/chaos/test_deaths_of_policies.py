"""Does a run of several policies survive what can happen to its workers, with its books exact?"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.algorithms.by_policy import split
from shoal.fleet import member as probing
from shoal.fleet import members as module
from shoal.metrics import Recorder
from shoal.plans.base import Update
from tests.chaos.mortal import Pack, PackInTurn, PackLedger
from tests.chaos.test_deaths import FRAGMENT, Books, goes_on, small_reports, until
from tests.fleet.members import pid_of
from tests.worlds import TINY

PLANS = {  # the algorithms of two policies
    "sync_samples": (shoal.PPO(network=TINY, minibatch_size=16), shoal.A2C(network=TINY)),
    "async_samples": (shoal.VTrace(network=TINY), shoal.APPO(network=TINY)),
}
OTHERS: dict[str, Any] = {
    "async_gradients": shoal.A2C(network=TINY),
    "allreduce": shoal.A2C(network=TINY),
    "sync_replay": shoal.DQN(network=TINY),
    "async_replay": shoal.DQN(network=TINY),
}
AGENTS = {"ann": "left", "*": "right"}
POLICIES = "left", "right"
__all__ = ["small_reports"]  # a fixture


def make(plan: str, ledger: PackLedger, env: Any = Pack, **fields: Any) -> shoal.Trainer:
    fate = {key: fields.pop(key) for key in ("how", "at", "times") if key in fields}
    algorithm = shoal.Policies(dict(zip(POLICIES, PLANS[plan], strict=True)), AGENTS)
    small = {"envs_per_worker": 1, "fragment_length": FRAGMENT, "learner": "torch"}
    fields = {**small, "env_kwargs": ledger.kwargs(**fate), "workers": 2, **fields}
    return shoal.Trainer(algorithm, env, plan=plan, cpus_per_worker=0.0, **fields)


class PackBooks(Books):
    """The same by policy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.returns: dict[str, list[float]] = {name: [] for name in POLICIES}  # as told
        add = Recorder.add

        def adding(recorder: Recorder, update: Update) -> None:
            for name, found in update.returns.items():
                self.returns[name] += found
            add(recorder, update)

        monkeypatch.setattr(Recorder, "add", adding)

    def check(self, report: dict[str, Any]) -> None:
        """See `Books.check`; and no return was told twice, or of another policy's agents."""
        super().check(report)
        for name, own in self.returns.items():
            assert len(own) == len(set(own))
            assert {_policy(value) for value in own} <= {name}
            if own:
                assert report[f"{name}/return_mean"] == pytest.approx(np.mean(own[-100:]))
        assert report["episodes"] == sum(map(len, self.returns.values()))


def _policy(value: float) -> str:
    """Whose agent earned this in an episode; see `Pack.step`."""
    return "left" if value * 8 % 4 == 0 else "right"


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> PackBooks:
    return PackBooks(monkeypatch)


def _moved(trainer: shoal.Trainer, before: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Whether each policy has other weights now."""
    now = params(trainer)
    return {
        name: any((x != now[name][k]).any() for k, x in own.items() if not k.startswith("explore/"))
        for name, own in before.items()
    }


def train_until(trainer: shoal.Trainer, condition: Callable[[dict[str, Any]], bool]) -> Any:
    """The first report that is as wanted."""
    for _ in range(2000):
        report = trainer.train()
        if condition(report):
            return report
    raise AssertionError(f"it never came: {report}")


def params(trainer: shoal.Trainer) -> dict[str, dict[str, Any]]:
    return split(trainer.learner.weights())


def all_move(trainer: shoal.Trainer, books: PackBooks, report: dict[str, Any]) -> None:
    """Both workers and both policies go on learning."""
    before = params(trainer)
    goes_on(trainer, books, report)
    for name, own in params(trainer).items():
        assert all(np.isfinite(x).all() for x in own.values())
        assert any((x != before[name][path]).any() for path, x in own.items()), name


def same_but(trainer: shoal.Trainer, books: PackBooks, ledger: PackLedger, lost: int) -> None:
    """Counters equal the environments' account, less ``lost`` steps of unfinished fragments."""
    lines, gone, counters = ledger.lines, ledger.cut(FRAGMENT), trainer.run.counters
    assert len(lines) - counters.env_steps == len(gone) == lost
    acted = sum(len(line.acted) for line in lines) - sum(len(line.acted) for line in gone)
    assert counters.agent_steps == counters.trained_steps == acted
    told = Counter(x for own in books.returns.values() for x in own)
    happened = Counter(x for line in lines for x in line.returns)
    assert told == happened - Counter(x for line in gone for x in line.returns)


@pytest.mark.parametrize("plan", PLANS)
def test_a_worker_that_dies_during_a_step_costs_its_call_and_nothing_else(
    plan: str, books: PackBooks, tmp_path: Path
) -> None:
    """As in `test_deaths`; and each policy can be loaded from a checkpoint made afterwards."""
    ledger = PackLedger(tmp_path)
    with make(plan, ledger, how="os._exit", at=2 * FRAGMENT + 9) as trainer:
        report = until(trainer, books, lambda report: report["worker_restarts"] == 1)
        all_move(trainer, books, report)
        assert 1 <= report["lost_calls"] <= 2
        if trainer.config.plan.exact:  # nothing is in flight now
            same_but(trainer, books, ledger, 9)
        trainer.save(tmp_path / "run")
        now = params(trainer)
    for name in POLICIES:
        policy = shoal.load(tmp_path / "run", policy=name)
        assert policy.act(np.zeros(3, np.float32)) in range(3)
        for path, x in policy.weights.items():
            np.testing.assert_array_equal(x, now[name][path])


@pytest.mark.parametrize("plan", PLANS)
def test_a_worker_that_is_killed_at_any_time_is_replaced(
    plan: str, books: PackBooks, tmp_path: Path
) -> None:
    """Its agents' actions that waited for others' are lost with it."""
    ledger = PackLedger(tmp_path)
    with make(plan, ledger, PackInTurn) as trainer:
        until(trainer, books, lambda report: report["gradient_steps"] >= 8)
        os.kill(pid_of(trainer.fleet, 1), signal.SIGKILL)
        report = until(trainer, books, lambda report: report["worker_restarts"] == 1)
        all_move(trainer, books, report)
        assert trainer.fleet.stats.restarts == {1: 1}
        assert ledger.steps >= trainer.run.counters.env_steps


def test_a_worker_that_hangs_is_replaced(
    books: PackBooks, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    for each in (module, probing):
        monkeypatch.setattr(each, "SLICE", 0.2)
    ledger = PackLedger(tmp_path)
    with make("sync_samples", ledger, how="hang", at=2 * FRAGMENT + 9, timeout=4.0) as trainer:
        report = until(trainer, books, lambda report: report["worker_restarts"] == 1)
        all_move(trainer, books, report)
        same_but(trainer, books, ledger, 9)
    said = next(text for text in caplog.messages if "stuck" in text)
    assert "mortal.py" in said and "time.sleep(600)" in said


@pytest.mark.parametrize("plan", OTHERS)
def test_a_worker_that_is_killed_is_replaced_under_every_plan(plan: str, tmp_path: Path) -> None:
    """Every action of an agent was trained on or stored, was dropped, or is on its way."""
    one = OTHERS[plan]
    algorithm = shoal.Policies(dict.fromkeys(POLICIES, one), AGENTS)
    more = {"warmup": 64, "batch_size": 16} if "replay" in one.needs else {}
    ledger = PackLedger(tmp_path)
    kwargs = ledger.kwargs()
    small = {"envs_per_worker": 1, "fragment_length": FRAGMENT, "learner": "torch", "workers": 2}
    rest: Any = {**small, **more, "cpus_per_worker": 0.0, "env_kwargs": kwargs, "report_every": 1}
    with shoal.Trainer(algorithm, PackInTurn, plan=plan, **rest) as trainer:
        train_until(trainer, lambda report: report["gradient_steps"] >= 8)
        os.kill(pid_of(trainer.fleet, 1), signal.SIGKILL)
        train_until(trainer, lambda _: trainer.fleet.stats.restarts == {1: 1})
        before, counters = params(trainer), trainer.run.counters
        train_until(trainer, lambda _: all(_moved(trainer, before).values()))
        used = counters.trained_steps + counters.dropped_steps
        counted, exact = (counters.env_steps, counters.agent_steps), trainer.config.plan.exact
    assert used <= counted[1] and (counted[1] == used or not exact)
    # In turn, an action is an env step. Not counted: fragments that died or are on their way, at
    # most three of each worker's two lives, and each agent's action that waits for what follows.
    assert counted[0] <= ledger.steps <= counted[0] + 4 * 3 * FRAGMENT
    assert counted[1] <= counted[0] <= counted[1] + 4 * (len(AGENTS) + 2)


@pytest.mark.parametrize("plan", PLANS)
def test_workers_come_and_go_while_it_trains(plan: str, books: PackBooks, tmp_path: Path) -> None:
    with make(plan, PackLedger(tmp_path), PackInTurn, workers=1, in_process=True) as trainer:
        until(trainer, books, lambda report: report["gradient_steps"] >= 4)
        trainer.resize(4)
        report = until(trainer, books, lambda report: "worker/3/lag_max" in report)
        trainer.resize(1)
        until(trainer, books, lambda r: r["gradient_steps"] >= report["gradient_steps"] + 8)
        trainer.resize(2)
        all_move(trainer, books, trainer.train())
