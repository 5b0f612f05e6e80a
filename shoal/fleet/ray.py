"""A fleet of Ray actors: its members are processes, on this machine or on a cluster.

Ray moves calls, results and weights; that a member may die, hang or fail to come back is dealt with
here, because only here is it known what a member is (Ray's own restarts would run a constructor
again, with the same seed, and repeat calls that may have happened).
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
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
from shoal.errors import ConfigError, ShoalError, cut
from shoal.fleet import death
from shoal.fleet.base import Fleet, Make, Stats, Stream, no_args
from shoal.fleet.cluster import lost, node_gone
from shoal.fleet.collective import GlooGroup
from shoal.fleet.failure import Failure, sendable
from shoal.fleet.host import Host
from shoal.fleet.parcel import INLINE, Lost, nbytes
from shoal.process import interrupts
from shoal.trajectory import ndarray

log = logging.getLogger("shoal.fleet")

SLICE = 1.0  # seconds between two checks of members that do not answer
AT_ONCE = 5e-4  # seconds of a wait after which it is likely that no other result has come yet
SPEAK = 10.0  # seconds of silence before the log says what the run waits for
REFILL = 10.0  # seconds that a barrier waits for the replacement of a member
PATIENCE = 5  # times the timeout that a member may take to start, or for its first call of a verb
GRACE = 4.0  # seconds that an interrupted run waits for calls that are still running
DEATHS = 3  # of one member in a row, without a result in between, that end the run
LOSSES = 10  # results of one member in a row that were lost on their way, before it is replaced


class Died(ShoalError):
    """Members of a fleet die faster than it makes sense to replace them."""


@dataclass(eq=False)
class Call:
    """A call that has not been answered yet."""

    verb: str
    since: float
    into: deque[tuple[int, Any]]  # where its result goes, with the member's index
    spoken: float = 0.0  # when the log last said that the run waits for it
    wanted: bool = True  # whether anybody still waits for it
    carries: bool = False  # the published weights go along


@dataclass(eq=False)
class Member:
    """An actor, and what is known of it."""

    index: int
    actor: Any
    born: float
    mends: bool  # it stands in for one that died
    ready: bool = False
    address: tuple[str, int] = ("", 0)  # at which its process listens
    fresh: bool = False  # it is to have the published weights with its next call
    holds: bool = False  # it is known to have some: a call that carried them was answered
    beat: int = 0  # env steps it had taken when last asked
    beat_at: float = 0.0  # when that number last changed
    stack: list[str] = field(default_factory=list)  # where it was then
    probe: Any = None  # an unanswered question for these
    asked: float = 0.0  # when that was asked
    heard: float = 0.0  # when the last one that was answered had been asked
    deaf: bool = False  # the last of these questions failed
    lost: int = 0  # results in a row that did not reach this process, though it lives
    done: set[str] = field(default_factory=set)  # verbs that it has answered
    calls: dict[Any, Call] = field(default_factory=dict)  # by the reference to their results
    early: set[Any] = field(default_factory=set)  # of these, what came before an earlier call's


GONE = object()  # in place of a result: its member died


class RayFleet:
    """Members in processes of their own. See ``fleet.base.Fleet``.

    Args:
        make: ``make(index, restart)`` makes a member there.
        size: members at the beginning.
        cluster: timeouts and bounds.
        cpus: that each member reserves.
        name: what members are called in messages.
        whole: none of them can be done without, as they are the parts of one thing.

    Raises ConfigError when ``make`` cannot be sent to other processes, and what it raises there.
    """

    def __init__(
        self,
        make: Make,
        size: int,
        cluster: Cluster,
        cpus: float,
        name: str = "worker",
        whole: bool = False,
    ) -> None:
        self._make, self._cluster, self._cpus, self._name = make, cluster, cpus, name
        self._whole = whole
        self._members: dict[int, Member] = {}
        self._calls: dict[Any, Member] = {}  # by every reference waited for, starts included
        self._deaths: deque[float] = deque()
        self._in_a_row: dict[int, int] = {}
        self._lives: dict[int, int] = {}  # members of each index so far: no two draw the same
        self._looked = 0.0  # when it was last seen after all members
        self._published: tuple[Any, int] | None = None  # weights, or the reference to them
        self._spawned: list[RayFleet] = []
        self._over = False  # deaths have ended the run: nobody is replaced any more
        self._stats = Stats()
        self._pickled()
        try:
            for index in range(size):
                self._start(index)
            self._until(self._complete)
        except BaseException:
            self.close()
            raise

    # -------------------------------------------------------------- what plans see

    @property
    def size(self) -> int:
        return sum(member.ready for member in self._members.values())

    @property
    def stats(self) -> Stats:
        self._stats.concurrency, self._stats.ended = max(self.size, 1), lost() is not None
        return self._stats

    def map(
        self,
        verb: str,
        *args: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        retry: bool = True,
    ) -> list[tuple[int, Any]]:
        if self._whole and not retry:
            self._until(self._complete)
        there = [m.index for m in self._members.values() if m.ready or retry]
        given = dict(zip(there, [args] * len(there) if each is None else each, strict=False))
        done: deque[tuple[int, Any]] = deque()
        results: dict[int, Any] = {}
        asked: set[int] = set()
        try:
            while True:
                waiting = [m for i, m in self._members.items() if i in given and i not in results]
                for member in waiting:
                    if member.ready and member.index not in asked:
                        self._submit(member, verb, given[member.index], done)
                        asked.add(member.index)
                late = all(m.index not in asked for m in waiting)  # replacements that do not come
                if not waiting or (results and late and self._overdue(waiting)):
                    return sorted(results.items(), key=itemgetter(0))
                self._poll()
                while done:
                    index, result = done.popleft()
                    asked.discard(index)
                    if result is not GONE and index in self._members:
                        results[index] = result
                    elif not retry:
                        results[index] = None
        finally:
            self._forget(done)

    def stream(
        self,
        verb: str,
        args: Callable[[int], tuple[Any, ...] | None] = no_args,
        in_flight: int = 1,
    ) -> Stream:
        return Stream(self._come(verb, args, in_flight), self._wait)

    def _come(
        self, verb: str, args: Callable[[int], tuple[Any, ...] | None], in_flight: int
    ) -> Generator[tuple[int, Any] | None]:
        done: deque[tuple[int, Any]] = deque()
        waiting: dict[int, int] = {}
        try:
            while self._members:
                for member in list(self._members.values()):
                    while member.ready and waiting.get(member.index, 0) < in_flight:
                        own = args(member.index)
                        if own is None:
                            break
                        self._submit(member, verb, own, done)
                        waiting[member.index] = waiting.get(member.index, 0) + 1
                if not done:
                    yield None
                    continue
                index, result = done.popleft()
                waiting[index] -= 1
                self._stats.queued = len(done)
                if result is not GONE and index in self._members:
                    yield index, result
        finally:
            self._forget(done)

    def _wait(self) -> None:
        """Wait until something has come, here or in a fleet spawned from this one; not for long."""
        busy = [fleet for fleet in self._spawned if fleet._calls]
        if not busy:
            self._poll()
            return
        self._check()
        family = [self, *busy]
        ray.wait([ref for each in family for ref in each._calls], num_returns=1, timeout=SLICE)
        for fleet in family:
            fleet._poll(wait=False)

    def publish(self, weights: Mapping[str, ndarray], version: int) -> None:
        self._check()
        small = nbytes(weights) <= INLINE
        self._published = dict(weights) if small else ray.put(dict(weights)), version

    def send(self, member: int | None = None) -> None:
        for index in self._members if member is None else (member,):
            if self._published is not None and index in self._members:
                self._members[index].fresh = True

    def spawn(self, make: Make, size: int, name: str) -> Fleet:
        fleet = RayFleet(make, size, self._cluster, 0.0, name, whole=True)
        self._spawned.append(fleet)
        return fleet

    def collective(self) -> GlooGroup:
        while True:  # the first member opens a meeting point; if it dies, the next one does
            self._until(lambda: self.size > 0)
            ((_, met),) = self.map(
                "open_meeting", each=[(ray.util.get_node_ip_address(),)], retry=False
            )
            if met is not None:
                host, port = met
                return GlooGroup(self.size, host, port, str(monotonic()))

    def settle(self) -> None:
        deadline = monotonic() + GRACE
        while (busy := [m for m in self._members.values() if m.ready and m.calls]) and (
            monotonic() < deadline
        ):
            self._poll()
        for member in busy:
            self._end(member)
            self._start(member.index)

    def resize(self, size: int) -> None:
        have = ray.cluster_resources().get("CPU", 0.0)
        if size > len(self._members) and size * self._cpus > have + 1e-6:
            raise ConfigError(
                f"{size} workers need {size * self._cpus:g} CPUs, but there are {have:g}",
                None,
                f"grow to {int(have / self._cpus)} at most, or begin with less for each: "
                "cluster.cpus_per_worker",
            )
        for index in [i for i in self._members if i >= size]:
            self._end(self._members.pop(index))
            self._in_a_row.pop(index, None)
        for index in range(size):
            if index not in self._members:
                self._start(index)
        self._until(self._complete)

    def close(self) -> None:
        for fleet in self._spawned:
            fleet.close()
        members, self._members = list(self._members.values()), {}
        self._calls.clear()
        if lost() is not None or not ray.is_initialized():
            return
        goodbyes = [m.actor.call.remote(("close", ())) for m in members if m.ready]
        if goodbyes:
            with suppress(RayError):
                ray.wait(goodbyes, num_returns=len(goodbyes), timeout=1.0)
        for member in members:
            with suppress(RayError):
                ray.kill(member.actor)

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
        options = {"num_cpus": self._cpus, "max_restarts": 0, "max_task_retries": 0}
        actor = _HOST.options(**options).remote(f"{self._name} {index}", list(sys.path))
        now = monotonic()
        member = Member(index, actor, now, mends, fresh=self._published is not None, beat_at=now)
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
            self._ask(member)
            silent = self._silence(member, now)
            unheard = member.ready and (member.deaf or self._mute(member, now))
            if unheard and not death.reachable(member.address):
                self._replace(member, f"its process or its node was gone during {call.verb!r}")
                continue
            starting = call.verb == "start"
            limit = self._cluster.timeout * (PATIENCE if self._compiles(member, call, now) else 1)
            if silent > limit and starting and self._unplaced(member):
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
                log.warning("%s", self._waiting_for(member, call, silent))

    def _compiles(self, member: Member, call: Call, now: float) -> bool:
        """Whether a member may be starting, or compiling what it does for the first time."""
        if call.verb == "start":
            return True
        in_env = any("shoal/envs/" in line for line in member.stack)
        return call.verb not in member.done and not in_env and not self._mute(member, now)

    def _give_up(self, member: Member, call: Call, silent: float) -> None:
        """There is no place for a member: the others go on without it, if there are any."""
        if member.mends and self.size:  # a node may come back
            return
        self._over = True
        raise Died(
            f"{self._name} {member.index} could not be started",
            self._waiting_for(member, call, silent) + f", since {silent:.0f} s",
            "see whether the nodes of the cluster are up; cluster.timeout bounds the wait",
        )

    def _waiting_for(self, member: Member, call: Call, silent: float) -> str:
        if call.verb == "start" and self._unplaced(member):
            free = ray.available_resources().get("CPU", 0.0)
            if free >= self._cpus:
                return f"waiting for the process of {self._name} {member.index} to start"
            return (
                f"waiting for a place for {self._name} {member.index}: it needs {self._cpus:g} "
                f"CPU, the cluster has {free:g} free"
            )
        place = death.user_line(member.stack)
        at = f", now at {place}" if place else ""
        return (
            f"waiting for {self._name} {member.index} in {call.verb!r}: nothing has moved there "
            f"for {silent:.0f} s{at}"
        )

    def _silence(self, member: Member, now: float) -> float:
        """Seconds in which nothing is known to have moved there.

        Up to when it was last asked, for this process may have been busy or asleep since; up to now
        where it does not even answer.
        """
        until = now if self._mute(member, now) else member.heard
        return max(until - max(member.beat_at, member.born), 0.0)

    def _mute(self, member: Member, now: float) -> bool:
        return now - member.asked > 3 * SLICE

    def _unplaced(self, member: Member) -> bool:
        """Whether the member has no process yet: it never answered."""
        return not member.stack and not member.ready and self._cpus > 0

    def _ask(self, member: Member) -> None:
        """Take the answer to the last question, and ask the next."""
        if member.probe is not None:
            answered, _ = ray.wait([member.probe], timeout=0)
            if not answered:
                return
            member.deaf = True
            with suppress(RayError):  # its calls report its death
                beat, member.stack = ray.get(member.probe, timeout=SLICE)
                member.heard, member.deaf = member.asked, False
                if beat != member.beat:
                    member.beat, member.beat_at = beat, monotonic()
        member.probe, member.asked = member.actor.progress.remote(), monotonic()


class _Host(Host):
    """``Host`` with ``progress`` answered by a thread of its own."""

    @ray.method(concurrency_group="aside")
    def progress(self) -> tuple[int, list[str]]:  # type: ignore[override]
        return super().progress()


_HOST: Any = ray.remote(concurrency_groups={"aside": 1})(_Host)  # type: ignore[call-overload]
