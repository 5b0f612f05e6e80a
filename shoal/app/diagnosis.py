"""What a bug report should say of the machine and of what is installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from shoal import __version__
from shoal.process.machine import cpus, system

DEADLINE = 60.0  # seconds that Ray has to start a worker, or a framework to list its devices
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS")
_OTHERS = ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "WANDB_MODE")
_RAY = """
import shoal
with shoal.Trainer("a2c", "CartPole-v1", workers=1, stop_steps=100) as trainer:
    trainer.train()
"""
_DEVICES = {
    "jax": "import jax; print(*jax.devices(), sep=', ')",
    "torch": "import torch; print('cpu', *(f'cuda:{i} {torch.cuda.get_device_name(i)}'"
    " for i in range(torch.cuda.device_count())), sep=', ')",
}


def diagnose() -> dict[str, Any]:
    """Sections of facts, as JSON values. What cannot be found out says why."""
    return {
        "shoal": __version__,
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "machine": _machine(),
        "packages": _packages(),
        "extras that are missing": _missing(),
        "devices": {name: _asked(code) for name, code in _DEVICES.items() if _installed(name)},
        "ray with one worker": _asked(_RAY, said="starts, samples and trains"),
        "environment variables": {
            name: os.environ[name] for name in (*_THREADS, *_OTHERS) if name in os.environ
        },
    }


def _machine() -> dict[str, str]:
    import psutil

    memory, shared = psutil.virtual_memory(), Path("/dev/shm")
    found = {
        "system": system(),
        "cpus": f"{cpus()} usable of {os.cpu_count()}",
        "memory": f"{_gb(memory.total)}, {_gb(memory.available)} available",
        "disk here": f"{_gb(shutil.disk_usage('.').free)} free",
    }
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        found["shared memory"] = f"{_gb(usage.total)}, {_gb(usage.free)} free"
    return found


def _gb(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _requirements() -> dict[str, list[str]]:
    """The packages that Shoal asks for, by extra; "" is always."""
    import re

    found: dict[str, list[str]] = {}
    try:
        lines = requires("shoal") or []
    except PackageNotFoundError:  # run from its source
        return {"": ["numpy", "gymnasium", "jax", "ray"], "torch": ["torch"]}
    for line in lines:
        name = re.split(r"[\s\[<>=!~;(]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        found.setdefault(extra[1] if extra else "", []).append(name)
    return {k: x for k, x in found.items() if k not in ("dev", "docs")}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _packages() -> dict[str, str]:
    names = sorted({n for part in _requirements().values() for n in part} - {"shoal"})
    return {name: found for name in names if (found := _installed(name)) is not None}


def _missing() -> dict[str, str]:
    """Extras of which a package is missing: the command that installs it."""
    found = {}
    for extra, names in _requirements().items():
        lacks = [name for name in names if name != "shoal" and _installed(name) is None]
        if lacks:
            wanted = f"shoal[{extra}]" if extra else "shoal"
            found[extra or "shoal"] = f'pip install "{wanted}" ({", ".join(lacks)})'
    return found


def _asked(code: str, said: str = "") -> str:
    """What a Python process of its own says, or why it failed: a fault of it is none of ours."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {DEADLINE:.0f} s"
    except OSError as error:
        return f"cannot be asked: {error}"
    if done.returncode:
        lines = [line for line in done.stderr.strip().split("\n") if line.strip()]
        return f"fails: {lines[-1] if lines else f'exit code {done.returncode}'}"
    return said or done.stdout.strip()


def text(found: Mapping[str, Any]) -> str:
    """The same, to be read."""
    lines = []
    for title, what in found.items():
        if isinstance(what, Mapping):
            lines.append(f"{title}:{'' if what else ' none'}")
            width = max((len(name) for name in what), default=0)
            lines += [f"  {name:<{width}}  {x}" for name, x in what.items()]
        else:
            lines.append(f"{title}: {what}")
    return "\n".join(lines)
