"""Kills parts of runs at random times, and tabulates how the runs end.

``python benchmarks/chaos.py --part raylet [--kills 20]`` starts ``shoal train`` for each kill of a
part of Ray (``raylet``, ``gcs_server``, ``cat``, which stands in for Ray's agents) or of the run
itself (``driver``), and kills it with SIGKILL at an exponentially drawn time after its first
checkpoint. Noted are the exit code, the seconds until the run had ended, whether its checkpoint
holds every env step that its summary counts, and what is left: processes, shared memory, folders.

``--part worker`` and ``--part shard`` kill processes of one run that goes on; after each kill the
env steps sampled are those trained on plus those dropped plus those in flight, no counter goes
back, and the seconds until the part is back are measured. The result goes to
``benchmarks/results/chaos-PART-SYSTEM.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

import shoal
from shoal.checkpoint import files as checkpoint

COUNTERS = ("env_steps", "trained_steps", "dropped_steps", "gradient_steps", "episodes")
HERE = Path(__file__).resolve().parent
SHM = Path("/dev/shm")
TRAIN = ["train", "CartPole-v1", "--workers", "2", "--out", "run"]
TRAIN += ["--checkpointing.every-iterations", "1", "--rollout.fragment-length", "32"]
MEAN = 1.0  # seconds until a kill, on the average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", default="worker", help="what is killed")
    parser.add_argument("--system", default="impala")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the result")
    args = parser.parse_args()
    inside = args.part in ("worker", "shard")
    found = (members if inside else runs)(args.part, args.system, args.kills, args.seed)
    words = f"--part {args.part} --system {args.system} --kills {args.kills} --seed {args.seed}"
    result = {
        "command": f"python benchmarks/chaos.py {words}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        **found,
    }
    args.out.mkdir(exist_ok=True)
    path = args.out / f"chaos-{args.part}-{args.system}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


# ------------------------------------------------------------------ runs that end


def runs(part: str, system: str, kills: int, seed: int) -> dict[str, Any]:
    """One run for each kill of a part that the run cannot survive."""
    draw = random.Random(seed)
    each = []
    for _ in range(kills):
        each.append(one_run(part, system, draw.expovariate(1 / MEAN)))
        print(each[-1], file=sys.stderr, flush=True)
    seconds = sorted(run["seconds"] for run in each)
    return {
        "exit_codes": dict(Counter(run["code"] for run in each)),
        "said_so": sum(run["said"] for run in each),
        "env_steps_lost": sum(run["lost"] for run in each),
        "seconds": {"median": seconds[kills // 2], "most": seconds[-1]},
        "processes_left": sum(run["processes"] for run in each),
        "segments_left": sum(run["segments"] for run in each),
        "folders_left": sum(run["folders"] for run in each),
        "runs": each,
    }


def one_run(part: str, system: str, after: float) -> dict[str, Any]:
    before = segments()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        run = subprocess.Popen(
            [sys.executable, "-m", "shoal", *TRAIN, "--system", system],
            cwd=out,
            stdout=(out / "output").open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while not any((out / "run" / "checkpoint").glob("*/*.json")):
            assert run.poll() is None, (out / "output").read_text()
            time.sleep(0.05)
        time.sleep(after)
        driver = psutil.Process(run.pid)
        family = driver.children(recursive=True)
        folder = next(
            Path(word.partition("=")[2])
            for process in family
            for word in process.cmdline()
            if word.startswith("--temp_dir=")
        )
        victim = driver if part == "driver" else next(p for p in family if p.name() == part)
        victim.kill()
        killed = time.monotonic()
        code = run.wait(120)
        seconds = time.monotonic() - killed
        _, left = psutil.wait_procs(family, timeout=5)
        state, _ = checkpoint.load(out / "run")
        steps = state["run"]["counters"]["env_steps"]
        summary = out / "run" / "summary.json"
        told = json.loads(summary.read_text())["env_steps"] if summary.exists() else steps
        return {
            "after": round(after, 2),
            "code": code,
            "seconds": round(seconds, 2),
            "said": "Ray on this machine has ended" in (out / "output").read_text(),
            "lost": told - steps,
            "processes": len(left),
            "segments": len(segments() - before),
            "folders": int(folder.exists()),
        }


def segments() -> set[str]:
    return {path.name for path in SHM.iterdir()} if SHM.is_dir() else set()


# ------------------------------------------------------------------ a run that goes on


def members(part: str, system: str, kills: int, seed: int) -> dict[str, Any]:
    """One run whose workers, or whose shards, are killed one after the other."""
    draw = random.Random(seed)
    wrong, last = [], dict.fromkeys(COUNTERS, 0)
    fields = {"workers": 2, "seed": seed, "restarts_per_minute": 10 * kills}
    with shoal.Trainer(system, env="CartPole-v1", **fields) as trainer:
        for _ in range(kills + 1):
            done, at = last["gradient_steps"], time.monotonic() + draw.expovariate(1 / MEAN)
            while time.monotonic() < at or last["gradient_steps"] <= done:
                report = trainer.train()
                known = sum(report[f"{kind}_steps"] for kind in ("trained", "dropped", "in_flight"))
                if known != report["env_steps"] or any(report[k] < last[k] for k in COUNTERS):
                    wrong.append(report)
                last = {k: report[k] for k in COUNTERS}
            print(last, file=sys.stderr, flush=True)
            fleet = trainer.fleet if part == "worker" else trainer.fleet._spawned[0]
            if sum(fleet.stats.restarts.values()) < kills:
                os.kill(draw.choice(processes(fleet)), signal.SIGKILL)
        family = psutil.Process().children(recursive=True)
        health = fleet.stats
    _, left = psutil.wait_procs(family, timeout=5)
    refill = sorted(health.refill_s)
    return {
        "restarts": sum(health.restarts.values()),
        "lost_calls": health.lost_calls,
        "refill_s": {"median": round(refill[len(refill) // 2], 2), "most": round(refill[-1], 2)},
        "reports_with_wrong_accounts": wrong,
        "processes_left": len(left),
        **last,
    }


def processes(fleet: Any) -> list[int]:
    """Of the members that are there."""
    import ray

    ids = [m.actor._actor_id.hex() for m in fleet._members.values() if m.ready]
    return [int(ray._private.state.actors(each)["Pid"]) for each in ids]


if __name__ == "__main__":
    main()
