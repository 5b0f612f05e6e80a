"""Does a run's folder hold all that happened, however it ends, and can it be resumed?"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import shoal
from shoal.app import folder as folders
from shoal.app.cli import main
from shoal.app.console import Console
from shoal.app.loop import header
from shoal.app.loop import train as run_train
from shoal.checkpoint.files import load as load_checkpoint
from shoal.config.config import Cluster
from shoal.errors import CheckpointError, ConfigError, ShoalError
from shoal.trainer import Trainer

ENV = f"{__name__.replace('.', '_')}:Walk"
ROOT = Path(__file__).parents[1]
# 2 slots x 100 env steps a fragment, so that a report (2,000 env steps) is ten updates.
SMALL = [
    *("--rollout.envs-per-worker", "2"),
    *("--rollout.fragment-length", "100"),
    *("--algorithm.epochs", "1"),
    *("--algorithm.minibatch-size", "100"),
    *("--algorithm.network.hidden", "4"),
    *("--learner", "jax"),
]


class Walk(gymnasium.Env[Any, Any]):
    """Episodes of 10 env steps with reward 1 each; something may happen at the n-th of a copy."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(
        self,
        fail_at: int = 0,
        leave_at: int = 0,
        signal_at: int = 0,
        number: int = 0,
        moves: int = 0,
    ) -> None:
        if moves:
            os.chdir("/")
        self.n, self.number = 0, number
        self.fail_at, self.leave_at, self.signal_at = fail_at, leave_at, signal_at

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n, self.t = self.n + 1, self.t + 1
        if self.n == self.fail_at:
            raise ValueError("the wheel fell off")
        if self.n == self.leave_at:
            sys.exit(0)
        if self.n == self.signal_at:
            os.kill(os.getpid(), self.number)
        return np.zeros(2, np.float32), 1.0, False, self.t == 10, {}


@pytest.fixture(autouse=True, scope="module")
def as_module() -> Iterator[None]:
    """This file under a name without dots, as a user's own module has."""
    name = ENV.partition(":")[0]
    sys.modules[name] = sys.modules[__name__]
    yield
    del sys.modules[name]


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Signals as a terminal has them, even where the tests themselves run in the background."""
    fresh = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in fresh.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def train(out: Path, *more: str) -> int:
    return main(["train", ENV, "--system", "ppo", "--out", str(out), *SMALL, *more])


def kwargs(**values: int) -> tuple[str, str]:
    return "--rollout.env-kwargs", json.dumps(values)


def progress(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def checkpoints(out: Path) -> list[int]:
    return sorted(int(path.name) for path in (out / "checkpoint").iterdir())


@pytest.fixture(scope="module")
def finished(as_module: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4,000 env steps, with a checkpoint after every report."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert train(out, "--stop-steps", "4000", "--checkpointing.every-iterations", "1") == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, to do with as one likes."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


# ------------------------------------------------------------------ what is kept


def test_summary_tells_how_it_ended(finished: Path) -> None:
    told = summary(finished)
    expected = {
        "stopped_by": "steps",
        "return_mean": 10.0,
        "env_steps": 4000,
        "episodes": 400,
        "gradient_steps": 40,
        "seed": 0,
        "system": "ppo",
        "env": ENV,
        "learner": "jax",
    }
    assert {key: told[key] for key in expected} == expected
    assert told["steps_per_s"] == pytest.approx(4000 / told["wall_s"])
    assert told["started"] < told["ended"]
    assert told["versions"]["shoal"] == shoal.__version__ and "jax" in told["versions"]


def test_progress_has_one_report_a_line(finished: Path) -> None:
    reports = progress(finished)
    assert [r["env_steps"] for r in reports] == [2000, 4000]
    assert all(r["return_mean"] == 10.0 for r in reports)
    assert 0 < reports[0]["wall_s"] < reports[1]["wall_s"] <= summary(finished)["wall_s"]


def test_config_of_a_run_repeats_it_in_python(finished: Path) -> None:
    with shoal.Trainer(config=finished / "config.json", trust=True) as trainer:
        reports = list(trainer)
    lines = (finished / "progress.jsonl").read_text().splitlines()
    names = ("env_steps", "episodes", "return_mean", "learn/loss")
    again = [{name: report[name] for name in names} for report in reports]
    assert again == [{name: json.loads(line)[name] for name in names} for line in lines]


def test_config_of_a_run_is_a_config_file(finished: Path, tmp_path: Path) -> None:
    config = str(finished / "config.json")
    assert main(["train", "--config", config, "--trust", "--out", str(tmp_path / "again")]) == 0
    again = tmp_path / "again"
    assert (again / "config.json").read_text() == (finished / "config.json").read_text()
    timeless = ("wall_s", "steps_per_s", "time/", "worker/")
    first, second = (
        [{k: v for k, v in r.items() if not k.startswith(timeless)} for r in progress(out)]
        for out in (finished, again)
    )
    assert first == second


def test_checkpoints_are_written_on_the_way_and_at_the_end(finished: Path) -> None:
    assert checkpoints(finished) == [2000, 4000]


def test_a_long_report_delays_no_checkpoint(tmp_path: Path) -> None:
    """A report is of five updates here, and after each of them a checkpoint is due."""
    small: dict[str, Any] = {"envs_per_worker": 2, "fragment_length": 100, "hidden": (4,)}
    small |= {"epochs": 1, "minibatch_size": 100, "report_every": 1000, "stop_steps": 2000}
    often = {"every_seconds": 1e-9, "keep": 99}
    with shoal.Trainer("ppo", Walk, **small, **often) as trainer:
        assert run_train(trainer, tmp_path, Console()) == 0
    assert [report["env_steps"] for report in progress(tmp_path)] == [1000, 2000]
    assert checkpoints(tmp_path) == list(range(200, 2001, 200))
    walls = [
        load_checkpoint(path)[0]["recorder"]["wall_s"]
        for path in sorted((tmp_path / "checkpoint").glob("[0-9]*"))
    ]
    assert walls == sorted(set(walls)) and walls[-1] <= summary(tmp_path)["wall_s"]
    first, second = (report["wall_s"] for report in progress(tmp_path))
    assert walls[3] < first <= walls[4] < second <= walls[9]


def test_a_value_that_json_lacks_is_null(tmp_path: Path) -> None:
    log = folders.Log(tmp_path)
    log.write({"env_steps": 1, "wall_s": 0.1, "return_mean": float("nan"), "x": float("inf")})
    kept = folders.read_progress(tmp_path)  # at once: a kill loses no report
    log.close()
    assert kept == [{"env_steps": 1, "wall_s": 0.1, "return_mean": None, "x": None}]


# ------------------------------------------------------------------ going on


@pytest.mark.parametrize(
    ("cluster", "workers", "where"),
    [
        ({}, 0, " 8 environments in this process,"),
        ({"in_process": True}, 2, " 2 workers of 8 environments in this process,"),
        ({}, 1, " 1 worker of 8 environments on this machine (Ray),"),
        ({}, 2, " 2 workers of 8 environments on this machine (Ray),"),
        ({"address": "10.0.0.7:6379"}, 2, " environments on the cluster 10.0.0.7:6379,"),
    ],
)
def test_the_header_says_where_the_workers_are(
    cluster: Any, workers: int, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with Trainer("a2c", "CartPole-v1", learner="torch", seconds=1) as made:
        rollout = replace(made.config.rollout, workers=workers)
        made.config = replace(made.config, rollout=rollout, cluster=Cluster(**cluster))
        assert where in header(made, tmp_path).splitlines()[0]
        if workers and not cluster:
            monkeypatch.setenv("RAY_ADDRESS", "head:6379")
            assert " on the cluster head:6379," in header(made, tmp_path)


@pytest.mark.parametrize("replaced", [{}, {0: 2, 1: 1}])
def test_the_farewell_tells_of_workers_that_were_replaced(
    replaced: dict[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Trainer("a2c", "CartPole-v1", learner="torch", stop_steps=100) as made:
        made.fleet.stats.restarts.update(replaced)
        made.fleet.stats.lost_calls = len(replaced) // 2
        assert run_train(made, tmp_path, Console()) == 0
    told = "\nworkers replaced: 3 (1 call lost with them)\n"
    assert (told in capsys.readouterr().out) == bool(replaced)


def test_resume_continues_the_counters(run: Path) -> None:
    before, spent = progress(run), summary(run)["wall_s"]
    assert main(["resume", str(run), "--env", ENV, "--stop-steps", "6000"]) == 0
    assert progress(run)[:2] == before
    assert [r["env_steps"] for r in progress(run)] == [2000, 4000, 6000]
    assert progress(run)[2]["wall_s"] > spent
    assert summary(run)["gradient_steps"] == 60
    assert json.loads((run / "config.json").read_text())["stop"]["env_steps"] == 6000
    assert len(list(run.glob("events.out.*"))) == 2


def test_resume_is_as_if_it_had_never_stopped(run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert train(whole, "--stop-steps", "6000") == 0
    assert main(["resume", str(run), "--env", ENV, "--stop-steps", "6000"]) == 0
    ours, theirs = (load_checkpoint(out)[0]["learner"]["params"] for out in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_resume_keeps_config_where_nothing_changes(run: Path) -> None:
    shutil.rmtree(run / "checkpoint" / "000004000")
    before = (run / "config.json").stat().st_mtime_ns
    assert main(["resume", str(run), "--env", ENV]) == 0
    assert (run / "config.json").stat().st_mtime_ns == before
    assert summary(run)["env_steps"] == 4000


def test_resume_drops_reports_past_the_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoint" / "000004000")
    with (run / "progress.jsonl").open("a") as file:
        file.write('{"env_steps": 6000, "wall')  # a kill may cut a line off
    lines = (run / "progress.jsonl").read_text().splitlines()
    assert main(["resume", str(run), "--env", ENV]) == 0
    assert (run / "progress.jsonl").read_text().splitlines()[0] == lines[0]
    assert [r["env_steps"] for r in progress(run)] == [2000, 4000]


def test_resume_from_an_older_checkpoint_puts_newer_ones_aside(run: Path) -> None:
    manifest = run / "checkpoint" / "000004000" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"ppo", b"pqo"))
    assert main(["resume", str(run), "--env", ENV]) == 1
    older = str(run / "checkpoint" / "000002000")
    assert main(["resume", older, "--env", ENV, "--stop-steps", "2200"]) == 0
    assert summary(run)["env_steps"] == 2200
    assert load_checkpoint(run)[1]["counters"]["env_steps"] == 2200
    assert len(list((run / "checkpoint").glob("aside-000004000-*"))) == 1


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "--stop-steps 8000"),
        (["--stop-steps", "none", "--stop-return", "9"], "--stop-steps 8000"),
        (["--stop-steps", "none", "--stop-seconds", "1e-6"], "--stop-seconds"),
    ],
)
def test_resume_refuses_a_stop_that_is_met(
    run: Path, capsys: pytest.CaptureFixture[str], options: list[str], advice: str
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["resume", str(run), "--env", ENV, *options]) == 2
    told = capsys.readouterr().err
    assert f"shoal resume {run} {advice}" in told and f" --env {ENV}\n" in told
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_changed_settings_last_without_an_update(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries = []

    def interrupted(trainer: shoal.Trainer, *_: Any) -> dict[str, Any]:
        summaries.append((run / "summary.json").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(shoal.Trainer, "train", interrupted)
    more = ["--algorithm.lr", "1e-5", "--stop-steps", "9000"]
    assert main(["resume", str(run), "--env", ENV, *more]) == 130
    assert summaries == [False]  # a run that goes on has not ended
    assert load_checkpoint(run)[1]["config"]["algorithm"]["lr"] == 1e-5


def test_two_processes_do_not_train_in_one_folder(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "progress.jsonl").read_bytes()
    with folders.locked(run):
        assert main(["resume", str(run), "--env", ENV, "--stop-steps", "6000"]) == 2
    assert "another process is training" in capsys.readouterr().err
    assert (run / "progress.jsonl").read_bytes() == before


# ------------------------------------------------------------------ ends that come early


def test_error_keeps_the_last_whole_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(out, *kwargs(fail_at=1250)) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "error: ValueError: the wheel fell off"
    assert "test_run.py" in told[1] and "wheel fell off" in told[1]
    assert len(told) <= 25 and "Traceback" not in "".join(told)
    assert summary(out)["stopped_by"] == "error"
    assert summary(out)["error"] == "ValueError: the wheel fell off"
    assert summary(out)["env_steps"] == 2400  # twelve updates, of which ten were reported
    assert checkpoints(out) == [2400]
    assert main(["resume", str(out), "--env", ENV, *kwargs(), "--stop-steps", "2600"]) == 0
    assert summary(out)["env_steps"] == 2600


def test_error_before_the_first_update_leaves_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(out, *kwargs(fail_at=3)) == 1
    assert "nothing was learned yet" in capsys.readouterr().out
    assert summary(out)["stopped_by"] == "error" and not (out / "checkpoint").exists()
    assert main(["resume", str(out)]) == 2
    assert f"shoal train --config {out / 'config.json'}" in capsys.readouterr().err


def test_environment_that_leaves_the_process_is_an_error(tmp_path: Path) -> None:
    assert train(tmp_path / "run", *kwargs(leave_at=250)) == 1
    assert checkpoints(tmp_path / "run") == [400]


def test_a_checkpoint_that_cannot_be_written_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Path:
        raise CheckpointError("cannot write the checkpoint: the disk is full")

    monkeypatch.setattr(shoal.Trainer, "save", full)
    assert train(tmp_path / "run", "--stop-steps", "200") == 1
    assert "the disk is full" in capsys.readouterr().err
    assert summary(tmp_path / "run")["stopped_by"] == "error"


def test_the_first_error_is_told_not_its_consequence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Path:
        raise CheckpointError("cannot write the checkpoint: the disk is full")

    monkeypatch.setattr(shoal.Trainer, "save", full)
    assert train(tmp_path / "run", *kwargs(fail_at=250)) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ValueError: the wheel fell off")
    assert "the checkpoint could not be written either: cannot write the checkpoint" in told


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_in_an_update_ends_the_run_before_it(tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    assert train(out, *kwargs(signal_at=350, number=int(number))) == 128 + number
    assert summary(out)["stopped_by"] == "interrupt"
    assert checkpoints(out) == [600]
    again = ["resume", str(out), "--env", ENV, *kwargs(signal_at=0), "--stop-steps", "2200"]
    assert main(again) == 0
    assert [r["env_steps"] for r in progress(out)] == [2000, 2200]  # as without the interruption


@pytest.mark.usefixtures("interrupts")
def test_signal_outside_an_update_waits_for_the_files(tmp_path: Path) -> None:
    class Impatient(Console):
        def report(self, report: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    small = {"envs_per_worker": 2, "fragment_length": 100, "epochs": 1, "minibatch_size": 100}
    with shoal.Trainer("ppo", Walk, hidden=(4,), stop_steps=50_000, **small) as trainer:
        assert run_train(trainer, tmp_path, Impatient()) == 130
    (report,) = progress(tmp_path)
    assert summary(tmp_path)["env_steps"] == report["env_steps"] == checkpoints(tmp_path)[0]


@pytest.mark.usefixtures("interrupts")
def test_signal_after_the_end_changes_nothing(tmp_path: Path) -> None:
    class Late(Console):
        def end(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    small = {"envs_per_worker": 2, "fragment_length": 100, "epochs": 1, "minibatch_size": 100}
    with shoal.Trainer("ppo", Walk, hidden=(4,), stop_steps=200, **small) as trainer:
        assert run_train(trainer, tmp_path, Late()) == 0
    assert summary(tmp_path)["stopped_by"] == "steps" and checkpoints(tmp_path) == [200]


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    """A run in a process of its own, after its first report."""
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from shoal.app.cli import main; sys.exit(main())"
    )
    command = ["train", "CartPole-v1", "--system", "ppo", "--out", str(out), *SMALL, *more]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    path = out / "progress.jsonl"
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return process


def test_signal_from_outside_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"shoal resume {out}" in said and "Traceback" not in said
    assert summary(out)["stopped_by"] == "interrupt"
    reached = summary(out)["env_steps"]
    assert load_checkpoint(out)[1]["counters"]["env_steps"] == reached
    assert main(["resume", str(out), "--stop-steps", str(reached + 200)]) == 0
    assert summary(out)["env_steps"] >= reached + 200


def test_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--checkpointing.every-iterations", "1")
    while not list((out / "checkpoint").glob("[0-9]*")):
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    assert not (out / "summary.json").exists()
    saved = load_checkpoint(out)[1]["counters"]["env_steps"]
    assert main(["resume", str(out), "--stop-steps", str(saved + 2000)]) == 0
    steps = [r["env_steps"] for r in progress(out)]
    assert steps == sorted(set(steps)) and saved in steps
    assert summary(out)["env_steps"] >= saved + 2000


# ------------------------------------------------------------------ the folder


def test_a_folder_with_something_in_it_is_left_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert train(tmp_path) == 2
    told = capsys.readouterr().err
    assert "not empty" in told and "resume" not in told
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    assert train(finished) == 2
    assert f"shoal resume {finished}" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["/proc/nowhere/run", "file/run"])
def test_a_folder_that_cannot_be_written_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").touch()
    assert train(tmp_path / out) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_environment_that_cannot_be_made_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", "NoSuchThing-v0", "--system", "ppo", "--out", str(out)]) == 1
    assert not out.exists()


def test_default_folders_do_not_collide(tmp_path: Path) -> None:
    made = [folders.claim_new(tmp_path / "run") for _ in range(3)]
    assert [path.name for path in made] == ["run", "run-2", "run-3"]


def test_a_broken_report_is_pointed_at(tmp_path: Path) -> None:
    good = '{"env_steps": 1, "wall_s": 1, "return_mean": 1}\n'
    (tmp_path / "progress.jsonl").write_text(good + "{}\n" + good)
    with pytest.raises(ShoalError) as caught:
        folders.read_progress(tmp_path)
    assert caught.value.where == f"{tmp_path / 'progress.jsonl'}:2"


def test_a_closed_pipe_does_not_end_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = "import sys; from shoal.app.cli import main; sys.exit(main())"
    command = ["train", "CartPole-v1", "--system", "ppo", "--out", str(out), "--stop-steps", "400"]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", script, *command, *SMALL],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert summary(out)["stopped_by"] == "steps"


def test_an_environment_that_changes_the_folder_moves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(Path("run"), *kwargs(moves=1), "--stop-steps", "200") == 0
    assert Path.cwd() == Path("/")
    assert checkpoints(tmp_path / "run") == [200]
    assert summary(tmp_path / "run")["env_steps"] == 200


def test_a_folder_that_is_deleted_is_written_anew_and_locked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Tidy(Console):
        def report(self, report: Any) -> None:
            if report["env_steps"] == 2000:
                shutil.rmtree(tmp_path / "run")
            else:
                locked = folders.locked(tmp_path / "run")
                with pytest.raises(ConfigError, match="another process"), locked:
                    pass

    small = {"envs_per_worker": 2, "fragment_length": 100, "epochs": 1, "minibatch_size": 100}
    (tmp_path / "run").mkdir()
    with (
        shoal.Trainer("ppo", Walk, hidden=(4,), stop_steps=4000, **small) as trainer,
        folders.locked(tmp_path / "run"),
    ):
        assert run_train(trainer, tmp_path / "run", Tidy()) == 0
    with folders.locked(tmp_path / "run"):
        pass
    assert capsys.readouterr().out.count("the run folder is gone, and is written anew") == 1
    assert [r["env_steps"] for r in progress(tmp_path / "run")] == [4000]
    assert checkpoints(tmp_path / "run") == [4000]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["system"] == "ppo"


def test_a_full_disk_is_told_once_and_leaves_nothing_half_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "run", folders.Log.write
    nowhere = open("/dev/full", "w")  # noqa: SIM115  (the log closes it)

    def no_space(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_bytes(path: Path, *_: Any, **__: Any) -> int:
        path.touch()
        return no_space()

    def full(log: folders.Log, report: Any) -> None:
        if report["env_steps"] == 4000:
            monkeypatch.setattr(log, "_lines", nowhere)
            monkeypatch.setattr(Path, "write_bytes", write_bytes)
            monkeypatch.setattr(os, "write", no_space)
        write(log, report)

    monkeypatch.setattr(folders.Log, "write", full)
    assert train(out, "--stop-steps", "6000") == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: progress.jsonl cannot be written: No space left on device")
    assert "make room on the disk" in told.err and "fault of Shoal" not in told.err
    assert told.err.count("No space") == 1
    assert "the checkpoint and the summary could not be written either" in told.err
    assert "what was learned could not be saved" in told.out
    assert "nothing was learned" not in told.out
    left = {path.name for path in out.rglob("*") if not path.name.startswith((".lock", "events"))}
    assert left == {"config.json", "progress.jsonl", "checkpoint"}


@pytest.mark.parametrize(("saves", "said"), [("true", False), ("false", True)])
def test_a_replay_buffer_that_is_not_saved_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], saves: str, said: bool
) -> None:
    options = ["--replay.save", saves, "--replay.capacity", "1000", "--replay.warmup", "100"]
    small = ["--algorithm.network.hidden", "4", "--learner", "jax", "--stop-steps", "300"]
    command = ["train", ENV, "--system", "dqn", "--out", str(tmp_path / "run")]
    assert main([*command, *options, *small]) == 0
    assert ("not saved: a resumed run fills it anew" in capsys.readouterr().out) == said
    assert main(["resume", str(tmp_path / "run"), "--env", ENV, "--stop-steps", "400"]) == 0
    told = capsys.readouterr().out
    assert ("the checkpoint holds no replay buffer: it is filled anew first" in told) == said
