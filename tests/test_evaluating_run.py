"""Does a run folder hold what evaluation found while training, and does the console say it?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.app.cli import main
from shoal.checkpoint import files as checkpoint
from shoal.loggers.base import Begun
from shoal.trainer import Trainer
from tests.test_evaluating import Told
from tests.worlds import difference

ENV = "tests.test_evaluating:Told"
SMALL = [
    *("--system", "a2c", "--learner", "torch", "--report-every", "1"),
    *("--rollout.envs-per-worker", "2", "--rollout.fragment-length", "8"),
    *("--algorithm.network.hidden", "4", "--evaluate-episodes", "2"),
]


@pytest.fixture(autouse=True)
def nobody_told() -> Iterator[None]:
    yield
    Told.told.clear()


def train(out: Path, *more: str) -> int:
    return main(["train", ENV, *SMALL, "--out", str(out), *more])


def resume(out: Path, *more: str) -> int:
    return main(["resume", str(out), "--env", ENV, *more])


def evaluations(out: Path) -> list[tuple[int, float]]:
    """Env steps and return of each, as progress.jsonl has them."""
    reports = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    steps, mean = "evaluation/env_steps", "evaluation/return_mean"
    return [(report[steps], report[mean]) for report in reports if steps in report]


def put_best(out: Path, mean: float, env_steps: int) -> None:
    """A best policy that some evaluation found."""
    found = {"return_mean": mean, "env_steps": env_steps}
    checkpoint.save_best(out / "checkpoint", {"learner": {"n": np.zeros(1)}}, {"best": found})


def best(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.load(out / "checkpoint" / "best", ())[1]["best"]
    return found


def test_every_evaluation_is_a_line_of_the_console_and_of_the_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", "--evaluate-every", "32", "--stop-steps", "96") == 0
    out, found = capsys.readouterr().out, evaluations(tmp_path / "run")
    assert [env_steps for env_steps, _ in found] == [32, 64, 96]
    top = -np.inf
    for env_steps, mean in found:
        line = next(x for x in out.splitlines() if f"evaluation at {env_steps} env steps" in x)
        assert f": return {mean:.1f} +- " in line and "length 5.0, 2 episodes" in line
        assert line.endswith(", the best so far") == (mean > top)
        top = max(top, mean)
    kept = best(tmp_path / "run")
    assert kept["return_mean"] == top == dict(found)[kept["env_steps"]]
    assert "evaluation of 2 episodes every 32 env steps\n" in out
    where = tmp_path / "run" / "checkpoint" / "best"
    steps = kept["env_steps"]
    assert f"best evaluation: return {top:.1f} at {steps} env steps, kept in {where}\n" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["evaluation/best"] == kept


def test_the_header_and_the_end_say_which_return_stops_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = ["--stop-return", "-100", "--stop-steps", "1000"]
    assert train(tmp_path / "a", "--evaluate-every", "32", *stop) == 0
    out = capsys.readouterr().out
    assert "until evaluation return -100 or 1,000 env steps; " in out
    assert "reached evaluation return -100: " in out
    assert resume(tmp_path / "a") == 2
    assert "has met its stop already: evaluation return -100" in capsys.readouterr().err
    assert train(tmp_path / "b", *stop) == 0
    out = capsys.readouterr().out
    assert "until return -100 or 1,000 env steps; " in out and "reached return -100: " in out


def test_evaluate_plays_the_best_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(out, "--evaluate-every", "32", "--stop-steps", "64")
    kept = best(out)["env_steps"]
    resume(out, "--evaluate-every", "none", "--stop-steps", "96")
    for more, env_steps in (("--best",), kept), ((), 96):
        assert main(["evaluate", str(out), "--env", ENV, "--episodes", "1", *more]) == 0
        found = json.loads((out / "evaluation.json").read_text())
        assert (found["env_steps"], found.get("best", False)) == (env_steps, bool(more))
    capsys.readouterr()
    assert difference(dict(shoal.load(out).weights), dict(shoal.load(out, best=True).weights))


def test_no_run_goes_on_from_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", "--evaluate-every", "32", "--stop-steps", "64")
    assert resume(tmp_path / "run" / "checkpoint" / "best", "--stop-steps", "128") == 1
    assert "error: no run can go on from the best policy" in capsys.readouterr().err


# -------------------------------------------------------------------------- going on


def test_a_resumed_run_has_the_reports_and_the_best_of_one_that_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = ["--evaluate-every", "32"]
    train(tmp_path / "whole", *every, "--stop-steps", "160")
    train(tmp_path / "run", *every, "--stop-steps", "80")
    resume(tmp_path / "run", "--stop-steps", "160")
    capsys.readouterr()
    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")
    assert best(tmp_path / "run") == best(tmp_path / "whole")
    both = [dict(shoal.load(tmp_path / x, best=True).weights) for x in ("run", "whole")]
    assert not difference(*both)


def test_a_better_one_from_before_a_kill_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was found after the newest checkpoint, which therefore knows nothing of it."""
    out = tmp_path / "run"
    train(out, "--evaluate-every", "32", "--stop-steps", "64")
    put_best(out, 1e9, 70)
    capsys.readouterr()
    resume(out, "--stop-steps", "128")
    assert "best so far" not in capsys.readouterr().out
    assert best(out) == {"return_mean": 1e9, "env_steps": 70}


def test_one_that_was_deleted_is_found_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint that speaks of a best policy is no reason to keep none."""
    out = tmp_path / "run"
    train(out, "--evaluate-every", "32", "--stop-steps", "64")
    (out / "checkpoint" / "best").rename(tmp_path / "elsewhere")
    resume(out, "--stop-steps", "96")
    capsys.readouterr()
    assert best(out)["env_steps"] == 96


def test_a_run_that_goes_back_puts_a_newer_best_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    often = ["--checkpointing.every-iterations", "1", "--checkpointing.keep", "9"]
    train(out, "--evaluate-every", "16", "--stop-steps", "64", *often)
    put_best(out, 1e9, 64)
    resume(out / "checkpoint" / "000000032", "--stop-steps", "64")
    capsys.readouterr()
    assert best(out)["return_mean"] < 1e9
    assert len(list((out / "checkpoint").glob("aside-best-*"))) == 1


def test_the_best_is_never_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed after its first evaluation can go on."""
    save, seen = Trainer.save_best, list[bool]()

    def looked(trainer: Trainer, path: Path) -> Path:
        seen.append((path / "000000032").is_dir())
        return save(trainer, path)

    monkeypatch.setattr(Trainer, "save_best", looked)
    train(tmp_path / "run", "--evaluate-every", "32", "--stop-steps", "64")
    assert seen[0]


# -------------------------------------------------------------------------- films


class Listening:
    """A logger that records the films it is given."""

    def __init__(self) -> None:
        self.films: list[tuple[int, Path]] = []

    def begin(self, run: Begun) -> None: ...

    def report(self, env_steps: int, report: Any) -> None: ...

    def video(self, env_steps: int, path: Path) -> None:
        assert path.read_bytes()[4:8] == b"ftyp"  # an MP4 file, complete
        self.films.append((env_steps, path))

    def end(self, summary: Any) -> None: ...


def test_films_lie_in_the_run_folder_and_loggers_are_told(tmp_path: Path) -> None:
    logger, out = Listening(), tmp_path / "run"
    small: dict[str, Any] = {"envs_per_worker": 2, "fragment_length": 8, "learner": "torch"}
    shoal.run(
        *("a2c", "CartPole-v1"),
        **{"out": out, "log": logger, "quiet": True, "video_every": 32, "stop_steps": 64, **small},
    )
    films = [out / "videos" / "32.mp4", out / "videos" / "64.mp4"]
    assert logger.films == [(32, films[0]), (64, films[1])]
    assert sorted((out / "videos").iterdir()) == films


# -------------------------------------------------------------------------- faults


def test_an_environment_that_raises_is_an_error_of_the_users_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = ["--rollout.env-kwargs", '{"fails": true}', "--stop-steps", "96"]
    assert train(tmp_path / "run", "--evaluate-every", "32", *fails) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0] == "error: ValueError: the wheel fell off"
    assert "test_evaluating.py:" in lines[1] and 'raise ValueError("the wheel' in lines[1]
    assert "evaluating the weights of 32 env steps" in err
    assert "go on with: shoal resume" in out
    go_on = ["--on-evaluation-error", "continue", "--evaluate-every", "32"]
    assert train(tmp_path / "other", *go_on, *fails) == 0
    out = capsys.readouterr().out
    assert out.count("the evaluation at ") == 3 and not evaluations(tmp_path / "other")
