"""Is a GPU's learner right, and how fast is it: ``python benchmarks/gpu.py [--out gpu.json]``.

One command, one JSON, on a machine with a CUDA GPU. For both frameworks and each precision, on
Atari's observations (4 x 84 x 84 pixels, Nature's network):

* equality: the gradients of PPO, IMPALA and DQN on the GPU and on the CPU, from the same weights
  and rows; the largest difference, as a share of the largest entry. (Weights after a step tell
  less: Adam's first step is the sign of a gradient, whatever its size.)
* learner: rows per second of gradient steps of each algorithm's paper (PPO: 1,024 rows, 4 epochs of
  minibatches of 256; IMPALA: 32 x 20 rows; DQN: batches of 32; and of 512, as Ape-X's).
* run: env steps per second of PPO on Pong, sampled and learned from in one process, if ale-py is
  installed; with the learner on the CPU and on the GPU.

Nothing travels between processes here, so that the figures are those of the learner.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.spaces import Box, Discrete

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from shoal.config.replay import Replay  # noqa: E402
from shoal.errors import ConfigError  # noqa: E402
from shoal.fleet.worker import Worker  # noqa: E402
from shoal.learners.base import STEP  # noqa: E402
from shoal.learners.choose import create_learner  # noqa: E402
from shoal.process.machine import cpus  # noqa: E402
from shoal.replay.counts import Replayed  # noqa: E402
from shoal.replay.local import LocalReplay  # noqa: E402
from shoal.systems.configure import configure  # noqa: E402
from shoal.trainer import Trainer  # noqa: E402


class Pixels(Env[Any, Any]):
    """Noise in the shape of Atari's frames; an episode is 100 steps."""

    observation_space = Box(0, 255, (4, 84, 84), np.uint8)
    action_space = Discrete(6)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        return self._obs(), float(self.np_random.random() < 0.1), self._t >= 100, False, {}

    def _obs(self) -> Any:
        return self.np_random.integers(0, 256, (4, 84, 84), dtype=np.uint8)


CASES: dict[str, tuple[str, dict[str, Any], int]] = {  # system, settings, batch of replay
    "ppo": ("ppo", {"envs_per_worker": 8, "fragment_length": 128, "minibatch_size": 256}, 0),
    "impala": ("impala", {"envs_per_worker": 32, "fragment_length": 20}, 0),
    "dqn": ("dqn", {"envs_per_worker": 8, "fragment_length": 32}, 32),
    "dqn 512": ("dqn", {"envs_per_worker": 8, "fragment_length": 128}, 512),
}


@cache
def case(name: str) -> tuple[Any, Any, Any, Any, Any, int]:
    """(algorithm, model, parameters, batch, indices, rows of all gradient steps)."""
    system, settings, size = CASES[name]
    config = configure(system, Pixels, None, {**settings, "stop_steps": 10_000})
    algorithm = config.algorithm
    worker = Worker(config, 0, Pixels)
    params = algorithm.init(worker.model, np.random.default_rng(0))
    worker.set_weights({**params, **algorithm.exploration(0, 1)}, 0)
    batch, rng = worker.sample().batch, np.random.default_rng(1)
    if size:
        replay = Replay(capacity=2_000, warmup=size, batch_size=size)
        slots = settings["envs_per_worker"]
        local = LocalReplay(replay, algorithm, worker.model, worker.get_stacks(), slots, Replayed())
        local.store(0, batch)
        batch = local.draw(rng, 1, 0.0).batch
        return algorithm, worker.model, params, batch, None, size
    indices = algorithm.indices(worker.model, rng, batch["mask"].shape)
    rows = indices.size if indices is not None else batch["mask"].size
    return algorithm, worker.model, params, batch, indices, int(rows)


def measured(made: Any, known: Any, seconds: float) -> tuple[dict[str, Any], float]:
    """The gradients on the whole batch, and rows per second of updates."""
    algorithm, _, _, batch, indices, rows = known
    hyper, whole = algorithm.hyper(0.0), dict(batch)
    if STEP in batch:
        whole[STEP] = {k: x[0] for k, x in batch[STEP].items()}
    gradients = made.gradients(whole, hyper)[0]
    if not seconds:
        return gradients, 0.0
    for _ in range(2):
        made.update(batch, indices, hyper)
    times, end = [], perf_counter() + seconds
    while perf_counter() < end or len(times) < 3:
        start = perf_counter()
        made.update(batch, indices, hyper)
        times.append(perf_counter() - start)
    return gradients, rows / median(times)


def learner_figures(
    framework: str, device: str, precision: str, seconds: float
) -> dict[str, dict[str, Any]]:
    """Gradients and speed by case."""
    found = {}
    for name in CASES:
        known = case(name)
        algorithm, model, params, *_ = known
        made = create_learner(framework, algorithm, model, params, cpus(), precision, device)
        made.set_aux(algorithm.exploration(0, 1))
        gradients, speed = measured(made, known, seconds)
        print(framework, device, precision, name, round(speed), flush=True)
        found[name] = {"gradients": gradients, "rows_per_s": round(speed)}
    return found


def beside(cpu: dict[str, Any], gpu: dict[str, Any]) -> dict[str, Any]:
    """Speed on a GPU, and how far its gradients are from the CPU's."""
    wanted, found = cpu["gradients"], gpu["gradients"]
    largest = max(float(np.abs(x).max()) for x in wanted.values())
    apart = max(float(np.abs(x - found[k]).max()) for k, x in wanted.items())
    return {
        "rows_per_s": gpu["rows_per_s"],
        "times_cpu": round(gpu["rows_per_s"] / cpu["rows_per_s"], 1) if cpu["rows_per_s"] else None,
        "difference": apart / largest,
    }


def run(framework: str, device: str, precision: str, steps: int) -> dict[str, float]:
    """Env steps per second of PPO on Pong, after a first report that is not counted."""
    settings = {"envs_per_worker": 16, "fragment_length": 128, "minibatch_size": 512}
    how = {"learner": framework, "device": device, "precision": precision}
    with Trainer("ppo", "ALE/Pong-v5", stop_steps=10**8, **settings, **how) as trainer:
        trainer.train()
        start, before = perf_counter(), trainer.run.counters.env_steps
        while trainer.run.counters.env_steps - before < steps:
            report = trainer.train()
        speed = (trainer.run.counters.env_steps - before) / (perf_counter() - start)
    shares = {k: round(v, 3) for k, v in report.items() if k.startswith("time/")}
    return {"env_steps_per_s": round(speed), **shares}


def tried(work: Callable[[], Any]) -> Any:
    """What it returns, or why it cannot: a framework without a GPU must not end the others."""
    try:
        return work()
    except (ConfigError, ImportError, RuntimeError) as error:
        return {"refused": str(error)}


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--device", default="cuda", help="beside the CPU")
    parser.add_argument("--steps", type=int, default=20_000, help="env steps of each run; 0: none")
    parser.add_argument(
        "--cpu-seconds", type=float, help="the same on the CPU (--seconds); 0: gradients only"
    )
    parser.add_argument("--frameworks", nargs="+", default=["torch", "jax"])
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two frameworks share one GPU
    about = {"gpu": gpu_name(), "cpus": cpus(), "python": platform.python_version()}
    result: dict[str, Any] = {**about, "command": " ".join(["python", *sys.argv])}
    for framework in args.frameworks:
        on_cpu = args.seconds if args.cpu_seconds is None else args.cpu_seconds
        cpu = learner_figures(framework, "cpu", "float32", on_cpu)
        own: dict[str, Any] = {name: {"cpu": x["rows_per_s"]} for name, x in cpu.items()}
        for precision in ("float32", "tf32", "bfloat16"):
            how = framework, args.device, precision, args.seconds
            gpu = tried(partial(learner_figures, *how))
            for name, x in cpu.items():
                own[name][precision] = beside(x, gpu[name]) if name in gpu else gpu
            result[framework] = own  # the runs below take longest, and may not come to their end
            write(args.out, result)
        where = ("cpu", "float32"), (args.device, "float32"), (args.device, "bfloat16")
        for device, precision in where if args.steps else ():
            how_run = framework, device, precision, args.steps
            own[f"ppo Pong, {device}, {precision}"] = tried(partial(run, *how_run))
        print(json.dumps({framework: own}, indent=2), flush=True)
        write(args.out, result)


if __name__ == "__main__":
    main()
