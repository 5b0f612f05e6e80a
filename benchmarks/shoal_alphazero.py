"""Shoal's self-play in connect four: positions of whole games, with 50 simulations each.

A worker's games side by side; nothing is learned meanwhile. As in ``peer_openspiel.py`` and
``peer_mctx.py``. The residual network is a PyTorch module of the user's own.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from common import SELF_PLAY, measure

import shoal
from shoal.fleet.worker import Worker
from shoal.systems.table import default_config


def residual() -> Any:
    import torch
    from torch import nn

    width = SELF_PLAY["channels"]

    def head(planes: int, size: int) -> Any:
        flat = nn.Conv2d(width, planes, 1), nn.ReLU(), nn.Flatten()
        return nn.Sequential(
            *flat, nn.Linear(42 * planes, width), nn.ReLU(), nn.Linear(width, size)
        )

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first, second = (
                nn.ModuleList(
                    nn.Conv2d(width, width, 3, padding=1) for _ in range(SELF_PLAY["blocks"])
                )
                for _ in range(2)
            )
            self.stem, self.first, self.second = nn.Conv2d(2, width, 3, padding=1), first, second
            self.policy, self.value = head(2, 7), head(1, 1)

        def forward(self, obs: Any) -> Any:
            x = obs["observation"].float().contiguous(memory_format=torch.channels_last)
            x = torch.relu_(self.stem(x))
            for one, two in zip(self.first, self.second, strict=True):
                x = torch.relu_(two(torch.relu_(one(x))).add_(x))
            return {"pi": self.policy(x), "v": self.value(x)}

    torch.manual_seed(0)
    return Network()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="connect_four")
    parser.add_argument("--network", choices=("mlp", "residual"), default="mlp")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for at least")
    args = parser.parse_args()
    config = default_config("alphazero", args.env)
    network: Any = shoal.Network(hidden=SELF_PLAY["hidden"], activation="relu", shared=True)
    if args.network == "residual":
        network = residual()
    settings = {"simulations": SELF_PLAY["simulations"], "network": network}
    algorithm = replace(config.algorithm, **settings)
    rollout = replace(config.rollout, envs_per_worker=SELF_PLAY["games"], fragment_length=42)
    worker = Worker(replace(config, algorithm=algorithm, rollout=rollout), 0)
    worker.set_weights(algorithm.init(worker.model, np.random.default_rng(0)), 0)
    packages = ("shoal", "numba", *(["torch"] if args.network == "residual" else []))
    measure(lambda: worker.sample().trained_steps, args.seconds, packages)


if __name__ == "__main__":
    main()
