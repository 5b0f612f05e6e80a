"""A shard of what is remembered: a replay buffer in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.config.config import Replay
from shoal.fleet.base import Lost, Parcel
from shoal.replay.buffer import Drawn
from shoal.replay.settings import make
from shoal.spaces.base import Spaces
from shoal.trajectory import ndarray


@dataclass
class Served:
    """What came of one exchange with a shard."""

    number: int  # of the exchange
    restart: int  # of the shard: how often it was replaced
    stored: int  # env steps that came in with this exchange
    size: int  # transitions that it holds
    mass: float  # sum of their priorities
    drawn: Drawn | None


class Store:
    """Holds the transitions of some workers, each worker's in slots of its own."""

    def __init__(
        self,
        replay: Replay,
        spaces: Spaces,
        stacks: Mapping[str, int],
        slots: int,
        n_step: int,
        gamma: float,
        restart: int = 0,
    ) -> None:
        self._buffer = make(replay, spaces, stacks, slots, n_step, gamma)
        self._restart = restart

    def exchange(
        self,
        number: int,
        parcels: Sequence[tuple[int, Parcel]],
        priorities: Sequence[tuple[ndarray, ndarray]],
        u: ndarray | None,
        beta: float,
    ) -> Served:
        """Note priorities, store fragments, draw transitions; in this order.

        Args:
            number: of this exchange.
            parcels: fragments of workers of these numbers. One whose worker died with it, before it
                came here, is left out: whole, so no part of an episode is missing amid another.
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
        drawn = buffer.draw(u, beta) if u is not None and buffer.mass > 0.0 else None
        return Served(number, self._restart, stored, buffer.size, buffer.mass, drawn)

    def close(self) -> None:
        """Nothing is held outside of memory."""
