"""Ends what Ray leaves behind when the process that started it is killed.

Most of Ray's processes end with their parent. Its two agents do not: they first spend a minute on
telling a server of the death, which is dead itself.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import psutil

GRACE = 1.0  # seconds for them to end by themselves

_WATCH = """
import psutil, sys, time
if not sys.stdin.buffer.read():  # whoever holds the other end has said nothing, and is gone
    time.sleep(float(sys.argv[1]))
    for known in sys.argv[2:]:
        pid, born = known.split("@")
        try:
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(born)) < 1.0:
                process.kill()
        except psutil.Error:
            pass
"""


class Reaper:
    """A process that outlives this one, and then ends all that descends from it at present."""

    def __init__(self) -> None:
        known = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # gone meanwhile
                known.append(f"{process.pid}@{process.create_time()}")
        command = [sys.executable, "-c", _WATCH, str(GRACE), *known]
        # In a session of its own, a Ctrl-C at the terminal does not reach it.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def dismiss(self) -> None:
        """All has ended as it should."""
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.communicate(b"done", timeout=GRACE)
