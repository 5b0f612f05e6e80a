"""How soon a run with workers reports: Shoal's IMPALA and RLlib's, two workers on CartPole-v1.

The time is from the start of the process: of Shoal, ``shoal train CartPole-v1 --system impala
--workers 2`` until the first line of its progress.jsonl stands there, cold (nothing compiled yet)
and warm (compiled by the run before); of RLlib, a script until its first ``train()`` that has
sampled anything returns (``peer_rllib_impala.py --first``), with no least time set for it.

``python benchmarks/run.py --only startup-workers`` measures them in turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

HERE = Path(__file__).resolve().parent
DEADLINE = 300.0  # seconds
LOOK = 0.005  # seconds between two looks


def measure_startup_workers(peers: Path, repeat: int) -> dict[str, Any]:
    """Medians in seconds, the runs behind them, and RLlib's as multiples of Shoal's."""
    runs: dict[str, list[float]] = {"cold_s": [], "warm_s": [], "peer_s": []}
    shoal = str(Path(sys.executable).with_name("shoal"))
    command = [shoal, "train", "CartPole-v1", "--system", "impala", "--workers", "2"]
    command += ["--stop-steps", "2000"]  # what a first report covers: it ends after that
    peer = [str(peers), str(HERE / "peer_rllib_impala.py"), "CartPole-v1", "--first"]
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(repeat):
            folder = Path(scratch) / str(turn)
            env = {**os.environ, "SHOAL_CACHE": str(folder / "cache")}
            for name in ("cold", "warm"):
                out = folder / name
                own = [*command, "--out", str(out)]
                seconds = _until_line(own, out / "progress.jsonl", folder / f"{name}.log", env)
                runs[f"{name}_s"].append(seconds)
            said = folder / "peer"
            runs["peer_s"].append(_until_line(peer, said, said, os.environ, '{"first"'))
    medians = {name: round(median(values), 2) for name, values in runs.items()}
    return {
        "runs": runs,
        "median": medians,
        "ratio_cold": round(medians["peer_s"] / medians["cold_s"], 2),
        "ratio_warm": round(medians["peer_s"] / medians["warm_s"], 2),
    }


def _until_line(
    command: Sequence[str], path: Path, output: Path, env: Mapping[str, str], begin: str = "{"
) -> float:
    """Seconds from starting a process until a whole line that begins so stands in a file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as log:
        start = perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        seconds: float | None = None
        try:
            while seconds is None and perf_counter() - start < DEADLINE:
                ended = process.poll() is not None
                if _stands(path, begin):
                    seconds = perf_counter() - start
                elif ended:
                    break
                sleep(LOOK)
            process.wait(DEADLINE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(DEADLINE)
    if seconds is None or process.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {process.returncode}:\n{output.read_text()[-3000:]}"
        )
    return round(seconds, 3)


def _stands(path: Path, begin: str) -> bool:
    if not path.exists():
        return False
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    return any(line.startswith(begin) and line.endswith("\n") for line in lines)
