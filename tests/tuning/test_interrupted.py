"""Does a killed or interrupted search end like one that was not?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from shoal.tuning.lineage import lineage

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SETTINGS = """
system: ppo
env: CartPole-v1
rollout: {envs_per_worker: 2, fragment_length: 20}
report_every: 200
checkpointing: {every_seconds: 0.2}
"""
ALGORITHM = "epochs: 1, minibatch_size: 40, network: {hidden: [8]}"
GRID = f"""{SETTINGS}
algorithm: {{{ALGORITHM}, lr: {{grid_search: [1e-2, 1e-3, 1e-4]}}}}
stop: {{env_steps: 6000}}
"""
POPULATION = f"""{SETTINGS}
algorithm: {{{ALGORITHM}, lr: {{loguniform: [1e-5, 1e-1]}}}}
stop: {{env_steps: 3000}}
tune: {{samples: 3, scheduler: {{name: pbt, every: 600, fraction: 0.34}}}}
"""
DIES = """
import os, sys
from shoal.app.cli import main
from shoal.tuning.population import Scheduler
exploit = Scheduler._exploit
def dies(*args):
    exploit(*args)
    os.kill(os.getpid(), 9)
Scheduler._exploit = dies
main(sys.argv[1:])
"""


def start(*words: str, script: str | None = None) -> subprocess.Popen[bytes]:
    command = ["-c", script] if script else ["-m", "shoal"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *command, "tune", *words], env=env, stdout=subprocess.PIPE
    )


def end(process: subprocess.Popen[bytes]) -> int:
    process.communicate(timeout=240)
    return process.returncode


def wait_for(found: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not found():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def reports(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What each trial reported, without what depends on the clock."""
    kept = ("env_steps", "episodes", "return_mean", "learn/loss", "hyper/lr")
    return {
        path.parent.name: [
            tuple(json.loads(line)[name] for name in kept) for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.glob("*/*/progress.jsonl"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid's search, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "grid.yaml").write_text(GRID)
    assert end(start(str(folder / "grid.yaml"), "--out", str(folder / "out"))) == 0
    return folder / "out"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_search_goes_on_to_the_same_end(whole: Path, tmp_path: Path, number: int) -> None:
    file, out = tmp_path / "grid.yaml", tmp_path / "out"
    file.write_text(GRID)
    process = start(str(file), "--out", str(out))
    wait_for(lambda: any(len(x) > 8 for x in reports(out).values()), process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert end(process) == (-9 if number == signal.SIGKILL else 130)
    psutil.wait_procs(family, timeout=10)
    assert [p for p in family if p.is_running() and p.status() != "zombie"] == []
    assert end(start("--resume", str(out))) == 0
    assert len(reports(out)) == 3 and reports(out) == reports(whole)


def test_a_kill_between_copy_and_restore_loses_neither(tmp_path: Path) -> None:
    file, out = tmp_path / "members.yaml", tmp_path / "out"
    file.write_text(POPULATION)
    assert end(start(str(file), "--out", str(out), script=DIES)) == -9
    (entry,) = lineage(out / "members")
    new, member = entry["new"]["algorithm.lr"], entry["recipient"].rpartition("_")[2]
    assert not any(r[4] == pytest.approx(new) for r in reports(out)[member])  # not restored yet
    assert end(start("--resume", str(out))) == 0
    own = [r for r in reports(out)[member] if r[4] == pytest.approx(new, rel=1e-9)]
    assert own and own[0][0] > entry["time"]  # went on from the copy, by the perturbed step size
    assert own[0][2] >= 0.95 * entry["donor_score"]
    status = json.loads((out / "status.json").read_text())
    assert {row["state"] for row in status["trials"]} == {"done"} and len(status["trials"]) == 3
