"""Does a run in every plan survive what can happen to its processes, with its accounts exact?"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from shoal.fleet import member as probing
from shoal.fleet import members as module
from shoal.fleet.sample import Sample
from shoal.plans.parameter_server import ParameterServer
from shoal.plans.run import Run
from shoal.trainer import Trainer
from tests.chaos.mortal import Ledger, Mortal
from tests.fleet.members import pid_of
from tests.worlds import RECURRENT, TINY

PLANS = {
    "sync_samples": "a2c",
    "async_samples": "impala",
    "async_gradients": "a2c",
    "parameter_server": "a2c",
    "allreduce": "a2c",
}
FRAGMENT = 16
COUNTERS = (
    "env_steps",
    "agent_steps",
    "trained_steps",
    "dropped_steps",
    "gradient_steps",
    "episodes",
)


@pytest.fixture(autouse=True)
def small_reports(one_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)


def make(plan: str, ledger: Ledger, workers: int = 2, **fields: Any) -> Trainer:
    fate = {key: fields.pop(key) for key in ("how", "at", "times") if key in fields}
    small = {"envs_per_worker": 1, "fragment_length": FRAGMENT, "network": TINY, "learner": "torch"}
    kwargs = ledger.kwargs(**fate)
    fields = {**small, "env_kwargs": kwargs, "workers": workers, **fields}
    options = ParameterServer(sync_every=2) if plan == "parameter_server" else plan
    return Trainer(PLANS.get(plan, "dqn"), Mortal, plan=options, cpus_per_worker=0.0, **fields)


def rows_of(batch: Any) -> list[tuple[float, ...]]:
    """The observations that are trained on, of all policies."""
    if not batch:  # where workers differentiate, batches stay with them
        return []
    if "obs" not in batch:
        return [row for own in batch.values() for row in rows_of(own)]
    obs, mask = batch["obs"]["obs"], batch["mask"] > 0
    if obs.ndim == mask.ndim + 1 and obs.shape[: mask.ndim] != mask.shape:
        obs = obs[:, :-1]  # sequences, whose last observation begins the next one
    return [tuple(row) for row in obs[mask].tolist()]


class Books:
    """What the plan told the run, sample by sample, beside the run's own counters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[Sample] = []
        self.trained: list[Sample] = []
        self.dropped: list[Sample] = []
        self.rows: list[tuple[float, ...]] = []  # that the learner was given
        self.before = dict.fromkeys(COUNTERS, 0)
        take, trained, drop = Run.take, Run.trained, Run.drop

        def taking(run: Run, sample: Sample) -> None:
            self.taken.append(sample)
            take(run, sample)

        def training(run: Run, samples: Any, steps: int) -> None:
            self.trained += samples
            for sample in samples:
                self.rows += rows_of(sample.batch)
            trained(run, samples, steps)

        def dropping(run: Run, sample: Sample) -> None:
            self.dropped.append(sample)
            drop(run, sample)

        monkeypatch.setattr(Run, "take", taking)
        monkeypatch.setattr(Run, "trained", training)
        monkeypatch.setattr(Run, "drop", dropping)

    def check(self, report: dict[str, Any]) -> None:
        """Nothing was counted twice, nothing was lost, and no counter went back."""
        assert report["env_steps"] == sum(sample.env_steps for sample in self.taken)
        acted = [sum(s.agent_steps for s in samples) for samples in (self.taken, self.dropped)]
        used = sum(sample.trained_steps for sample in self.trained)
        left_out = sum(s.agent_steps - s.trained_steps for s in self.trained)
        assert report["agent_steps"] == acted[0]
        assert report["trained_steps"] == used
        assert report["dropped_steps"] == acted[1] + left_out
        total = sum(report[f"{kind}_steps"] for kind in ("trained", "dropped", "in_flight"))
        assert report["agent_steps"] == total and report["in_flight_steps"] >= 0
        ids = [id(sample) for sample in self.trained + self.dropped]
        assert len(ids) == len(set(ids)) and set(ids) <= {id(sample) for sample in self.taken}
        assert len(self.rows) == len(set(self.rows))  # each observation is of its own
        assert all(report[name] >= self.before[name] for name in COUNTERS)
        self.before = {name: report[name] for name in COUNTERS}


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return Books(monkeypatch)


def until(trainer: Trainer, books: Books, condition: Callable[[dict[str, Any]], bool]) -> Any:
    """Train, checking every report, until one is as wanted."""
    for _ in range(2000):
        report = trainer.train()
        books.check(report)
        if condition(report):
            return report
    raise AssertionError(f"it never came: {report}")


def goes_on(trainer: Trainer, books: Books, report: dict[str, Any]) -> None:
    """Both workers take part in what is learned from here on."""
    done = report["gradient_steps"]
    seen: set[str] = set()
    for _ in range(2000):
        report = trainer.train()
        books.check(report)
        seen |= {name.split("/")[1] for name in report if name.startswith("worker/")}
        if seen >= {"0", "1"} and report["gradient_steps"] >= done + 10:
            return
    raise AssertionError(f"only workers {seen} went on: {report}")


# ------------------------------------------------------------------------ workers


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("how", ["os._exit", "SIGSEGV"])
def test_a_worker_that_dies_during_a_step_costs_its_call_and_nothing_else(
    plan: str, how: str, books: Books, tmp_path: Path
) -> None:
    """In the ninth step of its third fragment: those nine steps are not counted."""
    if how == "SIGSEGV" and plan != "async_samples":
        pytest.skip("how a process ends is one matter for all plans")
    ledger = Ledger(tmp_path)
    with make(plan, ledger, how=how, at=2 * FRAGMENT + 9) as trainer:
        report = until(trainer, books, lambda report: report["worker_restarts"] == 1)
        goes_on(trainer, books, report)
        assert 1 <= report["lost_calls"] <= 2
        if trainer.config.plan.exact:  # nothing is in flight now
            assert ledger.steps - trainer.run.counters.env_steps == 9
        state = trainer.learner.get_state()
        assert all(np.isfinite(x).all() for x in state["params"].values())


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_is_killed_at_any_time_is_replaced(
    plan: str, index: int, books: Books, tmp_path: Path
) -> None:
    if index == 1 and plan not in ("allreduce", "sync_samples"):
        pytest.skip("where nobody waits for all, workers differ in nothing")
    network = RECURRENT if index == 0 else TINY  # a new worker begins with no memory
    with make(plan, Ledger(tmp_path), network=network) as trainer:
        until(trainer, books, lambda report: report["gradient_steps"] >= 4)
        os.kill(pid_of(trainer.fleet, index), signal.SIGKILL)
        report = until(trainer, books, lambda report: report["worker_restarts"] == 1)
        goes_on(trainer, books, report)
        assert trainer.fleet.stats.restarts == {index: 1}


def test_a_worker_that_hangs_is_replaced(
    books: Books, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    """Under the plan whose workers wait for each other; it is the fleet that notices."""
    for each in (module, probing):
        monkeypatch.setattr(each, "SLICE", 0.2)
    with make(
        "allreduce", Ledger(tmp_path), how="hang", at=2 * FRAGMENT + 9, timeout=4.0
    ) as trainer:
        report = until(trainer, books, lambda report: report["worker_restarts"] == 1)
        goes_on(trainer, books, report)
    said = next(text for text in caplog.messages if "stuck" in text)
    assert "mortal.py" in said and "time.sleep(600)" in said


@pytest.mark.parametrize("plan", ["sync_samples", "async_samples", "allreduce"])
def test_all_workers_may_die_at_once(plan: str, books: Books, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with make(plan, ledger, how="SIGKILL", at=FRAGMENT + 3, times=2) as trainer:
        report = until(trainer, books, lambda report: report["worker_restarts"] == 2)
        goes_on(trainer, books, report)
        assert trainer.fleet.stats.restarts == {0: 1, 1: 1}
        if trainer.config.plan.exact:
            assert ledger.steps - trainer.run.counters.env_steps == 2 * 3


# ------------------------------------------------------------------------ shards


@pytest.mark.parametrize("index", [0, 1])
def test_a_shard_that_is_killed_goes_on_from_the_last_copy(
    index: int, books: Books, tmp_path: Path
) -> None:
    with make("parameter_server", Ledger(tmp_path)) as trainer:
        until(trainer, books, lambda report: report["gradient_steps"] >= 6)
        shards = trainer.fleet._spawned[0]
        os.kill(pid_of(shards, index), signal.SIGKILL)
        report = trainer.train()
        books.check(report)
        goes_on(trainer, books, report)
        assert shards.stats.restarts == {index: 1} and not trainer.fleet.stats.restarts


# ------------------------------------------------------------------------ any time

REPLAY = {"capacity": 1000, "warmup": 32, "batch_size": 8, "replay_ratio": 0.5}
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)  # SIGTERM lets a process exit


@pytest.mark.parametrize("plan", [*PLANS, "sync_replay", "async_replay"])
def test_processes_that_die_at_any_time_cost_what_they_did_and_nothing_else(
    plan: str, tmp_path: Path
) -> None:
    """Workers, ranks and shards, at exponentially drawn times; a longer one: benchmarks/chaos.py"""
    ledger, draw = Ledger(tmp_path), random.Random(plan)
    own = {} if plan in PLANS else REPLAY
    with make(plan, ledger, restarts_per_minute=100, **own) as trainer:
        report: dict[str, Any] = {}
        for _ in range(3):
            at = monotonic() + draw.expovariate(5.0)
            done = report.get("gradient_steps", 0)
            while monotonic() < at or report["gradient_steps"] < done + 2:
                before, report = report, trainer.train()
                total = sum(report[f"{kind}_steps"] for kind in ("trained", "dropped", "in_flight"))
                assert report["env_steps"] == total and report["in_flight_steps"] >= 0
                assert all(report[name] >= before.get(name, 0) for name in COUNTERS)
                assert ledger.steps >= report["env_steps"]  # none is counted that did not happen
            fleet = draw.choice([trainer.fleet, *trainer.fleet._spawned])
            index = draw.choice([m.index for m in fleet._members.values() if m.ready])
            os.kill(pid_of(fleet, index), draw.choice(SIGNALS))
        report = trainer.train()
        state = trainer.learner.get_state()
        assert all(np.isfinite(x).all() for x in state["params"].values())
        assert report["gradient_steps"] >= 6


# ------------------------------------------------------------------------ resizing


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("place", ["ray", "in_process"])
def test_workers_come_and_go_while_it_trains(
    plan: str, place: str, books: Books, tmp_path: Path
) -> None:
    fields = {"in_process": True} if place == "in_process" else {}
    with make(plan, Ledger(tmp_path), 1, **fields) as trainer:
        until(trainer, books, lambda report: report["gradient_steps"] >= 2)
        trainer.resize(4)
        report = until(trainer, books, lambda report: "worker/3/lag_max" in report)
        trainer.resize(1)
        until(trainer, books, lambda r: r["gradient_steps"] >= report["gradient_steps"] + 4)
        report = trainer.train()
        books.check(report)
        assert {name.split("/")[1] for name in report if name.startswith("worker/")} == {"0"}
        trainer.resize(2)
        goes_on(trainer, books, report)
        assert not trainer.fleet.stats.restarts and trainer.config.rollout.workers == 2
