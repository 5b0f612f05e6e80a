"""Ends Ray on this machine when the process that started it is killed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import psutil

WAIT = 1.0  # seconds for the reaper to end

_WATCH = """
import psutil, shutil, sys
known = []
for line in sys.stdin:
    if line == "done\\n":
        sys.exit()
    known.append(line.split("@"))
family = []  # the process at the other end is gone, and has not reported a clean end
for pid, born in known:
    try:
        process = psutil.Process(int(pid))
        if abs(process.create_time() - float(born)) < 1.0:
            family += [process, *process.children(recursive=True)]
    except psutil.Error:
        pass
for process in family:
    try:
        process.kill()
    except psutil.Error:
        pass
psutil.wait_procs(family, timeout=5)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class Reaper:
    """A process that outlives this one, and then ends what it was given, and what descends from it.

    ``folder`` is removed then.
    """

    def __init__(self, folder: str) -> None:
        command = [sys.executable, "-c", _WATCH, folder]
        # In a session of its own, a Ctrl-C at the terminal does not reach it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, text=True, bufsize=1
        )

    def watch(self, pid: int) -> None:
        """Look after this process from now on."""
        with suppress(psutil.Error, BrokenPipeError):  # gone meanwhile
            print(f"{pid}@{psutil.Process(pid).create_time()}", file=self._process.stdin)

    def dismiss(self) -> None:
        """All has ended as it should."""
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.communicate("done\n", timeout=WAIT)
