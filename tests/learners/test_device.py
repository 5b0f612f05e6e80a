"""Does a learner keep all that it computes with on the device that it was given?

Without a GPU: XLA makes two devices of one CPU, and PyTorch's fake tensors carry the name of a
device, compute nothing, and refuse an operation on two devices as a GPU does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from shoal.errors import ConfigError
from shoal.learners import torch as learner_of_torch
from shoal.learners.choose import create_learner
from shoal.learners.device import choose_device
from shoal.trainer import Trainer
from tests.algorithms.test_array_functions import CASES, case
from tests.worlds import TINY, Script

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
    ({"device": "cuda", "plan": "allreduce"}, "every worker computes gradients"),
    ({"device": "cuda", "learner": "torch"}, "torch does not see it"),
]


@pytest.mark.parametrize(("settings", "why"), REFUSED)
def test_what_cannot_be_had_is_refused(settings: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Trainer("a2c", Script, **{**SMALL, **settings})


def test_tf32_is_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda", "torch", False, "tf32") == "cuda:0"
