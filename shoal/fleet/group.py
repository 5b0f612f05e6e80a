"""A tree of members: one that the plan calls heads others, and passes on what they found.

For fleets in which one process would wait for too many calls (the released code of Salimans et al.
2017 adds such aggregators beyond 1,000 workers).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from shoal.config.config import Cluster
from shoal.fleet.base import Fleet, Make, results
from shoal.fleet.dispatch import Dispatcher
from shoal.fleet.evaluator import Evaluation, Job, Stateless
from shoal.fleet.local import LocalFleet
from shoal.fleet.sample import Sample
from shoal.spaces.base import Spaces

LOG = 256  # steps on top of the state that it was given after which a group asks for a new one


@dataclass(frozen=True)
class Place:
    """Where members live: in this process, in turn (``cpus`` None), or as Ray actors."""

    cluster: Cluster
    cpus: float | None = None  # that each member with no others below it reserves
    gpus: float = 0.0  # likewise

    def fleet(self, make: Make, size: int, heads: bool = False) -> Fleet:
        """A fleet of that many members; ``heads`` have others below them, and reserve nothing."""
        if self.cpus is None:
            return LocalFleet(make, size)
        from shoal.fleet.ray import RayFleet

        cpus, gpus = (0.0, 0.0) if heads else (self.cpus, self.gpus)
        return RayFleet(make, size, self.cluster, cpus, gpus=gpus)


def heads(workers: int, fanout: int) -> int:
    """How many members one process calls, of a tree with that many workers at its leaves."""
    return workers if workers <= fanout else min(math.ceil(workers / fanout), fanout)


def tree(place: Place, make: Make, workers: int, fanout: int) -> Fleet:
    """A fleet of that many workers; beyond ``fanout``, of groups of them, and groups of groups."""
    size = heads(workers, fanout)
    if size == workers:
        return place.fleet(make, workers)
    return place.fleet(partial(Group, place, make, workers, fanout), size, heads=True)


def numbered(make: Make, first: int, index: int, restart: int) -> Any:
    """A worker of a group, by its number in the whole tree."""
    return make(first + index, restart)


class Group(Stateless):
    """The ``index``-th part of a tree, with its share of the workers; a member like any other."""

    def __init__(
        self, place: Place, make: Make, workers: int, fanout: int, index: int, restart: int
    ) -> None:
        size = heads(workers, fanout)
        first, end = (workers * i // size for i in (index, index + 1))
        self.size = end - first  # workers below it
        self.fleet = tree(place, partial(numbered, make, first), self.size, fanout)
        self._dispatcher = Dispatcher(self.fleet, math.ceil(self.size / self.fleet.size))
        self._version, self._logged = -1, 0

    @property
    def beat(self) -> int:
        """How often it has looked at its members: tells from outside that it is alive."""
        return self._dispatcher.beat

    def get_spaces(self) -> Spaces:
        """Spaces of the environment."""
        spaces: Spaces = results(self.fleet.map("get_spaces"))[0]
        return spaces

    def refer(self, count: int) -> dict[str, Any]:
        """What one of its workers gives for virtual batch normalisation."""
        found: dict[str, Any] = results(self.fleet.map("refer", count))[0]
        return found

    def set_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Pass a learner's state on."""
        self._dispatcher.publish(dict(state), version, send=True)
        self._version, self._logged = version, 0

    def evaluate(self, job: Job) -> list[Evaluation]:
        """Have the chunks evaluated; what came too late from below comes along."""
        if job.since > self._version or self._logged > LOG:
            nothing = Sample({}, 0, 0, job.version, [], {})
            return [Evaluation(chunk, -1, nothing) for chunk in job.chunks]
        for recipe in job.recipes[self._version - job.since :]:
            self._dispatcher.step(recipe)
            self._version, self._logged = self._version + 1, self._logged + 1
        found = [evaluation for _, evaluation in self._dispatcher.gather(job)]
        late, self._dispatcher.stale = self._dispatcher.stale, []
        return found + [evaluation for _, evaluation in late]

    def close(self) -> None:
        """End its workers."""
        self._dispatcher.close()
        self.fleet.close()
