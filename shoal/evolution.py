"""Maximise a user's own function with an evolution strategy, without its gradient.

::

    found = shoal.evolve(lambda x: -((x - 3) ** 2).sum(), np.zeros(10), workers=2)
    print(found, found.theta)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from shoal.algorithms.es import ES
from shoal.algorithms.evolved import Evolved
from shoal.app.console import count, duration
from shoal.app.terminal import StatusLine
from shoal.config.bounds import check_bounds, setting
from shoal.config.config import Cluster
from shoal.errors import ConfigError
from shoal.fleet.create import create
from shoal.fleet.function import THETA, Function
from shoal.learners.evolver import Evolver
from shoal.plans.evolution import Evolution
from shoal.plans.run import Run
from shoal.process import interrupts
from shoal.trajectory import ndarray

PARTS = 32  # in which a generation's directions are evaluated, at most


@dataclass(frozen=True)
class Found:
    """What ``evolve`` found; ``print`` it for one line."""

    theta: ndarray  # float32, the last one, in the shape of ``theta0``
    value: float  # of the function there
    best: ndarray  # the best of the values of theta that the generations began with, and the last
    best_value: float
    generations: int
    evaluations: int  # calls of the function
    seconds: float
    stopped_by: str  # "target", "generations" or "seconds"
    history: list[float]  # value of theta before each generation, and after the last

    def __str__(self) -> str:
        better = f", at best {self.best_value:.6g}" if self.best_value > self.value else ""
        return (
            f"value {self.value:.6g}{better} (it was {self.history[0]:.6g}) after "
            f"{self.generations:,} generations and {self.evaluations:,} evaluations in "
            f"{duration(self.seconds)}, stopped by {self.stopped_by}"
        )


@dataclass(frozen=True)
class Limits:
    """When ``evolve`` stops: at the first of these."""

    generations: int | None = setting(300, least=1)
    seconds: float | None = setting(None, above=0)
    target: float | None = setting(None)  # value of theta
    workers: int = setting(0, least=0)
    seed: int = setting(0, least=0)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass
class _Search:
    """The state of a search."""

    start: float = field(default_factory=perf_counter)
    history: list[float] = field(default_factory=list)  # value of theta before each step
    best: ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    evaluations: int = 0
    line: StatusLine = field(default_factory=StatusLine)

    def note(self, value: float, theta: ndarray) -> None:
        if not self.history or value > max(self.history):
            self.best = theta
        self.history.append(value)

    def __str__(self) -> str:
        return (
            f"generation {len(self.history) - 1:,}  value {self.history[-1]:.6g}  "
            f"best {max(self.history):.6g}  {count(self.evaluations)} evaluations  "
            f"{duration(perf_counter() - self.start)}"
        )


def evolve(
    f: Callable[[ndarray], Any],
    theta0: Any,
    *,
    workers: int = 0,
    algorithm: Evolved | None = None,
    generations: int | None = 300,
    seconds: float | None = None,
    target: float | None = None,
    seed: int = 0,
    progress: bool = True,
    cluster: Cluster | None = None,
    **fields: Any,
) -> Found:
    """Search for a maximum of ``f``, from ``theta0`` on.

    The same seed gives the same result, bit for bit, with any number of workers (if ``f`` is
    deterministic).

    Args:
        f: takes a float32 array of the shape of ``theta0``, returns one number; larger is better.
        theta0: the starting point: an array, a number or a list.
        workers: processes that evaluate; 0 is this one.
        algorithm: ``shoal.ES(...)`` (with sigma 0.1, lr 0.05, no weight decay, 50 directions,
            unless another is given) or ``shoal.ARS(...)``.
        generations: stop after this many; None is no limit.
        seconds: stop after this time; None is no limit.
        target: stop once ``f(theta)`` is at least this; None is no target.
        progress: show a line on a terminal's stderr.
        cluster: where the workers live, as for ``Trainer``.
        fields: settings of the algorithm to change: ``sigma=0.5, directions=100``.

    Raises ConfigError for invalid settings, ShoalError if ``f`` does not return a finite number
    (with generation, seed and perturbation), and what ``f`` itself raises.
    """
    limits = Limits(generations, seconds, target, workers, seed)
    start = np.asarray(theta0, np.float32)
    if not start.size or not np.isfinite(start).all():
        raise ConfigError("theta0 holds no numbers, or infinite ones", None, "give finite numbers")
    chosen: Any = algorithm
    if chosen is None:
        chosen = ES(lr=0.05, sigma=0.1, directions=50, l2=0.0)
    known = [name for name in vars(chosen) if name != "network"]
    if unknown := [name for name in fields if name not in known]:
        what = f"there is no setting {unknown[0]!r} of {type(chosen).__name__}"
        raise ConfigError(what, None, f"there are: {', '.join(known)}")
    chosen = replace(chosen, **fields)
    plan = Evolution(evaluation_share=1.0)
    pairs = -(-chosen.directions // PARTS)
    make = partial(Evolver, chosen, {THETA: start}, seed, plan.table_size, pairs)
    run = Run(chosen, np.random.default_rng(seed), None, slots=2 * pairs * max(workers, 1))
    with interrupts.deferred(), closing(make()) as learner:
        members, place = max(workers, 1), cluster or Cluster()
        fleet, close = create(
            partial(Function, f, make),
            members,
            place,
            fanout=plan.fanout,
            local=not workers or place.in_process,
            own_code=True,
        )
        try:
            search, stopped_by = _search(fleet, learner, run, plan, limits, progress)
        finally:
            close()
        theta, generations = learner.theta(), learner.version
        if stopped_by is not None:  # one step more than was evaluated
            with closing(Function(f, make)) as here:
                here.learner.set_state(learner.get_state())
                search.note(here.value(), theta)
                search.evaluations += 1
        if progress:
            search.line.end(str(search))
    return Found(
        theta.reshape(start.shape),
        search.history[-1],
        search.best.reshape(start.shape),
        max(search.history),
        generations,
        search.evaluations,
        perf_counter() - search.start,
        stopped_by or "target",
        search.history,
    )


def _search(
    fleet: Any, learner: Evolver, run: Run, plan: Evolution, limits: Limits, show: bool
) -> tuple[_Search, str | None]:
    """Run generations until a limit is met; the limit's name, or None for the target.

    ``learner`` is left at the parameters to return. The target is met by the value before the last
    step, which is therefore undone.
    """
    search = _Search()
    updates = plan.run(fleet, learner, run)
    try:
        while True:
            theta, version = learner.theta(), learner.version
            next(updates)
            search.note(float(learner.evaluated or 0.0), theta)
            search.evaluations = run.counters.env_steps
            if show:
                search.line.show(str(search))
            if limits.target is not None and search.history[-1] >= limits.target:
                learner.rollback(version)
                return search, None
            if limits.seconds is not None and perf_counter() - search.start >= limits.seconds:
                return search, "seconds"
            if limits.generations is not None and learner.version >= limits.generations:
                return search, "generations"
    finally:
        updates.close()
