"""Does a run's status line say what is so, and say it rarely enough?"""

from __future__ import annotations

from typing import Any

import pytest

from shoal.config import Stop
from shoal.console import Console, Recent, bottleneck, count, duration, nearest_stop, shares


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


def test_time_shares_add_up_and_name_the_bottleneck() -> None:
    now = {"time/env": 0.5, "time/act": 0.1, "time/learn": 0.3, "time/wait": 0.05}
    assert sum(shares(now).values()) == pytest.approx(1.0)
    assert bottleneck(now) == "env-bound"
    assert bottleneck({"time/learn": 0.4, "time/env": 0.3}) == "learner-bound"


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
    monkeypatch.setattr("shoal.console.time.monotonic", lambda: clock[0])
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
