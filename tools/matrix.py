"""Every algorithm under every plan on CartPole-v1: ``python -m tools.matrix [--seed 0]``.

Two workers in one process, the settings of the algorithm's first system. A cell is trained until
the mean return of 100 episodes is 450, or refused by name. Writes ``results/matrix.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from shoal.systems.table import PLANS, SYSTEMS
from shoal.trainer import Trainer

RETURN = 450.0
STEPS = 1_000_000  # env steps after which a cell counts as not learned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    first = {type(row.algorithm): row.name for row in reversed(SYSTEMS.values())}
    cells = [
        cell(system, kind, plan().name, plan().refuses(kind), args.seed)
        for kind, system in sorted(first.items(), key=lambda item: item[1])
        for plan in PLANS
    ]
    Path("results", "matrix.json").write_text(json.dumps(cells, indent=2) + "\n")


def cell(system: str, kind: type, plan: str, reason: str | None, seed: int) -> dict[str, Any]:
    """What came of one algorithm under one plan."""
    found: dict[str, Any] = {"algorithm": kind.__name__, "plan": plan, "seed": seed}
    if reason is not None:
        found["refused"] = reason
    else:
        with Trainer(
            system,
            "CartPole-v1",
            plan=plan,
            workers=2,
            in_process=True,
            seed=seed,
            stop_return=RETURN,
            stop_steps=STEPS,
        ) as trainer:
            for report in trainer:
                found |= {k: report[k] for k in ("return_mean", "env_steps", "gradient_steps")}
            found["seconds"] = round(trainer.recorder.wall_s, 1)
            found["reached"] = trainer.stopped_by() == "return"
    print(json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    main()
