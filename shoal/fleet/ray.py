"""A fleet of Ray actors: its members are processes, on this machine or on a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from time import monotonic
from typing import Any

import ray
from ray.exceptions import (
    RayError,
)

from shoal.config.config import Cluster
from shoal.errors import ConfigError
from shoal.fleet.base import Fleet, Make, Stats, Stream, no_args
from shoal.fleet.cluster import lost
from shoal.fleet.collective import ProcessGroup
from shoal.fleet.member import SLICE
from shoal.fleet.members import GONE, Members
from shoal.fleet.parcel import INLINE, nbytes
from shoal.trajectory import ndarray

GRACE = 4.0  # seconds that an interrupted run waits for calls that are still running


class RayFleet(Members):
    """Members in processes of their own. See ``fleet.base.Fleet``.

    Args:
        make: ``make(index, restart)`` makes a member there.
        size: members at the beginning.
        cluster: timeouts and bounds.
        cpus: that each member reserves.
        name: what members are called in messages.
        whole: none of them can be done without, as they are the parts of one thing.
        gpus: that each member reserves, and is the only one to see.

    Raises ConfigError when ``make`` cannot be sent to other processes, and what it raises there.
    """

    def __init__(
        self,
        make: Make,
        size: int,
        cluster: Cluster,
        cpus: float,
        name: str = "worker",
        whole: bool = False,
        gpus: float = 0.0,
    ) -> None:
        super().__init__(make, size, cluster, cpus, name, whole, gpus)
        self._spawned: list[RayFleet] = []
        self._waited: list[RayFleet] = []  # those of them that are not aside
        self._pickled()
        try:
            for index in range(size):
                self._start(index)
            self._until(self._complete)
        except BaseException:
            self.close()
            raise

    # -------------------------------------------------------------- what plans see

    @property
    def stats(self) -> Stats:
        self._stats.concurrency, self._stats.ended = max(self.size, 1), lost() is not None
        return self._stats

    def map(
        self,
        verb: str,
        *args: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        retry: bool = True,
    ) -> list[tuple[int, Any]]:
        if self._whole and not retry:
            self._until(self._complete)
        there = [m.index for m in self._members.values() if m.ready or retry]
        given = dict(zip(there, [args] * len(there) if each is None else each, strict=False))
        done: deque[tuple[int, Any]] = deque()
        results: dict[int, Any] = {}
        asked: set[int] = set()
        try:
            while True:
                waiting = [m for i, m in self._members.items() if i in given and i not in results]
                for member in waiting:
                    if member.ready and member.index not in asked:
                        self._submit(member, verb, given[member.index], done)
                        asked.add(member.index)
                late = all(m.index not in asked for m in waiting)  # replacements that do not come
                if not waiting or (results and late and self._overdue(waiting)):
                    return sorted(results.items(), key=itemgetter(0))
                self._poll()
                while done:
                    index, result = done.popleft()
                    asked.discard(index)
                    if result is not GONE and index in self._members:
                        results[index] = result
                    elif not retry:
                        results[index] = None
        finally:
            self._forget(done)

    def stream(
        self,
        verb: str,
        args: Callable[[int], tuple[Any, ...] | None] = no_args,
        in_flight: int = 1,
    ) -> Stream:
        look = partial(self._poll, wait=False)
        return Stream(self._come(verb, args, in_flight), self._wait, look)

    def _come(
        self, verb: str, args: Callable[[int], tuple[Any, ...] | None], in_flight: int
    ) -> Generator[tuple[int, Any] | None]:
        done: deque[tuple[int, Any]] = deque()
        waiting: dict[int, int] = {}
        try:
            while self._members:
                for member in list(self._members.values()):
                    while member.ready and waiting.get(member.index, 0) < in_flight:
                        own = args(member.index)
                        if own is None:
                            break
                        self._submit(member, verb, own, done)
                        waiting[member.index] = waiting.get(member.index, 0) + 1
                if not done:
                    yield None
                    continue
                index, result = done.popleft()
                waiting[index] -= 1
                self._stats.queued = len(done)
                if result is not GONE and index in self._members:
                    yield index, result
        finally:
            self._forget(done)

    def _wait(self) -> None:
        """Wait until something has come, here or in a fleet spawned from this one; not for long."""
        busy = [fleet for fleet in self._waited if fleet._calls]
        if not busy:
            self._poll()
            return
        self._check()
        family = [self, *busy]
        ray.wait([ref for each in family for ref in each._calls], num_returns=1, timeout=SLICE)
        for fleet in family:
            fleet._poll(wait=False)

    def publish(self, weights: Mapping[str, ndarray], version: int) -> None:
        self._check()
        small = nbytes(weights) <= INLINE
        self._published = dict(weights) if small else ray.put(dict(weights)), version

    def send(self, member: int | None = None) -> None:
        for index in self._members if member is None else (member,):
            if self._published is not None and index in self._members:
                self._members[index].fresh = True

    def spawn(self, make: Make, size: int, name: str, *, aside: bool = False) -> Fleet:
        fleet = RayFleet(make, size, self._cluster, 0.0, name, whole=True)
        self._spawned.append(fleet)
        if not aside:
            self._waited.append(fleet)
        return fleet

    def collective(self) -> ProcessGroup:
        while True:  # the first member opens a meeting point; if it dies, the next one does
            self._until(lambda: self.size > 0)
            ((_, met),) = self.map(
                "open_meeting", each=[(ray.util.get_node_ip_address(),)], retry=False
            )
            if met is not None:
                host, port = met
                return ProcessGroup(self.size, host, port, str(monotonic()))

    def settle(self) -> None:
        deadline = monotonic() + GRACE
        while (busy := [m for m in self._members.values() if m.ready and m.calls]) and (
            monotonic() < deadline
        ):
            self._poll()
        for member in busy:
            self._end(member)
            self._start(member.index)

    def resize(self, size: int) -> None:
        have = ray.cluster_resources().get("CPU", 0.0)
        if size > len(self._members) and size * self._cpus > have + 1e-6:
            raise ConfigError(
                f"{size} workers need {size * self._cpus:g} CPUs, but there are {have:g}",
                None,
                f"grow to {int(have / self._cpus)} at most, or begin with less for each: "
                "cluster.cpus_per_worker",
            )
        for index in [i for i in self._members if i >= size]:
            self._end(self._members.pop(index))
            self._in_a_row.pop(index, None)
        for index in range(size):
            if index not in self._members:
                self._start(index)
        self._until(self._complete)

    def close(self) -> None:
        for fleet in self._spawned:
            fleet.close()
        members, self._members = list(self._members.values()), {}
        self._calls.clear()
        if lost() is not None or not ray.is_initialized():
            return
        goodbyes = [m.actor.call.remote(("close", ())) for m in members if m.ready]
        if goodbyes:
            with suppress(RayError):
                ray.wait(goodbyes, num_returns=len(goodbyes), timeout=1.0)
        for member in members:
            with suppress(RayError):
                ray.kill(member.actor)
