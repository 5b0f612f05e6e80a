"""What a gradient step on sequences costs: ``python benchmarks/shoal_sequences.py``.

R2D2's step on 16 sequences of 20 env steps (burn-in of 10, 5-step returns), beside a DQN's step on
as many rows, 320 single transitions, of the same layers without the LSTM; in turn, on one thread.
Printed as one line of JSON: gradient steps a second, medians of ``--rounds``.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import shoal
from shoal.replay.local import minibatches

SEQUENCES, STEPS, CALL = 16, 20, 16  # CALL: gradient steps in one call of the learner
COMMON: dict[str, Any] = {"double": True, "dueling": True, "n_step": 5, "learner": "jax"}


def trainer(memory: str | None) -> shoal.Trainer:
    network = shoal.Network(hidden=(128, 128), activation="relu", memory=memory)  # type: ignore[arg-type]
    rows = SEQUENCES * STEPS
    own: dict[str, Any] = {"batch_size": rows}
    if memory:
        own = {"batch_size": SEQUENCES, "sequence": STEPS, "burn_in": 10, "overlap": 10}
    made = shoal.Trainer(
        "prioritized-dqn", "CartPole-v1", network=network, warmup=2_000, **COMMON, **own
    )
    made.train()
    return made


def measure(made: shoal.Trainer) -> float:
    """Gradient steps a second, drawn and new priorities included."""
    replay, done, begun = made.run.local_replay, 0, perf_counter()
    while perf_counter() - begun < 1.0:
        drawn = replay.draw(np.random.default_rng(0), CALL, 0.4)
        _, rows = made.learner.update(drawn.batch, minibatches(drawn, replay.settings), HYPER)
        replay.trained(drawn, rows)
        done += CALL
    return done / (perf_counter() - begun)


HYPER = {"lr": 1e-4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sequences, rows = trainer("lstm"), trainer(None)
    with sequences, rows:
        for made in (sequences, rows):
            measure(made)
        pairs = [(measure(sequences), measure(rows)) for _ in range(args.rounds)]
    found = {
        "sequences_per_s": round(median(a for a, _ in pairs), 1),
        "rows_per_s": round(median(b for _, b in pairs), 1),
        "ratio": round(median(a / b for a, b in pairs), 3),
        "batch": [SEQUENCES, STEPS],
        "versions": {name: version(name) for name in ("shoal", "jax")},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
