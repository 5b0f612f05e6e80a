"""Start-up: seconds of importing Shoal, and from a command to CartPole solved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

SEEDS = range(5)
TARGETS = {"import_s": 0.3, "cold_s": 4.0, "warm_s": 3.0}
STATEMENTS = {"import_s": "import shoal", "import_trainer_s": "from shoal import Trainer"}


def measure_startup(repeat: int) -> dict[str, Any]:
    """Medians of every figure, the runs behind them, and whether each seed solved CartPole.

    Cold is with an empty cache of compilations, warm is the same command once more. The time is of
    the whole process, from its start to its exit, with its run folder written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        _seconds_of("import shoal")  # writes the bytecode, as an installation does
        runs: dict[str, list[Any]] = {
            name: [_seconds_of(statement) for _ in range(repeat)]
            for name, statement in STATEMENTS.items()
        }
        solved = [_solve(seed, Path(scratch) / str(seed)) for seed in SEEDS]
    for name in ("cold", "warm"):
        runs[f"{name}_s"] = [pair[name]["seconds"] for pair in solved]
    returns = [min(run["return_mean"] for run in pair.values()) for pair in solved]
    medians = {name: round(median(values), 3) for name, values in runs.items()}
    return {
        "runs": runs,
        "return_mean": returns,
        "env_steps": [pair["cold"]["env_steps"] for pair in solved],
        "median": medians,
        "target": TARGETS,
        "met": {name: medians[name] <= most for name, most in TARGETS.items()}
        | {"solved": min(returns) >= 475},
    }


def _seconds_of(statement: str) -> float:
    clock = f"from time import perf_counter as t; s = t(); {statement}; print(t() - s)"
    run = subprocess.run([sys.executable, "-c", clock], capture_output=True, text=True, check=True)
    return round(float(run.stdout), 4)


def _solve(seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """CartPole-v1 to a return of 475 by the command line, twice with one cache."""
    env = {**os.environ, "SHOAL_CACHE": str(folder / "cache")}
    return {name: _train(seed, folder / name, env) for name in ("cold", "warm")}


def _train(seed: int, out: Path, env: Mapping[str, str]) -> dict[str, Any]:
    shoal = str(Path(sys.executable).with_name("shoal"))
    command = [shoal, "train", "CartPole-v1", "--system", "ppo", "--stop-return", "475"]
    command += ["--stop-seconds", "120", "--seed", str(seed), "--out", str(out)]
    start = perf_counter()
    subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    seconds = perf_counter() - start
    summary = json.loads((out / "summary.json").read_text())
    return {"seconds": round(seconds, 2), **{k: summary[k] for k in ("return_mean", "env_steps")}}


if __name__ == "__main__":
    print(json.dumps(measure_startup(5), indent=2))
