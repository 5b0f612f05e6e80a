"""Workers, a learner and a fleet that write down what happens to them, for tests of plans.

Each sample and each gradient has a number of its own: what became of it can be asked afterwards.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.algorithms.base import Differentiable
from shoal.fleet.base import Fleet, Make, Stats, Stream, no_args
from shoal.fleet.learning import Gradient
from shoal.fleet.local import LocalFleet
from shoal.fleet.sample import Sample
from shoal.ops.moments import Moments
from shoal.ops.optimisers import Optimiser
from shoal.plans.base import Update
from shoal.plans.run import Run

ROWS, DROPPED = 4, 1
SAMPLED = ROWS + DROPPED  # env steps of a sample, of which a batch holds all but the last


class FakeWorker:
    """Its rows are numbered: worker, fragment, row."""

    def __init__(self, index: int, events: list[Any]) -> None:
        self.index, self.events = index, events
        self.version, self.fragments = -1, 0
        self.weights: dict[str, Any] = {}

    def set_weights(self, weights: Any, version: int) -> None:
        self.weights, self.version = weights, version
        self.events.append(("weights", self.index, version, float(weights["x"][0])))

    def sample(self, number: int | None = None) -> Sample:
        self.events.append(("sample", self.index, self.version))
        self.fragments += 1
        row = 10_000 * self.index + 10 * self.fragments + np.arange(ROWS)
        batch = {
            "obs": {"obs": row[:, None]},
            "row": row,
            "version": np.full(ROWS, self.version),
            "mask": np.ones(ROWS, np.float32),
        }
        moments = {"obs": Moments.of(row[:, None].astype(float))}
        times = {"env": 0.25, "act": 0.5, "postprocess": 0.25, "idle": 8.0}
        episodes = [(float(self.index), self.fragments)]
        return Sample(batch, SAMPLED, ROWS, self.version, episodes, moments, times)

    def gradient(self, hyper: Mapping[str, float]) -> Gradient:
        sample = self.sample()
        number = float(sample.batch["row"][0])
        values = {"x": np.array([number, float(self.version)], np.float32)}
        return Gradient(values, {"loss": number}, sample)

    def close(self) -> None:
        self.events.append(("close", self.index))


class FakeLearner:
    """A learner whose weight counts its updates; ``taken`` lists the numbers of its batches."""

    def __init__(self, events: list[Any]) -> None:
        self.events, self.version, self.gradient_steps = events, 0, 0
        self.batches: list[Any] = []
        self.lags: list[int] = []  # of all that it was given, as the rows themselves say
        self.taken: list[int] = []
        self.aux: dict[str, Any] = {}
        self.work: Callable[[], None] = lambda: None  # what an update takes

    def update(self, batch: Any, indices: Any, hyper: Any) -> tuple[dict[str, float], Any]:
        self.work()
        self.events.append(("update", hyper["lr"]))
        self.batches.append((batch, indices))
        self.lags += (self.version - batch["version"]).tolist()
        self.taken += batch["row"].tolist()
        self.version += 1
        self.gradient_steps += 2
        return {"loss": float(self.version), "gradient_steps": 2.0}, {}

    def apply(self, gradients: Any, hyper: Any) -> float:
        self.work()
        number, version = gradients["x"]
        self.events.append(("update", hyper["lr"]))
        self.lags.append(self.version - int(version))
        self.taken.append(int(number))
        self.version += 1
        self.gradient_steps += 1
        return 1.0

    def weights(self) -> dict[str, Any]:
        return {"x": np.asarray([float(self.version)]), **self.aux}

    def set_aux(self, aux: Any) -> None:
        self.aux.update(aux)


@dataclass(frozen=True)
class FakeAlgorithm(Differentiable):
    """Only what plans ask of an algorithm."""

    gamma: float = 0.99
    network: Any = None

    def model(self, spaces: Any, build: Any) -> Any: ...

    def act(self, model: Any, params: Any, obs: Any, noise: Any) -> Any: ...

    def loss(self, model: Any, params: Any, aux: Any, batch: Any) -> Any: ...

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("sgd")

    def indices(self, model: Any, rng: np.random.Generator, shape: Any) -> np.ndarray:
        return rng.permutation(shape[0])[None]

    def hyper(self, progress: float) -> dict[str, float]:
        return {"lr": 1.0 - progress}


class ScriptedFleet:
    """Members that run at the same time, in a time of its own: call k of i takes ``pace(i, k)``.

    A call is made with the weights that were sent before it, and comes when it is finished: late,
    out of order, or several at once. ``events`` gets ("call", i), ("came", i) and ("sent", i).
    """

    def __init__(
        self, make: Make, size: int, pace: Callable[[int, int], float], events: list[Any]
    ) -> None:
        self._members = [make(index, 0) for index in range(size)]
        self._pace, self.events = pace, events
        self._fresh = set[int]()
        self._weights: Any = None
        self.now, self._free = 0.0, [0.0] * size  # when each member has done all its calls
        self.calls, self.most = [0] * size, 0  # made; and most of one member not taken yet
        self.stats = Stats(concurrency=size)
        self.spawned: list[Fleet] = []
        self.closed = False  # whether the last stream's generator was

    @property
    def size(self) -> int:
        return len(self._members)

    def stream(
        self,
        verb: str,
        args: Callable[[int], tuple[Any, ...] | None] = no_args,
        in_flight: int = 1,
    ) -> Stream:
        return Stream(self._come(verb, args, in_flight))

    def _come(
        self, verb: str, args: Callable[[int], tuple[Any, ...] | None], in_flight: int
    ) -> Generator[tuple[int, Any] | None]:
        waiting = [0] * self.size
        finishing: list[tuple[float, int, int, Any]] = []
        try:
            while True:
                for index, member in enumerate(self._members):
                    while waiting[index] < in_flight and (own := args(index)) is not None:
                        waiting[index] += 1
                        self.most = max(self.most, waiting[index])
                        self.events.append(("call", index))
                        if index in self._fresh:
                            self._fresh.remove(index)
                            member.set_weights(*self._weights)
                        result = getattr(member, verb)(*own)
                        self.calls[index] += 1
                        taken = self._pace(index, self.calls[index])
                        self._free[index] = max(self._free[index], self.now) + taken
                        item = (self._free[index], index, self.calls[index], result)
                        heapq.heappush(finishing, item)
                at, index, _, result = heapq.heappop(finishing)
                self.now = max(self.now, at)
                waiting[index] -= 1
                self.stats.queued = sum(item[0] <= self.now for item in finishing)
                self.events.append(("came", index))
                yield index, result
        finally:
            self.closed = True

    def publish(self, weights: Any, version: int) -> None:
        self._weights = weights, version

    def send(self, member: int | None = None) -> None:
        if member is None:
            self._fresh = set(range(self.size))
            return
        self.events.append(("sent", member))
        self._fresh.add(member)

    def spawn(self, make: Make, size: int, name: str) -> Fleet:
        self.spawned.append(LocalFleet(make, size))
        return self.spawned[-1]


class World:
    """Some workers, a learner and a run of 50 env steps, and all that happened to them."""

    def __init__(self, plan: Any, workers: int = 2, pace: Any = None, seed: int = 0) -> None:
        self.events: list[Any] = []
        self.workers: list[Any] = []
        self.learner: Any = FakeLearner(self.events)
        self.fleet: Any = (
            LocalFleet(self._hired, workers)
            if pace is None
            else ScriptedFleet(self._hired, workers, pace, self.events)
        )
        self.run = Run(FakeAlgorithm(), np.random.default_rng(seed), 50)  # type: ignore[arg-type]
        self.plan = plan
        self.updates: Any = plan.run(self.fleet, self.learner, self.run)

    def worker(self, index: int, restart: int) -> Any:
        return FakeWorker(index, self.events)

    def _hired(self, index: int, restart: int) -> Any:
        self.workers.append(self.worker(index, restart))
        return self.workers[-1]

    def named(self, kind: str) -> list[Any]:
        return [event for event in self.events if event[0] == kind]

    @property
    def in_flight(self) -> int:
        counters = self.run.counters
        return counters.env_steps - counters.trained_steps - counters.dropped_steps


def paces(seed: int) -> Callable[[int, int], float]:
    """Now fast, now slow; worker 0 is ten times slower than the others."""
    rng = np.random.default_rng(seed)
    return lambda index, call: float(rng.exponential(10.0 if index == 0 else 1.0))


def lags(updates: list[Update]) -> list[int]:
    """Of all that was trained on, as the updates report them."""
    return [work.lag for update in updates for work in update.work if work.lag is not None]
