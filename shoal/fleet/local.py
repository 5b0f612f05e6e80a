"""A fleet in this process: its workers are plain objects, called one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shoal.fleet.worker import Worker
from shoal.trajectory import ndarray


class LocalFleet:
    """Workers in this process; deterministic, and a debugger steps through every plan.

    ``make(index)`` makes a worker.
    """

    def __init__(self, make: Callable[[int], Worker], size: int = 1) -> None:
        self._make = make
        self._workers: list[Worker] = []
        self._weights: tuple[Mapping[str, ndarray], int] | None = None
        self.resize(size)

    @property
    def size(self) -> int:
        return len(self._workers)

    @property
    def concurrency(self) -> int:
        return 1

    def map(self, verb: str, *args: Any) -> list[Any]:
        return [getattr(worker, verb)(*args) for worker in self._workers]

    def stream(self, verb: str, *args: Any, in_flight: int = 1) -> Iterator[tuple[int, Any]]:
        index = 0
        while self.size:  # in turn; a call waits for nobody, however many may be in flight
            index %= self.size
            yield index, getattr(self._workers[index], verb)(*args)
            index += 1

    def broadcast(self, weights: Mapping[str, ndarray], version: int) -> None:
        self._weights = weights, version
        for worker in self._workers:
            worker.set_weights(weights, version)

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        for worker, state in zip(self._workers, states, strict=True):
            worker.set_state(state)

    def resize(self, size: int) -> None:
        while self.size < size:
            worker = self._make(self.size)
            if self._weights is not None:
                worker.set_weights(*self._weights)
            self._workers.append(worker)
        while self.size > size:
            self._workers.pop().close()

    def close(self) -> None:
        self.resize(0)
