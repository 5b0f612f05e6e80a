"""The contract of a fleet: what plans are written against, wherever workers live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from shoal.trajectory import ndarray


class Fleet(Protocol):
    """N copies of a stateful worker, wherever they live. What plans are written against."""

    @property
    def size(self) -> int:
        """Workers that it has now."""

    @property
    def concurrency(self) -> int:
        """Workers that are busy at the same time."""

    def map(self, verb: str, *args: Any) -> list[Any]:
        """Call the verb on every worker and wait for all; results in the order of the workers."""

    def stream(self, verb: str, *args: Any, in_flight: int = 1) -> Iterator[tuple[int, Any]]:
        """Call the verb again and again; ``(worker, result)`` as they finish, without an end.

        At most ``in_flight`` calls wait at each worker; the next is made when its result is taken.
        """

    def broadcast(self, weights: Mapping[str, ndarray], version: int) -> None:
        """Give every worker these weights."""

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Give each worker its state back, in the order of ``map``."""

    def resize(self, size: int) -> None:
        """Grow with new workers or let the last ones go."""

    def close(self) -> None:
        """End every worker."""
