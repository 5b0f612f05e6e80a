"""Does a run go on where calls and answers get lost between processes?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray
ROOT = str(Path(__file__).parents[2])

SCRIPT = """
import json, os, sys
import shoal.trainer
from ray._private import services
from shoal.fleet.head import Head
from shoal.plans.parameter_server import ParameterServer
shoal.trainer.REPORT_STEPS = 1
begin = services.start_ray_process

def sound(*args, **kwargs):
    "Ray's own processes lose no message: their second try comes after half a minute."
    failures = os.environ.pop("RAY_testing_rpc_failure")
    try:
        return begin(*args, **kwargs)
    finally:
        os.environ["RAY_testing_rpc_failure"] = failures

services.start_ray_process = sound
head = Head(3, 100 * 2**20, 2, lambda *_: None)  # one Ray for all plans
small = dict(envs_per_worker=1, fragment_length=16, network={"hidden": [4]}, learner="torch")
replay = dict(capacity=1000, warmup=32, batch_size=8, replay_ratio=0.5)
for plan, system in json.loads(sys.argv[1]).items():
    own = replay if system == "dqn" else {}
    options = ParameterServer(sync_every=2) if plan == "parameter_server" else plan
    free = dict(workers=2, cpus_per_worker=0.0, restarts_per_minute=100)
    with shoal.trainer.Trainer(system, "CartPole-v1", plan=options, **small, **own, **free) as made:
        before = {}
        while True:
            report = made.train()
            known = sum(report[f"{kind}_steps"] for kind in ("trained", "dropped", "in_flight"))
            assert report["env_steps"] == known and report["in_flight_steps"] >= 0, report
            assert all(report[name] >= x for name, x in before.items()), (before, report)
            before = {name: report[name] for name in ("env_steps", "gradient_steps", "episodes")}
            lost = report["lost_calls"] + sum(f.stats.lost_calls for f in made.fleet._spawned)
            few = plan == "allreduce"  # each costs 15 s there: the other rank waits for this one
            if lost >= 2 - few and report["gradient_steps"] >= (10 if few else 20):
                break
        assert len(made.fleet.map("get_spaces")) == 2
    print(plan, flush=True)
head.close()
"""
PLANS = {
    "sync_samples": "a2c",
    "async_samples": "impala",
    "async_gradients": "a2c",
    "parameter_server": "a2c",
    "allreduce": "a2c",
    "sync_replay": "dqn",
    "async_replay": "dqn",
}


@pytest.mark.parametrize("lost", ["req_failure_prob", "resp_failure_prob"])
def test_lost_messages_cost_their_calls_and_nothing_else(lost: str) -> None:
    """One call in twenty does not arrive, or its answer does not: Ray's own injected failures.

    A call repeated after a lost answer has run twice.
    """
    chances: dict[str, Any] = {"num_failures": -1, "req_failure_prob": 0, "resp_failure_prob": 0}
    failures = {"CoreWorkerService.grpc_client.PushTask": chances | {lost: 5}}
    env = {**os.environ, "PYTHONPATH": ROOT, "RAY_testing_rpc_failure": json.dumps(failures)}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(PLANS)],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert run.stdout.split() == list(PLANS)
