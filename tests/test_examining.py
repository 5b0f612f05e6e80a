"""Does the examination of an environment find what is wrong with it, and nothing else?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import shoal
from shoal.app.cli import main
from shoal.examining import FAILED, WARNED


class Good(gymnasium.Env[Any, Any]):
    """Walks at random; an episode ends after ten steps."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def see(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.see(), float(action), self.t == 10, False, {}


class Unseeded(Good):
    def see(self) -> Any:
        return np.random.default_rng().uniform(-1, 1, 2).astype(np.float32)


class Shared(Good):
    total = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        Shared.total = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        Shared.total += int(action)
        obs, _, over, cut, info = super().step(action)
        return obs, float(Shared.total), over, cut, info


class Endless(Good):
    def step(self, action: Any) -> Any:
        obs, reward, *_ = super().step(action)
        return obs, reward, False, False, {}


class Deterministic(Good):
    def see(self) -> Any:
        return np.full(2, self.t / 10, np.float32)


class Large(Good):
    observation_space = Box(-np.inf, np.inf, (2,), np.float32)

    def see(self) -> Any:
        return 1e4 * super().see()


class Paid(Good):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, 1e3, *rest


class Unpaid(Good):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, 0.0, *rest


class Misshapen(Good):
    def step(self, action: Any) -> Any:
        return np.zeros(3, np.float32), 0.0, False, False, {}


class Unlimited(Good):
    action_space = Box(-np.inf, np.inf, (1,), np.float32)

    def step(self, action: Any) -> Any:
        return super().step(float(action[0]) > 0)


def told(env: Any, state: str, **kwargs: Any) -> str:
    """What was found of this state, but for what Gymnasium's own checker says."""
    found = shoal.check_env(env, kwargs, steps=400)
    own = [x for x in found.findings if x.state == state and "Gymnasium" not in x.what]
    return "\n".join(map(str, own))


def test_a_good_environment_passes() -> None:
    found = shoal.check_env(Good, steps=400)
    assert [str(x) for x in found.findings if x.state != "passed"] == []
    assert found.ok and "40 episodes ended, of 10 env steps" in str(found)


@pytest.mark.parametrize(
    ("env", "what"),
    [
        (Unseeded, "the same seed and actions gave something else at env step 0"),
        (Shared, "what one copy does depends on the actions in another one"),
        (Misshapen, "has shape [3]; its space says float32 [2]"),
        ("Nope-v3", "it cannot be made"),
        (lambda: Good().nothing, "has no attribute 'nothing'"),
    ],
    ids=["unseeded", "shared", "misshapen", "unknown", "raises"],
)
def test_what_is_wrong_fails(env: Any, what: str) -> None:
    assert what in told(env, FAILED)


@pytest.mark.parametrize(
    ("env", "what"),
    [
        (Endless, "no episode ended within 400 env steps"),
        (Deterministic, "other seeds give the same env steps"),
        (Large, "the observation 'obs' goes up to"),
        (Paid, "large for a value function"),
        (Unpaid, "every reward of 400 env steps with random actions is 0"),
        (Unlimited, "the actions have no bounds"),
    ],
)
def test_what_makes_learning_hard_is_warned_of(env: Any, what: str) -> None:
    assert told(env, FAILED) == ""
    assert told(env, WARNED).count("warn  ") == 1 and what in told(env, WARNED)


def test_the_place_of_an_error_is_the_users_line() -> None:
    assert "test_examining.py:" in told(Misshapen, FAILED)


def test_what_cannot_be_sent_to_workers_is_said() -> None:
    import threading

    lock = threading.Lock()

    def make() -> Any:
        with lock:
            return Good()

    assert "cannot be sent to other processes" in told(make, WARNED)


def test_agents_and_games_pass() -> None:
    for env in ("tic_tac_toe", "pettingzoo:mpe2/simple_spread_v3"):
        assert told(env, FAILED) == ""


def test_the_command_exits_with_1_if_something_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-env", "CartPole-v1", "--steps", "100", "--max-episode-steps", "7"]) == 0
    assert "of 7 env steps on the average: 0 terminated" in capsys.readouterr().out
    assert main(["check-env", f"{__file__}:Unseeded", "--steps", "100"]) == 1
    assert "FAILED  the same seed" in capsys.readouterr().out


def test_the_doctor_tells_versions_and_no_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray and devices, whose processes take seconds, are left out."""
    import getpass
    import json

    from shoal.app import diagnosis

    asked: list[str] = []
    monkeypatch.setattr(diagnosis, "_asked", lambda code, said="": asked.append(code) or "asked")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"shoal: {shoal.__version__}" in told and f"  {np.__version__}" in told
    assert str(Path.home()) not in told and f"/{getpass.getuser()}" not in told
    assert "ray with one worker: asked" in told and any("Trainer" in code for code in asked)
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"]["numpy"] == np.__version__


def test_the_doctor_tells_what_is_missing_and_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.app import diagnosis

    found = diagnosis._installed
    monkeypatch.setattr(diagnosis, "_installed", lambda n: None if n == "optuna" else found(n))
    assert diagnosis._missing() == {"optuna": 'pip install "shoal[optuna]" (optuna)'}
    assert diagnosis._asked("raise KeyError(3)") == "fails: KeyError: 3"
    monkeypatch.setattr(diagnosis, "DEADLINE", 0.01)
    assert diagnosis._asked("import time; time.sleep(9)").startswith("no answer within")
