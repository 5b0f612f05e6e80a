"""What the scripts of all pairs share: settings, clock, and the line of JSON that they print.

It runs under the peers' interpreter too, so it imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from time import perf_counter
from typing import Any

SETTINGS: dict[str, Any] = {
    "envs": 8,  # copies of the environment, stepped together in one process
    "steps": 2048,  # env steps of each copy between two updates
    "epochs": 10,
    "minibatch": 64,
    "hidden": [64, 64],  # tanh; policy and value function in networks of their own
    "lr": 3e-4,
    "gamma": 0.99,
    "lambda": 0.95,
    "clip": 0.2,
    "value_coef": 0.5,
    "entropy_coef": 0.0,
    "max_grad_norm": 0.5,
}
RECURRENT: dict[str, Any] = {  # of the pair of recurrent PPO, where they differ
    "steps": 128,
    "minibatch": 128,
    "cell": 128,  # units of the LSTM, one for the policy and one for the value function
}
SELF_PLAY: dict[str, Any] = {  # of the pairs of search in connect four
    "simulations": 50,
    "games": 256,  # played side by side, where they are
    "hidden": (128, 128, 128),  # relu; or
    "channels": 64,  # of a residual network, ...
    "blocks": 3,  # ... each of two convolutions of 3x3
}
AGENTS: dict[str, Any] = {"steps": 128}  # of the pair of several agents, where they differ
DIRECTIONS, SIGMA = 32, 0.02  # of the pairs of random search
BALANCING = (0.1, 0.5, 4.0, 1.0)  # a linear policy of CartPole-v1 whose episodes last 500 env steps
DEADLINE = 300.0  # seconds within which something must have been sampled
ROWS: int = SETTINGS["envs"] * SETTINGS["steps"]  # env steps of one update


def sb3_settings(steps: int, minibatch: int) -> dict[str, Any]:
    """Arguments of PPO in stable-baselines3 and its relatives, with these two of the pair's own."""
    hidden = SETTINGS["hidden"]
    return {
        "n_steps": steps,
        "batch_size": minibatch,
        "n_epochs": SETTINGS["epochs"],
        "learning_rate": SETTINGS["lr"],
        "gamma": SETTINGS["gamma"],
        "gae_lambda": SETTINGS["lambda"],
        "clip_range": SETTINGS["clip"],
        "ent_coef": SETTINGS["entropy_coef"],
        "vf_coef": SETTINGS["value_coef"],
        "max_grad_norm": SETTINGS["max_grad_norm"],
        "policy_kwargs": {"net_arch": {"pi": hidden, "vf": hidden}},
        "seed": 0,
    }


def measure_sb3(model: Any, seconds: float, packages: tuple[str, ...]) -> None:
    """Measure a model of stable-baselines3 or a relative, one rollout of all copies an update."""
    rows = model.n_envs * model.n_steps

    def update() -> int:
        model.learn(rows, reset_num_timesteps=False)
        return int(rows)

    measure(update, seconds, packages)


def arguments() -> argparse.Namespace:
    return _parser().parse_args()


def with_workers() -> argparse.Namespace:
    """The same, and how many processes share the copies of the environment."""
    parser = _parser()
    parser.add_argument("--workers", type=int, default=0, help="0: this process has all copies")
    return parser.parse_args()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for at least")
    return parser


def measure(
    update: Callable[[], int], seconds: float, packages: tuple[str, ...], warmup: float = 0.0
) -> None:
    """Time whole updates after those that are not counted; print the result as JSON.

    Not counted are the first that has sampled anything, and those of ``warmup`` seconds after it.

    ``update`` samples and learns once and returns the env steps that it sampled. The first update
    compiles, and fills whatever caches there are. ``packages``: distributions whose versions
    belong to the result, the library itself first.
    """
    begun = perf_counter()
    while not update():
        if perf_counter() - begun > DEADLINE:
            raise TimeoutError(f"no env step within {DEADLINE:.0f} s")
    begun = perf_counter()
    while perf_counter() - begun < warmup:
        update()
    steps = 0
    times: list[float] = []
    while sum(times) < (seconds if steps else DEADLINE):
        start = perf_counter()
        steps += update()
        times.append(perf_counter() - start)
    result = {
        "env_steps": steps,
        "seconds": round(sum(times), 3),
        "updates": len(times),
        "steps_per_s": round(steps / sum(times), 1),
        "versions": {name: version(name) for name in (*packages, "gymnasium", "numpy")},
    }
    print(json.dumps(result), flush=True)
