"""Which member does which part of a generation, whatever becomes of them.

Each part of a generation is done once, by any free member. What a dead member was doing goes
to another; so does what one takes far longer for than the others did. What comes when its
generation is over is counted and skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from time import perf_counter

from shoal.fleet.base import Fleet
from shoal.fleet.evaluator import Evaluation, Job
from shoal.learners.evolver import Recipe

SLOW = 3.0  # times the longest evaluation so far after which a second member tries it too
FIRST = 30.0  # seconds after which it does before any evaluation has come


class Dispatcher:
    """Hands out the chunks of one generation after the other, and gathers what came of them.

    Args:
        fleet: of members with the verb ``evaluate``.
        each: chunks in one call.
    """

    def __init__(self, fleet: Fleet, each: int = 1) -> None:
        self._fleet, self._each = fleet, each
        self._stream = fleet.stream("evaluate", self._next)
        self._job = Job(-1, (), 0.0, None)
        self._queue: deque[int] = deque()
        self._missing: set[int] = set()
        self._doing: dict[int, tuple[tuple[int, ...], float]] = {}  # by member: since when
        self._slowest = FIRST / SLOW
        self._holds: dict[int, int] = {}  # by member: the version of its weights, as far as known
        self._base = 0  # version that was published last
        self._log: list[Recipe] = []  # of the steps from version ``_first`` on
        self._first = 0
        self.beat = 0  # looks at the members so far
        self.stale: list[tuple[int, Evaluation]] = []  # results that came too late, or twice

    def publish(self, state: dict[str, object], version: int, send: bool) -> None:
        """Give this state of the learner to new members; with ``send``, to all."""
        self._fleet.publish(state, version)  # type: ignore[arg-type]
        if send:
            self._fleet.send()
            self._holds, self._log = {}, []
        else:  # members have yet to take the last step
            self._log = self._log[-1:]
        self._base, self._first = version, version - len(self._log)

    def step(self, recipe: Recipe) -> None:
        """Tell members, with their next call, of the step that the learner takes now."""
        self._log.append(recipe)

    @property
    def log_bytes(self) -> int:
        """Bytes that a new member is told on top of what is published."""
        return sum(recipe.nbytes for recipe in self._log)

    def gather(self, job: Job) -> Generator[tuple[int, Evaluation]]:
        """``(member, evaluation)`` of each of the job's chunks, as they finish."""
        self._job = job
        self._queue, self._missing = deque(job.chunks), set(job.chunks)
        try:
            while self._missing:
                found = next(self._stream.come)
                self.beat += 1
                if found is None:
                    self._stream.wait()
                    continue
                member, came = found
                yield from self._taken(member, came)
        except BaseException:
            self._stream.close()
            raise

    def _taken(self, member: int, came: list[Evaluation]) -> Iterable[tuple[int, Evaluation]]:
        _, since = self._doing.pop(member, ((), perf_counter()))
        fresh = []
        for evaluation in came:
            self._holds[member] = evaluation.holds
            if evaluation.sample.version != self._job.version:
                self.stale.append((member, evaluation))
            elif evaluation.holds < self._job.version:  # it lacks what came before the log
                if evaluation.chunk in self._missing:
                    self._queue.append(evaluation.chunk)
                if evaluation.holds < self._first:
                    self._fleet.send(member)
                    self._holds[member] = self._base
            elif evaluation.chunk in self._missing:
                self._missing.discard(evaluation.chunk)
                self._slowest = max(self._slowest, perf_counter() - since)
                fresh.append((member, evaluation))
            else:
                self.stale.append((member, evaluation))
        return fresh

    def _next(self, member: int) -> tuple[Job] | None:
        """What the member is to do now; None: nothing."""
        lost, _ = self._doing.pop(member, ((), 0.0))  # its last call died with it
        self._queue.extend(chunk for chunk in lost if chunk in self._missing)
        chunks = [self._queue.popleft() for _ in range(min(self._each, len(self._queue)))]
        if not chunks:
            chunks = self._overdue()
        if not chunks:
            return None
        self._doing[member] = tuple(chunks), perf_counter()
        known = self._holds.get(member, self._base)
        known = known if known >= self._first else self._base
        recipes = tuple(self._log[known - self._first :])
        return (self._job._replace(chunks=tuple(chunks), since=known, recipes=recipes),)

    def _overdue(self) -> list[int]:
        """What one member has been doing for so long that another had better do it too."""
        now = perf_counter()
        late = [
            (since, chunks)
            for chunks, since in self._doing.values()
            if now - since > SLOW * self._slowest and any(c in self._missing for c in chunks)
        ]
        twice = [chunks for chunks, _ in self._doing.values()]
        for _, chunks in sorted(late):
            if twice.count(chunks) < 2:
                return [chunk for chunk in chunks if chunk in self._missing]
        return []

    def close(self) -> None:
        """Wait for no call any more."""
        self._stream.close()
