"""Do several trainers of one process share Ray, in any order of beginning and ending?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

SCRIPT = """
import threading
import shoal.trainer
from shoal.errors import ConfigError
from shoal.fleet import cluster
from shoal.trainer import Trainer
shoal.trainer.REPORT_STEPS = 1
cluster.cpus = lambda: 2
small = dict(envs_per_worker=1, fragment_length=16, network={"hidden": [4]}, learner="torch")

def make(seed, **fields):
    return Trainer("a2c", env="CartPole-v1", seed=seed, workers=1, **small, **fields)

done = []
def train(seed):
    with make(seed) as trainer:
        for _ in range(5 + 10 * seed):
            report = trainer.train()
        done.append(report["env_steps"])

threads = [threading.Thread(target=train, args=(seed,)) for seed in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sorted(done) == [5 * 16, 15 * 16], done
assert cluster._head is None

first, second = make(0), make(1)
try:
    make(2)
except ConfigError as error:
    print(error)
third = make(3, cpus_per_worker=0)
first.stop()
for trainer in second, third:
    trainer.train()
second.stop()
third.train()
third.stop()
assert cluster._head is None
print("all trained")
"""


def test_trainers_in_threads_and_one_after_the_other_share_ray(tmp_path: Path) -> None:
    """A third finds no CPU left, and is told how to get one."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0 and "all trained" in done.stdout, done.stdout + done.stderr
    assert "(2 of 2 are taken by another trainer of this process)" in done.stdout
    assert "stop that trainer first: trainer.stop(); or use rollout.workers=0" in done.stdout
    assert "share: cluster.cpus_per_worker=0" in done.stdout
