"""What each logger costs: env steps per second of PPO on CartPole-v1 with it, and with none.

    python benchmarks/loggers.py [--repeat 5] [--steps 400000] [--out FILE]

Each run is a process of its own; all kinds in turn, ``--repeat`` times. The first seconds, in which
JAX compiles, do not count: speed is that of the run's second half.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

KINDS = ("none", "tensorboard", "wandb", "mlflow")


def speed(kind: str, steps: int, folder: Path) -> float:
    """Env steps per second of the second half of a run."""
    command = [sys.executable, "-m", "shoal", "train", "CartPole-v1", "--system", "ppo"]
    command += ["--stop-steps", str(steps), "--log", kind, "--out", str(folder / "run")]
    env = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, timeout=600, env=env)
    lines = (folder / "run" / "progress.jsonl").read_text().splitlines()
    reports = [json.loads(line) for line in lines]
    a, b = reports[len(reports) // 2], reports[-1]
    return float((b["env_steps"] - a["env_steps"]) / (b["wall_s"] - a["wall_s"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loggers.json"))
    args = parser.parse_args()
    runs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(args.repeat):
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                runs[kind].append(speed(kind, args.steps, Path(folder)))
    base = median(runs["none"])
    rows = {
        kind: {"median_steps_per_s": median(x), "cost": 1 - median(x) / base, "runs": x}
        for kind, x in runs.items()
    }
    for kind, row in rows.items():
        print(f"{kind:<12} {row['median_steps_per_s']:>9,.0f} env steps/s  cost {row['cost']:+.1%}")
    args.out.write_text(json.dumps({"command": " ".join(sys.argv), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
