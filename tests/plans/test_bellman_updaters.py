"""Do updaters label as the learner would, in time, and is every transition accounted for?"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from shoal.algorithms.qt_opt import QTOpt
from shoal.errors import ConfigError, DemoError
from shoal.fleet.updater import Updater
from shoal.plans.bellman_updaters import BellmanUpdaters
from shoal.recording import record
from shoal.trainer import Trainer
from tests.fleet.members import pid_of
from tests.worlds import LINEAR, Script, difference

SMALL: dict[str, Any] = {
    **{"network": LINEAR, "joined": 16, "layers": 1, "lag": 6, "tau": 0.05, "random_steps": 0},
    **{"envs_per_worker": 4, "fragment_length": 4, "capacity": 400, "warmup": 32},
    **{"batch_size": 8, "replay_ratio": 1.0, "workers": 1, "in_process": True},
}


class Floats(Script):
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        super().__init__(length=5)


@pytest.fixture(autouse=True)
def one_update_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve episodes of five env steps."""
    pytest.importorskip("minari")
    folder = tmp_path_factory.mktemp("log")
    with Trainer("qt-opt", Floats, **SMALL) as trainer:
        record(trainer.policy, Floats, 12, folder / "set", explore=True)
    return str(folder / "set")


def make(plan: Any = None, env: Any = Floats, **fields: Any) -> Trainer:
    return Trainer("qt-opt", env, plan=plan or BellmanUpdaters(), **{**SMALL, **fields})


def reports(trainer: Trainer, gradient_steps: int) -> Iterator[dict[str, Any]]:
    """Reports until so many gradient steps were taken, each with its accounts checked."""
    limit = monotonic() + 400.0
    while trainer.run.counters.gradient_steps < gradient_steps:
        assert monotonic() < limit, vars(trainer.run.counters)
        report = trainer.train()
        accounts(report, trainer)
        yield report


def accounts(report: dict[str, Any], trainer: Trainer) -> None:
    known = sum(report[f"{kind}_steps"] for kind in ("trained", "dropped", "in_flight"))
    assert report["env_steps"] == known and report["in_flight_steps"] >= 0
    if "labels/pulled" in report:
        parts = [report[f"labels/{kind}"] for kind in ("labelled", "dropped", "in_flight")]
        assert report["labels/pulled"] == sum(parts) and min(parts) >= 0
        done = report["replayed_steps"] + report["labels/expired"]
        waiting = report["labels/labelled"] - done  # in the train buffer
        # The slack, and what is due of fragments that came when workers had to wait already.
        assert 0 <= waiting <= 2 * 64 * trainer.config.replay.batch_size


# ----------------------------------------------------------------------------- labels


def test_in_lock_step_with_one_worker_and_one_updater_it_is_the_synchronous_plan() -> None:
    """The same draws and steps; labels are NumPy's and not the learner's, hence a tolerance."""
    found = []
    lock = BellmanUpdaters(slack=0, sync_every=1, lag_every=1, fused=16)
    for plan in ("sync_replay", lock):
        with make(plan) as trainer:
            for _ in reports(trainer, 40):
                pass
            found.append(trainer.learner.get_state())
    first, second = found
    assert first["gradient_steps"] == second["gradient_steps"]
    for part in ("params", "targets"):
        for name, x in first[part].items():
            np.testing.assert_allclose(second[part][name], x, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("learner", ["jax", "torch"])
def test_updaters_label_as_the_learner_itself(
    learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-6 of the values, with the targets of the version that a label says it is of."""
    made: list[Any] = []
    label = Updater.label

    def watched(updater: Updater, number: int, parcel: Any, step: Any) -> Any:
        answer = label(updater, number, parcel, step)
        made.append((parcel.open(), step, answer))
        return answer

    monkeypatch.setattr(Updater, "label", watched)
    with make(learner=learner) as trainer:
        own: Any = trainer.learner
        targets: dict[int, Any] = {}
        checked = set()
        for _ in reports(trainer, 30):
            targets[own.version] = own.get_state()["targets"]
            for rows, step, answer in made:
                if answer.version not in targets:
                    continue
                seen = {**own.get_state()["params"], **targets[answer.version]}
                wanted = _labelled(learner, own, seen, {**rows, "step": step})
                np.testing.assert_allclose(answer.batch["target"], wanted, rtol=1e-6, atol=1e-6)
                assert not {"next_obs", "reward", "discount"} & answer.batch.keys()
                checked.add(answer.version)
            made.clear()
    assert len(checked) > 3


def _labelled(kind: str, learner: Any, seen: Any, batch: Any) -> np.ndarray:
    """The labels that this learner makes with these targets."""
    if kind == "jax":
        import jax

        label = jax.jit(lambda p, b: learner.algorithm.label(learner.model, p, b))
        return np.asarray(label(seen, batch)["target"])
    from shoal.learners.torch import _tensors

    found = learner.algorithm.label(learner.model, _tensors(seen), _tensors(batch))["target"]
    return np.asarray(found)


def test_labels_that_are_too_old_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every third answer says that it is of the first networks."""
    label, calls = Updater.label, [0]

    def late(updater: Updater, *args: Any) -> Any:
        answer = label(updater, *args)
        calls[0] += 1
        answer.version = 0 if calls[0] % 3 == 0 else answer.version
        return answer

    monkeypatch.setattr(Updater, "label", late)
    plan = BellmanUpdaters(max_age=4, lag_every=2)
    with make(plan) as trainer:
        ages = []
        for report in reports(trainer, 60):
            ages += [report["labels/age"]] if "labels/age" in report else []
        assert report["labels/expired"] > 60
        assert max(ages) <= 4 and 0 in ages
        assert report["labels/age_0"] + report["labels/age_1_3"] + report["labels/age_4_15"] == 1.0


# ----------------------------------------------------------------------------- sources


def test_the_share_of_fresh_rows_follows_its_schedule(log: str) -> None:
    """From 10 to 70 % over the run; of about 100 rows of each report."""
    fields = {"demos": log, "demo_ratio": "linear(0.9, 0.3)", "stop_steps": 3_000, "warmup": 64}
    with make(**fields, report_every=100, replay_ratio=2.0) as trainer:
        errors = []
        for report in trainer:
            accounts(report, trainer)
            if "labels/online_share" in report:
                progress = (report["env_steps"] - 50) / 3_000
                errors.append(report["labels/online_share"] - (0.1 + 0.6 * progress))
    assert len(errors) > 20 and abs(np.mean(errors)) < 0.03 and np.std(errors) < 0.1


def test_a_log_that_does_not_fit_is_read_again_and_again(log: str) -> None:
    """By the rows drawn from it; from others' beginnings by other shards."""
    from shoal.fleet.replay_shard import ReplayShard

    plan = BellmanUpdaters(shards=2)
    fields = {"demos": log, "demo_ratio": 0.5, "demo_capacity": 20, "offline_steps": 40}
    with make(plan, **fields) as trainer:
        for _ in reports(trainer, 40):
            pass
        shards: list[ReplayShard] = trainer.fleet._spawned[0]._members  # type: ignore[attr-defined]
        logs = [shard._buffer._log for shard in shards]  # type: ignore[attr-defined]
        read = [each.number for each in logs]
        firsts = [each._first for each in logs]
        held = [shard._buffer.demos.held for shard in shards]  # type: ignore[attr-defined]
    assert firsts == [0, 6]
    assert min(read) > 12 and 4 + sum(read) * 5 >= trainer.run.counters.replayed_steps
    assert all(15 <= steps <= 25 for steps in held)


@pytest.mark.parametrize("plan", ["sync_replay", "bellman_updaters", "async_replay"])
def test_it_learns_from_the_log_alone_before_it_samples(plan: str, log: str) -> None:
    fields = {"demos": log, "demo_ratio": 0.25, "offline_steps": 24, "plan": plan}
    with make(**fields) as trainer:
        found = [report for report in reports(trainer, 24) if report["gradient_steps"] <= 24]
        assert found[-1]["gradient_steps"] == 24 and found[-1]["env_steps"] == 0
        assert np.isfinite(found[-1]["offline/return_mean"])
        rest = list(reports(trainer, 60))
        assert not any("offline/return_mean" in report for report in rest)
        assert rest[-1]["env_steps"] > 32
        counters = trainer.run.counters  # the ratio holds for what was sampled
        owed = counters.trained_steps - 32
        assert abs(counters.replayed_steps - 24 * 8 - owed) <= 64 * 8 + 16


def test_a_log_of_another_environment_is_refused(log: str) -> None:
    with pytest.raises(DemoError, match="do not fit the environment"):
        make(env="Pendulum-v1", demos=log)


def test_returns_of_a_log_beyond_the_sigmoid_are_refused(log: str) -> None:
    with pytest.raises(ConfigError, match="an episode's return is"):
        make("sync_replay", demos=log, bounded=True)


# ----------------------------------------------------------------------------- faults


@pytest.mark.parametrize("kind", ["worker", "replay shard", "updater"])
def test_any_member_may_die_and_the_accounts_stay_exact(kind: str, log: str, one_ray: None) -> None:
    plan = BellmanUpdaters(updaters=2, shards=2)
    own = {"workers": 2, "in_process": False, "cpus_per_worker": 0.0, "demos": log}
    with make(plan, **own, demo_ratio=0.5, learner="torch") as trainer:
        for _ in reports(trainer, 8):
            pass
        fleets = [trainer.fleet, *trainer.fleet._spawned]  # type: ignore[attr-defined]
        fleet = next(each for each in fleets if each._name == kind)
        os.kill(pid_of(fleet, 1), signal.SIGKILL)
        while not fleet.stats.restarts:
            for _ in reports(trainer, trainer.run.counters.gradient_steps + 1):
                pass
        *_, report = reports(trainer, trainer.run.counters.gradient_steps + 60)
        assert fleet.stats.restarts == {1: 1}
        state = trainer.learner.get_state()
        assert all(np.isfinite(x).all() for x in state["params"].values())
        assert report["labels/in_flight"] <= 2 * 64 * 8


def test_work_of_an_updater_that_died_is_counted_when_it_comes_back() -> None:
    """Nothing else comes from it that would say so."""
    from shoal.plans.label_ledger import LabelLedger
    from shoal.plans.run import Run
    from shoal.replay.buffer import Drawn

    gone: list[Any] = []

    class Fleet:
        class stats:
            restarts: dict[int, int] = {}  # noqa: RUF012

    class Algorithm(QTOpt):
        def draw(self, *args: Any) -> Any:
            return {}

    run = Run(Algorithm(), np.random.default_rng(0), None)
    fleet: Any = Fleet()
    ledger = LabelLedger(run, 4, fleet, gone.append)
    for _ in range(3):
        ledger.pull(Drawn({}, np.zeros(64, np.int64), 0.0))
    assert ledger.next(0) is not None and ledger.next(0) is not None
    Fleet.stats.restarts = {0: 1}
    assert ledger.next(0) is not None
    counters = run.counters
    assert (counters.pulled_steps, counters.unlabelled_steps, len(gone)) == (192, 128, 2)


def test_a_resumed_run_goes_on_with_its_accounts(tmp_path: Path) -> None:
    with make() as trainer:
        for _ in reports(trainer, 20):
            pass
        trainer.run.counters.pulled_steps += 64  # as if an updater had them just now
        trainer.save(tmp_path)
        before, state = vars(trainer.run.counters).copy(), trainer.learner.get_state()
    with Trainer.restore(tmp_path, Floats) as resumed:
        assert difference(resumed.learner.get_state(), state) == ""
        *_, report = reports(resumed, 50)
        assert report["labels/pulled"] > before["pulled_steps"]
        assert report["labels/dropped"] == before["unlabelled_steps"] + 64


# ----------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("system", "fields", "why"),
    [
        ("td3", {}, "none can be labelled"),
        ("qt-opt", {"alpha": 0.6}, "draws uniformly"),
        ("qt-opt", {"offline_steps": 10}, "there are no demonstrations"),
    ],
)
def test_what_cannot_be_is_refused(system: str, fields: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Trainer(system, "Pendulum-v1", plan="bellman_updaters", **fields)
    with pytest.raises(ConfigError, match="max_age"):
        BellmanUpdaters(max_age=2, lag_every=4)


def test_choices_are_refused_with_what_takes_them() -> None:
    env = gymnasium.make("CartPole-v1").spec
    assert env is not None
    with pytest.raises(Exception, match="choose dqn"):
        make(env="CartPole-v1")
