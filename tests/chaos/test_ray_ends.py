"""Is Ray on this machine only what a run needs, closed to others, and is its death told at once?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shoal.fleet import cluster
from tests.chaos.test_leftovers import SMALL, Process, counters, saved, shoal

pytestmark = pytest.mark.ray
OF_RAY = {"gcs_server": "gcs_server", "raylet": "raylet", "agent": "cat"}


def begun(folder: Path, system: str) -> Process:
    """A run that has a checkpoint already."""
    run = shoal(folder, "train", "CartPole-v1", "--system", system, *SMALL)
    run.wait_for(saved(folder))
    return run


def victim(run: Process, part: str) -> psutil.Process:
    return next(process for process in run.family if process.name() == OF_RAY[part])


def folder_of(run: Process) -> Path:
    """Ray's temporary folder."""
    words = victim(run, "raylet").cmdline()
    return Path(next(w.partition("=")[2] for w in words if w.startswith("--temp_dir=")))


def test_a_run_is_heard_on_this_machine_only_and_by_none_without_its_token(tmp_path: Path) -> None:
    run = begun(tmp_path, "impala")
    everybody = [psutil.Process(run.popen.pid), *run.family]
    heard = {
        (process.pid, place.laddr.ip, place.laddr.port)
        for process in everybody
        for place in process.net_connections()
        if place.status == psutil.CONN_LISTEN
    }
    gcs = victim(run, "gcs_server").pid
    assert len({pid for pid, _, _ in heard}) >= 5  # the run, the GCS, the raylet and two workers
    assert {ip.removeprefix("::ffff:") for _, ip, _ in heard} == {"127.0.0.1"}
    port = next(port for pid, _, port in heard if pid == gcs)
    env = {k: x for k, x in os.environ.items() if not k.startswith("RAY_AUTH")}
    ask = [sys.executable, "-c", cluster._ASK, f"127.0.0.1:{port}"]
    assert subprocess.run(ask, env=env, capture_output=True, timeout=60).returncode == 3
    run.popen.send_signal(signal.SIGINT)
    assert run.leaves_nothing() == 130


def test_no_more_of_ray_runs_than_is_needed(tmp_path: Path) -> None:
    run = begun(tmp_path, "a2c")
    titles = sorted(process.name().partition(":")[0] for process in run.family)
    python = Path(sys.executable).resolve().name
    others = [title for title in titles if not title.startswith("python") and title != python]
    assert others == ["cat", "cat", "gcs_server", "ray", "ray", "raylet"], titles
    folder = folder_of(run)
    assert folder.is_dir()
    run.popen.kill()
    run.leaves_nothing()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("part", "system"), [("raylet", "impala"), ("gcs_server", "ppo"), ("agent", "ape-x")]
)
def test_a_run_ends_well_when_a_part_of_ray_is_killed(
    part: str, system: str, tmp_path: Path
) -> None:
    """With a checkpoint of all that the run had learned, though no worker answers any more."""
    run = begun(tmp_path, system)
    before, folder = counters(tmp_path), folder_of(run)
    victim(run, part).kill()
    assert run.leaves_nothing() == 1, run.text
    assert "Ray on this machine has ended" in run.text and "shoal resume" in run.text
    assert "Traceback" not in run.text and not folder.exists()
    after = counters(tmp_path)
    assert after["env_steps"] >= before["env_steps"]
