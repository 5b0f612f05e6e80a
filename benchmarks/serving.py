"""Requests per second of trained policies, one at a time and in batches, and of their ONNX files.

    python benchmarks/serving.py [--seconds 1] [--out benchmarks/results/serving.json]

One thread each. Prints how far each file agrees with its policy, too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402

import shoal  # noqa: E402

BATCH = 256
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "MLP, Discrete": ("ppo", "CartPole-v1", {}),
    "MLP, Box": ("sac", "Pendulum-v1", {}),
    "LSTM, Discrete": ("ppo", "CartPole-v1", {"memory": "lstm"}),
    "CNN, Discrete": ("ppo", "ALE/Pong-v5", {}),
}


def rate(call: Callable[[], Any], seconds: float) -> float:
    """Calls per second, after a warm-up."""
    for _ in range(3):
        call()
    calls, start = 0, perf_counter()
    while perf_counter() - start < seconds:
        call()
        calls += 1
    return calls / (perf_counter() - start)


def measure(case: str, seconds: float, folder: Path) -> dict[str, Any]:
    import onnxruntime

    system, env, fields = CASES[case]
    with shoal.Trainer(system, env, **fields) as trainer:
        policy = trainer.policy
    written = shoal.export(policy, folder / "policy.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(written.path), options, providers=["CPUExecutionProvider"]
    )
    row: dict[str, Any] = {"difference": written.difference}
    for rows in (1, BATCH):
        obs = np.stack([policy.spaces.observation.sample() for _ in range(rows)])
        shapes = {x.name: x.shape[1:] for x in session.get_inputs()}
        given = {k: np.zeros((rows, *s), np.float32) for k, s in shapes.items()} | {"obs": obs}
        one = obs[0] if rows == 1 else obs
        policy.reset()
        row[f"policy.act x{rows}"] = rows * rate(lambda o=one: policy.act(o), seconds)
        row[f"onnxruntime x{rows}"] = rows * rate(
            lambda g=given: session.run(["action"], g), seconds
        )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serving.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = {case: measure(case, args.seconds, Path(folder)) for case in CASES}
    for case, row in rows.items():
        rates = "  ".join(f"{k} {x:,.0f}/s" for k, x in row.items() if k != "difference")
        print(f"{case:<16} largest difference {row['difference']:.1e}  {rates}")
    args.out.write_text(json.dumps({"seconds": args.seconds, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
