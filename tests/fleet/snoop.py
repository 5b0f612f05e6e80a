"""CartPole that writes down what is in its process."""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import psutil
from gymnasium.envs.classic_control import CartPoleEnv


class Snoop(CartPoleEnv):
    def __init__(self, path: str, at: int = 100) -> None:
        super().__init__()
        self.path, self.at, self.steps = Path(path), at, 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == self.at:
            self.path.write_text(json.dumps(seen()))
        return super().step(action)


def seen() -> dict[str, Any]:
    maps = Path("/proc/self/maps").read_text()
    blas = re.search(r"\S+/libscipy_openblas64_\S+", maps)
    threads = ctypes.CDLL(blas[0]).scipy_openblas_get_num_threads64_() if blas else None
    return {
        "pid": os.getpid(),
        "rss": psutil.Process().memory_info().rss,
        "frameworks": [name for name in ("jax", "torch") if name in sys.modules],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "blas_threads": threads,
    }
