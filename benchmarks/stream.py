"""What ``RayFleet.stream`` costs: ``python benchmarks/stream.py [--workers 1 8 64]``.

Beside it stands the loop that one would write by hand with Ray's calls alone: actors with a plain
method and no concurrency groups, ``ray.wait`` for one result, ``ray.get``, the next call to the
same actor. The actors of both only sleep, 10 to 50 ms drawn alike, and answer with an array; each
has one call in flight and reserves no CPU. Both loops are timed in turn in one process, after the
results of two rounds that are not counted.

Told for each payload and number of workers: seconds of wall time and of CPU time of this process
(all its threads, Ray's too) per result, medians over ``--repeat``, and how many times the fleet
takes what the loop by hand does. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from random import Random
from statistics import median
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np
import ray

from shoal.config.config import Cluster
from shoal.fleet.cluster import connect
from shoal.fleet.ray import RayFleet

NAP = 0.010, 0.050  # seconds, from and to
DEADLINE = 60.0  # seconds without a result


class Sleeper:
    """Sleeps, then answers with this many bytes."""

    def __init__(self, index: int) -> None:
        self._draw, self._payload = Random(index), np.zeros(0, np.uint8)

    def nap(self, size: int) -> np.ndarray:
        sleep(self._draw.uniform(*NAP))
        if self._payload.size != size:
            self._payload = np.ones(size, np.uint8)
        return self._payload


def make(index: int, restart: int) -> Sleeper:
    return Sleeper(index)


class ByHand:
    """Ray's calls and nothing else."""

    def __init__(self) -> None:
        self._actors: list[Any] = []
        self._kind = ray.remote(num_cpus=0)(Sleeper)

    def resize(self, size: int) -> None:
        self._actors += [self._kind.remote(i) for i in range(len(self._actors), size)]
        ray.get([actor.nap.remote(1) for actor in self._actors], timeout=5 * DEADLINE)

    def stream(self, size: int) -> Iterator[np.ndarray]:
        pending = {actor.nap.remote(size): actor for actor in self._actors}
        try:
            while True:
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=DEADLINE)
                actor = pending.pop(ready[0])
                yield ray.get(ready[0])
                pending[actor.nap.remote(size)] = actor
        finally:
            ray.wait(list(pending), num_returns=len(pending), timeout=DEADLINE)


class Fleet:
    """Shoal's stream over the same sleepers."""

    def __init__(self) -> None:
        self.fleet = RayFleet(make, 0, Cluster(), 0.0)

    def resize(self, size: int) -> None:
        self.fleet.resize(size)

    def stream(self, size: int) -> Iterator[np.ndarray]:
        results = self.fleet.stream("nap", lambda _: (size,))
        try:
            for _, result in results:
                yield result
        finally:
            results.close()
            self.fleet.map("nap", 1)  # those calls stand behind the ones nobody waits for any more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--bytes", type=int, nargs="+", default=[1_000, 100_000, 10_000_000])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--repeat", type=int, default=3, help="times that each is measured")
    args = parser.parse_args()
    connection = connect(Cluster(cpus_per_worker=0.0), max(args.workers), False, False)
    fleet, by_hand = Fleet(), ByHand()
    rows = []
    for workers in sorted(args.workers):
        fleet.resize(workers)
        by_hand.resize(workers)
        for size in args.bytes:
            runs: dict[str, list[dict[str, float]]] = {"fleet": [], "by_hand": []}
            for _ in range(args.repeat):
                runs["fleet"].append(timed(fleet.stream, workers, size, args.seconds))
                runs["by_hand"].append(timed(by_hand.stream, workers, size, args.seconds))
            rows.append({"workers": workers, "bytes": size, **compared(runs), "runs": runs})
    fleet.fleet.close()
    connection.close()
    versions = {name: version(name) for name in ("shoal", "ray", "numpy")}
    print(json.dumps({"rows": rows, "nap_s": NAP, "versions": versions}), flush=True)


def timed(
    stream: Callable[[int], Iterator[np.ndarray]], workers: int, size: int, seconds: float
) -> dict[str, float]:
    """Seconds per result: of wall time, and of this process's CPU time."""
    results, count = stream(size), 0
    for _ in range(2 * workers):
        next(results)
    wall, cpu = perf_counter(), process_time()
    while (passed := perf_counter() - wall) < seconds:
        if next(results).size != size:
            raise RuntimeError(f"a result is not of {size} bytes")
        count += 1
    result = {"wall_s": passed / count, "cpu_s": (process_time() - cpu) / count, "results": count}
    results.close()  # type: ignore[attr-defined]
    return result


def compared(runs: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Medians of both, and the fleet's as a multiple of the loop by hand."""
    out: dict[str, float] = {}
    for what in ("wall_s", "cpu_s"):
        ours, theirs = (median(run[what] for run in runs[who]) for who in ("fleet", "by_hand"))
        out |= {f"fleet_{what}": ours, f"by_hand_{what}": theirs}
        out[f"{what[:-2]}_ratio"] = round(ours / theirs, 3)
    return out


if __name__ == "__main__":
    main()
