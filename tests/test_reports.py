"""Does the page about watching a run list every number of a report, and only those?"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import shoal

PAGE = (Path(__file__).parents[1] / "docs" / "watching.md").read_text()
ROWS = PAGE.split("## Every number of a report")[1].splitlines()
LISTED = [
    name
    for row in ROWS
    if row.startswith("| `")
    for name in re.findall("`([^`]+)`", row[2:].split(" | ")[0])
]
SMALL = {"envs_per_worker": 4, "fragment_length": 16, "in_process": True, "stop_steps": 300}
REPLAY = {"batch_size": 8, "warmup": 32, "replay_ratio": 1.0}
NO_GRADIENT = {"envs_per_worker": 4, "in_process": True, "stop_steps": 300, "directions": 4}
RUNS: dict[str, dict[str, Any]] = {
    "a2c": {"env": "CartPole-v1", "evaluate_every": 100, "evaluate_episodes": 2},
    "ppo": {"env": "connect_four", "pool": 2, "every": 64, "minibatch_size": 32, "epochs": 1},
    "impala": {"env": "CartPole-v1", "workers": 2},
    "c51": {"env": "CartPole-v1", **REPLAY},
    "sac": {"env": "Pendulum-v1", **REPLAY},
    "ape-x": {"env": "CartPole-v1", "workers": 2, **REPLAY},
    "alphazero": {"env": "tic_tac_toe", "simulations": 2, **REPLAY},
    "gorila": {"env": "CartPole-v1", "workers": 2, **REPLAY},
    "qt-opt": {"env": "Pendulum-v1", "samples": 8, "elites": 2, **REPLAY},
    "es": {"env": "CartPole-v1"},
}
# What none of these runs has: it takes demonstrations, and rewards beyond [0, 1] with `bounded`.
ELSEWHERE = {"offline/return_mean", "offline/return_std", "learn/outside_bounds"}


@cache
def keys(system: str) -> frozenset[str]:
    """Of all reports of a short run."""
    given = (NO_GRADIENT if system == "es" else SMALL) | RUNS[system]
    with shoal.Trainer(system, report_every=1, **given) as trainer:
        return frozenset(name for report in trainer for name in report)


@cache
def keys_of_policies() -> frozenset[str]:
    several = shoal.Policies({"a": shoal.A2C(), "b": "random"}, {"first": "a", "second": "b"})
    with shoal.Trainer(several, "connect_four", report_every=1, **SMALL) as trainer:
        return frozenset(name for report in trainer for name in report)


def matches(listed: str, name: str) -> bool:
    """Whether a name of the page is that of a report: I is a number, NAME a word or several.

    With several policies, a policy's name takes the place of "learn".
    """
    pattern = re.escape(listed).replace("NAME", r"[\w/-]+").replace("worker/I/", r"worker/\d+/")
    return re.fullmatch(pattern.replace("learn/", "(learn|a|b)/"), name) is not None


@pytest.mark.parametrize("system", RUNS)
def test_every_number_of_a_report_is_listed(system: str) -> None:
    unknown = [x for x in keys(system) if not any(matches(listed, x) for listed in LISTED)]
    assert not unknown


def test_numbers_of_several_policies_are_listed() -> None:
    unknown = [x for x in keys_of_policies() if not any(matches(y, x) for y in LISTED)]
    assert not unknown


def test_what_is_listed_is_in_a_report() -> None:
    found = frozenset.union(keys_of_policies(), *map(keys, RUNS))
    gone = {x for x in LISTED if not any(matches(x, name) for name in found)}
    assert gone == ELSEWHERE and len(LISTED) > 70
