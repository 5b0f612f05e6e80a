"""Does a run on a cluster outlive a node, and take in one that comes back?"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray
ROOT = str(Path(__file__).parents[2])

DRIVER = """
import sys
import shoal.fleet.members
import shoal.trainer
shoal.fleet.members.REFILL = 2.0
shoal.trainer.REPORT_STEPS = 1
system, plan, address = sys.argv[1:]
trainer = shoal.trainer.Trainer(
    system, env="CartPole-v1", plan=plan, workers=3, address=address, learner="torch",
    envs_per_worker=1, fragment_length=16, network={"hidden": [4]}, stop_seconds=100,
)
for report in trainer:
    known = sum(report[f"{kind}_steps"] for kind in ("trained", "dropped", "in_flight"))
    assert report["env_steps"] == known, report
    names = {name.split("/")[1] for name in report if name.startswith("worker/")}
    print("restarts", report["worker_restarts"], "workers", *sorted(names), flush=True)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two nodes, each with one CPU, on this machine's loopback."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = ROOT
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=small)
    made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    yield made
    made.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


class Driver:
    """The run, in a process of its own, and what it says."""

    def __init__(self, *words: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.heard: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.put(line)
        self.lines.put("over")

    def report(self) -> tuple[int, set[str]]:
        """Restarts so far, and the workers that took part, of the next report."""
        while True:
            line = self.lines.get(timeout=60)
            self.heard.append(line)
            assert line != "over", "".join(self.heard[-20:])
            if line.startswith("restarts "):
                _, restarts, _, *names = line.split()
                return int(restarts), set(names)

    def seen(self, reports: int) -> set[str]:
        return set[str]().union(*(self.report()[1] for _ in range(reports)))

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait(10)


@pytest.mark.parametrize(
    ("system", "plan"),
    [("a2c", "sync_samples"), ("impala", "async_samples"), ("a2c", "allreduce")],
)
def test_a_node_goes_and_comes_back(system: str, plan: str, cluster: Any) -> None:
    run = Driver(system, plan, cluster.address)
    try:
        while len(run.seen(20)) < 3:
            pass
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        while run.report()[0] == 0:
            pass
        assert len(run.seen(20)) == 2
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        while len(run.seen(20)) < 3:
            pass
    finally:
        run.end()
