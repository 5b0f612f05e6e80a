"""Do trials run under Ray Tune, write Shoal's files, and survive the death of their process?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import tune
from shoal.app.cli import main
from shoal.checkpoint import files as checkpoint
from shoal.errors import ConfigError
from shoal.tuning.board import read_status
from shoal.tuning.lineage import lineage
from shoal.tuning.run import Outcome

WALK = f"{Path(__file__).with_name('worlds.py')}:Walk"
SMALL: dict[str, Any] = {
    "envs_per_worker": 2,
    "fragment_length": 20,
    "epochs": 1,
    "minibatch_size": 40,
    "report_every": 200,
    "hidden": (8,),
}

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_ray")]


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "search"


def walk(out: Path, config: dict[str, Any], steps: int = 400, **options: Any) -> Outcome:
    given = {"run": "ppo", "env": WALK, "stop": {"env_steps": steps}, "config": SMALL | config}
    options = {"parallel": 1} | options
    found: Outcome = tune.run_experiments({"walk": given}, out=out, show=False, **options)
    return found


def reports(row: dict[str, Any]) -> list[dict[str, Any]]:
    lines = Path(row["folder"], "progress.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_example_of_the_slides(tmp_path: Path) -> None:
    outcome = tune.run_experiments(
        {
            "my_experiment": {
                "run": "PPO",
                "env": "CartPole-v0",
                "stop": {"episode_reward_mean": 22},
                "config": {
                    "num_gpus": 0,
                    "num_workers": 1,
                    "sgd_stepsize": tune.grid_search([0.01, 0.001, 0.0001]),
                },
            },
        },
        out=tmp_path / "slides",
        show=False,
    )
    assert [row["state"] for row in outcome.trials] == ["done"] * 3
    assert all(row["last"] >= 22 for row in outcome.trials)
    configs = [json.loads(Path(r["folder"], "config.json").read_text()) for r in outcome.trials]
    assert [c["algorithm"]["lr"] for c in configs] == [0.01, 0.001, 0.0001]
    assert all(c["rollout"]["workers"] == 1 for c in configs)


def test_a_trial_is_the_run_that_its_config_repeats(out: Path) -> None:
    outcome = walk(out, {"lr": tune.grid_search([1e-2, 1e-3])}, samples=2)
    assert [row["state"] for row in outcome.trials] == ["done"] * 4
    row = outcome.trials[2]
    config = Path(row["folder"], "config.json")
    with shoal.Trainer(config=config, env=WALK) as again:
        own = [again.train() for _ in reports(row)]
    for mine, theirs in zip(own, reports(row), strict=True):
        for name in ("env_steps", "return_mean", "learn/loss", "hyper/lr"):
            assert mine[name] == theirs[name]
    newest = sorted(Path(row["folder"]).glob("checkpoint_*"))[-1]
    state, meta = checkpoint.load(newest)
    assert meta["config"]["seed"] == 1 and state["learner"]["gradient_steps"] > 0


def test_more_trials_than_cpus_take_turns_and_are_all_in_the_status(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr = tune.grid_search([10.0**-k for k in range(2, 9)])
    outcome = walk(out, {"lr": lr}, steps=200, parallel=None)
    assert len(outcome.trials) == 7 and {r["state"] for r in outcome.trials} == {"done"}
    assert main(["tune", "--status", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "7 done of 7" in shown and "1e-08" in shown and "best: trial" in shown


def test_an_environment_that_raises_ends_its_trial_alone(out: Path) -> None:
    trouble = tune.grid_search([{"trouble": ""}, {"trouble": "raise"}, {"trouble": ""}])
    outcome = walk(out, {"env_kwargs": trouble})
    assert [row["state"] for row in outcome.trials] == ["done", "error", "done"]
    failed = outcome.trials[1]
    assert failed["error"] == "ZeroDivisionError: the fourth episode is too much"
    text = json.loads(Path(failed["error_file"]).read_text())["text"]
    assert "worlds.py" in text and "raise ZeroDivisionError" in text
    assert read_status(out)["trials"][1]["error"] == failed["error"]


def test_a_trial_goes_on_after_the_death_of_its_process(out: Path, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    kwargs = {"trouble": "die once", "marker": str(marker)}
    outcome = walk(out, {"env_kwargs": kwargs, "checkpointing.every_seconds": 1e-6})
    assert marker.exists() and [row["state"] for row in outcome.trials] == ["done"]
    steps = [report["env_steps"] for report in reports(outcome.trials[0])]
    assert steps == sorted(set(steps)) and steps[-1] >= 400


def test_settings_that_cannot_be_are_refused_with_the_nearest_name(out: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean algorithm\.lr"):
        walk(out, {"lrr": tune.grid_search([1e-3])})
    with pytest.raises(ConfigError, match="did you mean config"):
        tune.run_experiments({"x": {"run": "ppo", "env": WALK, "confg": {}}}, out=out)
    assert not out.exists()


@pytest.mark.parametrize("scheduler", [tune.Asha(grace=200), tune.HyperBand()])
def test_schedulers_end_trials_early(out: Path, scheduler: Any) -> None:
    lr = tune.grid_search([10.0**-k for k in range(2, 10)])
    outcome = walk(out, {"lr": lr}, steps=2000, scheduler=scheduler, parallel=None)
    assert {row["state"] for row in outcome.trials} == {"done"}
    steps = [row["env_steps"] for row in outcome.trials]
    assert max(steps) >= 1000 and min(steps) < 1000


def test_optuna_chooses_within_its_ranges(out: Path) -> None:
    pytest.importorskip("optuna")
    config = {"lr": tune.loguniform(1e-4, 1e-2), "epochs": tune.choice([1, 2])}
    outcome = walk(out, config, steps=200, samples=3, searcher="optuna")
    assert [row["state"] for row in outcome.trials] == ["done"] * 3
    assert all(1e-4 <= row["settings"]["lr"] <= 1e-2 for row in outcome.trials)


def test_a_population_copies_what_is_there_and_keeps_what_it_perturbed(out: Path) -> None:
    population = tune.Population(every=400, fraction=0.5, select="truncation")
    config = {"lr": tune.loguniform(1e-6, 1e-1)}
    outcome = walk(out, config, steps=2000, samples=3, scheduler=population, parallel=None)
    assert [row["state"] for row in outcome.trials] == ["done"] * 3
    entries = lineage(out / "walk")
    assert entries
    rows = {row["id"]: row for row in outcome.trials}
    processes = {r["pid"] for row in outcome.trials for r in reports(row)}
    assert len(processes) <= 4  # an exploit starts no process anew
    for entry in entries:
        own = reports(rows[entry["recipient"]])
        new = pytest.approx(entry["new"]["lr"], rel=1e-9)
        after = next(r for r in own if r["hyper/lr"] == new)  # what the optimiser really took
        assert after["env_steps"] > entry["time"]
        assert after["return_mean"] >= 0.95 * entry["donor_score"]
    last = entries[-1]
    state, meta = checkpoint.load(out / "walk" / last["checkpoint"])
    assert state["learner"]["gradient_steps"] > 0
    assert meta["config"]["algorithm"]["lr"] == last["donor_had"]["lr"]
    for row in outcome.trials:  # each member's newest checkpoint has its own settings
        newest = sorted(Path(row["folder"]).glob("checkpoint_*"))[-1]
        assert checkpoint.load(newest)[1]["config"]["algorithm"]["lr"] == row["settings"]["lr"]
    assert all(math.isfinite(e["donor_score"]) for e in entries)
