"""Distributed replay: workers sample, shards remember, the learner learns, each at its own speed.

Ape-X's plan (Horgan et al. 2018, arXiv:1803.00933, Figure 1 and Algorithms 1 and 2). Fragments go
from worker to shard without a look at them in this process, which hands on references to all that
is not small; what is drawn comes from shards to the learner, and priorities go back. A declared
ratio of transitions trained on to env steps sampled holds on the average: the learner waits for
what it has not earned, and workers wait where it falls behind.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from shoal.algorithms.base import Algorithm
from shoal.config.bounds import check_bounds, setting
from shoal.config.schedule import at
from shoal.fleet.base import Fleet, results
from shoal.fleet.sample import Sample
from shoal.fleet.store import Served, Store
from shoal.learners.base import STEP, Learner
from shoal.plans.base import Clock, Run, Update, Work, metrics_of, work
from shoal.plans.sync_replay import FUSED, trajectories
from shoal.replay.buffer import Drawn
from shoal.replay.layout import layout
from shoal.trajectory import ndarray

log = logging.getLogger("shoal.plans")


@dataclass(frozen=True)
class AsyncReplay:
    """Where transitions lie, and how far the three loops may run apart."""

    name: Literal["async_replay"] = "async_replay"  # name of the plan
    shards: int = setting(1, least=1)  # replay shards: processes that share the capacity
    in_flight: int = setting(2, least=1)  # fragments a worker may be ahead of its shard
    slack: int = setting(64, least=0)  # gradient steps that may be due before workers wait
    fused: int = setting(16, least=1)  # most gradient steps in one compiled call
    sync_every: int = setting(400, least=1)  # env steps of a worker between two weight updates

    exact = False
    learns_on_workers = False

    def __post_init__(self) -> None:
        check_bounds(self, "plan.")

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Whatever learns from trajectories."""
        return trajectories(algorithm)

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        return async_replay(fleet, learner, run, self)


@dataclass
class Given:
    """What a shard was given and has not answered for yet."""

    number: int
    steps: list[int]  # env steps of each fragment
    draws: int  # gradient steps asked for


@dataclass
class Side:
    """What is known of a shard."""

    parcels: list[tuple[int, Sample]] = field(default_factory=list)  # to go there, by worker
    priorities: list[tuple[ndarray, ndarray]] = field(default_factory=list)
    given: deque[Given] = field(default_factory=deque)
    numbers: int = 0  # exchanges so far
    restart: int = 0
    size: int = 0
    mass: float = 0.0
    turn: float = 0.0  # batches that it is behind its share, which is that of its mass

    @property
    def coming(self) -> int:
        """Env steps on their way to the shard, as far as is known."""
        waiting = sum(sample.env_steps for _, sample in self.parcels)
        return waiting + sum(sum(given.steps) for given in self.given)

    def ask(self, run: Run, steps: int, beta: float) -> tuple[Any, ...] | None:
        """The arguments of the next exchange; None where there is nothing to be exchanged."""
        if not (self.parcels or self.priorities or steps):
            return None
        u = run.rng.random((steps, run.replay.batch_size)) if steps else None
        parcels = [(worker, sample.batch) for worker, sample in self.parcels]
        self.numbers += 1
        lengths = [sample.env_steps for _, sample in self.parcels]
        self.given.append(Given(self.numbers, lengths, steps))
        told, self.parcels, self.priorities = self.priorities, [], []
        return self.numbers, parcels, told, u, beta


def async_replay(
    fleet: Fleet, learner: Learner, run: Run, options: AsyncReplay
) -> Generator[Update]:
    """Hand on what has come, learn from what was drawn: one ``Update`` for each time.

    A shard that dies is replaced by an empty one.
    """
    run.abandon()
    run.learning_from = None
    learner.set_aux(run.aux())
    fleet.broadcast(learner.weights(), learner.version)
    memory = Memory(fleet, run, options)
    done: list[Work] = []
    episodes: list[tuple[float, int]] = []
    clock = Clock()
    since: dict[int, int] = {}  # env steps of each worker since it was last given weights
    published = learner.version

    def more(worker: int) -> tuple[Any, ...] | None:
        """What a worker is called with, if it may sample now; the newest weights before."""
        nonlocal published
        if not memory.may_sample():
            return None
        if since.get(worker, 0) >= options.sync_every and published != learner.version:
            learner.set_aux(run.aux())
            fleet.publish(learner.weights(), learner.version)
            published = learner.version
        if since.get(worker, 0) >= options.sync_every:
            fleet.send(worker)  # the weight edge: learner -> the worker that samples next
            since[worker] = 0
        return ()

    with closing(fleet.spawn(memory.make, options.shards, "replay shard")) as shards:
        fragments = fleet.poll("sample_apart", more, options.in_flight)
        exchanges = shards.poll("exchange", memory.ask, 1 if options.slack == 0 else 2)
        while True:
            came = next(fragments)
            if came is not None:
                worker, sample = came
                done.append(work(worker, sample, learner.version - sample.version))
                run.take(sample)
                episodes += sample.episodes
                memory.hand_on(worker, sample)
                since[worker] = since.get(worker, 0) + sample.env_steps
            clock("transfer")
            answer = next(exchanges)
            drawn = None
            if answer is not None:
                index, found = answer
                drawn = memory.take(index, found)
            if came is None and answer is None:
                fleet.wait()
                clock("wait")
            metrics: dict[str, float] = {}
            if drawn is not None:
                steps = len(drawn.rows) // run.replay.batch_size
                noise = run.algorithm.draw(run.model, run.rng, steps, run.replay.batch_size)
                rows = np.arange(len(drawn.rows), dtype=np.int32).reshape(steps, -1)
                hyper = run.hyper()
                clock("transfer")
                metrics, told = learner.learn({**drawn.batch, STEP: noise}, rows, hyper)
                clock("learn")
                if run.replay.alpha:
                    memory.sides[index].priorities.append((drawn.rows, told["priority"]))
                run.counters.replayed_steps += len(drawn.rows)
                metrics = metrics_of({**metrics, "age": drawn.age}, hyper)
            elif came is None or run.learning_from is not None:
                continue  # before learning begins, fragments alone are news
            run.counters.gradient_steps = learner.gradient_steps
            yield Update(
                metrics,
                episodes,
                clock.take(),
                done,
                fleet.concurrency,
                fleet.queued,
            )
            done, episodes = [], []
            clock = Clock()  # whoever looked at the update took his own time


class Memory:
    """The shards as the plan sees them: what they hold, what is due, and what was lost."""

    def __init__(self, fleet: Fleet, run: Run, options: AsyncReplay) -> None:
        self._run, self._options = run, options
        self._stacks = results(fleet.map("get_stacks"))[0]
        seen = layout(run.model.spaces, self._stacks)
        most = FUSED // (2 * run.replay.batch_size * seen.row_bytes) or 1
        self._most = min(options.fused, most)
        self._workers = max(fleet.size, 1)
        self.sides = [Side() for _ in range(options.shards)]
        self._stored = 0
        self._asked = run.counters.replayed_steps  # transitions, those included that are to come

    def make(self, index: int, restart: int) -> Store:
        """A shard for its share of the workers."""
        run, shards = self._run, self._options.shards
        return Store(
            run.replay.each(shards),
            run.model.spaces,
            self._stacks,
            -(-self._workers // shards) * (run.slots // self._workers),
            run.algorithm.n_step,
            run.algorithm.gamma,
            restart,
        )

    def due(self) -> int:
        """Gradient steps that have been earned and not asked for."""
        return self._run.replay.due(self._stored, self._run.learning_from, self._asked)

    def may_sample(self) -> bool:
        """Whether workers may go on: not while more gradient steps than the slack are due.

        Fragments on their way to a shard count as stored. So workers wait soon after the warm-up
        while a shard or the learner still compiles, and the declared ratio holds from there on.
        The learner cannot catch up if nothing is held or coming, as when the only shard was
        replaced.
        """
        run, replay = self._run, self._run.replay
        coming = sum(side.coming for side in self.sides)
        if not coming and not any(side.mass > 0.0 for side in self.sides):
            return True
        stored, begun = self._stored + coming, run.learning_from
        if begun is None:
            begun = replay.begin(stored, run.counters.replayed_steps)
        behind = (self._asked - run.counters.replayed_steps) // replay.batch_size
        behind += replay.due(stored, begun, self._asked)
        if self._options.slack == 0:
            return not behind and not any(side.parcels or side.given for side in self.sides)
        return behind <= self._options.slack

    def hand_on(self, worker: int, sample: Sample) -> None:
        """A fragment is to go to its worker's shard."""
        shards = len(self.sides)
        self.sides[worker % shards].parcels.append((worker // shards, sample))

    def ask(self, index: int) -> tuple[Any, ...] | None:
        """What a shard is to be asked next."""
        side, run = self.sides[index], self._run
        steps = run.replay.at_once(self.due(), self._most)
        if self._options.slack == 0 and any(each.parcels for each in self.sides):
            steps = 0  # what is on its way counts first
        filled = [each for each in self.sides if each.mass > 0.0]
        if not filled or side is not max(filled, key=lambda each: each.turn):
            steps = 0
        given = side.ask(run, steps, at(run.replay.beta, run.progress))
        if steps:
            total = sum(each.mass for each in self.sides)
            for each in self.sides:
                each.turn += steps * each.mass / total
            side.turn -= steps
            self._asked += steps * run.replay.batch_size
        return given

    def take(self, index: int, served: Served) -> Drawn | None:
        """Count what came of an exchange; returns what there is to learn from."""
        side, run = self.sides[index], self._run
        if served.restart != side.restart:
            log.warning("replay shard %d was lost, with %s transitions", index, f"{side.size:,}")
            run.counters.lost_steps += side.size
            side.restart, side.priorities = served.restart, []
        while side.given and side.given[0].number < served.number:
            gone = side.given.popleft()  # an exchange that died with its shard
            run.counters.dropped_steps += sum(gone.steps)
            self._asked -= gone.draws * run.replay.batch_size
        given = side.given.popleft()
        self._stored += served.stored
        run.counters.trained_steps += served.stored
        run.counters.dropped_steps += sum(given.steps) - served.stored
        if served.drawn is None:
            self._asked -= given.draws * run.replay.batch_size
        side.size, side.mass = served.size, served.mass
        if run.learning_from is None:
            run.learning_from = run.replay.begin(self._stored, run.counters.replayed_steps)
        return served.drawn
