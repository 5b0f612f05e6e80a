"""One Ray for all tests that need one: starting it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = {"chaos", "fleet", "faults"}  # of tests that start processes, and wait for them


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side, those with processes of their own run one after the other."""
    for item in items:
        below = Path(item.path).relative_to(Path(__file__).parent).parts[0]
        if below in FOLDERS or "one_ray" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("processes"))


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
