"""Env steps per second of sampling alone: ``python benchmarks/sampling.py ENV --workers 2``.

Workers of eight environments sample fragments of 128 env steps, PPO's postprocessing included, and
send them to this process, which drops them; nothing is learned. ``--how stream`` takes them as they
come, two calls ahead for each worker, as the asynchronous plans do; ``--how map`` waits for all, as
the synchronous ones do. ``busy:Busy`` as ENV is one whose env steps are plain Python.

``python benchmarks/run.py --only sampling-scaling`` measures one worker and two in turn.
"""

from __future__ import annotations

import argparse

from common import measure

import shoal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("env", help="Gymnasium id or module:Class")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--how", default="stream", choices=("stream", "map"))
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for at least")
    args = parser.parse_args()
    with shoal.Trainer(
        "ppo", args.env, workers=args.workers, envs_per_worker=8, fragment_length=128, seed=0
    ) as trainer:
        fleet = trainer.fleet
        fleet.publish(trainer.learner.weights(), trainer.learner.version)
        fleet.send()
        results = fleet.stream("sample", in_flight=2)

        def update() -> int:
            if args.how == "map":
                return sum(sample.env_steps for _, sample in fleet.map("sample"))
            _, sample = next(results)
            return int(sample.env_steps)

        measure(update, args.seconds, ("shoal", "ray"), warmup=3.0)
        results.close()


if __name__ == "__main__":
    main()
