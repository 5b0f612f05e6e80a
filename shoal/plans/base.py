"""What every plan is given besides its fleet and learner: the run, and its counters."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from shoal.algorithms.base import Algorithm
from shoal.config.config import Replay
from shoal.config.schedule import at
from shoal.fleet.base import Fleet
from shoal.fleet.sample import Sample
from shoal.learners.base import Learner
from shoal.ops.moments import Moments
from shoal.spaces.base import OWN
from shoal.trajectory import ndarray

FAR = 2.0**14  # standard deviations from 0 at which float32 rounds to a thousandth of one


@dataclass
class Counters:
    """What a run has done so far. Always: sampled = trained + dropped + in flight (the rest)."""

    env_steps: int = 0  # sampled
    agent_steps: int = 0  # the same, times the agents that acted in each
    trained_steps: int = 0  # of plans that replay: remembered, to be trained on again and again
    dropped_steps: int = 0
    gradient_steps: int = 0
    episodes: int = 0
    replayed_steps: int = 0  # transitions of all gradient steps, in plans that replay
    lost_steps: int = 0  # remembered ones that died with a shard of the memory


@dataclass
class Run:
    """The moving parts of a run that are neither in workers nor in the learner."""

    algorithm: Algorithm
    rng: np.random.Generator
    total_env_steps: int | None  # of the whole run, where it is known: what annealing refers to
    counters: Counters = field(default_factory=Counters)
    moments: dict[str, Moments] = field(default_factory=dict)
    origins: dict[str, ndarray] = field(
        default_factory=dict
    )  # of leaves far from 0; see Leaf.narrow
    fragments: int = 0  # that each worker has sampled, in the plans that wait for all of them
    model: Any = None  # the algorithm's
    slots: int = 1  # environments of all workers
    replay: Replay = field(default_factory=Replay)  # what is remembered, in plans that replay
    memory: Any = None  # a replay buffer, in plans that replay
    learning_from: float | None = None  # env steps in it from which on the replay ratio counts

    @property
    def progress(self) -> float:
        """Of the whole run, in [0, 1]; 0 where its length is not known."""
        total = self.total_env_steps
        return min(self.counters.env_steps / total, 1.0) if total else 0.0

    def hyper(self) -> dict[str, float]:
        """The algorithm's annealed hyperparameters, now; and replay's."""
        hyper = self.algorithm.hyper(self.progress)
        if self.remembers and self.replay.alpha:
            hyper["beta"] = at(self.replay.beta, self.progress)
        return hyper

    @property
    def remembers(self) -> bool:
        """Whether it learns from what is remembered."""
        return "replay" in self.algorithm.needs

    def aux(self) -> dict[str, ndarray]:
        """What policies act with besides the parameters, now."""
        exploration = self.algorithm.exploration(self.counters.env_steps, self.slots)
        return self.normalisation() | exploration

    def observe(self, moments: dict[str, Moments]) -> None:
        """Merge what a worker saw into the run's moments; exact, whatever the order."""
        for name, new in moments.items():
            old = self.moments.get(name)
            self.moments[name] = new if old is None else old.merge(new)

    def set_origins(self) -> None:
        """Fix what is subtracted from observations too far from 0 for the precision of float32."""
        for leaf in self.model.spaces.leaves if self.model is not None else ():
            if leaf.wide and leaf.path in self.moments:
                moments = self.moments[leaf.path]
                far = np.abs(moments.mean) > FAR * moments.std()
                if far.any():
                    origin = np.where(far, moments.mean, 0.0)
                    self.origins[leaf.path] = np.asarray(origin, np.float32)

    def normalisation(self) -> dict[str, ndarray]:
        """What a network normalises by: "norm/<leaf>/mean", "/std" and, far from 0, "/origin".

        Rewards are scaled by the deviation of returns, which stands under the path of no leaf.
        """
        out: dict[str, ndarray] = {}
        for name, moments in self.moments.items():
            out[f"norm/{name}/std"] = np.asarray(moments.std(), np.float32)
            if name != OWN:
                mean = moments.mean - self.origins.get(name, 0.0)
                out[f"norm/{name}/mean"] = np.asarray(mean, np.float32)
        return out | {f"norm/{name}/origin": x for name, x in self.origins.items()}

    def take(self, sample: Sample) -> None:
        """Count what a worker sampled; from now on it is in flight."""
        self.observe(sample.moments)
        self.counters.env_steps += sample.env_steps
        self.counters.agent_steps += sample.env_steps
        self.counters.episodes += len(sample.episodes)

    def trained(self, samples: Sequence[Sample], gradient_steps: int) -> None:
        """Count what an update has trained on; rows that the batch did not hold were dropped."""
        for sample in samples:
            self.counters.trained_steps += sample.trained_steps
            self.counters.dropped_steps += sample.env_steps - sample.trained_steps
        self.counters.gradient_steps = gradient_steps

    def drop(self, sample: Sample) -> None:
        """Count what will not be trained on: it is too old, or its worker died."""
        self.counters.dropped_steps += sample.env_steps

    def abandon(self) -> None:
        """What was in flight when the plan last ended is gone."""
        counters = self.counters
        counters.dropped_steps = counters.env_steps - counters.trained_steps

    def get_state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "counters": asdict(self.counters),
            "fragments": self.fragments,
            "learning_from": self.learning_from,
            "moments": {name: m.arrays() for name, m in self.moments.items()},
            "origins": dict(self.origins),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.counters = Counters(**state["counters"])
        self.fragments = state["fragments"]
        self.learning_from = state["learning_from"]
        self.moments = {name: Moments.from_arrays(m) for name, m in state["moments"].items()}
        self.origins = dict(state["origins"])


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


class Clock:
    """Where the time of a loop goes: each call ends a part of it, and begins the next."""

    def __init__(self) -> None:
        self._since = perf_counter()
        self._spent: dict[str, float] = {}

    def __call__(self, part: str, busy: float = 0.0) -> None:
        """What passed since the last call was for this, but for the seconds told apart."""
        now = perf_counter()
        spent = max(now - self._since - busy, 0.0)
        self._spent[part] = self._spent.get(part, 0.0) + spent
        self._since = now

    def waited(self, done: Sequence[Work], concurrency: int) -> None:
        """What passed was spent waiting for this work; but not where it was done right here."""
        self("wait", busy=0.0 if concurrency else sum(each.busy for each in done))

    def take(self) -> dict[str, float]:
        """Seconds by part since the last time."""
        spent, self._spent = self._spent, {}
        return spent


def work(worker: int, sample: Sample, lag: int | None) -> Work:
    """What a sample tells of its worker; with its lag, or None where it was dropped."""
    return Work(worker, sample.env_steps, lag, sample.times, sample.outside)


def metrics_of(metrics: Mapping[str, float], hyper: Mapping[str, float]) -> dict[str, float]:
    """An update's metrics and the hyperparameters it was made with."""
    return {**metrics, **{f"hyper/{name}": x for name, x in hyper.items()}}


class Plan(Protocol):
    """A frozen dataclass of options whose ``run`` is the plan's generator."""

    @property
    def name(self) -> str:
        """By which it is chosen and saved."""

    @property
    def exact(self) -> bool:
        """Whether all wait for all, so that a run can be resumed bit for bit."""

    @property
    def learns_on_workers(self) -> bool:
        """Whether workers differentiate, and so need a learner of their own."""

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Why this plan cannot run the algorithm; None when it can."""

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        """Yield an ``Update`` after every update of the weights, without an end."""


def replays(algorithm: type[Algorithm]) -> str | None:
    """Why a plan of trajectories cannot run an algorithm that learns from transitions."""
    if "replay" in algorithm.needs:
        return "it learns from transitions drawn again and again, and this plan remembers none"
    return None
