"""Joins a Ray cluster, or starts one on this machine; asks before whether that can go well."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from shoal import interrupts
from shoal.config.config import Cluster
from shoal.errors import ConfigError, cut
from shoal.fleet import death
from shoal.fleet.host import THREADS
from shoal.fleet.reaper import Reaper
from shoal.machine import cpus

WORKER_BYTES = 200 * 2**20  # memory of a process that samples, without its environments
LEARNER_BYTES = 450 * 2**20  # of one that differentiates too
LEAST_STORE = 80 * 2**20  # of an object store; Ray itself asks for 75 MiB
MOST_STORE = 2 * 2**30  # fragments come and go: more than this is only asked for by the user
REACH = 2.0  # seconds to find out whether anybody listens at an address
REPLY = 7.0  # seconds for whoever does to say that it is Ray
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


@dataclass
class Connection:
    """A Ray cluster that this process is connected to."""

    owned: bool  # whether this process connected, and so disconnects
    reaper: Reaper | None = None  # of a cluster that this process started

    def close(self) -> None:
        if self.owned:
            import ray

            ray.shutdown()
        if self.reaper is not None:
            self.reaper.dismiss()
            self.reaper = None


def connect(cluster: Cluster, workers: int, learns: bool, own_code: bool) -> Connection:
    """Be connected to a cluster that can hold so many workers.

    Joins ``cluster.address`` or RAY_ADDRESS, or the cluster that this process is in already;
    otherwise starts Ray on this machine, with what it has. ``own_code``: the environment is the
    user's own and must be brought to other nodes.

    Raises ConfigError, before anything starts, with what is needed and what is there.
    """
    address = cluster.joined
    address = None if address == "local" else address
    inside = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if not inside and address is None:
        _check_machine(cluster, workers, learns)
    elif not inside and address is not None:
        _check_reach(address)
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    import ray

    reaper = None
    if not inside:
        silence: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": True}
        if address is None:
            with _one_thread_each(), _forking(), _our_signals():
                ray.init(
                    address="local",  # not the one that somebody else has started here
                    num_cpus=cpus(),
                    object_store_memory=_store_bytes(),
                    include_dashboard=False,
                    _node_ip_address=_loopback(),
                    **silence,
                )
                reaper = Reaper()
        else:
            runtime = {"working_dir": os.getcwd(), "excludes": EXCLUDES} if own_code else {}
            with _joining(address), _our_signals():
                ray.init(address=address, runtime_env=runtime, **silence)
        _relay_output()
    connection = Connection(not inside, reaper)
    try:
        _check_cluster(cluster, workers)
    except BaseException:
        connection.close()
        raise
    return connection


_OF_RAY = re.compile(r"\[[\d: ,.-]+ [A-Z] \d+ \d+\] ")  # a line of Ray's own log
EXCLUDES = ["runs/", ".git/", ".venv/", "**/__pycache__/", "*.mp4", "*.safetensors"]


def cpus_per_worker(cluster: Cluster, workers: int) -> float:
    """CPUs that each worker reserves.

    None is asked for where this process is an actor itself: a population of trainers would wait for
    CPUs that its own members hold. In a placement group that has them they are taken from there.
    """
    if cluster.cpus_per_worker is not None:
        return cluster.cpus_per_worker
    import ray

    if ray.get_runtime_context().get_actor_id() is None:
        return 1.0
    group = ray.util.get_current_placement_group()
    if group is None:
        return 0.0
    reserved = sum(bundle.get("CPU", 0.0) for bundle in group.bundle_specs)
    return 1.0 if reserved >= workers + 1 else 0.0


def _check_machine(cluster: Cluster, workers: int, learns: bool) -> None:
    each = 1.0 if cluster.cpus_per_worker is None else cluster.cpus_per_worker
    have = cpus()
    _check_cpus(workers, each, have, have, "this machine")
    memory = psutil.virtual_memory().available
    needed = workers * (LEARNER_BYTES if learns else WORKER_BYTES) + LEAST_STORE
    if needed > memory:
        raise ConfigError(
            f"rollout.workers is {workers}, which needs about {needed / 2**30:.1f} GiB of memory, "
            f"but {memory / 2**30:.1f} GiB are free",
            None,
            f"use rollout.workers={max(int(memory * 0.8) // (needed // workers), 0)} or fewer",
        )
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else memory
    if free < LEAST_STORE:
        raise ConfigError(
            f"the object store needs {LEAST_STORE >> 20} MiB of shared memory, but /dev/shm has "
            f"{free >> 20} MiB left",
            None,
            "free some, or start the container with --shm-size=1g; rollout.workers=0 needs none",
        )


def _check_cpus(workers: int, each: float, free: float, total: float, where: str) -> None:
    if workers * each <= free + 1e-6:
        return
    fits = int(free / each)
    busy = f" ({total - free:g} of {total:g} are taken)" if free < total else ""
    raise ConfigError(
        f"rollout.workers is {workers}, which needs {workers * each:g} CPUs, but {where} has "
        f"{free:g}{busy}",
        None,
        f"use rollout.workers={fits}, or let them share: cluster.cpus_per_worker="
        f"{int(100 * free / workers) / 100:g}",
    )


def _check_reach(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not port.isdecimal() or not host or "/" in host:
        raise ConfigError(
            f"cluster.address is {address!r}, but accepts HOST:PORT of a Ray cluster, or auto",
            None,
            "give the address that `ray start --head` said; a run starts on a node of the cluster",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error
    try:
        asked = [sys.executable, "-c", _ASK, address]
        with _forking():
            answer = subprocess.run(asked, timeout=REPLY, capture_output=True).returncode
    except subprocess.TimeoutExpired:
        answer = 1
    if answer == 3:
        raise ConfigError(
            f"the Ray cluster at {address} asks for a token, and this process gave none or another",
            None,
            "set RAY_AUTH_MODE=token, with the token of that cluster where Ray looks for it",
        )
    if answer:
        raise _unreachable(address, "what listens there does not speak as Ray does")


_ASK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit(3)
"""  # in a process of its own, which can be given up


def _unreachable(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"no Ray cluster answers at {address}, which cluster.address or RAY_ADDRESS names: {why}",
        None,
        "start one there (ray start --head), or leave both out to use this machine",
    )


@contextmanager
def _joining(address: str) -> Iterator[None]:
    """What Ray finds wrong with a cluster is told as a setting that is."""
    import ray

    try:
        yield
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"the Ray cluster at {address} cannot be joined: {cut(str(error), 300)}",
            None,
            "start it with the same versions of Ray and Python, and run this on one of its nodes",
        ) from error


def _check_cluster(cluster: Cluster, workers: int) -> None:
    import ray

    each = cpus_per_worker(cluster, workers)
    if each and ray.util.get_current_placement_group() is None:
        free, total = ray.available_resources(), ray.cluster_resources()
        _check_cpus(workers, each, free.get("CPU", 0.0), total.get("CPU", 0.0), "the Ray cluster")


def _store_bytes() -> int:
    """Of the object store: part of what shared memory has, so that Ray need not use the disk."""
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else MOST_STORE
    share = min(free * 8 // 10, psutil.virtual_memory().available * 3 // 10, MOST_STORE)
    return max(share, LEAST_STORE)


def _loopback() -> str | None:
    """Ray on one machine need not be heard outside of it.

    It takes 127.0.0.1 for "find out the address", so another of the loopback's is given.
    """
    return "127.0.0.2" if sys.platform == "linux" else None


@contextmanager
def _forking() -> Iterator[None]:
    """JAX warns of every fork; what is forked in here runs another program at once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        yield


@contextmanager
def _our_signals() -> Iterator[None]:
    """Where a command notes signals, Ray sets no handler that exits wherever SIGTERM finds it."""
    from ray._private import utils

    theirs = utils.set_sigterm_handler
    if interrupts.is_listening():
        utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started in here, and theirs, use one thread for their arrays."""
    names = [f"{library}_NUM_THREADS" for library in THREADS]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _relay_output() -> None:
    """Show what workers print, and not what Ray says of deaths that the fleet tells itself."""
    import ray
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    def show(data: dict[str, Any]) -> None:
        pid = data.get("pid")
        if pid in ("raylet", "autoscaler", "gcs_server"):
            return
        name = data.get("actor_name") or "process"
        for line in data.get("lines", ()):
            if not death.hear(pid, line) and not _OF_RAY.match(line):
                print(f"({name}, {pid}) {line}", file=sys.stderr)

    ray._private.worker._worker_logs_enabled = False  # of the raylet, beside the dispatcher
    dispatcher.remove_handler("ray_print_logs")
    dispatcher.add_handler("shoal", show)
