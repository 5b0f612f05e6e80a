"""Does every number of every setting have bounds, and is a number outside of them refused?"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

import pytest

import shoal
from shoal.config.bounds import Bounds, bounds_of, check_bounds, setting
from shoal.config.config import Checkpointing, Cluster, Config, Rollout, Stop
from shoal.config.replay import Replay
from shoal.config.schedule import Linear, Schedule
from shoal.errors import ConfigError
from shoal.systems.table import PLANS, SYSTEMS, default_config

ALGORITHMS = {type(row.algorithm) for row in SYSTEMS.values()}
GROUPS = [Rollout, Stop, Checkpointing, Cluster, Replay, *PLANS]
GROUPS += sorted(ALGORITHMS, key=lambda kind: kind.__name__)


@dataclass(frozen=True)
class Bounded:
    rate: Schedule = setting(0.5, above=0, most=1)
    share: float | None = setting(None, least=0, below=1)
    count: int = setting(3, least=1)
    ratio: float = setting(1.0, above=0, infinite=True)
    any: float = setting(-1.0)

    def __post_init__(self) -> None:
        check_bounds(self, "group.")


@pytest.mark.parametrize("group", [Config, *GROUPS], ids=lambda group: group.__name__)
def test_every_number_has_bounds(group: type) -> None:
    """So that a new field cannot be forgotten."""
    hints = get_type_hints(group)
    for field in fields(group):
        members = get_args(hints[field.name]) or (hints[field.name],)
        if {int, float} & set(members):
            assert bounds_of(group, field.name) is not None, field.name


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_a_number_outside_of_its_bounds_is_refused(group: Any) -> None:
    for field in fields(group):
        bounds = bounds_of(group, field.name)
        if bounds is None:
            continue
        wrong: list[Any] = [math.nan, True, "much", -math.inf]
        wrong += [] if bounds.infinite else [math.inf]
        wrong += [bounds.least - 1] if bounds.least is not None else []
        wrong += [bounds.above] if bounds.above is not None else []
        wrong += [bounds.most + 1] if bounds.most is not None else []
        wrong += [bounds.below] if bounds.below is not None else []
        for value in wrong:
            with pytest.raises(ConfigError) as caught:
                group(**{field.name: value})
            assert f"{field.name} is " in caught.value.what


@pytest.mark.parametrize(
    "values",
    [
        {"rate": 1},
        {"rate": Linear(1.0, 0.0)},  # a schedule may begin or end at 0
        {"rate": Linear(0.0, 1.0)},
        {"share": None},
        {"share": 0.0},
        {"ratio": math.inf},
        {"any": -1e300},
    ],
)
def test_a_number_inside_is_taken(values: dict[str, Any]) -> None:
    Bounded(**values)


@pytest.mark.parametrize(
    ("values", "fix"),
    [
        ({"rate": 0.0}, "a finite number > 0, <= 1, or a linear schedule of such numbers"),
        ({"rate": Linear(1.0, -1e-9)}, "a finite number > 0, <= 1, or a linear"),
        ({"rate": Linear(0.0, 0.0)}, "a finite number > 0"),
        ({"rate": None}, "a finite number > 0"),
        ({"share": 1.0}, "a finite number >= 0, < 1, or none"),
        ({"share": Linear(0.1)}, "a finite number >= 0, < 1, or none"),
        ({"count": 2.0}, "a whole number >= 1"),
        ({"ratio": -math.inf}, "a number > 0"),
        ({"any": math.inf}, "a finite number"),
    ],
)
def test_a_number_outside_is_told_with_the_way_back(values: dict[str, Any], fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Bounded(**values)
    ((name, value),) = values.items()
    assert caught.value.what == f"group.{name} is {value}"
    assert str(caught.value.fix).startswith(f"make group.{name} {fix}")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: shoal.PPO(lr=-1), "lr is -1"),
        (lambda: shoal.PPO(lr=0.0), "lr is 0.0"),
        (lambda: shoal.PPO(lr=math.inf), "lr is inf"),
        (lambda: shoal.PPO(lr=Linear(1e-3, -1)), "lr is linear(0.001, -1)"),
        (lambda: shoal.PPO(clip=-0.2), "clip is -0.2"),
        (lambda: shoal.PPO(value_coef=-0.5), "value_coef is -0.5"),
        (lambda: shoal.PPO(adam_eps=-1e-5), "adam_eps is -1e-05"),
        (lambda: shoal.A2C(entropy_coef=-0.1), "entropy_coef is -0.1"),
        (lambda: shoal.Replay(beta=-3), "replay.beta is -3"),
    ],
)
def test_what_was_taken_once_is_refused(make: Any, what: str) -> None:
    """A run with lr = -1 trained for 548k env steps without a word."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.what == what


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_defaults_of_every_system_are_inside(name: str) -> None:
    config = default_config(name, "CartPole-v1")
    for group in (config, config.algorithm, config.plan, config.rollout, config.replay):
        check_bounds(group)


def test_bounds_read_like_numbers() -> None:
    assert str(Bounds(above=0)) == "> 0"
    assert str(Bounds(least=0, most=1)) == "from 0 to 1"
    assert str(Bounds(least=0, below=1)) == ">= 0, < 1"
    assert str(Bounds()) == ""
