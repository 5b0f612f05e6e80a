"""However a run ends, does it leave neither a process nor shared memory, and can it go on?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shoal.checkpoint import files as checkpoint
from tests.chaos.mortal import Ledger

pytestmark = pytest.mark.ray
ROOT = str(Path(__file__).parents[2])
SECONDS = 5.0  # within which all must be gone
SMALL = [
    *("--rollout.envs-per-worker", "2"),
    *("--rollout.fragment-length", "16"),
    *("--algorithm.network.hidden", "4"),
    *("--checkpointing.every-iterations", "1"),
    *("--workers", "2"),
    *("--learner", "torch"),
    *("--out", "run"),
]
SHM = Path("/dev/shm")


class Process:
    """A process of a user's, and all that descends from it."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.folder = folder
        self.shm = set(os.listdir(SHM)) if SHM.is_dir() else set()
        env = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
        self.output = (folder / "output").open("w+")
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=env,
            start_new_session=True,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        self.family: list[psutil.Process] = []

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 90
        while not condition():
            assert self.popen.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.05)
        self.family = psutil.Process(self.popen.pid).children(recursive=True)
        assert sum("ray::" in name(process) for process in self.family) >= 2

    @property
    def text(self) -> str:
        return (self.folder / "output").read_text()

    def leaves_nothing(self) -> int:
        """Its exit code; after that, everything is gone."""
        code = self.popen.wait(60)
        _, alive = psutil.wait_procs(self.family, timeout=SECONDS)
        assert [name(process) for process in alive] == []
        end = time.monotonic() + SECONDS  # other tests have memory there for a moment, too
        while SHM.is_dir() and (left := set(os.listdir(SHM)) - self.shm):
            assert time.monotonic() < end, left
            time.sleep(0.1)
        return code


def name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()[:80]
    except psutil.Error:
        return ""


def shoal(folder: Path, *words: str) -> Process:
    return Process(folder, "-m", "shoal", *words)


def saved(folder: Path) -> Callable[[], bool]:
    return lambda: any((folder / "run" / "checkpoint").glob("[0-9]*/*.json"))


def counters(folder: Path) -> dict[str, int]:
    state, _ = checkpoint.load(folder / "run")
    found: dict[str, int | None] = state["run"]["counters"]
    return {name: count for name, count in found.items() if count is not None}


@pytest.mark.parametrize(
    ("number", "system"),
    [
        (signal.SIGINT, "a2c"),
        (signal.SIGTERM, "impala"),
        (signal.SIGKILL, "impala"),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_a_run_that_is_stopped_leaves_nothing_and_goes_on(
    number: signal.Signals, system: str, tmp_path: Path
) -> None:
    """Ctrl-C reaches every process of the terminal's; the others only the first."""
    run = shoal(tmp_path, "train", "CartPole-v1", "--system", system, *SMALL)
    run.wait_for(saved(tmp_path))
    (os.killpg if number == signal.SIGINT else os.kill)(run.popen.pid, number)
    code = run.leaves_nothing()
    before = counters(tmp_path)
    if number == signal.SIGKILL:
        assert code == -number
    else:
        assert code == 128 + number and "interrupted: " in run.text and "Traceback" not in run.text
    target = before["env_steps"] + 500
    again = shoal(tmp_path, "resume", "run", "--stop-steps", str(target))
    assert again.popen.wait(90) == 0, again.text
    after = counters(tmp_path)
    assert after["env_steps"] >= target
    assert all(after[key] >= before[key] for key in before)
    lost = before["env_steps"] - before["trained_steps"] - before["dropped_steps"]
    assert after["dropped_steps"] >= before["dropped_steps"] + lost
    steps = [json.loads(x)["env_steps"] for x in (tmp_path / "run" / "progress.jsonl").open()]
    assert steps == sorted(steps)


SCRIPT = """
import os, sys, time
from shoal import Trainer
from tests.chaos.mortal import Mortal
small = dict(envs_per_worker=1, fragment_length=16, network={{"hidden": [4]}}, learner={learner!r})
trainer = Trainer({system!r}, Mortal, workers=2, env_kwargs={kwargs!r}, **small)
print("begun", flush=True)
{ending}
"""
ENDINGS = {
    "end": ("trainer.train(); time.sleep(1)", 0),
    "break": ("for report in trainer:\n    break", 0),
    "exception": ("trainer.train(); raise ValueError('mine')", 1),
    "os._exit": ("trainer.train(); time.sleep(1); os._exit(4)", 4),
}


@pytest.mark.parametrize(
    ("ending", "system", "learner"),
    [*((ending, "a2c", "torch") for ending in ENDINGS), ("break", "impala", "jax")],
)
def test_a_program_that_forgets_to_stop_its_trainer_leaves_nothing(
    ending: str, system: str, learner: str, tmp_path: Path
) -> None:
    end, code = ENDINGS[ending]
    kwargs = Ledger(tmp_path).kwargs()
    script = SCRIPT.format(system=system, learner=learner, kwargs=kwargs, ending=end)
    program = Process(tmp_path, "-c", script)
    program.wait_for(lambda: "begun" in program.text)
    assert program.leaves_nothing() == code, program.text
    assert "ignored" not in program.text  # what fails while the interpreter is taken apart


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_whose_workers_are_stuck_can_be_ended(
    number: signal.Signals, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    kwargs = ledger.kwargs(how="hang", at=9, times=9)
    script = SCRIPT.format(system="a2c", learner="torch", kwargs=kwargs, ending="trainer.train()")
    program = Process(tmp_path, "-c", script)
    program.wait_for(lambda: ledger.path.exists() and ledger.steps == 2 * 9)
    begin = time.monotonic()
    program.popen.send_signal(number)
    assert program.leaves_nothing() != 0
    assert time.monotonic() - begin < 30  # not the minutes for which they would sleep
