"""Is a run from Python the run of the command line?"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.app.cli import main
from shoal.checkpoint.files import load
from shoal.errors import ConfigError
from tests.worlds import difference

ARGS = ("--learner", "torch", "--envs-per-worker", "2", "--fragment-length", "50")
FIELDS: dict[str, Any] = {"learner": "torch", "envs_per_worker": 2, "fragment_length": 50}
TIMES = ("time", "wall_s", "steps_per_s", "worker/", "concurrency")


def untimed(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "progress.jsonl").read_text().splitlines()
    return [
        {k: x for k, x in json.loads(line).items() if not k.startswith(TIMES)} for line in lines
    ]


def test_the_command_line_and_python_make_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    line = ["train", "CartPole-v1", "--system", "a2c", "--stop-steps", "4000", "--out", str(one)]
    assert main([*line, *ARGS]) == 0
    said = capsys.readouterr().out.replace(str(one), "DIR").splitlines()
    result = shoal.run("a2c", "CartPole-v1", stop_steps=4000, out=other, **FIELDS)
    told = capsys.readouterr().out.replace(str(other), "DIR").splitlines()
    assert told[:2] == said[:2] and told[-2:] == said[-2:]
    assert untimed(one) == untimed(other) and len(untimed(one)) == 2
    names = [sorted(p.name[:10] for p in folder.iterdir()) for folder in (one, other)]
    assert names[0] == names[1]
    assert (one / "config.json").read_text() == (other / "config.json").read_text()
    a, b = (load(folder)[0]["learner"] for folder in (one, other))
    assert difference(a, b) == ""
    assert result.stopped_by == "steps" and result.env_steps == 4000
    assert result.return_mean == result.reports()[-1]["return_mean"]
    assert result.policy().act([0.0, 0.0, 0.0, 0.0]) in (0, 1)


def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = shoal.run(
        "a2c", "CartPole-v1", stop_steps=4000, out=tmp_path / "a", quiet=True, **FIELDS
    )
    shoal.run("a2c", "CartPole-v1", stop_steps=2000, out=tmp_path / "b", quiet=True, **FIELDS)
    again = shoal.resume(tmp_path / "b", stop_steps=4000, quiet=True)
    assert untimed(again.folder) == untimed(whole.folder)
    assert difference(load(again.folder)[0]["learner"], load(whole.folder)[0]["learner"]) == ""


def test_a_quiet_run_prints_nothing_and_takes_a_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gymnasium as gym

    make = lambda: gym.make("CartPole-v1")  # noqa: E731
    result = shoal.run("a2c", make, stop_steps=200, out=tmp_path / "r", quiet=True, **FIELDS)
    assert capsys.readouterr().out == "" and result.env_steps == 200


def test_a_folder_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="the output folder is not empty"):
        shoal.run("a2c", "CartPole-v1", out=tmp_path, quiet=True)


def test_a_run_without_a_stop_has_the_default_one_and_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shoal.app.run.DEFAULT_STEPS", 300)
    result = shoal.run("a2c", "CartPole-v1", quiet=True, **FIELDS)
    assert result.env_steps == 300
    assert result.folder.parent == tmp_path / "runs"
    assert result.folder.name.startswith("a2c-CartPole-v1-0-")


class Interrupting:
    """A logger that sends this process a signal at the first report."""

    def __init__(self, number: int) -> None:
        self.number = number

    def begin(self, run: Any) -> None:
        pass

    def report(self, env_steps: int, report: Any) -> None:
        os.kill(os.getpid(), self.number)

    def video(self, env_steps: int, path: Path) -> None:
        pass

    def end(self, summary: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_is_raised_after_a_checkpoint_was_saved(
    number: int, raised: type[BaseException], tmp_path: Path
) -> None:
    fields = {**FIELDS, "report_every": 500}
    handler = signal.getsignal(number)
    with pytest.raises(raised):
        shoal.run(
            "a2c", "CartPole-v1", out=tmp_path / "r", log=Interrupting(number), quiet=True, **fields
        )
    assert signal.getsignal(number) is handler
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["stopped_by"] == "interrupt"
    assert shoal.resume(tmp_path / "r", stop_steps=1500, log=None, quiet=True).env_steps == 1500


def test_an_error_in_training_is_raised_with_a_summary(tmp_path: Path) -> None:
    import gymnasium as gym

    class Breaks(gym.Wrapper[Any, Any, Any, Any]):
        steps = 0

        def step(self, action: Any) -> Any:
            Breaks.steps += 1
            if Breaks.steps > 700:
                raise ArithmeticError("it breaks here")
            return super().step(action)

    with pytest.raises(ArithmeticError, match="it breaks here"):
        shoal.run(
            "a2c", lambda: Breaks(gym.make("CartPole-v1")), out=tmp_path / "r", quiet=True, **FIELDS
        )
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["stopped_by"] == "error"
