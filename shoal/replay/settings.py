"""A run's replay buffer, made to its settings and to the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil

from shoal.config.replay import Replay
from shoal.errors import ConfigError
from shoal.replay.layout import Layout, layout_of, least_rows, with_priorities
from shoal.spaces.base import MEMORY
from shoal.trajectory import Episodes

if TYPE_CHECKING:
    from shoal.replay.buffer import Buffer

FUSED = 64 * 2**20  # bytes of the transitions of one call, at most
SAVED = 256 * 2**20  # bytes up to which a buffer goes into every checkpoint by default


def layout_for(
    replay: Replay,
    algorithm: Any,
    model: Any,
    stacks: Mapping[str, int],
    slots: int,
    demos: Episodes = (),
    taken: int = 0,
) -> Layout:
    """The layout of a run's rows, all of which this machine can hold beside ``taken`` bytes.

    Raises ConfigError if it cannot, or if too few rows are left for each slot.
    """
    seen = _layout(replay, algorithm, model, stacks)
    rows, least = replay.capacity // slots, _least(algorithm, model, stacks)
    if rows < least:
        sequences = algorithm.window(model) is not None
        what = f"one sequence, which takes {least}"
        lower = "sequence, algorithm.burn_in" if sequences else "n_step"
        raise ConfigError(
            f"a replay buffer of {replay.capacity:,} env steps holds {rows} for each of "
            f"{slots} environments: too few for "
            f"{what if sequences else f'{algorithm.n_step} steps at once'}",
            None,
            f"raise replay.capacity, or lower algorithm.{lower} or rollout.envs_per_worker",
        )
    needed, free = seen.nbytes(replay.capacity, slots), psutil.virtual_memory().available
    if demos:
        free = max(free - demo_bytes(replay, algorithm, model, stacks, demos), 0)
    free = max(free - taken, 0)
    if needed > free:
        raise ConfigError(
            f"a replay buffer of {replay.capacity:,} env steps takes {size(needed)}, but "
            f"{size(free)} of memory are free",
            None,
            f"lower replay.capacity: {int(replay.capacity * free / needed * 0.9):,} would do",
        )
    return seen


def demo_bytes(
    replay: Replay,
    algorithm: Any,
    model: Any,
    stacks: Mapping[str, int],
    demos: Episodes,
) -> int:
    """Bytes of the demonstrations, in each process that replays."""
    rows = _demo_rows(replay, algorithm, model, stacks, demos)
    return _layout(replay, algorithm, model, stacks).nbytes(rows, 1) if demos else 0


def make(
    replay: Replay,
    algorithm: Any,
    model: Any,
    stacks: Mapping[str, int],
    slots: int,
    demos: Episodes = (),
    first: float = 0.0,
) -> Buffer:
    """The buffer, with demonstrations beside it if there are any; see ``demonstrated``.

    If it holds them in turn, it begins with those after the part ``first`` of them.

    Raises ConfigError as ``layout_for`` does.
    """
    seen = layout_for(replay, algorithm, model, stacks, slots, demos)
    # It compiles, which nobody else need wait for.
    from shoal.replay.buffer import Buffer

    window = algorithm.window(model)
    given: dict[str, Any] = {"n_step": algorithm.n_step, "gamma": algorithm.gamma}
    given["alpha"] = replay.alpha
    initial = {MEMORY + name: x for name, x in algorithm.memory(model).items()}
    kind: type[Buffer] = Buffer
    if window is not None:
        from shoal.replay.sequences import SequenceBuffer

        kind, given = SequenceBuffer, {**given, "window": window, "initial": initial}
    if not demos:
        return kind(seen, slots, replay.capacity, **given)
    from shoal.replay.demonstrated import Demonstrated, DemonstratedSequences, Log

    shown = kind(seen, 1, _demo_rows(replay, algorithm, model, stacks, demos), **given)
    held = replay.demo_capacity
    begin = 0 if held is None else int(first * len(demos))
    log = Log(shown, demos, initial, algorithm.admit, begin)
    log.fill(held)
    both = Demonstrated if window is None else DemonstratedSequences
    own = None if held is None else log
    return both(seen, slots, replay.capacity, demos=shown, log=own, **given)


def _layout(replay: Replay, algorithm: Any, model: Any, stacks: Mapping[str, int]) -> Layout:
    seen = layout_of(algorithm, model, stacks)
    return seen if algorithm.window(model) is None or not replay.alpha else with_priorities(seen)


def _least(algorithm: Any, model: Any, stacks: Mapping[str, int]) -> int:
    """Rows that a slot needs."""
    window, stack = algorithm.window(model), max(stacks.values(), default=1)
    if window is None:
        return int(algorithm.n_step) + 2 * stack
    return least_rows(window, algorithm.n_step, stack)


def _demo_rows(
    replay: Replay, algorithm: Any, model: Any, stacks: Mapping[str, int], demos: Episodes
) -> int:
    """Rows for demonstrations, none of which overwrites another's unless they are held in turn."""
    least = _least(algorithm, model, stacks)
    if replay.demo_capacity is not None:
        return replay.demo_capacity + least
    around = max(stacks.values(), default=1) + 2  # of an episode, at most
    return sum(len(x["reward"]) + around for x in demos) + least


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
    return buffer.nbytes <= SAVED if replay.save is None else replay.save


def size(nbytes: float) -> str:
    """As people read it."""
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"
