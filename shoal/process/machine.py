"""The machine this process runs on, asked in ways that Linux, macOS and Windows have."""

from __future__ import annotations

import os
import platform
import sys

_most: int | None = None


def cpus() -> int:
    """CPUs that this process may use; where the system cannot tell, those of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux; psutil asks the same
    found = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return found if _most is None else min(found, _most)


def limit(most: int) -> None:
    """Count on this many CPUs at most from now on: others of the machine have other users."""
    global _most
    _most = max(most, 1)


def system() -> str:
    """Its kernel, release and architecture: ``Linux 6.1.0 x86_64``."""
    about = platform.uname()
    return " ".join((about.system, about.release, about.machine))


def before_ffmpeg() -> None:
    """Let imageio start ffmpeg without a line of Python in the forked process.

    Such a line, which keeps Ctrl-C from ffmpeg, could wait there for a lock of JAX's threads.
    """
    if "jax" in sys.modules:
        os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
