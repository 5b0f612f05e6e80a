"""The processes of a Ray fleet: they are started, called, watched, and replaced when they die.

Ray moves calls, results and weights; that a member may die, hang or fail to come back is dealt with
here, because only here is it known what a member is (Ray's own restarts would run a constructor
again, with the same seed, and repeat calls that may have happened).
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayError,
    RayTaskError,
)

from shoal.config.config import Cluster
from shoal.errors import ShoalError, cut
from shoal.fleet import death
from shoal.fleet.base import Make, Stats
from shoal.fleet.cluster import lost, node_gone
from shoal.fleet.failure import Failure, sendable
from shoal.fleet.member import HOST, SLICE, Call, Member
from shoal.fleet.parcel import Lost
from shoal.process import interrupts

log = logging.getLogger("shoal.fleet")

AT_ONCE = 5e-4  # seconds of a wait after which it is likely that no other result has come yet
SPEAK = 10.0  # seconds of silence before the log says what the run waits for
REFILL = 10.0  # seconds that a barrier waits for the replacement of a member
PATIENCE = 5  # times the timeout that a member may take to start, or for its first call of a verb
DEATHS = 3  # of one member in a row, without a result in between, that end the run
LOSSES = 10  # results of one member in a row that were lost on their way, before it is replaced


class Died(ShoalError):
    """Members of a fleet die faster than it makes sense to replace them."""


GONE = object()  # in place of a result: its member died


class Members:
    """The actors of a fleet and their calls. ``RayFleet`` says what the arguments are."""

    def __init__(
        self,
        make: Make,
        size: int,
        cluster: Cluster,
        cpus: float,
        name: str = "worker",
        whole: bool = False,
        gpus: float = 0.0,
    ) -> None:
        self._make, self._cluster, self._cpus, self._name = make, cluster, cpus, name
        self._whole, self._gpus = whole, gpus
        self._members: dict[int, Member] = {}
        self._calls: dict[Any, Member] = {}  # by every reference waited for, starts included
        self._deaths: deque[float] = deque()
        self._in_a_row: dict[int, int] = {}
        self._lives: dict[int, int] = {}  # members of each index so far: no two draw the same
        self._looked = 0.0  # when it was last seen after all members
        self._published: tuple[Any, int] | None = None  # weights, or the reference to them
        self._over = False  # deaths have ended the run: nobody is replaced any more
        self._stats = Stats()

    @property
    def size(self) -> int:
        return sum(member.ready for member in self._members.values())

    # -------------------------------------------------------------- members

    def _complete(self) -> bool:
        return all(member.ready for member in self._members.values())

    def _check(self) -> None:
        """Raise ShoalError if Ray has ended.

        Whatever uses the object store then would end this process without a word, so this stands
        before each use.
        """
        if (error := lost()) is not None:
            raise error

    def _start(self, index: int, mends: bool = False) -> None:
        self._check()
        restart = self._lives.get(index, 0)
        self._lives[index] = restart + 1
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}
        options |= {"num_cpus": self._cpus, "num_gpus": self._gpus}
        name = f"{self._name} {index}"
        actor = HOST.options(**options).remote(name, list(sys.path))
        now = monotonic()
        fresh = self._published is not None
        member = Member(index, name, self._cpus, actor, now, mends, fresh=fresh, beat_at=now)
        self._members[index] = member
        ref = actor.start.remote(self._pickled(), index, restart)
        member.calls[ref] = Call("start", now, deque())
        self._calls[ref] = member

    def _pickled(self) -> bytes:
        parts = {}
        for part in getattr(self._make, "args", ()):  # of a partial: a configuration and its parts
            if hasattr(part, "algorithm"):
                parts["the network"] = getattr(part.algorithm, "network", None)
                parts["the algorithm"] = part.algorithm
                parts["rollout.env_kwargs"] = part.rollout.env_kwargs
            else:
                parts["the environment"] = part
        return sendable(self._make, parts)

    def _submit(
        self, member: Member, verb: str, args: tuple[Any, ...], into: deque[tuple[int, Any]]
    ) -> None:
        self._check()
        along: tuple[Any, ...] = ()
        if (member.fresh or not member.holds) and self._published is not None:
            along, member.fresh = self._published, False
        now = monotonic()
        if not member.calls:
            member.beat_at = now
        ref = member.actor.call.remote((verb, args), *along)
        member.calls[ref] = Call(verb, now, into, carries=bool(along))
        self._calls[ref] = member

    def _forget(self, into: deque[tuple[int, Any]]) -> None:
        """Nobody waits any more for these calls."""
        for member in {*self._calls.values(), *self._members.values()}:
            for call in member.calls.values():
                if call.into is into:
                    call.into, call.wanted = deque(), False

    def _end(self, member: Member) -> None:
        for ref, call in member.calls.items():
            self._calls.pop(ref, None)
            call.into.append((member.index, GONE))
            self._stats.lost_calls += call.wanted and call.verb != "start"
        member.calls.clear()
        member.early.clear()
        if lost() is None:
            with suppress(RayError):
                ray.kill(member.actor)

    # -------------------------------------------------------------- waiting

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._poll()

    def _poll(self, wait: bool = True) -> None:
        """Take what has come, or wait a little for it; see after those who do not answer."""
        interrupts.check()
        self._check()
        before = monotonic()
        ready: list[Any] = []
        rest = list(self._calls)
        if rest and wait:
            ready, rest = ray.wait(rest, num_returns=1, timeout=SLICE)
        elif rest:
            ready, rest = ray.wait(rest, num_returns=len(rest), timeout=0)
        if wait and ready and rest and monotonic() - before < AT_ONCE:
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        for ref in ready:
            self._arrived(ref)
        if monotonic() - self._looked >= SLICE:  # finds a stuck member while others answer, too
            self._look_after()
            self._looked = monotonic()

    def _arrived(self, ref: Any) -> None:
        """Take a member's results in the order of its calls.

        Ray does not promise it: what lies in the object store can be known here later than the
        next call's result, which came inside of its message.
        """
        member = self._calls.pop(ref, None)
        if member is None:  # its member died with another call of this batch
            return
        member.early.add(ref)
        while member.calls and (first := next(iter(member.calls))) in member.early:
            member.early.discard(first)
            self._take(member, first)

    def _take(self, member: Member, ref: Any) -> None:
        self._check()
        call = member.calls.pop(ref)
        now = monotonic()
        try:
            result = ray.get(ref, timeout=self._cluster.timeout)
        except RayError as error:
            refused = death.refusal(error)
            if refused is not None:
                raise refused from error
            lost = ActorUnavailableError | ObjectLostError | GetTimeoutError | RayTaskError
            alive = isinstance(error, lost)
            call.into.append((member.index, GONE))
            self._stats.lost_calls += call.wanted and call.verb != "start"
            member.fresh = self._published is not None  # weights may have been lost with the call
            member.lost += 1
            if not alive or call.verb == "start" or member.lost >= LOSSES:
                self._replace(member, death.cause(call.verb, error))
            return
        if isinstance(result, Failure):
            raised = result.revive()
            if call.wanted and not isinstance(raised, Lost):
                raise raised
            if not isinstance(raised, Lost):
                text = cut(f"{type(raised).__name__}: {raised}")
                log.warning("%s %d, when the run had ended: %s", self._name, member.index, text)
            self._stats.lost_calls += call.wanted
            call.into.append((member.index, GONE))
            return
        member.beat_at, member.lost = now, 0
        if call.verb == "start":
            member.ready, member.address = True, death.address_of(member.actor)
            if member.mends:
                self._stats.refill_s.append(now - member.born)
                log.warning(
                    "%s %d is back after %.1f s", self._name, member.index, now - member.born
                )
            return
        self._in_a_row[member.index] = 0
        member.done.add(call.verb)
        member.holds |= call.carries
        call.into.append((member.index, result))

    def _replace(self, member: Member, cause: str) -> None:
        """A new member in place of one that died; ends the run if that happens too often."""
        now = monotonic()
        if cause.startswith("its node was gone"):
            node_gone()
            self._check()
        self._end(member)
        if self._members.get(member.index) is not member:
            return  # it was let go
        together = "node was gone" in cause and self._deaths and now - self._deaths[-1] < REFILL
        if not together:  # the members of a node die at once, which is one failure
            self._deaths.append(now)
        while self._deaths[0] < now - 60.0:
            self._deaths.popleft()
        if self._over:
            del self._members[member.index]
            return
        row = self._in_a_row[member.index] = self._in_a_row.get(member.index, 0) + 1
        if row >= DEATHS or len(self._deaths) > self._cluster.restarts_per_minute:
            self._over = True
            del self._members[member.index]
            what, _, where = cause.partition("\n")
            how = f"died {row} times in a row" if row >= DEATHS else "died"
            fix = "see it happen in one process: cluster.in_process=true"
            if row < DEATHS:
                how += f", the {len(self._deaths)}th death within a minute"
                fix += "; cluster.restarts_per_minute is the bound"
            where = where or f"{self._name} {member.index}: what is killed cannot say where it was"
            raise Died(f"{self._name} {member.index} {how}: {what}", where, fix)
        log.warning("%s %d: %s; it is replaced", self._name, member.index, cause.partition("\n")[0])
        self._stats.restarts[member.index] = self._stats.restarts.get(member.index, 0) + 1
        self._start(member.index, mends=True)

    def _overdue(self, members: Sequence[Member]) -> bool:
        now = monotonic()
        return not self._whole and all(now - member.born > REFILL for member in members)

    def _look_after(self) -> None:
        """Ask those who are silent how far they are; say so, and replace who is stuck."""
        now = monotonic()
        for member in list(self._members.values()):
            if not member.calls or (member.ready and now - member.beat_at < SLICE):
                continue
            call = next(iter(member.calls.values()))
            member.ask()
            silent = member.silence(now)
            unheard = member.ready and (member.deaf or member.mute(now))
            if unheard and not death.reachable(member.address):
                self._replace(member, f"its process or its node was gone during {call.verb!r}")
                continue
            starting = call.verb == "start"
            limit = self._cluster.timeout * (PATIENCE if member.compiles(call, now) else 1)
            if silent > limit and starting and member.unplaced():
                self._give_up(member, call, silent)
            elif silent > limit:
                stack = "".join(member.stack[-2:]) or "it does not even answer"
                place = death.user_line(member.stack)
                self._replace(
                    member,
                    f"it has been stuck in {call.verb!r} for {silent:.0f} s, at "
                    f"{place or ' '.join(stack.split())}\n{place}".rstrip("\n"),
                )
                continue
            if now - max(call.since, call.spoken, member.beat_at) > SPEAK:
                call.spoken = now
                log.warning("%s", member.waiting_for(call, silent))

    def _give_up(self, member: Member, call: Call, silent: float) -> None:
        """There is no place for a member: the others go on without it, if there are any."""
        if member.mends and self.size:  # a node may come back
            return
        self._over = True
        raise Died(
            f"{self._name} {member.index} could not be started",
            member.waiting_for(call, silent) + f", since {silent:.0f} s",
            "see whether the nodes of the cluster are up; cluster.timeout bounds the wait",
        )
