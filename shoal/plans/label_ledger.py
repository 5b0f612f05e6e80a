"""What a plan knows of transitions on their way through members that label."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.fleet.base import Fleet
from shoal.fleet.updater import Labelled
from shoal.plans.run import Run
from shoal.trajectory import Batch, ndarray

if TYPE_CHECKING:
    from shoal.replay.buffer import Drawn

log = logging.getLogger("shoal.plans")

AGES = {"0": 0, "1_3": 1, "4_15": 4, "16_63": 16, "64+": 64}  # least of each bin of the histogram


@dataclass
class Job:
    """Transitions to be labelled, all by one member."""

    drawn: Drawn  # its batch is a parcel
    step: Mapping[str, ndarray]  # randomness of its gradient steps
    number: int = 0  # of the call
    restart: int = 0  # of the member


@dataclass
class Trained:
    """Rows from the train buffer."""

    drawn: Drawn
    batch: Batch
    age: int  # updates of the learner since its labels' networks were its


@dataclass
class LabelLedger:
    """The accounts: pulled = labelled + unlabelled + in flight; and the train buffer.

    ``max_age`` is that of a label when it is trained on, in updates of the learner; ``forgo`` is
    told of what was drawn and will never be trained on.
    """

    run: Run
    max_age: int
    updaters: Fleet
    forgo: Callable[[Drawn], None]
    waiting: deque[Job] = field(default_factory=deque)  # pulled, and with no member yet
    buffer: deque[tuple[Job, Labelled]] = field(default_factory=deque)  # labelled: to be trained on
    _with: dict[int, deque[Job]] = field(default_factory=dict)  # by member
    _number: int = 0
    _busy: float = 0.0  # seconds of all members since the last ``metrics``
    _idle: float = 0.0

    def pull(self, drawn: Drawn) -> None:
        """Transitions have been drawn: they are in flight from now on."""
        run, size = self.run, self.run.replay.batch_size
        steps = run.algorithm.draw(run.model, run.rng, len(drawn.rows) // size, size)
        self.waiting.append(Job(drawn, steps))
        run.counters.pulled_steps += len(drawn.rows)

    def next(self, member: int) -> tuple[Any, ...] | None:
        """The arguments of a member's next call; None while there is nothing to label.

        A member asks for work once it has been replaced, if it was: then what it had is gone.
        """
        restart = self.updaters.stats.restarts.get(member, 0)
        held = self._with.setdefault(member, deque())
        while held and held[0].restart != restart:
            self._lost(held.popleft(), f"updater {member} died")
        if not self.waiting:
            return None
        job = self.waiting.popleft()
        self._number += 1
        job.number, job.restart = self._number, restart
        held.append(job)
        return job.number, job.drawn.batch, job.step

    def take(self, member: int, answer: Labelled) -> None:
        """Count what came of a call; calls before it that brought nothing are lost."""
        held = self._with[member]
        while held[0].number < answer.number:
            self._lost(held.popleft(), f"an answer of updater {member} was lost")
        job = held.popleft()
        self._busy += answer.busy
        self._idle += answer.idle
        if answer.batch is None:
            self._lost(job, "a replay shard died with what was drawn from it")
            return
        self.run.counters.labelled_steps += len(job.drawn.rows)
        self.buffer.append((job, answer))

    def due(self, version: int) -> Trained | None:
        """The oldest rows of the train buffer whose labels are young enough; None: there are none.

        ``version`` is the learner's, now.
        """
        while self.buffer:
            job, labelled = self.buffer.popleft()
            age = version - labelled.version
            if age <= self.max_age and labelled.batch is not None:
                return Trained(job.drawn, labelled.batch, age)
            self.run.counters.expired_steps += len(job.drawn.rows)
            self.forgo(job.drawn)
        return None

    def _lost(self, job: Job, why: str) -> None:
        rows = len(job.drawn.rows)
        log.warning("%s: %d transitions are not labelled", why, rows)
        self.run.counters.unlabelled_steps += rows
        self.forgo(job.drawn)

    def metrics(self, trained: Trained) -> dict[str, float]:
        """Where an update's rows came from, how old their labels were, and who waits for whom."""
        online, age = float(np.mean(trained.drawn.rows >= 0)), trained.age
        own = max((least, name) for name, least in AGES.items() if least <= age)[1]
        found = {f"labels/age_{name}": float(name == own) for name in AGES}
        whole = self._busy + self._idle
        found |= {
            "labels/age": float(age),
            "labels/online_share": online,
            "labels/updaters_busy": self._busy / whole if whole else 0.0,
            "labels/waiting": float(len(self.waiting)),  # batches that wait for an updater
            "labels/train_buffer": float(len(self.buffer)),  # and for the learner
        }
        self._busy = self._idle = 0.0
        return found
