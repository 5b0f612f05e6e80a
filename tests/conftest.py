"""What all tests share: one Ray for those that need it, as starting it takes seconds."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so would the programs
# that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Ray in this process: trainers find it and join it."""
    import ray

    owned = not ray.is_initialized()
    if owned:
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100 * 2**20,
            _node_ip_address="127.0.0.2",
        )
        ray._private.worker._worker_logs_enabled = False  # deaths are meant here
    yield
    if owned:
        ray.shutdown()
