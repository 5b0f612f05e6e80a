"""What all tests share: which of them run in one process, and one Ray, as starting it is slow."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so would the programs
# that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Compiled programs are shared by the processes that test, and kept for the next time.
ROOT = Path(__file__).parents[1]
os.environ.setdefault("SHOAL_CACHE", str(ROOT / ".pytest_cache" / "xla"))


def group(nodeid: str) -> str:
    """The tests that stay in one process with this one.

    All files that share one Ray are one group, and those whose programs start their own another:
    its processes take more cores than one. Other files share what they have compiled; each test
    that trains is on its own, and each page of the documents.
    """
    path = nodeid.partition("::")[0]
    alone = path.startswith("tests/learning/") or path == "tests/test_docs_blocks.py"
    return _ray(path) or (nodeid if alone else path)


@cache
def _ray(path: str) -> str:
    """The group of a file that needs Ray; "" if it needs none."""
    text = (ROOT / path).read_text()
    return "ray" if "one_ray" in text else "own ray" if "mark.ray" in text else ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By ``group``; pytest-xdist 3.8's own groups are lost on pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: Ray, then what trains."""
    first = {"ray": 0, "own ray": 1}
    items.sort(key=lambda x: first.get(group(x.nodeid), 2 + ("tests/learning/" not in x.nodeid)))


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Ray in this process: trainers find it and join it."""
    import ray

    from shoal.fleet.head import Head

    head = None if ray.is_initialized() else Head(4, 100 * 2**20, 2, lambda *_: None)
    yield
    if head is not None:
        head.close()
