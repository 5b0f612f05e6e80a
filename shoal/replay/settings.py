"""A run's replay buffer, made to its settings and to the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil

from shoal.config.replay import Replay
from shoal.errors import ConfigError
from shoal.replay.layout import Layout, layout_of

if TYPE_CHECKING:
    from shoal.replay.buffer import Buffer

FUSED = 64 * 2**20  # bytes of the transitions of one call, at most
SAVED = 256 * 2**20  # bytes up to which a buffer goes into every checkpoint by default


def layout_for(
    replay: Replay, algorithm: Any, model: Any, stacks: Mapping[str, int], slots: int
) -> Layout:
    """The layout of a run's rows, all of which this machine can hold.

    Raises ConfigError if it cannot, or if too few rows are left for each slot.
    """
    seen, n_step = layout_of(algorithm, model, stacks), algorithm.n_step
    rows = replay.capacity // slots
    if rows < n_step + 2 * max(stacks.values(), default=1):
        raise ConfigError(
            f"a replay buffer of {replay.capacity:,} env steps holds {rows} for each of "
            f"{slots} environments: too few for {n_step} steps at once",
            None,
            "raise replay.capacity, or lower algorithm.n_step or rollout.envs_per_worker",
        )
    needed, free = seen.nbytes(replay.capacity, slots), psutil.virtual_memory().available
    if needed > free:
        raise ConfigError(
            f"a replay buffer of {replay.capacity:,} env steps takes {size(needed)}, but "
            f"{size(free)} of memory are free",
            None,
            f"lower replay.capacity: {int(replay.capacity * free / needed * 0.9):,} would do",
        )
    return seen


def make(
    replay: Replay, algorithm: Any, model: Any, stacks: Mapping[str, int], slots: int
) -> Buffer:
    """The buffer. Raises ConfigError as ``layout_for`` does."""
    seen = layout_for(replay, algorithm, model, stacks, slots)
    from shoal.replay.buffer import Buffer  # it compiles, which nobody else need wait for

    n_step, gamma = algorithm.n_step, algorithm.gamma
    return Buffer(seen, slots, replay.capacity, n_step=n_step, gamma=gamma, alpha=replay.alpha)


def most_steps(replay: Replay, seen: Layout) -> int:
    """Gradient steps whose transitions fit into one call."""
    return FUSED // (2 * replay.batch_size * seen.row_bytes) or 1


def saved(replay: Replay, buffer: Buffer) -> bool:
    """Whether it goes into checkpoints."""
    small = buffer.layout.nbytes(replay.capacity, buffer.slots) <= SAVED
    return small if replay.save is None else replay.save


def size(nbytes: float) -> str:
    """As people read it."""
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"
