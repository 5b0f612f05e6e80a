"""A member of a Ray fleet: its calls, and how to find out what it is doing."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError

from shoal.fleet import death
from shoal.fleet.host import Host

SLICE = 1.0  # seconds between two looks at those that do not answer


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
    name: str  # what it is called in messages
    cpus: float  # that it reserves
    actor: Any
    born: float
    mends: bool  # it replaces a dead member
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

    def compiles(self, call: Call, now: float) -> bool:
        """Whether it may be starting, or compiling what it does for the first time."""
        if call.verb == "start":
            return True
        in_env = any("shoal/envs/" in line for line in self.stack)
        return call.verb not in self.done and not in_env and not self.mute(now)

    def waiting_for(self, call: Call, silent: float) -> str:
        if call.verb == "start" and self.unplaced():
            free = ray.available_resources().get("CPU", 0.0)
            if free >= self.cpus:
                return f"waiting for the process of {self.name} to start"
            return (
                f"waiting for a place for {self.name}: it needs {self.cpus:g} "
                f"CPU, the cluster has {free:g} free"
            )
        place = death.user_line(self.stack)
        at = f", now at {place}" if place else ""
        return (
            f"waiting for {self.name} in {call.verb!r}: nothing has moved there "
            f"for {silent:.0f} s{at}"
        )

    def silence(self, now: float) -> float:
        """Seconds in which nothing is known to have moved there.

        Up to when it was last asked, for this process may have been busy or asleep since; up to now
        where it does not even answer.
        """
        until = now if self.mute(now) else self.heard
        return max(until - max(self.beat_at, self.born), 0.0)

    def mute(self, now: float) -> bool:
        return now - self.asked > 3 * SLICE

    def unplaced(self) -> bool:
        """Whether the member has no process yet: it never answered."""
        return not self.stack and not self.ready and self.cpus > 0

    def ask(self) -> None:
        """Take the answer to the last question, and ask the next."""
        if self.probe is not None:
            answered, _ = ray.wait([self.probe], timeout=0)
            if not answered:
                return
            self.deaf = True
            with suppress(RayError):  # its calls report its death
                beat, self.stack = ray.get(self.probe, timeout=SLICE)
                self.heard, self.deaf = self.asked, False
                if beat != self.beat:
                    self.beat, self.beat_at = beat, monotonic()
        self.probe, self.asked = self.actor.progress.remote(), monotonic()


class _Host(Host):
    """``Host`` with ``progress`` answered by a thread of its own."""

    @ray.method(concurrency_group="aside")
    def progress(self) -> tuple[int, list[str]]:  # type: ignore[override]
        return super().progress()


HOST: Any = ray.remote(concurrency_groups={"aside": 1})(_Host)  # type: ignore[call-overload]
