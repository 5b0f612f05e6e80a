"""Seconds for 200 trivial trials: Ray Tune's own trivial trainable, and a Shoal trainer.

    python benchmarks/tune_trivial.py [--trials 200] [--repeat 3]

Alternately, each in processes of its own: one report of one update per trial. With ``reuse`` a
process of Tune's trainable is given one trial after the other, as Shoal's is; by default each trial
begins a process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def shoal(trials: int, folder: str) -> None:
    from shoal import tune

    tune.run_experiments(
        {
            "trivial": {
                "run": "pg",
                "env": "CartPole-v1",
                "stop": {"env_steps": 1},
                "config": {
                    "learner": "torch",
                    "lr": tune.loguniform(1e-4, 1e-2),
                    "envs_per_worker": 1,
                    "fragment_length": 1,
                    "report_every": 1,
                    "hidden": (4,),
                },
                "num_samples": trials,
            }
        },
        out=Path(folder) / "search",
        show=False,
    )


def tunes_own(trials: int, folder: str, reuse: bool) -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import ray
    from ray import tune

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)

    class Trivial(tune.Trainable):
        def setup(self, config: dict) -> None:
            self.x = config["x"]

        def step(self) -> dict:
            return {"score": self.x, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            Path(checkpoint_dir, "x").write_text(str(self.x))

        def load_checkpoint(self, checkpoint: str) -> None:
            self.x = float(Path(checkpoint, "x").read_text())

        def reset_config(self, new_config: dict) -> bool:
            self.x = new_config["x"]
            return True

    tune.run(
        Trivial,
        config={"x": tune.uniform(0, 1)},
        num_samples=trials,
        reuse_actors=reuse,
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        storage_path=folder,
        verbose=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--what", nargs="*", default=["shoal", "reuse", "default"])
    parser.add_argument("--own")
    args = parser.parse_args()
    if args.own:
        with tempfile.TemporaryDirectory() as folder:
            if args.own == "shoal":
                shoal(args.trials, folder)
            else:
                tunes_own(args.trials, folder, args.own == "reuse")
        return
    for _ in range(args.repeat):
        for name in args.what:
            command = [sys.executable, __file__, "--own", name, "--trials", str(args.trials)]
            begun = time.perf_counter()
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - begun
            print(json.dumps({"what": name, "trials": args.trials, "seconds": seconds}), flush=True)
            if run.returncode:
                print(run.stderr[-2000:])


if __name__ == "__main__":
    main()
