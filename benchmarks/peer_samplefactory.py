"""APPO of Sample Factory, asynchronous, on the CPU: two workers of eight environments.

Rollouts of 32 and batches of 1024, its own defaults; networks as in the other pairs, no recurrence.
What is counted is what its learner says that it trained on.

It needs NumPy 1 and an older Gymnasium, and so an environment of its own, which is pinned in
peers-constraints-samplefactory.txt.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from time import perf_counter
from typing import Any

import gymnasium
from common import SETTINGS
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner

WARMUP = 8.0  # seconds after the first update that are not counted
PACKAGES = ("sample-factory", "torch", "gymnasium", "numpy")


class Count(AlgoObserver):
    """Counts what is trained on between two moments, and then ends the run.

    Its own ``train_for_seconds`` does not: it compares with a clock that never runs.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: float | None = None
        self.first: tuple[float, int] | None = None  # (time, env steps) when counting began
        self.last: tuple[float, int] | None = None

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        now, done = perf_counter(), sum(runner.env_steps.values())
        if self.last is not None or not done:
            return
        if self._begun is None:
            self._begun = now
        if self.first is None:
            if now >= self._begun + WARMUP:
                self.first = now, done
        elif now >= self.first[0] + self._seconds:
            self.last = now, done
            runner.cfg.train_for_env_steps = 0  # looked at right after this


def make(name: str, config: Any, env_config: Any, render_mode: str | None = None) -> Any:
    return gymnasium.make(name, render_mode=render_mode)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure for at least")
    args = parser.parse_args()
    register_env(args.env, make)
    count = Count(args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "algo": "APPO",
            "env": args.env,
            "experiment": "measure",
            "train_dir": folder,
            "device": "cpu",
            "num_workers": 2,
            "num_envs_per_worker": 8,
            "async_rl": True,
            "serial_mode": False,
            "use_rnn": False,
            "rollout": 32,
            "batch_size": 1024,
            "normalize_input": False,
            "nonlinearity": "tanh",
            "actor_critic_share_weights": False,
            "seed": 0,
            "with_wandb": False,
        }
        argv = [f"--{name}={value}" for name, value in options.items()]
        argv += ["--encoder_mlp_layers", *map(str, SETTINGS["hidden"])]
        sf_parser, _ = parse_sf_args(argv)
        _, runner = make_runner(parse_full_cfg(sf_parser, argv))
        runner.register_observer(count)
        status = runner.init()
        if status == ExperimentStatus.SUCCESS:
            status = runner.run()
    if status != ExperimentStatus.SUCCESS or count.first is None or count.last is None:
        sys.exit(f"the run ended with status {status}, before the end of the measurement")
    (begin, before), (end, after) = count.first, count.last
    result = {
        "env_steps": after - before,
        "seconds": round(end - begin, 3),
        "steps_per_s": round((after - before) / (end - begin), 1),
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
