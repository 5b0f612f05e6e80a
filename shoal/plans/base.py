"""The contract of a plan: how an algorithm is run. And the bookkeeping that all plans share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, ClassVar

from shoal.algorithms.base import Algorithm, Model
from shoal.config.bounds import check_bounds
from shoal.config.config import Config
from shoal.errors import ConfigError
from shoal.fleet.base import Fleet
from shoal.fleet.sample import Sample
from shoal.learners.base import Versioned, Weights
from shoal.plans.run import Run

LACKS = {
    "trajectories": "it learns from trajectories as they were sampled, not from single transitions",
    "replay": "it learns from replayed transitions, and this plan has no replay buffer",
    "on-policy": "it trains on what older weights sampled, and this algorithm does not correct it",
    "returns": "it learns from the returns of perturbed weights, and this plan perturbs none",
    "policies": "its members sample by, or learn, one policy only",
    "buffers": "each policy has a replay buffer of its own, and here there is one for all",
    "epochs": "it takes several gradient steps on each batch, but here a worker takes one gradient",
}


class Plan(ABC):
    """Who samples, who differentiates, who waits for whom, and where the weights go.

    A plan is a frozen dataclass of options, derived from ``Plan``. Only ``run`` must be given.
    """

    name: str = "own"  # by which it is chosen and saved
    exact: ClassVar[bool] = False  # all wait for all, so that a run can be resumed bit for bit
    offers: ClassVar[frozenset[str]] = frozenset({"trajectories", "on-policy", "epochs"})
    """Which of the ``needs`` of an algorithm it meets; "trajectories": of one with no other source;
    "demonstrations" are no need: it draws from those of ``replay.demos`` too; nor is "pool": past
    selves are published beside the weights.
    """
    collective: ClassVar[bool] = False  # its workers, which learn, average among themselves
    replays: ClassVar[bool] = False  # the run itself holds the replay buffer, and saves it
    fanout: int | None = None  # members that one process calls; beyond it they form a tree
    probes: ClassVar[bool] = True  # normalisation has first moments, from random env steps

    def __post_init__(self) -> None:
        check_bounds(self, "plan.")

    def member(self) -> type | None:
        """The class of the fleet's members; None: `fleet.worker.Worker`, which only samples."""
        return None

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Why this plan cannot run the algorithm; None when it can."""
        needs = algorithm.needs
        if not needs & {"replay", "returns"}:
            needs |= {"trajectories"}
        return next((why for need, why in LACKS.items() if need in needs - self.offers), None)

    def conflict(self, config: Config) -> ConfigError | None:
        """What is wrong with valid settings that cannot be together under this plan."""
        return None

    def learner(self, config: Config, model: Model, params: Weights) -> Versioned | None:
        """What moves these parameters; None: a `Learner`, in the framework of the configuration."""
        return None

    @abstractmethod
    def run(self, fleet: Fleet, learner: Any, run: Run) -> Generator[Update]:
        """Yield an ``Update`` after every update of the weights, without an end."""


@dataclass
class Work:
    """What one worker did for one sample."""

    worker: int
    env_steps: int
    lag: int | None  # versions from the weights that sampled to those updated; None: dropped
    times: dict[str, float]  # seconds it spent: env, act, postprocess, idle, gradient
    outside: dict[str, int] = field(default_factory=dict)  # env steps out of bounds, by leaf

    @property
    def busy(self) -> float:
        """Seconds that it was not idle."""
        return sum(seconds for name, seconds in self.times.items() if name != "idle")


@dataclass
class Update:
    """What a plan yields after every update of the weights."""

    metrics: dict[str, float]
    episodes: list[tuple[float, int]]
    times: dict[str, float]  # seconds of this process: wait, transfer, learn, broadcast
    work: list[Work]  # of the workers, in samples that came since the last update
    concurrency: int = 0  # workers busy at the same time; 0: all take turns with this process
    queue: int = 0  # samples that had come and waited while the learner took this one
    returns: dict[str, list[float]] = field(default_factory=dict)  # of the episodes, by policy


class Tally:
    """The bookkeeping of a plan between two updates: work, episodes, and where the time went."""

    def __init__(self, fleet: Fleet, learner: Versioned, run: Run) -> None:
        self._fleet, self._learner, self._run = fleet, learner, run
        self.threads = 0  # members that work in threads of this process, if they do
        self._begin()

    def _begin(self) -> None:
        self._work: list[Work] = []
        self._episodes: list[tuple[float, int]] = []
        self._returns: dict[str, list[float]] = {}
        self._times: dict[str, float] = {}
        self._since = perf_counter()

    def clock(self, part: str, busy: float = 0.0) -> None:
        """Charge the time since the last call to ``part``, minus ``busy`` seconds."""
        now = perf_counter()
        spent = max(now - self._since - busy, 0.0)
        self._times[part] = self._times.get(part, 0.0) + spent
        self._since = now

    def publish(self, send: bool = True) -> None:
        """Put the learner's weights where workers can have them; send them to all."""
        self._learner.set_aux(self._run.aux())
        weights, pool = self._learner.weights(), self._run.pool
        if pool is not None:
            pool.keep(weights, self._run.counters.env_steps)
            weights = {**weights, **pool.weights()}
        self._fleet.publish(weights, self._learner.version)
        if send:
            self._fleet.send()
        self.clock("broadcast")

    def take(
        self,
        came: Sequence[tuple[int, Sample]],
        max_lag: float = math.inf,
        version: int | None = None,
    ) -> list[Sample]:
        """Count what workers sampled; returns what is at most ``max_lag`` versions old.

        The time since the last call was spent waiting for it, unless it was sampled in this
        process. ``version`` of the weights now, if the learner does not have it.
        """
        version = self._learner.version if version is None else version
        lags = [version - sample.version for _, sample in came]
        work = [
            Work(worker, x.env_steps, lag if lag <= max_lag else None, x.times, x.outside)
            for (worker, x), lag in zip(came, lags, strict=True)
        ]
        busy = 0.0 if self._concurrency else sum(each.busy for each in work)
        self.clock("wait", busy)
        self._work += work
        for _, sample in came:
            self._run.take(sample)
            self._episodes += sample.episodes
            for policy, returns in sample.returns.items():
                self._returns.setdefault(policy, []).extend(returns)
        return [x for (_, x), lag in zip(came, lags, strict=True) if lag <= max_lag]

    def trained(self, samples: Sequence[Sample], more: int = 0) -> None:
        """Count an update on these samples; ``more`` gradient steps the learner has not seen."""
        self._run.trained(samples, self._learner.gradient_steps + more)

    def refuse(self, samples: int = 1) -> None:
        """The newest samples are not trained on, so their lag does not count."""
        for work in self._work[-samples:]:
            work.lag = None

    @property
    def _concurrency(self) -> int:
        return self.threads or self._fleet.stats.concurrency

    def report(
        self, metrics: Mapping[str, float], hyper: Mapping[str, float] | None = None
    ) -> Generator[Update]:
        """Yield the update, with the hyperparameters it was made with, and begin the next one."""
        metrics = {**metrics, **{f"hyper/{name}": x for name, x in (hyper or {}).items()}}
        if self._run.pool is not None:
            metrics |= self._run.pool.metrics()
        queued = self._fleet.stats.queued
        work, episodes, times = self._work, self._episodes, self._times
        yield Update(metrics, episodes, times, work, self._concurrency, queued, self._returns)
        self._begin()  # the consumer's time is not ours
