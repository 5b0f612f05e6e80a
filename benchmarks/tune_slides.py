"""The experiment of the slides: PPO on CartPole-v0, three step sizes, until every return is 200.

    python benchmarks/tune_slides.py [--peer PYTHON] [--repeat N]

PYTHON is an interpreter that has RLlib: then both run alternately, each in processes of its own.
Seconds are from start to end: imports, Ray, trials, checkpoints.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 600_000  # env steps after which a trial is given up
SECONDS = 200.0  # likewise


def shoal() -> None:
    begun = time.perf_counter()
    from shoal import tune

    with tempfile.TemporaryDirectory() as folder:
        outcome = tune.run_experiments(
            {
                "my_experiment": {
                    "run": "PPO",
                    "env": "CartPole-v0",
                    "stop": {"episode_reward_mean": 200, "env_steps": STEPS, "seconds": SECONDS},
                    "config": {
                        "num_gpus": 0,
                        "num_workers": 0,
                        "sgd_stepsize": tune.grid_search([0.01, 0.001, 0.0001]),
                    },
                },
            },
            out=Path(folder) / "search",
            show=False,
        )
    trials = [
        {
            "lr": row["settings"]["algorithm.lr"],
            "return": row["last"],
            "env_steps": row["env_steps"],
            "seconds": row["seconds"],
        }
        for row in outcome.trials
    ]
    print(json.dumps({"seconds": time.perf_counter() - begun, "trials": trials}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--own", action="store_true")
    args = parser.parse_args()
    if args.own:
        shoal()
        return
    here = Path(__file__)
    commands = {"shoal": [sys.executable, str(here), "--own"]}
    if args.peer:
        peer = str(here.with_name("peer_rllib_tune.py"))
        commands["rllib"] = [args.peer, peer, str(SECONDS), str(STEPS)]
    for _ in range(args.repeat):
        for name, command in commands.items():
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in run.stdout.splitlines() if line.startswith('{"seconds"')]
            print(name, lines[-1] if lines else run.stderr[-2000:], flush=True)


if __name__ == "__main__":
    main()
