"""Is there one table on a node, however many processes use it, and none afterwards?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import ShoalError
from shoal.learners import noise_table
from shoal.learners.noise_table import NoiseTable

SIZE = 12_345
USER = f"""
import sys
from shoal.learners.noise_table import NoiseTable
table = NoiseTable({SIZE})
print(table.values[:100].tobytes().hex(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(noise_table, "folder", lambda: tmp_path)
    return tmp_path


def user(folder: Path) -> subprocess.Popen[str]:
    """Another process that uses the table until its stdin is closed."""
    source = f"from pathlib import Path\nfrom shoal.learners import noise_table\n\
noise_table.folder = lambda: Path({str(folder)!r})\n{USER}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", source], text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def test_it_is_normal_and_known() -> None:
    table = NoiseTable(SIZE)
    values = table.values.copy()
    table.close()
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.03
    assert abs(values.std() - 1) < 0.03
    expected = np.random.default_rng(noise_table.SEED).standard_normal(SIZE, np.float32)
    np.testing.assert_array_equal(values, expected)


def test_processes_share_one_file_and_the_last_removes_it(tmp_path: Path) -> None:
    others = [user(tmp_path) for _ in range(3)]
    own = NoiseTable(SIZE)
    seen = {other.stdout.readline().strip() for other in others if other.stdout}
    assert seen == {own.values[:100].tobytes().hex()}
    assert len(list(tmp_path.iterdir())) == 1
    own.close()
    for n, other in enumerate(others):
        assert own.path.exists(), n
        assert other.stdin
        other.stdin.close()
        assert other.wait(20) == 0
    assert not own.path.exists()


def test_what_killed_processes_leave_is_removed_by_the_next(tmp_path: Path) -> None:
    other = user(tmp_path)
    assert other.stdout
    other.stdout.readline()
    other.send_signal(signal.SIGKILL)
    other.wait(20)
    (left,) = tmp_path.iterdir()
    another = NoiseTable(10)
    assert not left.exists()
    another.close()


def test_one_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / f"shoal-noise-{os.getuid()}-{noise_table.SEED}-{SIZE}"
    path.write_bytes(b"\0" * 4 * SIZE)
    table = NoiseTable(SIZE)
    assert np.any(table.values)
    table.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    (tmp_path / f"shoal-noise-{os.getuid()}-{noise_table.SEED}-{SIZE}").symlink_to(target)
    with pytest.raises((OSError, ShoalError)):
        NoiseTable(SIZE)
    assert target.read_bytes() == b"kept"


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ShoalError, match="no room for the noise table"):
        NoiseTable(SIZE)
    assert not list(tmp_path.iterdir())
