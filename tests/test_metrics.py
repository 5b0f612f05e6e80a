"""Does a report agree with what the updates said of workers, learner and queue?"""

from __future__ import annotations

import json

import pytest

from shoal.fleet.base import Stats
from shoal.metrics import Recorder, Report
from shoal.plans.base import Update, Work
from shoal.plans.run import Counters


def made(*updates: Update, seconds: float = 10.0, stats: Stats | None = None) -> Report:
    recorder = Recorder()
    for update in updates:
        recorder.add(update)
    return recorder.report(Counters(), 100, seconds, stats or Stats())


def times(env: float, act: float = 0.0, idle: float = 0.0) -> dict[str, float]:
    return {"env": env, "act": act, "postprocess": 0.0, "idle": idle}


TWO = [Work(0, 60, 1, times(4.0, 2.0, 4.0)), Work(1, 40, 3, times(2.0, 2.0, 6.0))]
LEARNER = {"wait": 6.0, "transfer": 1.0, "learn": 2.0, "broadcast": 1.0}


def test_shares_of_workers_at_the_same_time_are_means_and_each_side_adds_up() -> None:
    report = made(Update({}, [], LEARNER, TWO, concurrency=2))
    own = [report[f"time/{part}"] for part in ("env", "act", "postprocess", "gradient", "idle")]
    assert own == pytest.approx([0.3, 0.2, 0.0, 0.0, 0.5])
    learner = [report[f"time/{part}"] for part in LEARNER]
    assert learner == pytest.approx([0.6, 0.1, 0.2, 0.1])
    assert sum(own) == pytest.approx(1.0) and sum(learner) == pytest.approx(1.0)
    assert report["concurrency"] == 2


def test_times_of_workers_that_take_turns_add_up_and_nobody_is_idle() -> None:
    """Each waits while the other samples; the process as a whole is never idle."""
    report = made(Update({}, [], {"learn": 0.0}, TWO, concurrency=0))
    assert report["time/env"] == pytest.approx(0.6) and report["time/act"] == pytest.approx(0.4)
    assert report["time/idle"] == 0.0


def test_each_worker_is_told_by_itself() -> None:
    stats = Stats(restarts={1: 2, 7: 1}, lost_calls=4)
    report = made(Update({}, [], LEARNER, TWO, concurrency=2), stats=stats)
    of_one = {name: report[f"worker/1/{name}"] for name in ("env", "act", "idle", "steps_per_s")}
    assert of_one == pytest.approx({"env": 0.2, "act": 0.2, "idle": 0.6, "steps_per_s": 4.0})
    assert [report[f"worker/{i}/lag_max"] for i in (0, 1)] == [1, 3]
    assert [report[f"worker/{i}/restarts"] for i in (0, 1)] == [0, 2]
    assert (report["worker_restarts"], report["lost_calls"]) == (3, 4)


def test_lag_is_of_what_was_trained_on() -> None:
    """What was too old is in ``dropped_steps``."""
    work = [*TWO, Work(1, 40, None, times(1.0))]
    report = made(Update({}, [], {}, work, concurrency=2))
    assert (report["policy_lag_mean"], report["policy_lag_max"]) == (2.0, 3)
    assert report["worker/1/steps_per_s"] == 8.0  # sampled it was


def test_a_worker_whose_samples_all_were_dropped_has_no_lag() -> None:
    report = made(Update({}, [], {}, [Work(0, 1, None, times(1.0))], concurrency=1))
    assert (report["policy_lag_mean"], report["policy_lag_max"]) == (0.0, 0)
    assert report["worker/0/lag_max"] == 0


def test_the_queue_is_told_by_its_mean_and_its_most() -> None:
    report = made(*(Update({}, [], {}, [], 2, queue) for queue in (0, 5, 1)))
    assert (report["queue_depth_mean"], report["queue_depth_max"]) == (2.0, 5)


def test_idleness_before_the_report_began_does_not_count() -> None:
    """A worker counts from its own start, a report from the call that makes it."""
    late = [Work(0, 60, 1, times(4.0, 2.0, idle=30.0)), Work(1, 40, 3, times(2.0, 2.0, idle=6.0))]
    report = made(Update({}, [], LEARNER, late, concurrency=2))
    assert report["worker/0/idle"] == pytest.approx(0.4)
    assert report["worker/1/idle"] == pytest.approx(0.6)
    assert report["time/idle"] == pytest.approx(0.5)


def test_a_report_is_shown_in_one_line_and_is_a_dict() -> None:
    report = made(Update({}, [(21.5, 9)], LEARNER, TWO, concurrency=2))
    shown = "env_steps=0, episodes=0, return_mean=21.5, steps_per_s=10"
    assert repr(report) == f"<Report: {shown}, {len(report)} entries>"
    assert json.loads(json.dumps(report)) == report and "time/idle" in str(list(report))
