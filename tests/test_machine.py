"""Does what runs on Linux need nothing that macOS or Windows lack?"""

from __future__ import annotations

import builtins
import json
import os
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.process import machine


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a system without Linux's own calls; Shoal's modules are imported anew there."""
    import jax  # noqa: F401  (other libraries' forms for this system stay)
    import numba  # noqa: F401
    import psutil  # noqa: F401

    for module, name in (
        *((os, name) for name in ("sched_getaffinity", "sched_setaffinity", "uname", "getuid")),
        *((os, name) for name in ("fork", "killpg", "setsid", "O_NOFOLLOW", "O_NONBLOCK")),
        *((signal, name) for name in ("SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1")),
    ):
        monkeypatch.delattr(module, name)
    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it now fails
    for module, name in ((builtins, "open"), (os, "open"), (os, "stat"), (os, "listdir")):
        monkeypatch.setattr(module, name, hiding(getattr(module, name)))
    monkeypatch.setattr(platform, "_uname_cache", None)
    own = ("shoal", "filelock")
    before = {name: x for name, x in sys.modules.items() if name.partition(".")[0] in own}
    for name in before:
        del sys.modules[name]
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    sys.modules.update(before)


def hiding(call: Any) -> Any:
    def hidden(path: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(path, str) and path.startswith(("/proc", "/dev/shm", "/sys")):
            raise FileNotFoundError(path)
        return call(path, *args, **kwargs)

    return hidden


@pytest.mark.filterwarnings("ignore:only soft file lock")
def test_training_resuming_and_evaluating_need_nothing_of_linux_alone(elsewhere: Path) -> None:
    from shoal.app.cli import main
    from shoal.process import machine

    assert machine.cpus() == os.cpu_count()
    out = str(elsewhere / "run")
    small = ["--algorithm.epochs", "1", "--checkpointing.every-seconds", "0.01"]
    assert main(["train", "Acrobot-v1", "--system", "ppo", "--stop-steps", "2048", *small,
                 "--out", out]) == 0  # fmt: skip
    assert main(["resume", out, "--stop-steps", "4096"]) == 0
    assert main(["evaluate", out, "--episodes", "2"]) == 0
    summary = json.loads((elsewhere / "run" / "summary.json").read_text())
    assert summary["env_steps"] == 4096 and summary["machine"]["cpus"] == os.cpu_count()


def test_the_cpus_are_those_that_this_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
