"""A hyperparameter that may change over a run: a number, or a line from one to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from shoal.config.bounds import is_number, require


@dataclass(frozen=True)
class Linear:
    """A value annealed linearly over the run's env steps; as text "linear(1e-3, 0)"."""

    start: float
    end: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            require(is_number(value), f"linear's {name}", value, "a finite number")

    def at(self, progress: float) -> float:
        """The value when ``progress`` of the run is done, clipped to [0, 1]."""
        done = min(max(progress, 0.0), 1.0)
        return self.start * (1.0 - done) + self.end * done

    def __str__(self) -> str:
        return f"linear({self.start!r}, {self.end!r})"


Schedule: TypeAlias = float | Linear


def at(value: Schedule, progress: float) -> float:
    """A schedule's value when ``progress`` in [0, 1] of the run is done; a number is constant."""
    return value.at(progress) if isinstance(value, Linear) else value
