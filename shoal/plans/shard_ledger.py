"""What a plan knows of its replay shards: what they hold, what is due, and what was lost."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.config.schedule import at
from shoal.fleet.base import Fleet
from shoal.fleet.replay_shard import Exchanged, ReplayShard
from shoal.fleet.sample import Sample
from shoal.plans.run import Run
from shoal.replay.settings import most_steps, trained_steps
from shoal.trajectory import ndarray

if TYPE_CHECKING:
    from shoal.replay.buffer import Drawn

log = logging.getLogger("shoal.plans")


@dataclass
class Exchange:
    """A call of a shard that has not been answered yet."""

    number: int
    steps: list[int]  # env steps of each fragment that went along
    draws: int  # gradient steps asked for


@dataclass
class Account:
    """What is known of a shard."""

    fragments: list[tuple[int, Sample]] = field(default_factory=list)  # to go there, by worker
    priorities: list[tuple[ndarray, ndarray]] = field(default_factory=list)  # likewise
    pending: deque[Exchange] = field(default_factory=deque)
    number: int = 0  # exchanges so far
    restart: int = 0
    held: int = 0  # env steps
    mass: float = 0.0
    owed: float = 0.0  # batches that it is behind its share, which is that of its mass

    @property
    def coming(self) -> int:
        """Env steps on their way to the shard, as far as is known."""
        waiting = sum(sample.agent_steps for _, sample in self.fragments)
        return waiting + sum(sum(exchange.steps) for exchange in self.pending)

    def exchange(self, run: Run, steps: int) -> tuple[Any, ...] | None:
        """The arguments of the next exchange; None if there is nothing to be exchanged."""
        if not (self.fragments or self.priorities or steps):
            return None
        u = run.replay.uniforms(run.rng, steps, run.demo_ratio) if steps else None
        parcels = [(worker, sample.batch) for worker, sample in self.fragments]
        lengths = [sample.agent_steps for _, sample in self.fragments]
        self.number += 1
        self.pending.append(Exchange(self.number, lengths, steps))
        priorities, self.fragments, self.priorities = self.priorities, [], []
        return self.number, parcels, priorities, u, at(run.replay.beta, run.progress)


class ShardLedger:
    """The accounts of all shards, and the declared ratio over all of them together.

    Args:
        fleet: of the workers.
        run: its counters are kept up to date.
        shards: how many.
        slack: gradient steps that may be due before workers wait.
        fused: most gradient steps in one call.
        stacks: lengths of stacked frames, by leaf.
    """

    def __init__(
        self,
        fleet: Fleet,
        run: Run,
        shards: int,
        slack: int,
        fused: int,
        stacks: Mapping[str, int],
    ) -> None:
        self.run, self._slack, self._stacks = run, slack, stacks
        replayed = run.replay, run.algorithm, run.model
        self._most = min(fused, most_steps(*replayed, self._stacks))
        self._each = trained_steps(*replayed)  # env steps of one gradient step
        self._workers = max(fleet.size, 1)
        self.accounts = [Account() for _ in range(shards)]
        self._stored = 0
        self._asked = run.counters.replayed_steps  # transitions, those included that are to come

    def make(self, index: int, restart: int) -> ReplayShard:
        """A shard for its share of the workers."""
        run, shards = self.run, len(self.accounts)
        slots = -(-self._workers // shards) * (run.slots // self._workers)
        share = run.replay.each(shards)
        own = run.algorithm, run.model, self._stacks, slots, restart
        return ReplayShard(share, *own, run.demos, index / shards)

    def may_sample(self) -> bool:
        """Whether workers may go on: not while more gradient steps than the slack are due.

        Fragments on their way to a shard count as stored. So workers wait soon after the warm-up
        while a shard or the learner still compiles, and the declared ratio holds from there on.
        The learner cannot catch up if nothing is held or coming, as when the only shard was
        replaced.
        """
        counts, replay = self.run.counters, self.run.replay
        if self.run.offline_left:
            return False
        coming = sum(account.coming for account in self.accounts)
        if not coming and not any(account.mass > 0.0 for account in self.accounts):
            return True
        stored, begun = self._stored + coming, counts.learning_from
        if begun is None:
            begun = replay.begin(stored, counts.replayed_steps)
        behind = (self._asked - counts.replayed_steps) // self._each
        behind += replay.due(stored, begun, self._asked, self._each)
        if self._slack == 0:
            return not behind and not any(a.fragments or a.pending for a in self.accounts)
        return behind <= self._slack

    def add(self, worker: int, sample: Sample) -> None:
        """A fragment is to go to its worker's shard."""
        shards = len(self.accounts)
        self.accounts[worker % shards].fragments.append((worker // shards, sample))

    def exchange(self, index: int) -> tuple[Any, ...] | None:
        """The arguments of a shard's next exchange; None if there is nothing to be exchanged."""
        account, run = self.accounts[index], self.run
        steps = run.replay.at_once(self._due(), self._most)
        if self._slack == 0 and any(each.fragments for each in self.accounts):
            steps = 0  # what is on its way counts first
        filled = [each for each in self.accounts if self._mass(each) > 0.0]
        if not filled or account is not max(filled, key=lambda each: each.owed):
            steps = 0
        if steps:
            total = sum(map(self._mass, self.accounts))
            for each in self.accounts:
                each.owed += steps * self._mass(each) / total
            account.owed -= steps
            self._asked += steps * self._each
        return account.exchange(run, steps)

    def _mass(self, account: Account) -> float:
        """What a shard is drawn from in proportion to; all have the same demonstrations."""
        return 1.0 if self.run.offline_left else account.mass

    def _due(self) -> int:
        """Gradient steps to ask for: within the ratio, or of those on demonstrations alone."""
        counts, replay = self.run.counters, self.run.replay
        if left := self.run.offline_left:
            coming = (self._asked - counts.replayed_steps) // self._each
            return max(min(left, 1 + self._slack) - coming, 0)
        return replay.due(self._stored, counts.learning_from, self._asked, self._each)

    def forgo(self, drawn: Drawn) -> None:
        """What was drawn will not be trained on: others are to be drawn in its place."""
        self._asked -= self.replayed(drawn)

    def take(self, index: int, answer: Exchanged) -> Drawn | None:
        """Count what came of an exchange; returns what there is to learn from."""
        account, run, counts = self.accounts[index], self.run, self.run.counters
        if answer.restart != account.restart:
            log.warning("replay shard %d was lost, with %s env steps", index, f"{account.held:,}")
            counts.lost_steps += account.held
            account.restart, account.priorities = answer.restart, []
        while account.pending and account.pending[0].number < answer.number:
            gone = account.pending.popleft()  # an exchange that died with its shard
            counts.dropped_steps += sum(gone.steps)
            self._asked -= gone.draws * self._each
        exchange = account.pending.popleft()
        self._stored += answer.stored
        counts.trained_steps += answer.stored
        counts.dropped_steps += sum(exchange.steps) - answer.stored
        if answer.drawn is None:
            self._asked -= exchange.draws * self._each
        account.held, account.mass = answer.held, answer.mass
        if counts.learning_from is None:
            counts.learning_from = run.replay.begin(self._stored, counts.replayed_steps)
        return answer.drawn

    def replayed(self, drawn: Drawn) -> int:
        """Env steps that the gradient steps on what was drawn trained on."""
        return len(drawn.rows) // self.run.replay.batch_size * self._each
