"""A table of normal noise that all processes of a node share.

Perturbations are slices of it, so that an index says all of one (Salimans et al. 2017,
arXiv:1703.03864, section 2.1). It is a file in shared memory, mapped by every process that uses it,
made by the first and removed by the last: each holds a shared lock on it, which the kernel takes
back from a member that dies.
"""

from __future__ import annotations

import mmap
import os
import stat
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np

from shoal.errors import ShoalError
from shoal.trajectory import ndarray

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SEED = 123  # of the noise, as in the paper's code: all runs on a machine share one table
_MARK = b"shoal noise 1\n\0\0"  # behind a table that is complete
_WAIT = 120.0  # seconds that another process may take to make it
_PART = 1 << 20  # numbers that are drawn at once


def folder() -> Path:
    """Where shared memory can be had as files; else where temporary files are."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


class NoiseTable:
    """``size`` float32 numbers, standard normal, the same in every process: ``values`` [size].

    On systems without POSIX's locks each process has one of its own.

    Raises ShoalError if there is no room for it, or another process does not finish making it.
    """

    def __init__(self, size: int, seed: int = SEED) -> None:
        self._file = -1
        if fcntl is None:
            self.values: ndarray = np.empty(size, np.float32)
            _draw(self.values, seed)
            return
        _sweep()
        self.path = folder() / f"shoal-noise-{os.getuid()}-{seed}-{size}"
        self._file = _open(self.path, size, seed)
        self._map = mmap.mmap(self._file, 4 * size, prot=mmap.PROT_READ)
        self.values = np.frombuffer(self._map, np.float32, size)

    def close(self) -> None:
        """Use it no more; the last one to do so removes it."""
        if self._file < 0:
            return
        _remove_unused(self._file, self.path)
        os.close(self._file)  # the mapping, which arrays may still look into, keeps the memory
        self._file = -1

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()


def _open(path: Path, size: int, seed: int) -> int:
    """The file with a shared lock on it, complete; made if it is not there."""
    deadline = monotonic() + _WAIT
    whole = 4 * size + len(_MARK)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(file)
            if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode):
                raise ShoalError("the noise table is somebody else's file", str(path), "remove it")
            if _lock(file, fcntl.LOCK_SH) and _is_at(file, path):
                if os.pread(file, len(_MARK), 4 * size) == _MARK:
                    return file
                if _lock(file, fcntl.LOCK_EX) and _is_at(file, path):
                    if os.pread(file, len(_MARK), 4 * size) != _MARK:
                        _fill(file, whole, size, seed, path)
                    fcntl.flock(file, fcntl.LOCK_SH)
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # and again: it was just made or removed, or somebody is making it
        if monotonic() > deadline:
            what = f"another process has not made the noise table within {_WAIT:.0f} s"
            raise ShoalError(what, str(path), "remove the file if no run uses it")
        sleep(0.001)


def _fill(file: int, whole: int, size: int, seed: int, path: Path) -> None:
    try:
        os.ftruncate(file, whole)
        if hasattr(os, "posix_fallocate"):  # else a write that finds no room ends the process
            os.posix_fallocate(file, 0, whole)
        with mmap.mmap(file, whole) as table:
            values = np.frombuffer(table, np.float32, size)
            _draw(values, seed)
            del values
        os.pwrite(file, _MARK, 4 * size)
    except OSError as error:
        path.unlink(missing_ok=True)
        what = f"there is no room for the noise table, {4 * size:,} bytes: {error.strerror}"
        raise ShoalError(what, str(path), "make plan.table_size smaller") from error


def _draw(values: ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for start in range(0, len(values), _PART):
        rng.standard_normal(dtype=np.float32, out=values[start : start + _PART])


def _lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: int, path: Path) -> bool:
    """Whether the path still leads to this file: another process may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _remove_unused(file: int, path: Path) -> None:
    """Remove the file if no other process has a lock on it."""
    if _lock(file, fcntl.LOCK_EX) and _is_at(file, path):
        path.unlink(missing_ok=True)


def _sweep() -> None:
    """Remove tables whose users were all killed."""
    for path in folder().glob(f"shoal-noise-{os.getuid()}-*"):
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # it has just been removed, or is none of ours
            continue
        try:
            _remove_unused(file, path)
        finally:
            os.close(file)
