"""A shard of a replay buffer: a buffer in a process of its own, for some of the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.config.replay import Replay
from shoal.fleet.parcel import Lost, Parcel
from shoal.replay.settings import make
from shoal.trajectory import Episodes, ndarray

if TYPE_CHECKING:
    from shoal.replay.buffer import Drawn


@dataclass
class Exchanged:
    """What came of one exchange with a shard."""

    number: int  # of the exchange
    restart: int  # of the shard: how often it was replaced
    stored: int  # env steps that came in with this exchange
    held: int  # env steps that it holds
    mass: float  # sum of their priorities
    drawn: Drawn | None


class ReplayShard:
    """Holds the transitions of some workers, each worker's in slots of its own."""

    def __init__(
        self,
        settings: Replay,
        algorithm: Any,
        model: Any,
        stacks: Mapping[str, int],
        slots: int,
        restart: int = 0,
        demos: Episodes = (),
        first: float = 0.0,
    ) -> None:
        self._buffer = make(settings, algorithm, model, stacks, slots, demos, first)
        self._restart = restart

    def exchange(
        self,
        number: int,
        parcels: Sequence[tuple[int, Parcel]],
        priorities: Sequence[tuple[ndarray, ndarray]],
        u: ndarray | None,
        beta: float,
    ) -> Exchanged:
        """Take priorities, store fragments, draw transitions; in this order.

        Args:
            number: of this exchange.
            parcels: fragments of workers of these numbers. One whose worker died with it, before it
                came here, is left out: whole, so no part of an episode is missing within another.
            priorities: of rows that were drawn before.
            u: [parts, k] uniform numbers to draw by; None draws nothing.
            beta: of the weights of what is drawn.
        """
        buffer, before = self._buffer, self._buffer.stored
        for rows, priority in priorities:
            buffer.set_priorities(rows, priority)
        for worker, parcel in parcels:
            try:
                batch = parcel.open()
            except Lost:
                continue
            buffer.store(worker, batch)
        stored = buffer.stored - before
        drawn = buffer.draw(u, beta) if u is not None and buffer.can_draw(u) else None
        return Exchanged(number, self._restart, stored, buffer.held, buffer.mass, drawn)

    def exchange_apart(self, *args: Any) -> Exchanged:
        """The same; the batch that was drawn stays here until its receiver fetches it."""
        answer = self.exchange(*args)
        if answer.drawn is not None:
            answer.drawn.batch = Parcel(answer.drawn.batch)
        return answer

    def close(self) -> None:
        """Nothing is held outside of memory."""
