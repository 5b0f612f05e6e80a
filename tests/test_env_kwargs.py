"""Do arguments of an environment come back from a checkpoint as they were, or are asked for?"""

from __future__ import annotations

import datetime
import enum
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.app.cli import main
from shoal.config.settings import to_dict
from shoal.errors import ConfigError
from shoal.systems.configure import configure
from shoal.trainer import Trainer
from tests.test_checkpoint import same
from tests.worlds import TINY, Script

SMALL: dict[str, Any] = {
    **{"learner": "torch", "network": TINY, "envs_per_worker": 1, "fragment_length": 8},
    "stop_steps": 8,
}


class Fond(Script):
    """It takes any arguments, and keeps those that it was last made with."""

    made_with: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        Fond.made_with = kwargs


class Mode(enum.StrEnum):
    FAST = "fast"


@dataclass(frozen=True)
class Size:
    n: int = 3


KEPT: dict[str, Any] = {
    "array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float32(0.1),
    "path": Path("maps/a.txt"),
    "bytes": b"\x00\xff",
    "infinite": [math.inf, -math.inf, math.nan],
    "large": 2**80,
    "pair": (1, (2.0, "x")),
    "keys": {1: "a", (2, 3): {"b": None}},
    "tag": {"$tuple": [1]},
    "set": {1, 2},
}
LOST: dict[str, Any] = {
    "enum": Mode.FAST,
    "date": datetime.date(2024, 1, 2),
    "function": math.cos,
    "dataclass": Size(4),
    "in a list": [1, math.cos],
    "in a tuple": (1, {"x": math.cos}),
    "among members": {Mode.FAST},
    "much": np.zeros(1 << 18),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_file_can_hold_comes_back_exactly(tmp_path: Path, name: str) -> None:
    value = KEPT[name]
    with Trainer("a2c", Fond, env_kwargs={"x": value, "y": 1}, **SMALL) as trainer:
        trainer.save(tmp_path)
        assert same(Fond.made_with["x"], value)
        config = to_dict(trainer.config)
    Fond.made_with = {}
    with Trainer.restore(tmp_path, Fond):
        assert same(Fond.made_with["x"], value) and Fond.made_with["y"] == 1
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config, allow_nan=False))
    again = configure(None, Fond, file)
    assert same(again.rollout.env_kwargs["x"], value)


@pytest.mark.parametrize("name", LOST)
def test_what_no_file_can_hold_is_asked_for_again(tmp_path: Path, name: str) -> None:
    value = LOST[name]
    with Trainer("a2c", Fond, env_kwargs={"x": value, "y": (1, 2)}, **SMALL) as trainer:
        trainer.save(tmp_path)
        obs = np.zeros((5, 3), np.float32)
        np.testing.assert_array_equal(shoal.load(tmp_path).act(obs), trainer.policy.act(obs))
    with pytest.raises(ConfigError, match=r"env_kwargs\['x'\] was an object of Python") as caught:
        Trainer.restore(tmp_path, Fond)
    assert "restore(path, env_kwargs={'x': ...})" in str(caught.value.fix)
    with Trainer.restore(tmp_path, Fond, env_kwargs={"x": value}):
        given = Fond.made_with["x"]
        assert (given is value or given == value) and Fond.made_with["y"] == (1, 2)


def test_the_command_line_says_what_to_do_about_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Trainer("a2c", Fond, env_kwargs={"x": math.cos}, **SMALL) as trainer:
        trainer.save(tmp_path)
    assert main(["evaluate", str(tmp_path), "--env", f"{__name__}:Fond"]) == 2
    told = capsys.readouterr().err
    assert "env_kwargs['x'] was an object of Python" in told and "shoal.evaluate(" in told
