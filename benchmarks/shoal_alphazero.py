"""Shoal's self-play in connect four: positions of whole games, with 50 simulations each.

A worker's games side by side; nothing is learned meanwhile. As in ``peer_openspiel.py`` and
``peer_mctx.py``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from common import SELF_PLAY, measure

import shoal
from shoal.fleet.worker import Worker
from shoal.systems.table import default_config


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="connect_four")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for at least")
    args = parser.parse_args()
    config = default_config("alphazero", args.env)
    network = shoal.Network(hidden=tuple(SELF_PLAY["hidden"]), activation="relu", shared=True)
    settings = {"simulations": SELF_PLAY["simulations"], "network": network}
    algorithm = replace(config.algorithm, **settings)
    rollout = replace(config.rollout, envs_per_worker=SELF_PLAY["games"], fragment_length=42)
    worker = Worker(replace(config, algorithm=algorithm, rollout=rollout), 0)
    worker.set_weights(algorithm.init(worker.model, np.random.default_rng(0)), 0)
    measure(lambda: worker.sample().trained_steps, args.seconds, ("shoal", "numba"))


if __name__ == "__main__":
    main()
