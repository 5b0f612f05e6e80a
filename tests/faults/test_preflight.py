"""Is a run that the machine or cluster cannot hold refused before it starts, with the reason?"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections import namedtuple
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.app.commands.train import new_config, options
from shoal.config.config import Cluster
from shoal.errors import ConfigError
from shoal.fleet import cluster
from shoal.trainer import Trainer
from tests.faults.broken import Broken

GIB = 2**30
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``machine(cpus=2, memory=8.0, shm=4.0)``: this machine, as it is to look; GiB."""

    def be(cpus: int = 64, memory: float = 64.0, shm: float = 64.0) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))
        found = SimpleNamespace(available=int(memory * GIB))
        monkeypatch.setattr(cluster.psutil, "virtual_memory", lambda: found)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(shm * GIB)))

    return be


def refused(**kwargs: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        cluster.connect(Cluster(**kwargs), 8, False, False)
    return caught.value


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that is in no Ray cluster yet, and may not start or join one."""
    import ray

    def forbidden(**kwargs: Any) -> None:
        pytest.fail(f"Ray was started: {kwargs}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", forbidden)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_too_few_cpus(machine: Callable[..., None]) -> None:
    machine(cpus=4)
    error = refused()
    assert error.what == "rollout.workers is 8, which needs 8 CPUs, but this machine has 4"
    assert error.fix == "use rollout.workers=4, or let them share: cluster.cpus_per_worker=0.5"
    assert "needs 16 CPUs" in refused(cpus_per_worker=2).what


def test_the_shares_that_are_advised_are_enough(machine: Callable[..., None]) -> None:
    """Of the CPUs there is nothing more to say: memory is next."""
    machine(cpus=3, memory=0.5)
    advised = (refused().fix or "").rpartition("=")[2]
    assert "memory" in refused(cpus_per_worker=float(advised)).what


def test_too_little_memory(machine: Callable[..., None]) -> None:
    machine(memory=1.0)
    error = refused()
    assert "rollout.workers is 8, which needs about 1.6 GiB" in error.what
    assert "1.0 GiB are free" in error.what and "rollout.workers=" in (error.fix or "")


def test_too_little_shared_memory(machine: Callable[..., None]) -> None:
    machine(shm=0.0625)
    error = refused()
    assert "needs 80 MiB of shared memory, but /dev/shm has 64 MiB left" in error.what
    assert "--shm-size" in (error.fix or "")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    error = refused(address=address)
    assert f"no Ray cluster answers at {address}" in error.what and "refused" in error.what
    assert "ray start --head" in (error.fix or "")


def test_who_listens_is_not_ray(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.REACH + cluster.REPLY < 10
    monkeypatch.setattr(cluster, "REPLY", 1.0)
    assert "does not speak as Ray does" in refused(address=silent).what


def test_the_environment_variable_is_an_address_too(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "REPLY", 1.0)
    monkeypatch.setenv("RAY_ADDRESS", silent)
    assert silent in refused().what
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    assert silent in refused(address=silent).what  # the setting counts for more


def test_a_cluster_that_asks_for_a_token(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asks(*args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(subprocess, "run", asks)
    assert "RAY_AUTH_MODE=token" in (refused(address=silent).fix or "")


@pytest.mark.parametrize("address", ["10.0.0.1", "ray://10.0.0.1:10001", ":6379", "host:port"])
def test_what_is_no_address(address: str) -> None:
    error = refused(address=address)
    assert repr(address) in error.what and "HOST:PORT" in error.what


@pytest.mark.parametrize("fault", [ConnectionError, RuntimeError, ValueError])
def test_what_ray_finds_wrong_is_a_setting_that_is(
    fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def join(**kwargs: Any) -> None:
        raise fault("Version mismatch: Ray 1.0")

    monkeypatch.setattr(ray, "init", join)
    error = refused(address="auto")
    assert "the Ray cluster at auto cannot be joined: Version mismatch" in error.what


def test_the_command_line_has_an_address() -> None:
    parser = options()
    argv = ["CartPole-v1", "--system", "a2c", "--workers", "2", "--address", "10.0.0.1:6379"]
    config, _ = new_config(parser, *parser.read(argv))
    assert config.cluster.address == "10.0.0.1:6379" and config.rollout.workers == 2


class TestCluster:
    """In a cluster that this process is in."""

    @pytest.fixture(autouse=True)
    def outside(self) -> None:
        """Not here."""

    def test_too_few_cpus(self, one_ray: None) -> None:
        with pytest.raises(ConfigError) as caught:
            Trainer("a2c", Broken, workers=5)
        assert "rollout.workers is 5, which needs 5 CPUs, but the Ray cluster has 4" in str(
            caught.value
        )

    def test_cpus_that_others_have_are_told(self, one_ray: None) -> None:
        small: dict[str, Any] = {"envs_per_worker": 1, "learner": "torch"}
        with Trainer("a2c", Broken, workers=2, **small), pytest.raises(ConfigError) as caught:
            Trainer("a2c", Broken, workers=3, **small)
        assert "the Ray cluster has 2 (2 of 4 are taken)" in caught.value.what
