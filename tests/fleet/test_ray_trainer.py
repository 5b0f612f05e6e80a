"""Is a run on processes bit-equal to one in this process, and light on the machine?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.fleet.cluster import WORKER_BYTES
from shoal.fleet.worker import Worker
from shoal.plans.parameter_server import ParameterServer
from shoal.trainer import Trainer
from tests.determinism.test_determinism import state, train
from tests.fleet.snoop import Snoop
from tests.worlds import RECURRENT, TINY, difference, settings

SHORT = {"sequence": 6, "burn_in": 3, "overlap": 3}
ROOT = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def one_update_a_report(one_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)


def make(system: str, env: Any = "CartPole-v1", **fields: Any) -> Trainer:
    small = {"envs_per_worker": 2, "fragment_length": 24, "network": TINY, "learner": "torch"}
    several = {"ppo": {"epochs": 2, "minibatch_size": 16}}
    return Trainer(system, env, **{**small, **several.get(system, {}), **fields})


@pytest.mark.parametrize(
    ("system", "plan", "network", "fields"),
    [
        ("ppo", "sync_samples", TINY, {}),
        ("ppo", "sync_samples", RECURRENT, {}),
        ("a2c", "async_gradients", TINY, {}),
        ("a2c", ParameterServer(sync_every=2), RECURRENT, {}),
        ("a2c", "allreduce", RECURRENT, {}),
        ("r2d2", "sync_replay", RECURRENT, {"warmup": 64, **SHORT}),
    ],
    ids=["sync_samples", "lstm", "async_gradients", "parameter_server", "allreduce", "r2d2"],
)
def test_one_worker_in_a_process_of_its_own_is_one_in_this(
    system: str, plan: Any, network: Any, fields: dict[str, Any]
) -> None:
    """So that what a debugger shows in one process is what happens in several."""
    here = make(system, plan=plan, workers=1, network=network, in_process=True, **fields)
    train(here, 5)
    with make(system, plan=plan, workers=1, network=network, **fields) as there:
        train(there, 5)
        assert not difference(there.learner.get_state(), here.learner.get_state())
        assert not difference(there.run.get_state(), here.run.get_state())
    assert here.learner.version == 5 or fields  # replay first fills its buffer


def test_several_workers_that_wait_for_each_other_are_deterministic_and_resume(
    tmp_path: Path,
) -> None:
    """Never stopped, or saved, ended and restored: the same bits; and those of one process."""
    here = make("ppo", workers=2, in_process=True, normalise_obs=True)
    train(here, 4)
    with make("ppo", workers=2, normalise_obs=True) as halted:
        train(halted, 2)
        halted.save(tmp_path)
        train(halted, 2)
        assert not difference(state(halted), state(here))
    with Trainer.restore(tmp_path) as resumed:
        train(resumed, 2)
        assert not difference(state(resumed), state(here))


def test_an_interruption_within_a_fragment_changes_nothing(
    monkeypatch: Any, tmp_path: Path
) -> None:
    """Ctrl-C while the workers are sampling, a second time while the learner learns."""
    here = make("ppo", workers=2, in_process=True)
    train(here, 4)
    with make("ppo", workers=2) as made:
        train(made, 2)
        for owner, name in ((made.fleet, "_poll"), (made.learner, "update")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, interrupted(owner, name, patch))
                with pytest.raises(KeyboardInterrupt):
                    made.train()
        made.save(tmp_path)
        train(made, 2)
        assert not difference(state(made), state(here))
    with Trainer.restore(tmp_path) as resumed:
        train(resumed, 2)
        assert not difference(state(resumed), state(here))


def interrupted(owner: Any, name: str, patch: Any) -> Any:
    def once(*args: Any, **kwargs: Any) -> Any:
        patch.undo()
        raise KeyboardInterrupt

    return once


# ---------------------------------------------------------------- the worker's process


def test_a_process_that_samples_is_small_and_leaves_the_cores_to_others(tmp_path: Path) -> None:
    """No learning framework, one thread for arrays, and no more memory than was promised."""
    path = tmp_path / "seen"
    kwargs = {"path": str(path)}
    with make("ppo", env=Snoop, workers=1, env_kwargs=kwargs, network={"hidden": [64, 64]}) as t:
        while not path.exists():
            t.train()
    seen = json.loads(path.read_text())
    assert seen["pid"] != os.getpid() and seen["frameworks"] == []
    assert seen["OMP_NUM_THREADS"] == "1" and seen["blas_threads"] in (1, None)
    assert seen["rss"] <= WORKER_BYTES


def test_seeds_are_of_each_worker_and_of_each_life() -> None:
    config = settings("a2c", "CartPole-v1")
    draws = {
        (index, restart): float(Worker(config, index, None, restart).rng.random())
        for index in range(3)
        for restart in range(3)
    }
    assert len(set(draws.values())) == 9


# ---------------------------------------------------------------- trainers in a population

POPULATION = """
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR",
         object_store_memory=100 * 2**20, _node_ip_address="127.0.0.2")

@ray.remote(num_cpus=0.5)
class Member:
    def __init__(self, seed):
        from shoal import Trainer
        small = dict(envs_per_worker=1, fragment_length=16, network={"hidden": [4]}, seed=seed)
        self.trainer = Trainer("a2c", env="CartPole-v1", workers=2, learner="torch", **small)

    def train(self):
        return self.trainer.train()["env_steps"]

    def stop(self):
        self.trainer.stop()
        return ray.is_initialized()

members = [Member.remote(seed) for seed in range(3)]
steps = ray.get([member.train.remote() for member in members for _ in range(2)], timeout=90)
assert all(step >= 2000 for step in steps) and max(steps) >= 4000, steps
assert all(ray.get([member.stop.remote() for member in members], timeout=30))
print("all trained", flush=True)
"""


def test_trainers_inside_of_actors_do_not_wait_for_each_others_cpus(tmp_path: Path) -> None:
    """Three with two workers each, where there are two CPUs; in a Ray of their own."""
    env = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", POPULATION]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0 and "all trained" in done.stdout, done.stderr
