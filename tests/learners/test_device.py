"""Does a learner keep all that it computes with on the device that it was given?

Without a GPU: XLA makes two devices of one CPU, and PyTorch's fake tensors carry the name of a
device, compute nothing, and refuse an operation on two devices as a GPU does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from shoal.algorithms.ppo import PPO
from shoal.errors import ConfigError
from shoal.fleet.collective import TIMEOUT, ProcessGroup, open_store
from shoal.fleet.learning import own_device
from shoal.learners import torch as learner_of_torch
from shoal.learners.choose import copy_of_ranks, create_learner, learner_of
from shoal.learners.device import choose_device
from shoal.systems.configure import configure
from shoal.trainer import Trainer
from tests.algorithms.test_array_functions import CASES, case
from tests.worlds import TINY, Script, difference, settings, worker

ROOT = Path(__file__).parents[2]
FAKE = "meta"  # the one kind of device, besides "cpu", that every build of PyTorch has
SMALL: dict[str, Any] = {
    **{"network": TINY, "envs_per_worker": 2, "fragment_length": 32},
    **{"stop_steps": 64, "report_every": 32},
}
SECOND = """
import sys
import numpy as np
from shoal.trainer import Trainer
from tests.learners.test_device import SMALL
from tests.worlds import Script

found = []
for device in ("cpu", "cpu:1"):
    with Trainer(sys.argv[1], Script, learner="jax", device=device, **SMALL) as trainer:
        trainer.train()
        now = trainer.learner._now
        arrays = [*now.params.values(), *now.optimiser.values(), *now.targets.values()]
        ids = {d.id for x in arrays for d in x.devices()}
        assert ids == {1 if device == "cpu:1" else 0}, ids
        assert trainer.learner.device == device
        found.append(trainer.learner.weights())
for name, x in found[0].items():
    np.testing.assert_array_equal(x, found[1][name], err_msg=name)
"""


@pytest.mark.parametrize("system", ["ppo", "dqn"])
def test_jax_learns_the_same_on_a_second_device_and_only_there(system: str) -> None:
    flags = "--xla_force_host_platform_device_count=2"
    env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SECOND, system]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched from fake tensors: they hold no numbers."""
    mod = learner_of_torch
    monkeypatch.setattr(mod, "choose_device", lambda *args: FAKE)
    monkeypatch.setattr(mod, "_floats", lambda scalars: dict.fromkeys(scalars, 1.0))
    monkeypatch.setattr(mod, "_numpy", lambda tree: dict.fromkeys(tree))


LEARNED = [name for name in CASES if name not in ("es", "ars")]


@pytest.mark.parametrize("name", LEARNED)
def test_pytorch_mixes_no_array_of_the_cpu_into_a_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, model, params, rest = case(name)
    batch, hyper = rest["batch"], algorithm.hyper(0.0)
    if "step" in batch:  # of one gradient step
        batch = {**batch, "step": {key: x[None] for key, x in batch["step"].items()}}
    _fake(monkeypatch)
    with FakeTensorMode(allow_non_fake_inputs=True):
        learner = create_learner("torch", algorithm, model, params, 1)
        learner.set_aux(algorithm.exploration(0, 2))
        learner.update(batch, None, hyper)
        state = learner._now  # type: ignore[attr-defined]
    for tree in (state.params, state.optimiser, state.targets):
        assert {str(x.device) for x in tree.values()} <= {FAKE}


def test_fake_tensors_refuse_two_devices() -> None:
    """Or the test above could not fail."""
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(Exception, match="device"):
        torch.ones(2, 3, device=FAKE) @ torch.ones(3, 1)


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(framework: str) -> None:
    with pytest.raises(ConfigError, match=f"'cuda:7': {framework} does not see it") as caught:
        choose_device("cuda:7", framework, True, "float32")
    assert "it sees: cpu" in str(caught.value)


@pytest.mark.parametrize(
    ("heavy", "gpus", "found"), [(True, 1, "cuda:0"), (True, 0, "cpu"), (False, 1, "cpu")]
)
def test_a_gpu_is_taken_by_itself_only_for_heavy_steps(
    heavy: bool, gpus: int, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_device("auto", "torch", heavy, "float32") == found


REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"device": "gpu"}, "device is 'gpu'"),
    ({"precision": "tf32"}, "tf32.*the learner is on the CPU"),
    ({"device": "cuda", "plan": "async_gradients"}, "every worker computes gradients"),
    ({"device": "cuda:1", "plan": "allreduce"}, "every worker has its own GPU"),
    ({"device": "cuda", "plan": "allreduce"}, "'cuda:0': (jax|torch) does not see it"),
    ({"device": "cuda", "plan": "allreduce", "workers": 2}, "2 workers with a GPU each need 2"),
    ({"device": "cuda", "learner": "torch"}, "torch does not see it"),
]


@pytest.mark.parametrize(("settings", "why"), REFUSED)
def test_what_cannot_be_had_is_refused(settings: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Trainer("a2c", Script, **{**SMALL, **settings})


def test_tf32_is_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda", "torch", False, "tf32") == "cuda:0"


# ------------------------------------------------------------------ ranks with a GPU each


def test_each_rank_has_a_gpu_of_its_own() -> None:
    """In a process of its own it is the only one; in one process ranks share them out."""
    config = configure("dd-ppo", "CartPole-v1", fields={"device": "cuda", "workers": 2})
    assert [own_device(config, i) for i in range(2)] == ["cuda:0", "cuda:0"]
    together = replace(config, cluster=replace(config.cluster, in_process=True))
    assert [own_device(together, i) for i in range(2)] == ["cuda:0", "cuda:1"]
    on_cpus = configure("dd-ppo", "CartPole-v1")
    for other in (on_cpus, configure("a3c", "CartPole-v1", fields={"device": "cuda"})):
        assert own_device(other, 1) == "cpu"


def test_the_copy_of_what_ranks_hold_needs_no_gpu() -> None:
    """Not for its number format either."""
    fields = {"device": "cuda", "precision": "tf32", "workers": 2, "learner": "torch"}
    config = configure("dd-ppo", "CartPole-v1", fields=fields)
    made = worker(settings("ppo", "CartPole-v1"))
    with pytest.raises(ConfigError, match="torch does not see it"):
        learner_of(config, made.model, made.weights, 2, 0)
    kind, learner = learner_of(copy_of_ranks(config), made.model, made.weights, 2, 0)
    assert (kind, learner.device) == ("torch", "cpu")


def test_gradients_on_gpus_are_summed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """By NCCL's group, which Gloo's stands for here: tensors go in and come out."""
    import torch.distributed as dist

    made: list[Any] = []

    class Stand:
        """NCCL's constructor, over Gloo."""

        class Options:
            pass

        def __new__(cls, store: Any, rank: int, size: int, options: Any) -> Any:
            made.append(options._timeout.total_seconds())
            return dist.ProcessGroupGloo(store, rank, size, options._timeout)

    monkeypatch.setattr(dist, "ProcessGroupNCCL", Stand, raising=False)
    monkeypatch.setenv("TORCH_NCCL_BLOCKING_WAIT", "0")
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    store, port = open_store("127.0.0.1")
    group = ProcessGroup(2, "127.0.0.1", port, "here")

    def rank(i: int) -> Any:
        reduce = replace(group).join(i, on_device=True)
        assert reduce.on_device  # type: ignore[attr-defined]
        return reduce(torch.full((3,), 1.0 + i))

    with ThreadPoolExecutor(2) as pool:
        sums = list(pool.map(rank, range(2)))
    assert all(isinstance(x, torch.Tensor) and x.tolist() == [3.0] * 3 for x in sums)
    assert made == [TIMEOUT, TIMEOUT] and os.environ["TORCH_NCCL_BLOCKING_WAIT"] == "1"
    del store


def test_a_learner_on_a_gpu_hands_tensors_to_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one on the CPU vectors of NumPy."""
    algorithm = PPO(network=TINY)
    config = settings("ppo", Script)
    made = worker(config)
    batch = made.sample().batch
    learner = create_learner("torch", algorithm, made.model, made.weights, 1)
    seen: list[type] = []

    def reduce(vector: Any) -> Any:
        seen.append(type(vector))
        return vector

    indices = algorithm.indices(made.model, np.random.default_rng(0), batch["mask"].shape)
    hyper, begin = {"lr": 1e-3, "clip": 0.2, "entropy_coef": 0.0}, learner.get_state()
    learner.update(batch, indices[:1], hyper, reduce)
    through_numpy = learner.get_state()
    learner.set_state(begin)
    reduce.on_device = True  # type: ignore[attr-defined]
    learner.update(batch, indices[:1], hyper, reduce)
    assert seen == [np.ndarray, torch.Tensor]
    assert difference(learner.get_state(), through_numpy) == ""
