"""The contract of a fleet: what plans are written against, wherever its members live."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shoal.trajectory import ndarray

Make = Callable[[int, int], Any]  # (index, restart) -> a member; its randomness depends on both


def no_args(member: int) -> tuple[Any, ...]:
    """The arguments of a verb that takes none."""
    return ()


@dataclass
class Stats:
    """How a fleet is doing: what was mended so far, and how its calls go now."""

    restarts: dict[int, int] = field(default_factory=dict)  # by member: how often it was replaced
    lost_calls: int = 0  # calls whose result died with a member; nothing of them was counted
    refill_s: list[float] = field(default_factory=list)  # seconds until replacements were ready
    concurrency: int = 0  # members busy at the same time; 0: they take turns with the plan
    queued: int = 0  # results that had come and waited when the newest of a stream was taken
    ended: bool = False  # what the members live in has ended: no call to any comes back


def results(answers: Sequence[tuple[int, Any]]) -> list[Any]:
    """The results of ``map`` without the members' numbers, in the same order."""
    return [result for _, result in answers]


class Stream(Iterator[tuple[int, Any]]):
    """``(member, result)`` of calls that a fleet makes again and again.

    ``come`` never waits: it gives None if no result has come yet. ``wait`` waits for one, not long;
    ``look`` sees after those that have come, for a caller who waits for something else.
    """

    def __init__(
        self,
        come: Generator[tuple[int, Any] | None],
        wait: Callable[[], None] = lambda: None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.come, self.wait, self.look = come, wait, look

    def __next__(self) -> tuple[int, Any]:
        try:
            while (found := next(self.come)) is None:
                self.wait()
        except BaseException:
            self.close()
            raise
        return found

    def close(self) -> None:
        """Wait for its calls no more."""
        self.come.close()


def merge(*streams: Stream) -> Iterator[tuple[int, int, Any]]:
    """``(which stream, member, result)`` of a fleet and of those spawned from it, in turn.

    The first stream is the fleet's: it waits for all of them.
    """
    try:
        while True:
            waits = True
            for which, stream in enumerate(streams):
                found = next(stream.come)
                if found is not None:
                    waits = False
                    yield which, *found
            if waits:
                streams[0].wait()
    finally:
        for stream in streams:
            stream.close()


class Fleet(Protocol):
    """N stateful members of one kind (workers, shards), wherever they live.

    A member that dies, or that is stuck, is replaced by a new one, with randomness of its own and
    the newest weights. An exception in a member is raised here as what it is.
    """

    @property
    def size(self) -> int:
        """Members that it is meant to have now."""

    @property
    def stats(self) -> Stats:
        """Deaths so far, and how many members are busy at once."""

    def map(
        self,
        verb: str,
        *args: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        retry: bool = True,
    ) -> list[tuple[int, Any]]:
        """Call the verb on every member and wait for all; ``(member, result)`` in their order.

        ``each`` are their own arguments: the i-th of the members that are there gets ``each[i]``.
        A member that dies meanwhile is replaced and asked again. One that cannot be replaced in
        time (its node is gone) is left out, so a result's position does not say whose it is.
        Without ``retry`` the result is None if the member died: for verbs in which members wait for
        each other, so that asking one again would not help.
        """

    def stream(
        self,
        verb: str,
        args: Callable[[int], tuple[Any, ...] | None] = no_args,
        in_flight: int = 1,
    ) -> Stream:
        """Call the verb again and again; ``(member, result)`` as they finish, without an end.

        A member's results come in the order of its calls. At most ``in_flight`` calls wait at each
        member; the next is made, with ``args(member)`` of that moment, when its result was taken
        and the caller comes back for another. None: there is nothing for that member to do yet.
        """

    def publish(self, weights: Mapping[str, ndarray], version: int) -> None:
        """Put these weights, once, where members can have them; new members begin with them."""

    def send(self, member: int | None = None) -> None:
        """Give a member (None: all) the weights published last, from its next call on."""

    def spawn(self, make: Make, size: int, name: str, *, aside: bool = False) -> Fleet:
        """Another fleet in the same place, closed with this one; its members are parts of a whole.

        None of them is ever left out: ``map`` waits until all are there. Who waits for this fleet
        waits for that one too, unless it is ``aside``: then its results come to who looks for them.
        """

    def collective(self) -> Any:
        """What members ``join`` to reduce arrays among themselves; of the present size."""

    def settle(self) -> None:
        """Let calls that nobody waits for any more come to their end; not for long.

        A member that takes longer is replaced.
        """

    def resize(self, size: int) -> None:
        """Grow with new members or let the last ones go.

        Raises ConfigError where there is no place for more.
        """

    def close(self) -> None:
        """End every member."""
