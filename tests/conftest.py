"""What all tests share: which of them run in one process, and one Ray, as starting it is slow."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so would the programs
# that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Compiled programs are shared by the processes that test, and kept for the next time.
os.environ.setdefault("SHOAL_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what may run at once (pytest-xdist's groups), and begin with what takes longest.

    All tests that need Ray are one group: each takes more cores than its own, and some look at
    processes. The tests of a file stay together, because they share what they have compiled; those
    that train are each on their own.
    """
    ray, learning, other = list[pytest.Item](), list[pytest.Item](), list[pytest.Item]()
    for item in items:
        if "one_ray" in getattr(item, "fixturenames", ()) or item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
            ray.append(item)
        elif item.get_closest_marker("learning"):
            learning.append(item)
        else:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
            other.append(item)
    items[:] = [*ray, *learning, *other]


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Ray in this process: trainers find it and join it."""
    import ray

    from shoal.fleet.head import Head

    head = None if ray.is_initialized() else Head(4, 100 * 2**20, 2, lambda *_: None)
    yield
    if head is not None:
        head.close()
