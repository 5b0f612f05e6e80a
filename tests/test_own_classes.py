"""Do an algorithm and a plan of a user's own, in a file of their own, train like Shoal's?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium.spaces import Discrete

import shoal
from shoal.app.cli import main
from shoal.config.trust import find
from shoal.ops.exploration import EpsilonGreedy
from shoal.ops.kernels import namespace
from shoal.ops.optimisers import Optimiser
from shoal.systems.table import PLANS
from shoal.trainer import Trainer
from tests.worlds import TINY, Script

EXAMPLES = Path(__file__).parent.parent / "examples"
ALGORITHM = EXAMPLES / "own_algorithm.py"


AWR = find(f"{ALGORITHM}:AWR", "system")


def test_the_file_is_short() -> None:
    assert len(ALGORITHM.read_text().splitlines()) <= 100


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan().name)
def test_it_trains_under_each_plan_that_does_not_refuse_it(plan: Any) -> None:
    """Weights move, and the loss is its own. Plans of replay buffers refuse it with a reason."""
    sampled: dict[str, Any] = {"workers": 2, "in_process": True, "envs_per_worker": 2}
    given = {**sampled, "fragment_length": 8, "report_every": 1}
    reason = plan().refuses(AWR)
    if reason is not None:
        about = "returns" if plan().name == "evolution" else "trajector"
        replaying = "sync_replay", "async_replay", "bellman_updaters"
        assert about in reason and plan().name in ("evolution", *replaying)
        return
    with Trainer(AWR(network=TINY), "CartPole-v1", plan=plan(), **given) as trainer:
        before = trainer.learner.weights()
        report = trainer.train()
        assert np.isfinite(report["learn/policy_loss"])
        after = trainer.learner.weights()
    assert all(np.any(after[name] != before[name]) for name in before if name.endswith("/w"))


@dataclass(frozen=True)
class Mean(shoal.Differentiable):
    """The mean reward of each action, regressed from a replay buffer; no network of Shoal's."""

    gamma: float = 0.0
    priorities: bool = True

    needs = frozenset({"replay"})

    def model(self, spaces: Any, build: Any) -> shoal.Model:
        return shoal.Model(spaces, Table(), EpsilonGreedy(spaces.action_n[0]))

    def act(self, model: shoal.Model, params: Any, obs: Any, noise: Any) -> Any:
        first = next(iter(obs.values()))
        q = np.broadcast_to(params["q"], (*first.shape[:-1], 2))
        return (model.dist.mode(q) if noise is None else model.dist.choose(q, noise, 1.0)), {}

    def loss(self, model: shoal.Model, params: Any, aux: Any, batch: Any) -> Any:
        xp = namespace(batch["reward"])
        error = xp.where(batch["action"] == 0, params["q"][0], params["q"][1]) - batch["reward"]
        rows = {"priority": xp.abs(error) + 1e-3} if self.priorities else {}
        return xp.mean(batch["weight"] * error**2), shoal.Metrics({}, rows)

    def hyper(self, progress: float) -> dict[str, float]:
        return {"lr": 0.05}

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam")


class Table:
    """A value for each of two actions."""

    framework, shared, frozen = None, False, frozenset[str]()
    memory: ClassVar[dict[str, Any]] = {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"q": (2,)}

    def init(self, rng: Any) -> dict[str, Any]:
        return {"q": np.zeros(2, np.float32)}


class Pays(Script):
    """Action 1 pays 1, the other nothing."""

    action_space = Discrete(2)

    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, float(action), *rest


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("plan", ["sync_replay", "async_replay", "async_gradients"])
def test_one_that_replays_trains_too(plan: str, alpha: float) -> None:
    """With priorities of its own, or without any."""
    given: dict[str, Any] = {"in_process": True, "workers": 1, "envs_per_worker": 2, "warmup": 64}
    given |= {"fragment_length": 8, "alpha": alpha, "report_every": 800, "learner": "jax"}
    own = Mean(priorities=alpha > 0)
    with Trainer(own, Pays, plan=plan, **given) as run:
        run.train()
        assert run.learner.weights()["q"].tolist() == pytest.approx([0.0, 1.0], abs=0.05)


def test_it_learns() -> None:
    with Trainer(
        AWR(), "CartPole-v1", envs_per_worker=8, fragment_length=32, stop_steps=60_000
    ) as run:
        best = max(report["return_mean"] or 0.0 for report in run)
    assert best > 100  # at random: 22


def test_it_is_named_on_the_command_line_saved_and_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{ALGORITHM}:AWR"
    given = ["train", "CartPole-v1", "--system", name, "--algorithm.temperature", "0.5"]
    assert main([*given, "--stop-steps", "600", "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["algorithm"]["temperature"] == 0.5 and config["plan"]["name"] == "sync_samples"
    assert main(["resume", str(tmp_path), "--stop-steps", "1200", "--algorithm", name]) == 0
    assert main(["evaluate", str(tmp_path), "--episodes", "2"]) == 2
    assert "--algorithm own_algorithm:AWR" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--episodes", "2", "--algorithm", name]) == 0
    assert isinstance(shoal.load(tmp_path, algorithm=AWR()).act(np.zeros(4, np.float32)), int)


@pytest.mark.parametrize("name", ["own_network", "own_recurrent_network"])
def test_the_examples_of_own_networks_train(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they stand, but for the number of env steps."""
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count("50_000") == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(text.replace("50_000", "2_500"), f"{name}.py", "exec"), {"__name__": "__main__"})
    steps, mean = capsys.readouterr().out.splitlines()[0].split()
    assert int(steps) >= 2_500 and float(mean) > 8.0
