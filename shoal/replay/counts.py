"""What a run counts of its replay buffers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Replayed:
    """How far replay has come."""

    replayed_steps: int = 0  # transitions of all gradient steps
    learning_from: float | None = None  # env steps stored when learning began; the ratio counts
    # from here, and None is before
