"""Settings of the replay buffer, and the arithmetic of the replay ratio."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shoal.config.bounds import check_bounds, setting
from shoal.config.schedule import Schedule, at
from shoal.errors import ConfigError


@dataclass(frozen=True)
class Replay:
    """The replay buffer: its size, how batches are drawn from it, and how often."""

    capacity: int = setting(100_000, least=2)  # env steps in the buffer, of all slots together
    batch_size: int = setting(64, least=1)  # transitions, or sequences, in one gradient step
    replay_ratio: float = setting(8.0, above=0)  # transitions replayed per env step
    warmup: int = setting(1_000, least=1)  # env steps before the first gradient step
    alpha: float = setting(0.0, least=0, most=1)  # priority exponent; 0: uniform (PER: 0.6)
    beta: Schedule = setting(0.4, least=0, most=1)  # importance-weight exponent, if alpha > 0
    demos: str | None = None  # demonstrations: a Minari data set, by its folder or its local name
    demo_ratio: Schedule = setting(1 / 256, least=0, most=1)  # probability of a row to be of them
    demo_capacity: int | None = setting(
        None,
        least=1,
        help="env steps of them held at once (by each shard), read in turn; none: all",
    )
    offline_steps: int = setting(0, least=0)  # gradient steps on them alone, before any env step
    save: bool | None = None  # save the buffer in checkpoints; none: if it is at most 256 MB

    def __post_init__(self) -> None:
        check_bounds(self, "replay.")
        if self.warmup > self.capacity:
            raise ConfigError(
                f"replay.warmup is {self.warmup:,}, but the buffer holds at most "
                f"{self.capacity:,} env steps",
                None,
                "lower replay.warmup, or raise replay.capacity",
            )
        if self.batch_size > self.warmup:
            raise ConfigError(
                f"replay.batch_size is {self.batch_size}, but learning begins with "
                f"{self.warmup} env steps",
                None,
                "raise replay.warmup to the batch size at least",
            )
        given = {"offline_steps": self.offline_steps, "demo_capacity": self.demo_capacity}
        for name, value in given.items():
            if value and self.demos is None:
                raise ConfigError(
                    f"replay.{name} is {value:,}, and there are no demonstrations",
                    None,
                    "give some (--demos FOLDER, what `shoal record` wrote), or leave it out",
                )

    def uniforms(
        self, rng: np.random.Generator, steps: int, ratio: float = 0.0
    ) -> np.ndarray[Any, Any]:
        """Numbers by which the rows of gradient steps are drawn, [steps, batch_size].

        With demonstrations [steps, batch_size, 2]: where the second is below 0, which it is with
        probability ``ratio``, the row is one of them.
        """
        if not self.demonstrated:
            return rng.random((steps, self.batch_size))
        u = rng.random((steps, self.batch_size, 2))
        u[..., 1] -= ratio
        return u

    @property
    def demonstrated(self) -> bool:
        """Whether demonstrations are drawn."""
        drawn = max(at(self.demo_ratio, 0.0), at(self.demo_ratio, 1.0)) > 0.0
        return self.demos is not None and (drawn or self.offline_steps > 0)

    def begin(self, stored: int, replayed: int) -> float | None:
        """The ``learning_from`` of ``due`` once ``stored`` env steps suffice, else None.

        The ratio holds from the warm-up on: what was stored beyond it is due at once.
        """
        return self.warmup - replayed / self.replay_ratio if stored >= self.warmup else None

    def due(self, stored: int, learning_from: float | None, replayed: int, each: int) -> int:
        """Gradient steps that the replay ratio asks for, after ``replayed`` transitions.

        Each of them replays ``each``. The ratio counts env steps from ``learning_from`` on; None:
        learning has not begun.
        """
        if learning_from is None:
            return 0
        owed = self.replay_ratio * (stored - learning_from) - replayed
        return max(int(owed // each), 0)

    def at_once(self, due: int, most: int) -> int:
        """Gradient steps of one call: a power of two, since each number is compiled separately."""
        steps = min(due, most)
        return 1 << (steps.bit_length() - 1) if steps > 0 else 0

    def each(self, members: int) -> Replay:
        """The share of one of several members with a buffer each."""
        capacity, warmup = self.capacity // members, -(-self.warmup // members)
        return replace(self, capacity=capacity, warmup=max(warmup, self.batch_size))
