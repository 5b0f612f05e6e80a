"""QT-Opt's log, and how its updaters scale.

``python -m tools.qt_opt log FOLDER`` writes episodes of a script in ``shoal/Reach-v0`` as a Minari
data set: it moves towards the object or anywhere, and closes now and then, near the object more
often.

``python -m tools.qt_opt scaling`` measures what a label costs, and how many 1, 2 and 4 updaters
make in a second; and simulates up to 1,000, in ``docs/qt-opt-scaling.png``. ``--simulate`` takes
the measurements that ``docs/qt-opt-scaling.json`` holds. Costs are of the CPU, so that other work
on the machine does not spoil them; labels in a second are not.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np

from shoal.algorithms.base import Algorithm, Model
from shoal.config.config import Cluster, Rollout
from shoal.envs import make_for_evaluation
from shoal.envs.reach import GRASP, REACH
from shoal.fleet.create import create
from shoal.fleet.parcel import Parcel, nbytes
from shoal.fleet.replay_shard import ReplayShard
from shoal.fleet.updater import Labelled, Updater
from shoal.fleet.worker import Worker
from shoal.learners.choose import create_learner
from shoal.nets.network import Network
from shoal.ops.exploration import NoisyOrRandom
from shoal.ops.optimisers import Optimiser
from shoal.policy import Policy
from shoal.recording import record
from shoal.systems.configure import configure

DOCS = Path(__file__).resolve().parent.parent / "docs"
ENV = "shoal/Reach-v0"
STEPS, ROWS = 4, 64  # of a job: gradient steps, and rows of each
FASTER = 20  # assumed, of a learner on an accelerator
UPDATERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


@dataclass(frozen=True)
class Script(Algorithm):
    """Sees hand and object in the picture; nothing is learned."""

    gamma: float = 0.9
    network: Any = field(default_factory=lambda: Network(hidden=(1,)))
    wanders: float = 0.5  # probability of a random move
    closes: float = 0.3  # of closing near the object
    errs: float = 0.2  # of closing elsewhere

    def model(self, spaces: Any, build: Any) -> Model:
        return Model(spaces, build(self.network, spaces, {}), NoisyOrRandom(spaces.action_dim))

    def act(self, model: Model, params: Any, obs: Mapping[str, Any], noise: Any) -> Any:
        picture = obs["obs"].astype(np.float64)
        size = picture.shape[-2]
        centres = (np.arange(size) + 0.5) / size
        mass = picture.sum((-3, -2)) + 1e-9
        x = (picture.sum(-3) * centres[:, None]).sum(-2) / mass
        y = (picture.sum(-2) * centres[:, None]).sum(-2) / mass
        places = np.stack([x, y], -1)  # [..., 3, 2]
        normal, uniform, chance = noise[..., :3], noise[..., 3:6], noise[..., 6]
        way = np.clip((places[..., 1, :] - places[..., 0, :]) / REACH, -1.0, 1.0)
        move = np.clip(way + 0.3 * normal[..., :2], -1.0, 1.0)
        move = np.where((chance < self.wanders)[..., None], uniform[..., :2], move)
        then = places[..., 0, :] + REACH * move
        near = np.linalg.norm(then - places[..., 1, :], axis=-1) < GRASP
        closed = (uniform[..., 2] + 1.0) / 2.0 < np.where(near, self.closes, self.errs)
        grip = np.where(closed, 1.0, -1.0) * np.abs(normal[..., 2]).clip(0.05, 1.0)
        return np.concatenate([move, grip[..., None]], -1).astype(np.float32), {}

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("sgd")


def log(folder: str, episodes: int, seed: int) -> None:
    """Record episodes of the script."""
    world = make_for_evaluation(ENV, 1, range(1))
    policy = Policy(Script(), world.spaces, {}, seed)
    world.close()
    found = record(policy, ENV, episodes, folder, seed=seed, explore=True)
    print(
        f"{episodes} episodes, {found['env_steps']} env steps, success {found['return_mean']:.3f}"
    )


# ----------------------------------------------------------------------------- scaling


class Canned:
    """An updater that labels nothing: what is left is the cost of a call."""

    def __init__(self, answer: Labelled, index: int, restart: int) -> None:
        self._answer = answer

    def label(self, *args: Any) -> Labelled:
        return self._answer

    def close(self) -> None: ...


class Shop(NamedTuple):
    """One job's worth of everything."""

    algorithm: Any
    model: Model
    shard: ReplayShard
    rows: Any  # a batch as it is drawn
    step: Any  # the randomness of its gradient steps


def shop() -> Shop:
    """A shard full of random transitions of the task, and a job drawn from it."""
    config = configure("qt-opt", ENV, None, {}, use_tuned=True)
    config = replace(config, rollout=Rollout(envs_per_worker=8, fragment_length=64))
    worker = Worker(config, 0)
    algorithm, model = config.algorithm, worker.model
    rng = np.random.default_rng(0)
    worker.set_weights({**algorithm.init(model, rng), **algorithm.exploration(0, 8)}, 0)
    shard = ReplayShard(config.replay, algorithm, model, {}, 8)
    for number in range(8):
        shard._buffer.store(0, worker.sample(number).batch)
    rows = shard._buffer.draw(rng.random((STEPS, config.replay.batch_size))).batch
    return Shop(algorithm, model, shard, rows, algorithm.draw(model, rng, STEPS, ROWS))


def updater(made: Shop) -> Updater:
    """One that labels with a learner's first networks."""
    params = made.algorithm.init(made.model, np.random.default_rng(0))
    found = Updater(made.algorithm, made.model)
    found.set_weights(made.algorithm.targets(params), 0)
    return found


def cpu(function: Callable[[], Any], times: int) -> float:
    """Seconds of this process's CPU for one call."""
    function()
    start = process_time()
    for _ in range(times):
        function()
    return (process_time() - start) / times


def measure() -> dict[str, float]:
    """Seconds of the CPU, and bytes, of a job: ``STEPS`` gradient steps of ``ROWS`` rows."""
    made, rng = shop(), np.random.default_rng(1)
    member, parcel = updater(made), Parcel(made.rows)
    answer = member.label(1, parcel, made.step)
    params = made.algorithm.init(made.model, rng)
    learner = create_learner("torch", made.algorithm, made.model, params, 1)
    rows = np.arange(STEPS * ROWS, dtype=np.int32).reshape(STEPS, ROWS)
    buffer = made.shard._buffer
    found = {
        "rows": float(STEPS * ROWS),
        "label_s": cpu(lambda: member.label(1, parcel, made.step), 10),
        "update_s": cpu(lambda: learner.update(answer.batch or {}, rows, {"lr": 1e-3}), 10),
        "draw_s": cpu(lambda: buffer.draw(rng.random((STEPS, ROWS))), 100),
        "lagged_s": cpu(learner.lagged, 20),
        "drawn_bytes": float(nbytes(made.rows)),
        "labelled_bytes": float(nbytes(answer.batch)),
        "lagged_bytes": float(nbytes(learner.lagged())),
    }
    fleet, close = create(partial(Canned, answer), 2, Cluster(cpus_per_worker=0.0))
    try:
        calls = fleet.stream("label", lambda member: (1, None, made.step), 2)
        found["call_s"] = cpu(lambda: next(calls), 400)
        calls.close()
    finally:
        close()
    return found


def rates() -> dict[int, float]:
    """Labels in a second of the wall clock, by the number of updaters; the machine has few CPUs."""
    made, found = shop(), {}
    lagged = updater(made)._lagged
    make = partial(_updater, made.algorithm, made.model)
    for n in (1, 2, 4):
        fleet, close = create(make, n, Cluster(cpus_per_worker=0.0))
        try:
            fleet.publish(lagged, 0)
            fleet.send()
            calls = fleet.stream("label", partial(_job, Parcel(made.rows), made.step), 2)
            for _ in range(2 * n):
                next(calls)
            start, jobs = perf_counter(), 0
            while perf_counter() - start < 10.0:
                next(calls)
                jobs += 1
            found[n] = jobs * STEPS * ROWS / (perf_counter() - start)
            calls.close()
        finally:
            close()
    return found


def _job(parcel: Parcel, step: Any, member: int) -> tuple[Any, ...]:
    return 1, parcel, step


def _updater(algorithm: Any, model: Any, index: int, restart: int) -> Updater:
    return Updater(algorithm, model)


def simulate(m: dict[str, float], updaters: int, update_s: float) -> float:
    """Labels in a second with so many updaters, each of which has two jobs at a time.

    The driver serves one event after the other: it asks a shard for a job's rows, hands these to an
    updater, and takes the labels, on which it trains for ``update_s`` seconds.
    """
    shards = max(updaters // 50, 1)
    queue: list[tuple[float, int, str, int]] = []  # when, order, what, and whose job
    order, driver, done, half = 0, 0.0, 0, 0.0
    shard, member = [0.0] * shards, [0.0] * updaters
    for i in range(2 * updaters):
        heapq.heappush(queue, (0.0, i, "ask", i % updaters))
        order = i
    wanted = 40 * updaters
    while done < wanted:
        now, _, what, i = heapq.heappop(queue)
        driver = max(driver, now) + m["call_s"] / 2
        order += 1
        if what == "ask":
            s = order % shards
            shard[s] = max(shard[s], driver) + m["draw_s"]
            heapq.heappush(queue, (shard[s], order, "hand", i))
        elif what == "hand":
            driver += m["call_s"] / 2
            member[i] = max(member[i], driver) + m["label_s"]
            heapq.heappush(queue, (member[i], order, "take", i))
        else:
            driver += update_s
            done += 1
            half = driver if done == wanted // 2 else half
            heapq.heappush(queue, (driver, order, "ask", i))
    return wanted // 2 * m["rows"] / (driver - half)  # of the second half: all have begun


def draw(m: dict[str, float], found: dict[str, dict[int, float]], seen: dict[int, float]) -> None:
    """Labels in a second against the number of updaters."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 5.0), layout="constrained")
    one = m["rows"] / m["label_s"]
    axes.plot(UPDATERS, [one * n for n in UPDATERS], color="0.7", lw=1, label="ideal")
    for (name, rows), style in zip(found.items(), ("C0-", "C1--", "C2-"), strict=True):
        axes.plot(UPDATERS, list(rows.values()), style, label=f"simulated, {name}")
    axes.plot(list(seen), list(seen.values()), "ks", mfc="none", label="measured, 2 shared cores")
    axes.set(xscale="log", yscale="log", xlabel="updaters (cores)", ylabel="labels in a second")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(DOCS / "qt-opt-scaling.png", dpi=120)


def scaling(again: bool) -> None:
    """Measure unless ``again`` is False, simulate, draw."""
    file = DOCS / "qt-opt-scaling.json"
    known: dict[str, Any]
    if again:
        known = {"costs": measure(), "labels_per_s": rates()}
    else:
        known = json.loads(file.read_text())["measured"]
    m, seen = known["costs"], {int(n): x for n, x in known["labels_per_s"].items()}
    cases = {
        "labels alone": 0.0,
        f"with a learner {FASTER} times as fast": m["update_s"] / FASTER,
        "with the learner": m["update_s"],
    }
    found = {name: {n: simulate(m, n, cost) for n in UPDATERS} for name, cost in cases.items()}
    file.write_text(json.dumps({"measured": known, "simulated": found}, indent=1) + "\n")
    draw(m, found, seen)
    print(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=["log", "scaling"])
    parser.add_argument("folder", nargs="?", default="log")
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--simulate", action="store_true", help="do not measure anew")
    args = parser.parse_args()
    if args.what == "log":
        log(args.folder, args.episodes, args.seed)
    else:
        scaling(not args.simulate)


if __name__ == "__main__":
    main()
