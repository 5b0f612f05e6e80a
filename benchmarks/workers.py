"""What having workers costs and brings: figures of ``run.py`` that are no pair on an environment.

Each function measures one, ``repeat`` times for at least ``seconds`` each, in turn with whatever it
is compared with, and returns the result with the rows of a table of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from startup_workers import measure_startup_workers

HERE = Path(__file__).resolve().parent
DEADLINE = 1800.0  # seconds for one script
SCALED = ("CartPole-v1", "busy:Busy")  # env steps that cost next to nothing, and 100 us
HOW = ("stream", "map")
EVOLVED = ("CartPole-v1", "HalfCheetah-v5")

Measured = tuple[dict[str, Any], list[tuple[str, ...]]]
Peers = Callable[[], Path]  # the interpreter of the peers' environment, made when first needed


def startup_workers(peers: Peers, repeat: int, seconds: float) -> Measured:
    """From the start of a process to its first report, Shoal and RLlib."""
    result = measure_startup_workers(peers(), max(repeat, 3))
    names = {"cold_s": "Shoal, nothing compiled yet", "warm_s": "Shoal", "peer_s": "RLlib"}
    rows = [("IMPALA, two workers, to the first report", "seconds")]
    rows += [(text, f"{result['median'][name]:.2f}") for name, text in names.items()]
    rows.append(("RLlib / Shoal", f"{result['ratio_warm']:.2f}"))
    return result, rows


def sampling_scaling(peers: Peers, repeat: int, seconds: float) -> Measured:
    """Sampling alone with one worker and with two."""
    result: dict[str, Any] = {}
    rows: list[tuple[str, ...]] = [("sampling", "1 worker, env steps/s", "2 workers", "ratio")]
    for env in SCALED:
        for how in HOW:
            runs: dict[str, list[dict[str, Any]]] = {"1": [], "2": []}
            for _ in range(repeat):
                for count, own in runs.items():
                    extra = (env, "--workers", count, "--how", how, "--seconds", str(seconds))
                    own.append(script("sampling.py", *extra))
            one, two = (median(r["steps_per_s"] for r in own) for own in runs.values())
            ratio = round(two / one, 3)
            medians = {"1": one, "2": two}
            result[f"{env} {how}"] = {"median_steps_per_s": medians, "ratio": ratio, "runs": runs}
            rows.append((f"{env}, {how}", f"{one:,.0f}", f"{two:,.0f}", f"{ratio:.2f}"))
    return result, rows


def evolution_scaling(peers: Peers, repeat: int, seconds: float) -> Measured:
    """Evaluating perturbations with one worker and with two."""
    result: dict[str, Any] = {}
    rows: list[tuple[str, ...]] = [("evolution", "1 worker, env steps/s", "2 workers", "ratio")]
    for env in EVOLVED:
        runs: dict[str, list[dict[str, Any]]] = {"1": [], "2": []}
        for _ in range(repeat):
            for count, own in runs.items():
                extra = (env, "--workers", count, "--seconds", str(seconds))
                own.append(script("shoal_ars.py", *extra))
        one, two = (median(r["steps_per_s"] for r in own) for own in runs.values())
        ratio = round(two / one, 3)
        result[env] = {"median_steps_per_s": {"1": one, "2": two}, "ratio": ratio, "runs": runs}
        rows.append((env, f"{one:,.0f}", f"{two:,.0f}", f"{ratio:.2f}"))
    return result, rows


def stream_overhead(peers: Peers, repeat: int, seconds: float) -> Measured:
    """``RayFleet.stream`` and a loop of Ray's calls by hand."""
    result = script("stream.py", "--repeat", str(repeat), "--seconds", str(seconds))
    rows: list[tuple[str, ...]] = [
        ("workers", "bytes", "ms per result", "wall ratio", "driver's CPU, ms", "CPU ratio")
    ]
    for r in result["rows"]:
        wall, cpu = 1e3 * r["fleet_wall_s"], 1e3 * r["fleet_cpu_s"]
        ratios = f"{r['wall_ratio']:.2f}", f"{r['cpu_ratio']:.2f}"
        shown = f"{wall:.2f}", ratios[0], f"{cpu:.2f}", ratios[1]
        rows.append((str(r["workers"]), f"{r['bytes']:,}", *shown))
    return result, rows


def worker_memory(peers: Peers, repeat: int, seconds: float) -> Measured:
    """Memory of processes that sample."""
    result = script("worker_memory.py", "--seconds", str(seconds))
    rows = [("memory on CartPole-v1", "RSS, MB", "USS, MB")]
    told = {"a worker": result["workers"][0], "an empty Ray actor": result["ray_actor"]}
    rows += [(text, f"{m['rss_mb']:.0f}", f"{m['uss_mb']:.0f}") for text, m in told.items()]
    return result, rows


def datapath(peers: Peers, repeat: int, seconds: float) -> Measured:
    """The driver's share of one core while two workers feed two replay shards."""
    envs = "ALE/Pong-v5", "CartPole-v1"
    result = {env: script("datapath.py", env, "--seconds", str(seconds)) for env in envs}
    rows: list[tuple[str, ...]] = [("two workers, two shards", "env steps/s", "MB/s", "driver")]
    for env, told in result.items():
        steps, share = f"{told['steps_per_s']:,.0f}", f"{told['driver_share']:.1%}"
        rows.append((env, steps, f"{told['mb_per_s']:.1f}", share))
    return result, rows


MEASURES = {
    "datapath": datapath,
    "startup-workers": startup_workers,
    "sampling-scaling": sampling_scaling,
    "evolution-scaling": evolution_scaling,
    "stream-overhead": stream_overhead,
    "worker-memory": worker_memory,
}


def script(name: str, *arguments: str) -> dict[str, Any]:
    """The line of JSON that a script prints last."""
    done = subprocess.run(
        [sys.executable, HERE / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    if done.returncode:
        sys.exit(f"{name} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    print(f"  {name} {' '.join(arguments)}", file=sys.stderr, flush=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows, the first of which is the heading, as Markdown."""
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, rule, *body])
