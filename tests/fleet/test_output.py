"""Is what workers print shown, once, with who printed it?"""

from __future__ import annotations

import time
from pathlib import Path

from shoal.fleet.output import Output


def test_every_whole_line_is_shown_once_with_its_worker(tmp_path: Path) -> None:
    """Ray keeps a link beside a session's folder, and writes lines of its own into the files."""
    logs = tmp_path / "session_2026-01-01" / "logs"
    logs.mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(logs.parent)
    file = logs / "worker-0a-01000000-42.out"
    file.write_text(":job_id:01000000\n:actor_name:worker 3\nhello\nhal")
    (logs / "raylet.out").write_text("of Ray\n")
    shown: list[tuple[int, str, str]] = []
    output = Output(str(tmp_path), lambda *line: shown.append(line))
    while not shown:  # by a thread
        time.sleep(0.01)
    with file.open("a") as more:
        more.write("f\n")
    output.close()
    assert shown == [(42, "worker 3", "hello"), (42, "worker 3", "half")]
