"""Does a run's status line say what is so, and say it rarely enough?"""

from __future__ import annotations

import io
import sys
import time
from typing import Any

import pytest

from shoal.app import console
from shoal.app.console import (
    Console,
    LiveConsole,
    Recent,
    bottleneck,
    count,
    critical,
    duration,
    nearest_stop,
    pieces,
    sides,
)
from shoal.config.config import Stop


def report(**values: Any) -> dict[str, Any]:
    zero = {"env_steps": 0, "episodes": 0, "return_mean": None, "wall_s": 0.0, "steps_per_s": 0.0}
    return {**zero, **values}


@pytest.mark.parametrize(
    ("stop", "fraction", "name"),
    [
        (Stop(env_steps=1000), 0.25, "1k steps"),
        (Stop(seconds=20.0), 0.5, "20.0s"),
        (Stop(return_mean=0.0), 0.75, "return 0"),  # -200 first, now -50
        (Stop(return_mean=0.0, env_steps=1000, seconds=20.0), 0.75, "return 0"),
        (Stop(return_mean=1000.0, env_steps=300), 250 / 300, "300 steps"),
        (Stop(return_mean=-100.0), 1.0, "return -100"),
        (Stop(), 0.0, ""),
    ],
)
def test_progress_is_towards_the_nearest_stop(stop: Stop, fraction: float, name: str) -> None:
    now = report(env_steps=250, return_mean=-50.0)
    assert nearest_stop(stop, now, -200.0, 10.0) == (pytest.approx(fraction), name)


# ------------------------------------------------------------------- where the time goes


def spent(*workers: dict[str, float], **learner: float) -> dict[str, Any]:
    """A report of workers in processes of their own."""
    report: dict[str, Any] = {f"time/{name}": x for name, x in learner.items()}
    for i, parts in enumerate(workers):
        report |= {f"worker/{i}/{name}": x for name, x in parts.items()}
        for name, x in parts.items():
            mean = report.get(f"time/{name}", 0.0) + x / len(workers)
            report[f"time/{name}"] = mean
    return report | {"concurrency": len(workers)}


def test_the_time_of_one_process_adds_up_and_names_its_bottleneck() -> None:
    now = {"time/env": 0.5, "time/act": 0.1, "time/learn": 0.3, "time/wait": 0.05}
    (parts,) = sides(now).values()
    assert sum(parts.values()) == pytest.approx(1.0)
    assert parts["other"] == pytest.approx(0.1)
    assert bottleneck(now) == "env-bound"
    assert bottleneck({"time/learn": 0.4, "time/env": 0.3}) == "learner-bound"
    assert bottleneck({"time/act": 0.2, "time/postprocess": 0.2, "time/env": 0.3}) == "policy-bound"


@pytest.mark.parametrize("idle", [0.3, 0.35, 0.9])
def test_workers_and_learner_each_add_up(idle: float) -> None:
    """Also where the times of a report exceed its seconds: a sample that began before it."""
    busy = {"env": 0.4, "act": 0.2, "postprocess": 0.05, "idle": idle}
    both = sides(spent(busy, busy, learn=0.5, wait=0.3, transfer=0.05, broadcast=0.05))
    assert list(both) == ["workers", "learner"]
    assert [sum(parts.values()) for parts in both.values()] == pytest.approx([1.0, 1.0])
    assert both["learner"]["transfer"] == pytest.approx(0.1)
    assert both["workers"]["env"] == pytest.approx(0.4 / max(1.0, 0.65 + idle))


ENV = {"env": 0.7, "act": 0.2, "idle": 0.1}
POLICY = {"env": 0.2, "act": 0.4, "postprocess": 0.3, "idle": 0.1}
IDLE = {"env": 0.1, "act": 0.05, "idle": 0.85}


@pytest.mark.parametrize(
    ("report", "name"),
    [
        # At the same time: the learner hardly waits, and workers wait for it.
        (spent(IDLE, IDLE, learn=0.9, wait=0.05), "learner-bound"),
        # The learner waits for workers that are busy.
        (spent(ENV, ENV, learn=0.2, wait=0.75), "env-bound"),
        (spent(POLICY, POLICY, learn=0.2, wait=0.75), "policy-bound"),
        (spent({"gradient": 0.8, "env": 0.1}, learn=0.1, wait=0.85), "gradient-bound"),
        # Both are busy all the time: only the learner can be what the run waits for.
        (spent(ENV, ENV, learn=0.97, wait=0.01), "learner-bound"),
        # Both wait: for data on its way.
        (spent(IDLE, IDLE, learn=0.2, wait=0.75), "transfer-bound"),
        (spent(IDLE, IDLE, learn=0.2, transfer=0.4, broadcast=0.3, wait=0.05), "transfer-bound"),
        # Seven of eight workers wait for the one with a slow environment: nothing is on its way.
        (spent(ENV, *[IDLE] * 7, learn=0.1, wait=0.85), "env-bound"),
        # In turn: all sample, then the learner learns.
        (spent({"env": 0.3, "act": 0.1, "idle": 0.6}, learn=0.5, wait=0.42), "learner-bound"),
        (spent({"env": 0.5, "act": 0.1, "idle": 0.4}, learn=0.35, wait=0.62), "env-bound"),
    ],
)
def test_the_bottleneck_is_what_the_run_waits_for(report: dict[str, Any], name: str) -> None:
    assert bottleneck(report) == name
    assert sum(critical(report).values()) <= 1.0 + 1e-9


def line(**values: Any) -> str:
    return "  ".join(pieces(Stop(), report(**values), None, 1.0))


def test_a_line_tells_of_deaths_and_lag_where_there_can_be_any() -> None:
    alone = line(**{"time/env": 0.5})
    assert "lag" not in alone and "restart" not in alone and "workers:" not in alone
    several = spent(ENV, ENV, learn=0.2, wait=0.75)
    assert "  lag 0.0  " in line(**several)
    assert "  lag 2.6  " in line(**several, policy_lag_mean=2.6)
    assert "restart" not in line(**several, worker_restarts=0)
    assert "  1 restart  " in line(**several, worker_restarts=1)
    assert "  3 restarts  " in line(**several, worker_restarts=3)
    assert "workers: env 70% policy 20% idle 10%  learner: learn 20%" in line(**several)


def test_rates_are_over_all_recent_reports() -> None:
    recent = Recent(10.0, 5000)  # a run that goes on
    recent.add({"wall_s": 11.0, "env_steps": 6000, "time/env": 1.0})
    recent.add({"wall_s": 14.0, "env_steps": 7000, "time/env": 0.0, "time/learn": 1.0})
    now = recent.report()
    assert now["steps_per_s"] == pytest.approx(2000 / 4)
    assert now["time/env"] == pytest.approx(1 / 4) and now["time/learn"] == pytest.approx(3 / 4)
    recent.forget(3.0)
    assert recent.report()["steps_per_s"] == pytest.approx(1000 / 3)
    recent.clear()
    assert recent.report()["steps_per_s"] == 0.0


def test_a_worker_that_comes_later_has_its_share_of_all_the_time() -> None:
    recent = Recent(0.0, 0)
    recent.add({"wall_s": 1.0, "env_steps": 1, "worker/0/env": 0.5, "policy_lag_mean": 1.0})
    recent.add({"wall_s": 4.0, "env_steps": 2, "worker/1/env": 0.8, "policy_lag_mean": 5.0})
    now = recent.report()
    assert now["worker/0/env"] == pytest.approx(0.5 / 4)
    assert now["worker/1/env"] == pytest.approx(0.8 * 3 / 4)
    assert now["policy_lag_mean"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.6, "1k"), (21_437, "21.4k"), (999_700, "1M"), (2.5e9, "2.5G")],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (59.94, "59.9s"), (59.96, "1m00s"), (3599.6, "1h00m"), (7380, "2h03m")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_grow_rare_and_end_with_the_last_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("shoal.app.console.time.monotonic", lambda: clock[0])
    console = Console()
    console.begin(Stop(env_steps=30_000), None, 0.0, 0)
    shown = []
    for second in range(1, 201):
        clock[0] = float(second)
        console.report(report(env_steps=50 * second + second**2 // 2, wall_s=float(second)))
        if capsys.readouterr().out:
            shown.append(second)
    assert shown == [1, 6, 12, 24, 48, 78, 108, 138, 168, 198]
    console.end()
    last = capsys.readouterr().out
    assert last.count("\n") == 1 and "100% of 30k steps" in last and "\x1b" not in last
    assert " 249 steps/s " in last  # since the line before: 150 over all
    console.end()
    assert capsys.readouterr().out == ""


def test_an_evaluation_shows_how_far_it_is_where_somebody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.progress(3) is None  # stderr is no terminal here
    clock = [0.0]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    show = console.progress(3)
    assert show is not None
    for clock[0], ended, steps in ((0.5, 0, 10), (1.5, 1, 1200), (1.6, 2, 1300), (9.0, 3, 1500)):
        show(ended, steps)
    shown = [text.strip() for text in capsys.readouterr().err.split("\r") if text]
    assert shown == ["1 of 3 episodes  1.2k env steps", ""]


def test_what_an_environment_prints_stands_above_the_live_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    live = LiveConsole()
    live.begin(Stop(env_steps=10), None, 0.0, 0)
    try:
        while "starting" not in screen.getvalue():  # the line is drawn by a thread of its own
            time.sleep(0.01)
        print("hello")
    finally:
        live.end()
    before, after = screen.getvalue().split("hello")
    assert before.endswith("\r\x1b[2K") and after.startswith("\n") and "starting" in after
