"""Ten minutes of chaos: ``python benchmarks/chaos.py --system impala [--seconds 600]``.

Trains CartPole-v1 with two workers while one of their processes, drawn at random, is killed with
SIGKILL every so many seconds. Checked in every report: env steps sampled are those trained on plus
those dropped plus those in flight, and no counter goes back. The result, with the seconds until
each replacement was ready, goes to ``benchmarks/results/chaos-SYSTEM.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import psutil

import shoal

COUNTERS = ("env_steps", "trained_steps", "dropped_steps", "gradient_steps", "episodes")
HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--system", default="impala")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the result")
    args = parser.parse_args()
    kills: list[float] = []
    over = threading.Event()

    def kill() -> None:
        draw = random.Random(args.seed)
        while not over.wait(args.every):
            victims = workers()
            with suppress(ProcessLookupError):  # gone by itself meanwhile
                if victims:
                    os.kill(draw.choice(victims), signal.SIGKILL)
                    kills.append(monotonic())

    wrong, reached, best, last = [], None, 0.0, dict.fromkeys(COUNTERS, 0)
    with shoal.Trainer(args.system, env="CartPole-v1", workers=2, seed=args.seed) as trainer:
        begin = monotonic()
        threading.Thread(target=kill, daemon=True).start()
        while monotonic() - begin < args.seconds:
            report = trainer.train()
            known = report["trained_steps"] + report["dropped_steps"] + report["in_flight_steps"]
            if known != report["env_steps"] or any(report[k] < last[k] for k in COUNTERS):
                wrong.append({k: report[k] for k in COUNTERS})
            last = {k: report[k] for k in COUNTERS}
            mean = report["return_mean"] or 0.0
            best = max(best, mean)
            if reached is None and mean >= 475 and trainer.recorder.window_full():
                reached = round(monotonic() - begin, 1)
        over.set()
        refill = trainer.fleet.health.refill_s
        result = {
            "system": args.system,
            "command": f"python benchmarks/chaos.py --system {args.system} --seed {args.seed}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            "seconds": args.seconds,
            "kills": len(kills),
            "restarts": report["worker_restarts"],
            "lost_calls": report["lost_calls"],
            "refill_s": [round(seconds, 2) for seconds in refill],
            "reports_with_wrong_accounts": wrong,
            "seconds_to_475": reached,
            "best_return": best,
            "last_return": report["return_mean"],
            **last,
        }
    args.out.mkdir(exist_ok=True)
    path = args.out / f"chaos-{args.system}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def workers() -> list[int]:
    """Processes that hold a worker: descendants of this one that Ray names after their actor."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:  # gone meanwhile
            continue
        if title.startswith("ray::") and "Host" in title:
            found.append(child.pid)
    return found


if __name__ == "__main__":
    main()
