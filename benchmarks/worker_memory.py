"""Memory of a process that samples: ``python benchmarks/worker_memory.py [ENV]``.

A fleet of ``--workers`` samples under IMPALA's settings for ``--seconds``. Then, of each of its
processes: resident memory (RSS), what of that no other process shares (USS) and its fair share of
the rest (PSS), in MB; and for the first one what makes it heavy: the packages with most modules,
the files with most resident memory, and which learning frameworks it has imported (none is right).
For scale stands beside it an actor of Ray's alone. Prints one line of JSON; Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from functools import partial
from importlib.metadata import version
from pathlib import PurePath
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import ray

from shoal.config.config import Config
from shoal.fleet.cluster import connect
from shoal.fleet.ray import RayFleet
from shoal.fleet.worker import Worker
from shoal.nets.factory import build
from shoal.systems.configure import configure

MB = 1e6
FRAMEWORKS = ("jax", "jaxlib", "torch", "tensorflow", "flax", "optax")
MOST = 12  # packages and files that are listed


class Witness(Worker):
    """A worker that tells of its process."""

    def process(self) -> tuple[int, dict[str, int]]:
        """Its id, and how many modules of each package it has imported."""
        return os.getpid(), dict(Counter(name.partition(".")[0] for name in sys.modules))


class Empty:
    """What Ray's actor weighs by itself."""

    def process(self) -> int:
        return os.getpid()


def make(config: Config, env: str, index: int, restart: int) -> Witness:
    return Witness(config, index, env, restart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("env", nargs="?", default="CartPole-v1", help="Gymnasium id")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="of sampling")
    args = parser.parse_args()
    config = configure("impala", args.env, fields={"workers": args.workers})
    connection = connect(config.cluster, args.workers, False, False)
    fleet = RayFleet(partial(make, config, args.env), args.workers, config.cluster, 0.0)
    model = config.algorithm.model(fleet.map("get_spaces")[0][1], build)
    fleet.publish(config.algorithm.init(model, np.random.default_rng(0)), 0)
    fleet.send()
    fragments, begin = 0, perf_counter()
    for _ in fleet.stream("sample", in_flight=config.plan.in_flight):
        fragments += 1
        if perf_counter() - begin >= args.seconds:
            break
    told = [each for _, each in fleet.map("process")]
    empty = ray.remote(num_cpus=0)(Empty).remote()
    workers = [memory(pid) for pid, _ in told]
    first, modules = told[0]
    result = {
        "env": args.env,
        "fragments": fragments,
        "workers": workers,
        "median_rss_mb": median(each["rss_mb"] for each in workers),
        "ray_actor": memory(ray.get(empty.process.remote(), timeout=60.0)),
        "frameworks": [name for name in FRAMEWORKS if name in modules],
        "modules": sum(modules.values()),
        "packages_by_modules": dict(Counter(modules).most_common(MOST)),
        "files_by_rss_mb": files(first),
        "versions": {name: version(name) for name in ("shoal", "ray", "gymnasium", "numpy")},
    }
    fleet.close()
    connection.close()
    print(json.dumps(result), flush=True)


def memory(pid: int) -> dict[str, float]:
    """Of a process, in MB."""
    full: Any = psutil.Process(pid).memory_full_info()
    return {f"{kind}_mb": round(getattr(full, kind) / MB, 1) for kind in ("rss", "uss", "pss")}


def files(pid: int) -> dict[str, float]:
    """Mapped files, and memory that is of no file, by resident MB; the heaviest of them."""
    sizes: Counter[str] = Counter()
    for mapped in psutil.Process(pid).memory_maps(grouped=True):
        sizes[PurePath(mapped.path).name] += mapped.rss
    return {name: round(size / MB, 1) for name, size in sizes.most_common(MOST)}


if __name__ == "__main__":
    main()
