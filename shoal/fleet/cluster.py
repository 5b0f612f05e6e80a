"""Joins a Ray cluster, or starts one on this machine; asks before whether that can go well."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psutil

from shoal.config.config import Cluster
from shoal.errors import ConfigError, ShoalError, cut
from shoal.fleet import death
from shoal.fleet.head import Head, disconnect, forking, own_signals, read_token
from shoal.process import interrupts
from shoal.process.machine import cpus

WORKER_BYTES = 200 * 2**20  # memory of a process that samples, without its environments
LEARNER_BYTES = 450 * 2**20  # of one that differentiates too
LEAST_STORE = 80 * 2**20  # of an object store; Ray itself asks for 75 MiB
MOST_STORE = 2 * 2**30  # fragments come and go: more than this is only asked for by the user
REACH = 2.0  # seconds to find out whether anybody listens at an address
SILENT = 30.0  # seconds without an answer from a cluster's head that end a run; Ray's own end is 60
REPLY = 7.0  # seconds in which a listener must answer as Ray
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


@dataclass
class Connection:
    """A trainer's connection to a Ray cluster."""

    head: Head | None = None  # of Ray on this machine, shared by the trainers of this process
    joined: bool = False  # whether this trainer made this process join a cluster, and so leaves it

    def close(self) -> None:
        """The last trainer of this process ends Ray on this machine."""
        global _head, _joined
        with _lock:
            head, self.head = self.head, None
            if head is not None:
                head.users -= 1
                if not head.users:
                    _head = None if _head is head else _head
                    head.close()
            if self.joined:
                self.joined, _joined = False, None
                disconnect()


class Joined:
    """A cluster that this process has joined, and whether its head still answers."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.address, self._at = address, (host, int(port))
        self._heard = self._asked = monotonic()

    @property
    def ended(self) -> bool:
        """Whether nobody has answered there for a while; asks every few seconds."""
        now = monotonic()
        if now - self._asked > SILENT / 10:
            if death.reachable(self._at):
                self._heard = now
            self._asked = now
        return self._asked - self._heard > SILENT


_lock = threading.RLock()  # trainers may be made and stopped in several threads
_head: Head | None = None
_joined: Joined | None = None


def lost() -> ShoalError | None:
    """Why no call to a member comes back any more; None while Ray is there."""
    if _head is not None and _head.ended:
        fix = "go on from the last checkpoint: shoal resume"
        return ShoalError("Ray on this machine has ended", None, fix)
    if _joined is not None and _joined.ended:
        return ShoalError(
            f"the head of the Ray cluster at {_joined.address} has ended",
            None,
            "start it (ray start --head) and its nodes anew, and go on from the last checkpoint: "
            "shoal resume",
        )
    return None


def node_gone() -> None:
    """Note that members have died with their node: Ray on this machine has only one.

    Its raylet reports that while it is still ending itself.
    """
    if _head is not None:
        _head.failed = True


def connect(cluster: Cluster, workers: int, learns: bool, own_code: bool) -> Connection:
    """Connect to a cluster that can hold this many workers.

    Joins ``cluster.address`` or RAY_ADDRESS, or the cluster that this process is in already;
    otherwise starts Ray on this machine, with what it has. ``own_code``: the environment is the
    user's own and must be brought to other nodes.

    Raises ConfigError, before anything starts, with what is needed and what is there.
    """
    with _lock:
        connection = _connect(cluster, workers, learns, own_code)
        try:
            _check_cluster(cluster, workers)
        except BaseException:
            connection.close()
            raise
        return connection


def _connect(cluster: Cluster, workers: int, learns: bool, own_code: bool) -> Connection:
    global _head, _joined
    if _head is not None and _head.ended:  # under a trainer that has not been stopped yet
        _head.close()
        _head = None
    address = None if cluster.joined == "local" else cluster.joined
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        if _head is not None:
            _head.users += 1
        return Connection(_head)
    if address is None:
        _check_machine(cluster, workers, learns)
        _head = Head(cpus(), _store_bytes(), workers, _show)
        _head.users = 1
        return Connection(_head)
    _check_reach(address)
    import ray

    runtime = {"working_dir": os.getcwd(), "excludes": EXCLUDES} if own_code else {}
    with _joining(address), interrupts.held(), own_signals():
        read_token()
        ray.init(
            address=address, runtime_env=runtime, logging_level=logging.ERROR, log_to_driver=True
        )
    _joined = Joined(ray.get_runtime_context().gcs_address)
    _relay_output()
    return Connection(joined=True)


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


def check_gpus(need: float) -> None:
    """Raise ConfigError if the cluster that was joined, or this machine, has fewer GPUs."""
    if need:
        import ray

        have = ray.cluster_resources().get("GPU", 0.0)
        if have < need:
            raise ConfigError(
                f"{need:g} workers with a GPU each need {need:g}, but there are {have:g}",
                None,
                f"rollout.workers={have:g}" if have else "leave device out, to learn on CPUs",
            )


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
    stop = ""
    if _head is not None and _head.users > 1:
        busy = f" ({total - free:g} of {total:g} are taken by another trainer of this process)"
        stop = "stop that trainer first: trainer.stop(); or "
    raise ConfigError(
        f"rollout.workers is {workers}, which needs {workers * each:g} CPUs, but {where} has "
        f"{free:g}{busy}",
        None,
        f"{stop}use rollout.workers={fits}, or let them share: cluster.cpus_per_worker="
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
            "give the address `ray start --head` printed; a run starts on a node of the cluster",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error
    try:
        asked = [sys.executable, "-c", _ASK, address]
        with forking():
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
    """Report what Ray finds wrong with a cluster as a wrong setting."""
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
        where = "this machine" if _head is not None else "the Ray cluster"
        _check_cpus(workers, each, free.get("CPU", 0.0), total.get("CPU", 0.0), where)


def _store_bytes() -> int:
    """Size of the object store: part of shared memory, so that Ray need not use the disk."""
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else MOST_STORE
    share = min(free * 8 // 10, psutil.virtual_memory().available * 3 // 10, MOST_STORE)
    return max(share, LEAST_STORE)


def _show(pid: int, name: str, line: str) -> None:
    """Show a line that a worker printed, unless it belongs to its last words or is Ray's own."""
    if not death.hear(pid, line) and not _OF_RAY.match(line):
        print(f"({name}, {pid}) {line}", file=sys.stderr)


def _relay_output() -> None:
    """Show what workers print, and not what Ray says of deaths that the fleet reports itself."""
    import ray
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    def show(data: dict[str, Any]) -> None:
        pid: Any = data.get("pid")
        if pid in ("raylet", "autoscaler", "gcs_server"):
            return
        for line in data.get("lines", ()):
            _show(pid, data.get("actor_name") or "process", line)

    ray._private.worker._worker_logs_enabled = False  # of the raylet, beside the dispatcher
    dispatcher.remove_handler("ray_print_logs")
    dispatcher.add_handler("shoal", show)
