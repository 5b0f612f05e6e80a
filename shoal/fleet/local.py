"""A fleet in this process: its members are plain objects, called one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from shoal.fleet.base import Fleet, Make, Stats, Stream, no_args
from shoal.fleet.collective import ThreadGroup
from shoal.trajectory import ndarray


class LocalFleet:
    """Members in this process; deterministic, and a debugger steps through every plan.

    ``make(index, restart)`` makes a member. An exception in one is simply raised; where there are
    several, it is noted in which.
    """

    def __init__(self, make: Make, size: int = 1, name: str = "worker") -> None:
        self._make, self._name, self._several = make, name, size > 1
        self._members: list[Any] = []
        self._lives: list[int] = []  # members of each index so far: no two draw the same
        self._spawned: list[Fleet] = []
        self._weights: tuple[Mapping[str, ndarray], int] | None = None
        self.stats = Stats()
        self.resize(size)

    @property
    def size(self) -> int:
        return len(self._members)

    def map(
        self,
        verb: str,
        *args: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        retry: bool = True,
    ) -> list[tuple[int, Any]]:
        calls = list(enumerate([args] * self.size if each is None else each))
        if retry or len(calls) == 1:
            return [(index, self._call(index, verb, own)) for index, own in calls]
        with ThreadPoolExecutor(len(calls)) as pool:  # they wait for each other
            futures = [(i, pool.submit(self._call, i, verb, own)) for i, own in calls]
            return [(index, future.result()) for index, future in futures]

    def _call(self, index: int, verb: str, args: tuple[Any, ...]) -> Any:
        with self._noting(index, f"during {verb!r}"):
            return getattr(self._members[index], verb)(*args)

    @contextmanager
    def _noting(self, index: int, what: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            if self._several:
                error.add_note(f"in {self._name} {index}, {what}")
            raise

    def stream(
        self,
        verb: str,
        args: Callable[[int], tuple[Any, ...] | None] = no_args,
        in_flight: int = 1,
    ) -> Stream:
        """In turn; a call waits for nobody, however many may be in flight."""
        return Stream(self._in_turn(verb, args))

    def _in_turn(
        self, verb: str, args: Callable[[int], tuple[Any, ...] | None]
    ) -> Generator[tuple[int, Any] | None]:
        index = 0
        while self.size:
            index %= self.size
            own = args(index)
            yield None if own is None else (index, self._call(index, verb, own))
            index += 1

    def publish(self, weights: Mapping[str, ndarray], version: int) -> None:
        self._weights = weights, version

    def send(self, member: int | None = None) -> None:
        for index in range(self.size) if member is None else (member,):
            if self._weights is not None and index < self.size:
                self._members[index].set_weights(*self._weights)

    def spawn(self, make: Make, size: int, name: str, *, aside: bool = False) -> Fleet:
        fleet = LocalFleet(make, size, name)
        self._spawned.append(fleet)
        return fleet

    def collective(self) -> ThreadGroup:
        return ThreadGroup(self.size)

    def settle(self) -> None:
        """Nothing goes on here that nobody waits for."""

    def resize(self, size: int) -> None:
        while self.size < size:
            index = self.size
            self._lives += [0] * (index + 1 - len(self._lives))
            with self._noting(index, "when it started"):
                self._members.append(self._make(index, self._lives[index]))
            self._lives[index] += 1
            self.send(index)
        while self.size > size:
            self._members.pop().close()

    def close(self) -> None:
        for fleet in self._spawned:
            fleet.close()
        self.resize(0)
