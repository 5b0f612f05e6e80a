"""A fleet in this process: its members are plain objects, called one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from shoal.fleet.base import Fleet, Health, Make, no_args
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
        self.health = Health()
        self.resize(size)

    @property
    def size(self) -> int:
        return len(self._members)

    @property
    def concurrency(self) -> int:
        return 0

    @property
    def queued(self) -> int:
        return 0

    @property
    def lost(self) -> bool:
        return False

    def map(self, verb: str, *args: Any) -> list[tuple[int, Any]]:
        return [(index, self._call(index, verb, args)) for index in range(self.size)]

    def attempt(
        self, verb: str, args: Sequence[tuple[Any, ...]] | None = None
    ) -> list[tuple[int, Any]]:
        given = [()] * self.size if args is None else args
        if self.size == 1:
            return [(0, self._call(0, verb, given[0]))]
        with ThreadPoolExecutor(self.size) as pool:  # they wait for each other
            calls = enumerate(given)
            futures = [pool.submit(self._call, index, verb, own) for index, own in calls]
            return [(index, future.result()) for index, future in enumerate(futures)]

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
        self, verb: str, args: Callable[[], tuple[Any, ...]] = no_args, in_flight: int = 1
    ) -> Iterator[tuple[int, Any]]:
        index = 0
        while self.size:  # in turn; a call waits for nobody, however many may be in flight
            index %= self.size
            yield index, self._call(index, verb, args())
            index += 1

    def poll(
        self, verb: str, args: Callable[[int], tuple[Any, ...] | None], in_flight: int = 1
    ) -> Iterator[tuple[int, Any] | None]:
        index = 0
        while self.size:
            index %= self.size
            given = args(index)
            yield None if given is None else (index, self._call(index, verb, given))
            index += 1

    def wait(self) -> None:
        """Calls are made when they are asked for: there is nothing to wait for."""

    def broadcast(self, weights: Mapping[str, ndarray], version: int) -> None:
        self.publish(weights, version)
        for index in range(self.size):
            self.send(index)

    def publish(self, weights: Mapping[str, ndarray], version: int) -> None:
        self._weights = weights, version

    def send(self, member: int) -> None:
        if self._weights is not None and member < self.size:
            self._members[member].set_weights(*self._weights)

    def spawn(self, make: Make, size: int, name: str) -> Fleet:
        fleet = LocalFleet(make, size, name)
        self._spawned.append(fleet)
        return fleet

    def collective(self) -> ThreadGroup:
        return ThreadGroup(self.size)

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        for member, state in zip(self._members, states, strict=True):
            member.set_state(state)

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
