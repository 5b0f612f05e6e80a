"""A run's replay buffer, made to its settings and to the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil

from shoal.config.replay import Replay
from shoal.errors import ConfigError
from shoal.replay.layout import Layout, layout_of, least_rows, with_priorities
from shoal.spaces.base import MEMORY

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
    window, stack = algorithm.window(model), max(stacks.values(), default=1)
    rows = replay.capacity // slots
    what, least, lower = f"{n_step} steps at once", n_step + 2 * stack, "n_step"
    if window is not None:
        least = least_rows(window, n_step, stack)
        what = f"one sequence, which takes {least}"
        lower = "sequence, algorithm.burn_in"
        if replay.alpha:
            seen = with_priorities(seen)
    if rows < least:
        raise ConfigError(
            f"a replay buffer of {replay.capacity:,} env steps holds {rows} for each of "
            f"{slots} environments: too few for {what}",
            None,
            f"raise replay.capacity, or lower algorithm.{lower} or rollout.envs_per_worker",
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

    n_step, gamma, alpha = algorithm.n_step, algorithm.gamma, replay.alpha
    window = algorithm.window(model)
    if window is None:
        return Buffer(seen, slots, replay.capacity, n_step=n_step, gamma=gamma, alpha=alpha)
    from shoal.replay.sequences import SequenceBuffer

    initial = {MEMORY + name: x for name, x in algorithm.memory(model).items()}
    return SequenceBuffer(
        seen, slots, replay.capacity, window, initial, n_step=n_step, gamma=gamma, alpha=alpha
    )


def most_steps(replay: Replay, algorithm: Any, model: Any, stacks: Mapping[str, int]) -> int:
    """Gradient steps whose transitions or sequences fit into one call."""
    window, rows = algorithm.window(model), 2
    if window is not None:
        rows = window.burn_in + window.steps + algorithm.n_step
    seen = layout_of(algorithm, model, stacks)
    return FUSED // (rows * replay.batch_size * seen.row_bytes) or 1


def trained_steps(replay: Replay, algorithm: Any, model: Any) -> int:
    """Env steps that one gradient step trains on, as the replay ratio counts them.

    In sequences, those after the end of an episode count too, so that it is known before the draw.
    """
    window = algorithm.window(model)
    return replay.batch_size * (1 if window is None else int(window.steps))


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
