"""The updates of a run, one after the other: each happens as a whole or not at all."""

from __future__ import annotations

from collections.abc import Generator
from inspect import GEN_RUNNING, getgeneratorstate
from typing import Any

from shoal.fleet.base import Fleet
from shoal.learners.base import Versioned
from shoal.plans.base import Plan, Update
from shoal.plans.run import Run
from shoal.process import interrupts

PROBE_STEPS = 64  # random env steps per slot that give normalisation its first moments


class Updates:
    """Runs a plan; ``next`` returns its next update.

    If that fails or is interrupted, learner, run, workers and replay buffer are as after the last
    whole update, and the plan can go on from there.

    Args:
        measures: whether workers measure moments, which then need first values.
    """

    def __init__(
        self, plan: Plan, fleet: Fleet, learner: Versioned, run: Run, *, measures: bool
    ) -> None:
        self._plan, self._fleet, self._learner, self._run = plan, fleet, learner, run
        self._measures = measures
        self._generator: Generator[Update] | None = None
        self.mark()
        self._whole = True  # not within an update, nor while one is being undone

    def __next__(self) -> Update:
        self.settle()
        self._whole = False
        try:
            if self._generator is None:
                self._generator = self._start()
            update = next(self._generator)
            self.mark()
        except BaseException:
            self._rollback()
            raise
        self._whole = True
        return update

    def settle(self) -> None:
        """Finish a way back to the last whole update that was itself interrupted."""
        if not self._whole:
            self._rollback()

    def restart(self) -> None:
        """Begin the plan anew from the state as it is now, which was replaced from outside."""
        self.mark()
        self._generator = None

    def close(self) -> None:
        """Stop waiting for the plan's calls."""
        if self._generator is not None:
            self._generator.close()
            self._generator = None

    @property
    def running(self) -> bool:
        """Whether an update is being made just now, in another thread."""
        generator = self._generator
        return generator is not None and getgeneratorstate(generator) == GEN_RUNNING

    def _start(self) -> Generator[Update]:
        """The plan's updates; before them, the first moments where normalisation has none yet."""
        run, counters = self._run, self._run.counters
        if self._measures and self._plan.probes and not run.moments:
            for _, sample in self._fleet.map("probe", PROBE_STEPS):
                run.observe(sample.moments)
                counters.env_steps += sample.env_steps
                counters.agent_steps += sample.agent_steps
                counters.dropped_steps += sample.agent_steps
            run.fragments += 1
            run.set_origins()
        self._learner.set_aux(run.aux())
        self.mark()
        updates: Generator[Update] = self._plan.run(self._fleet, self._learner, run)
        return updates

    def mark(self) -> None:
        """Mark this moment between two updates as the one to fall back to."""
        buffer = self._buffer
        changes = 0 if buffer is None else buffer.changes
        self._boundary = self._run.get_state(), self._learner.version, changes
        if buffer is not None:
            buffer.forget(changes)

    def _rollback(self) -> None:
        """Go back to the last whole update.

        The plan's generator is spent; the next update starts a new one. If this is interrupted, it
        is done again, from its beginning, before anything else.
        """
        self._whole = False
        with interrupts.shielded():
            self._generator = None
            state, version, changes = self._boundary
            self._run.set_state(state)
            self._learner.rollback(version)
            if self._buffer is not None:
                self._buffer.rollback(changes)
            if self._plan.exact and not self._fleet.stats.ended:
                self._fleet.settle()
                self._fleet.map("rollback", self._run.fragments)
            self._whole = True

    @property
    def _buffer(self) -> Any:
        return self._run.buffer
