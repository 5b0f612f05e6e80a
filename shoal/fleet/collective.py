"""How members of a fleet average arrays among themselves, in one process and across several.

Gloo sums vectors in the hosts' memory, NCCL tensors on GPUs, without a way through that.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np

from shoal.errors import ShoalError
from shoal.trajectory import ndarray

Reduce = Callable[[Any], Any]  # a float32 vector -> its sum over all ranks
TIMEOUT = 15.0  # seconds that a rank waits for others, which have their samples when it begins
DEBUGGED = 3600.0  # seconds that a thread waits: none dies unseen, but one may be stepped through


class Broken(ShoalError):
    """A collective that another rank has left: it died, or its own code failed."""


class ThreadGroup:
    """Ranks that are threads of this process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._slots: list[Any] = [None] * size
        self._barrier = threading.Barrier(size)

    def join(self, rank: int, on_device: bool = False) -> Reduce:
        """Take part as this rank. In one process, vectors go by way of the host's memory."""

        def reduce(vector: ndarray) -> ndarray:
            self._slots[rank] = vector
            self._wait()
            total: ndarray = np.asarray(np.sum(self._slots, 0, dtype=np.float32))
            self._wait()  # nobody brings the next vector before all have read this one
            return total

        return reduce

    def _wait(self) -> None:
        try:
            self._barrier.wait(DEBUGGED)
        except threading.BrokenBarrierError:
            raise Broken("another rank left the collective") from None

    def leave(self, rank: int) -> None:
        """Let nobody wait for this rank any more: it failed."""
        self._barrier.abort()


@dataclass
class ProcessGroup:
    """Ranks that are processes: torch.distributed's, with rank 0's store as the meeting point.

    The process group is an object of its own, not torch's global one, so that after a rank has
    died the others can meet again in a new one.
    """

    size: int
    host: str
    port: int
    name: str  # no two meetings may share their keys
    _group: Any = field(default=None, repr=False)

    def join(self, rank: int, on_device: bool = False) -> Reduce:
        """Take part as this rank; ``on_device``: with tensors on a GPU, as all others do.

        Raises Broken if the ranks do not find each other.
        """
        if self.host.startswith("127."):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface(self.host))
        import torch

        dist = _distributed()
        wait = timedelta(seconds=TIMEOUT)
        try:
            store = dist.TCPStore(self.host, self.port, is_master=False, timeout=wait)
            prefixed = dist.PrefixStore(self.name, store)
            if on_device:
                self._group = _nccl(dist, prefixed, rank, self.size, wait)
            else:
                self._group = dist.ProcessGroupGloo(prefixed, rank, self.size, wait)
        except RuntimeError as error:
            raise Broken(f"the ranks did not find each other: {error}") from error

        def summed(tensor: Any) -> Any:
            try:
                self._group.allreduce([tensor]).wait()
            except RuntimeError as error:
                raise Broken(f"another rank left the collective: {error}") from error
            return tensor

        def reduce(vector: Any) -> Any:
            if on_device:
                return summed(vector)
            return summed(torch.from_numpy(np.array(vector, np.float32))).numpy()

        reduce.on_device = on_device  # type: ignore[attr-defined]
        return reduce

    def leave(self, rank: int) -> None:
        """Close this rank's connections, which the others notice."""
        if hasattr(self._group, "abort"):  # NCCL's calls that wait for others
            self._group.abort()
        self._group = None


def _nccl(dist: Any, store: Any, rank: int, size: int, wait: timedelta) -> Any:
    """NCCL's group, whose waits end with an error after ``wait``, and not with the process."""
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    if not hasattr(dist, "ProcessGroupNCCL"):
        raise Broken("this build of PyTorch has no NCCL: install one with CUDA")
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = wait
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _distributed() -> Any:
    """torch.distributed, whose parts its type stubs do not export."""
    import torch.distributed

    return torch.distributed


def _interface(address: str) -> str:
    """The name of the network interface with this address: lo, or lo0 on macOS."""
    import psutil

    known = psutil.net_if_addrs().items()
    return next((name for name, own in known if address in {x.address for x in own}), "lo")


def open_store(host: str) -> tuple[Any, int]:
    """A meeting point on this machine for Gloo: the store, which must be kept, and its port."""
    dist = _distributed()
    listening = socket.create_server((host, 0))  # else it would listen on all interfaces
    port = listening.getsockname()[1]
    store = dist.TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=TIMEOUT),
        master_listen_fd=listening.detach(),
    )
    return store, int(store.port)


def own_address(peer: str) -> str:
    """The address under which ``peer`` can reach this machine."""
    if peer.startswith("127."):
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))  # a datagram socket: nothing is sent
        return str(probe.getsockname()[0])
