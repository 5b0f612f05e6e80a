"""How a process died: what Ray says of it, and what it wrote last."""

from __future__ import annotations

import glob
import os
import re
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, ShoalError, cut
from shoal.process.tracebacks import here, is_user_code, spot

_FATAL = ("Fatal", "*** SIG")  # how the last words of a process begin
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+),? in (?P<name>[^\n]+)')
REACH = 1.0  # seconds for a process to be reached over the network
_KEPT = 200  # lines of them

_heard: dict[int, deque[str]] = {}  # by process: last words that came from any node


def hear(pid: Any, line: str) -> bool:
    """Whether this line, which a process wrote, belongs to its last words; they are kept.

    What follows them is a list of its threads and libraries, which nobody would read.
    """
    if pid not in _heard:
        if not line.startswith(_FATAL):
            return False
        while len(_heard) >= _KEPT:
            del _heard[next(iter(_heard))]
        _heard[pid] = deque(maxlen=_KEPT)
    _heard[pid].append(line)
    return True


def cause(verb: str, error: BaseException) -> str:
    """How a process died, on a line; a second one is the line of the user's that it was at."""
    text = str(error)
    pid = re.search(r"pid: (\d+)", text)
    words = _last_words(int(pid[1])) if pid else []
    fatal = next((line for line in words if line.startswith("Fatal")), None)
    if fatal is not None:
        why = f"its process ended during {verb!r}: {fatal.strip()}"
    elif "memory" in text and "OOM" not in text:
        why = f"its process was ended during {verb!r}: its node ran out of memory"
    elif "node" in text.lower() and "died" in text.lower() and "worker process" not in text:
        why = f"its node was gone during {verb!r}"
    else:
        why = f"its process was killed during {verb!r}, by hand or for want of memory"
    return f"{why}\n{user_line(words, innermost_first=True)}".rstrip("\n")


def refusal(error: BaseException) -> BaseException | None:
    """What to raise where no new process would fare better; None where one might."""
    from ray import exceptions

    text = cut(str(error))
    if isinstance(error, exceptions.RuntimeEnvSetupError):
        fix = "start the run in a smaller folder, or install its code on every node"
        return ConfigError(f"a node could not be given the code of this run: {text}", None, fix)
    if isinstance(error, exceptions.RayActorError) and error.actor_init_failed:
        missing = re.search(r"No module named '([^']+)'", str(error))
        what = f"the module {missing[1]!r} is missing there" if missing else text
        fix = "install the same Shoal and Ray on every node"
        return ConfigError(f"a node cannot start workers: {what}", None, fix)
    if isinstance(error, exceptions.ActorUnschedulableError):
        fix = "use fewer CPUs for each: cluster.cpus_per_worker"
        return ConfigError(f"the cluster has no place for a worker: {text}", None, fix)
    if isinstance(error, exceptions.RayTaskError):  # raised around the call: its result, say
        inner: Any = error.cause
        return None if isinstance(inner, exceptions.RayError) else inner
    if isinstance(error, exceptions.LocalRayletDiedError):
        return ShoalError("Ray on this machine has ended", None, "go on: shoal resume")
    return None


def address_of(actor: Any) -> tuple[str, int]:
    """Where an actor's process listens."""
    import ray

    found = ray._private.state.actors(actor._actor_id.hex())["Address"]
    return found["IPAddress"], found["Port"]


def reachable(address: tuple[str, int]) -> bool:
    """Whether a process listens there: it is the kernel that answers, however busy the process is.

    A cluster takes much longer to find out that a node is gone.
    """
    for _ in range(2):
        try:
            socket.create_connection(address, timeout=REACH).close()
        except ConnectionRefusedError:
            return False
        except OSError:  # lost on its way, perhaps
            continue
        return True
    return False


def user_line(stack: Sequence[str], innermost_first: bool = False) -> str:
    """The innermost line of a stack that is the user's; "" where none is."""
    for entry in stack if innermost_first else reversed(stack):
        found = _FRAME.search(entry)
        if found is not None and is_user_code(found["file"]):
            return spot(here(found["file"]), int(found["line"]), found["name"])
    return ""


def _last_words(pid: int) -> list[str]:
    """The end of what a process wrote to stderr: its file, where it is here, or what was heard."""
    import ray

    node = ray._private.worker._global_node
    folder = "" if node is None else node.get_session_dir_path()
    for path in glob.glob(os.path.join(folder, "logs", f"worker-*-{pid}.err")):
        with open(path, errors="replace") as file:
            lines = file.readlines()[-_KEPT:]
        starts = [i for i, line in enumerate(lines) if line.startswith("Fatal")]
        if starts:
            return lines[starts[-1] :]
    return list(_heard.get(pid, ()))
