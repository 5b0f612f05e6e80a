"""Do the table and the plot of a search's folder show what happened in it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.app.cli import main
from shoal.app.display import Display
from shoal.tuning.board import best_of, row, short, text, varying


def search(folder: Path) -> Path:
    """A population of three, one of which failed and one of which copied the best."""
    trials = []
    for i, (lr, best, error) in enumerate(
        [(1e-3, 90.0, None), (2e-3, 70.0, None), (1.0, None, "boom")]
    ):
        own = folder / "walk" / f"{i:05d}"
        own.mkdir(parents=True)
        steps = [100, 200, 300] if i != 1 else [100, 200, 150, 250]
        reports = [{"env_steps": x, "wall_s": x, "return_mean": 0.3 * x} for x in steps]
        reports[0]["return_mean"] = None
        (own / "progress.jsonl").write_text("".join(json.dumps(r) + "\n" for r in reports))
        state = "error" if error else "done"
        settings = {"algorithm.lr": lr, "algorithm.network.hidden": [8] * (i + 1), "seed": 0}
        trials.append(
            row(
                {
                    **{"trial": f"{i:05d}", "id": f"x_{i:05d}", "state": state, "best": best},
                    **{"settings": settings, "error": error, "folder": str(own), "last": best},
                    **{"env_steps": steps[-1], "error_file": error and str(own / "error.json")},
                }
            )
        )
    status = {"folder": str(folder), "seconds": 65.0, "cpus": [0, 2], "total": 3, "mode": "max"}
    status |= {"metric": "return_mean", "trials": trials}
    (folder / "status.json").write_text(json.dumps(status))
    entry = {"time": 150, "recipient_time": 200, "recipient": "x_00001", "donor": "x_00000"}
    entry |= {"recipient_score": 20.0, "donor_score": 60.0, "old": {"algorithm.lr": 0.1}}
    entry |= {"donor_had": {"algorithm.lr": 1e-3}, "new": {"algorithm.lr": 2e-3}}
    (folder / "walk" / "lineage.jsonl").write_text(json.dumps(entry) + "\n")
    return folder


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((search(folder) / "status.json").read_text())
    return found


def test_the_table_tells_trials_by_state_and_the_errors_causes(tmp_path: Path) -> None:
    shown = text(status(tmp_path)).splitlines()
    assert shown[0] == "trials: 1 error, 2 done of 3  1m05s"
    assert shown[1] == f"resources: 0 of 2 CPUs requested; folder {tmp_path}"
    assert shown[2].split()[:4] == ["trial", "state", "lr", "hidden"]  # and not what all share
    assert [line.split()[0] for line in shown[3:6]] == ["00002", "00000", "00001"]
    assert "best: trial 00000, return_mean 90.0 with lr=0.001 hidden=8" in shown
    assert shown[-1].split() == ["00002:", "boom", str(tmp_path / "walk" / "00002" / "error.json")]


def test_the_best_of_what_is_to_be_low_is_the_lowest(tmp_path: Path) -> None:
    trials = status(tmp_path)["trials"]
    found = {mode: best_of(trials, mode) for mode in ("max", "min")}
    assert [(each or {})["trial"] for each in found.values()] == ["00000", "00001"]
    assert best_of([], "max") is None
    assert varying(trials) == ["algorithm.lr", "algorithm.network.hidden"]
    assert short("a.lr", ["a.lr", "b.lr"]) == "a.lr" and short("a.lambda_", []) == "lambda"


def test_plain_lines_end_with_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        display.say("trial 00000 done")
        display.show(status(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial 00000 done" and lines[1].startswith("trials: 1 error")


@pytest.mark.parametrize(
    "option, expected",
    [
        ([], "2 trials; best: 00000, return_mean 90.0 with lr=0.001 hidden=8"),
        (["--lineage"], "00001 copied 00000 at 150 env steps (20.0 against 60.0): lr 0.1 -> 0.002"),
    ],
)
def test_a_search_and_a_lineage_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], expected: str
) -> None:
    out = tmp_path / "out.png"
    assert main(["plot", str(search(tmp_path / "s")), "-o", str(out), *option]) == 0
    assert expected in capsys.readouterr().out and out.stat().st_size > 20_000


def test_a_search_is_drawn_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(search(tmp_path / "s")), ["-o", str(tmp_path / "x.png")]
    assert main(["plot", folder, folder + "2", *out]) == 2
    assert main(["plot", str(tmp_path), "--lineage", *out]) == 2
    assert "a search is drawn alone" in capsys.readouterr().err


CONFIG = {
    **{"system": "ppo", "env": "CartPole-v1", "report_every": 64, "stop": {"env_steps": 512}},
    "rollout": {"envs_per_worker": 2, "fragment_length": 16},
    "algorithm": {"epochs": 1, "minibatch_size": 32, "network": {"hidden": [8]}},
}


def schedule(folder: Path, *changes: tuple[int, dict[str, Any]]) -> str:
    file = folder / "schedule.json"
    told = [{"env_steps": at, "set": fields} for at, fields in changes]
    file.write_text(json.dumps({"config": CONFIG, "schedule": told}))
    return str(file)


def test_a_schedule_is_replayed_at_its_env_steps(tmp_path: Path) -> None:
    lr = "algorithm.lr"
    file = schedule(tmp_path, (256, {lr: 1e-3}), (0, {lr: 1e-2}), (128, {lr: 3e-3}))
    out = tmp_path / "run"
    assert main(["train", "--schedule", file, "--out", str(out)]) == 0
    lines = (out / "progress.jsonl").read_text().splitlines()
    taken = [(r["env_steps"], r["hyper/lr"]) for r in map(json.loads, lines)]
    rates = [1e-2, 1e-2, 3e-3, 3e-3, 1e-3, 1e-3, 1e-3, 1e-3]
    assert taken == [(64 * (i + 1), rate) for i, rate in enumerate(rates)]
    assert main(["resume", str(out), "--stop-steps", "640"]) == 0  # it goes on with the last
    last = json.loads((out / "progress.jsonl").read_text().splitlines()[-1])
    assert (last["env_steps"], last["hyper/lr"]) == (640, 1e-3)


def test_what_cannot_change_while_training_cannot_be_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = schedule(tmp_path, (0, {"algorithm.epochs": 2}))
    assert main(["train", "--schedule", file, "--out", str(tmp_path / "run")]) == 2
    assert "algorithm.epochs changes in this schedule" in capsys.readouterr().err
    (tmp_path / "no.json").write_text("{}")
    assert main(["train", "--schedule", str(tmp_path / "no.json")]) == 2
    assert "holds no schedule" in capsys.readouterr().err
