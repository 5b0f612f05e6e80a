"""Shows what workers on this machine print, which Ray writes to a file for each of them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

from shoal.process import interrupts

PERIOD = 0.3  # seconds between two looks
_FILE = re.compile(r"worker-.*-(?P<pid>\d+)\.(out|err)")
_MARK = re.compile(r":(?P<what>actor_name|job_id|task_name):(?P<value>.*)")  # Ray's own lines


class Output:
    """Follows the files of all workers of a Ray session, in a thread.

    Args:
        folder: Ray's temporary folder.
        show: is given each new line: ``show(process id, actor's name, line)``.
    """

    def __init__(self, folder: str, show: Callable[[int, str, str], None]) -> None:
        self._folder, self._show = Path(folder), show
        self._read: dict[Path, int] = {}  # bytes so far
        self._names: dict[int, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="workers' output")
        with interrupts.held():  # signals are the main thread's
            self._thread.start()

    def _follow(self) -> None:
        while not self._over.wait(PERIOD):
            self._look()

    def _look(self) -> None:
        for path in self._folder.glob("session_[0-9]*/logs/worker-*"):  # not session_latest, a link
            found = _FILE.fullmatch(path.name)
            if found is None or path.is_symlink():
                continue
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]  # the last line may not be complete yet
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self._line(int(found["pid"]), line)

    def _line(self, pid: int, line: str) -> None:
        mark = _MARK.match(line)
        if mark is None:
            self._show(pid, self._names.get(pid, "process"), line)
        elif mark["what"] == "actor_name":
            self._names[pid] = mark["value"]

    def close(self) -> None:
        """Show what is there, and end."""
        self._over.set()
        self._thread.join()
        self._look()
