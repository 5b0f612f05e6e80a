"""Ray on this machine: only what a run needs, heard on the loopback only, ended without a trace.

``ray.init`` would start a dashboard, an autoscaler, a log monitor and two agents besides, and
listen on all interfaces. A run needs the GCS, one raylet and the workers.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

import psutil

from shoal.fleet.host import THREADS
from shoal.fleet.output import Output
from shoal.fleet.reaper import Reaper
from shoal.process import interrupts

LOOPBACK = "127.0.0.1"
NOBODY = 1  # a port at which nothing listens
WAIT = 3.0  # seconds for processes to end
# The raylet starts two agents and ends if one of them does. This one ends when its input does,
# which is a pipe from the raylet.
STUB = subprocess.list2cmdline(["sh", "-c", "exec cat > /dev/null"])
AGENTS = ("--dashboard_agent_command", "--runtime_env_agent_command")
PORTS = ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN", "RUNTIME_ENV_AGENT")
ENVIRONMENT: dict[str, str | None] = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": None,
    "RAY_ADDRESS": None,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces 127.0.0.1 by a public address
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",  # off; they would be sent once more at the end
}


class Head:
    """Ray's own processes, started by this process and for it.

    Args:
        cpus: that actors can reserve.
        store_bytes: size of the object store.
        workers: processes that are started at once, before an actor asks for one.
        show: is given each line that a worker prints: ``show(process id, actor's name, line)``.
    """

    def __init__(
        self, cpus: int, store_bytes: int, workers: int, show: Callable[[int, str, str], None]
    ) -> None:
        self.users = 0  # trainers that are connected
        self.failed = False  # its end was reported before it came
        # A short path: the names of sockets below it may have 107 characters in all.
        self._folder = tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
        self._reaper = Reaper(self._folder)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._output: Output | None = None
        token = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._before = _set({**ENVIRONMENT, **token})
        try:
            self._start(cpus, store_bytes, workers)
            self._output = Output(self._folder, show)
        except BaseException:
            self.close()
            raise

    def _start(self, cpus: int, store_bytes: int, workers: int) -> None:
        import ray
        from ray._private.parameter import RayParams

        read_token()
        params = cast(Any, RayParams)(
            node_ip_address=LOOPBACK,
            num_cpus=cpus,
            object_store_memory=store_bytes,
            include_dashboard=False,
            include_log_monitor=False,
            no_monitor=True,
            temp_dir=self._folder,
            _system_config={},
        )
        lean = _lean(workers, self._started)
        with _one_thread_each(), forking(), interrupts.held(), own_signals(), lean:
            node = _node_class()(params, head=True, shutdown_at_exit=False, spawn_reaper=False)
            ray.init(node.gcs_address, logging_level=logging.ERROR, log_to_driver=False)
        worker: Any = ray._private.worker
        worker._worker_logs_enabled = False  # the fleet reports deaths itself

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._processes.append(process)
        self._reaper.watch(process.pid)

    @property
    def ended(self) -> bool:
        """Whether the GCS or the raylet is gone; what they did for the run does not come back."""
        return self.failed or any(process.poll() is not None for process in self._processes)

    def close(self) -> None:
        """End every process, also if some have died, and remove their files."""
        import ray

        if self._output is not None:
            self._output.close()
        if not self.ended:
            disconnect()
        family = []
        for process in self._processes:
            with suppress(psutil.Error):
                family += psutil.Process(process.pid).children(recursive=True)
            process.kill()
        for each in family:
            with suppress(psutil.Error):
                each.kill()
        psutil.wait_procs(family, timeout=WAIT)
        for process in self._processes:
            process.wait(WAIT)
        if ray.is_initialized():
            disconnect()
        shutil.rmtree(self._folder, ignore_errors=True)
        _set(self._before)
        self._reaper.dismiss()


def _node_class() -> Any:
    """Ray's node without a dashboard."""
    from ray import _raylet
    from ray._private.node import Node

    class Lean(cast(Any, Node)):  # type: ignore[misc]
        def start_api_server(self, **_: Any) -> None:
            self._webui_url = ""

        def start_raylet(self, *args: Any, **kwargs: Any) -> None:
            if hasattr(_raylet, "persist_port"):  # the raylet waits for its agents to write these
                for name in PORTS:
                    port = getattr(_raylet, f"{name}_PORT_NAME")
                    _raylet.persist_port(self._session_dir, self._node_id, port, NOBODY)
            super().start_raylet(*args, **kwargs)

    return Lean


@contextmanager
def _lean(workers: int, started: Callable[[Any], None]) -> Iterator[None]:
    """What Ray starts in here runs no agents, and takes 127.0.0.1 as an address."""
    import ray

    services: Any = ray._private.services
    ray_constants = ray._private.ray_constants
    start, several = services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER

    def lean(command: list[str], kind: str, *args: Any, **kwargs: Any) -> Any:
        changed = {"--num_prestart_python_workers": str(workers)} | dict.fromkeys(AGENTS, STUB)
        split = [(word, word.partition("=")[0]) for word in command]
        command = [f"{n}={changed[n]}" if n in changed else word for word, n in split]
        with interrupts.free():
            info = start(command, kind, *args, **kwargs)
        started(info.process)
        return info

    services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER = lean, False
    try:
        yield
    finally:
        services.start_ray_process, ray_constants.ENABLE_RAY_CLUSTER = start, several


def disconnect() -> None:
    """Leave Ray."""
    import ray

    with interrupts.held():
        ray.shutdown()
        interrupts.listen_again()  # it leaves SIGTERM to the system


def read_token() -> None:
    """Let Ray's part of this process read anew how it is to authenticate.

    Just before it connects, for what still runs of an earlier connection needs its own token.
    """
    import ray

    _raylet: Any = ray._raylet
    _raylet.Config.initialize("")
    _raylet.AuthenticationTokenLoader.instance().reset_cache()


def _set(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set environment variables, or remove those that are None; returns what they were."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started in here use one thread for their arrays; so do their children."""
    before = _set({f"{library}_NUM_THREADS": "1" for library in THREADS})
    try:
        yield
    finally:
        _set(before)


@contextmanager
def forking() -> Iterator[None]:
    """JAX warns of every fork; what is forked in here runs another program at once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        yield


@contextmanager
def own_signals() -> Iterator[None]:
    """Where a command notes signals, Ray sets no handler that exits wherever SIGTERM finds it."""
    from ray._private import utils

    theirs = utils.set_sigterm_handler
    if interrupts.is_listening():
        utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs
        interrupts.listen_again()  # its compiled code has taken SIGTERM for a crash
