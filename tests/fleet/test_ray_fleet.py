"""Does a fleet of processes keep its contract, and does it survive the death of a member?"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import ray

from shoal.config.config import Cluster
from shoal.errors import ConfigError
from shoal.fleet import member as probing
from shoal.fleet import members as module
from shoal.fleet import ray as verbs
from shoal.fleet.base import results
from shoal.fleet.members import Died
from shoal.fleet.ray import RayFleet
from tests.fleet.members import DEATHS, Member, Slice

Made = Callable[..., RayFleet]


@pytest.fixture
def fleet(one_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """``fleet(size, make)``: a fleet that is closed afterwards."""
    monkeypatch.setattr(module, "REFILL", 60.0)  # a busy machine is slow to start processes
    made: list[RayFleet] = []

    def make(size: int = 2, kind: Any = Member, **settings: Any) -> RayFleet:
        whole = settings.pop("whole", False)
        made.append(RayFleet(kind, size, Cluster(**settings), 0.0, whole=whole))
        return made[-1]

    yield make
    for each in made:
        each.close()


def kill(fleet: RayFleet, index: int) -> None:
    """Kill a member between two calls."""
    os.kill(pids(fleet)[index], signal.SIGKILL)


def pids(fleet: Any) -> dict[int, int]:
    """The processes of the members, by number."""
    return {index: pid for index, (_, _, pid) in fleet.map("who")}


def weights(version: int) -> dict[str, np.ndarray]:
    return {"x": np.full(3, version, np.float32)}


# ---------------------------------------------------------------- the contract


def test_map_keeps_the_order_of_the_members_whoever_is_first(fleet: Made) -> None:
    members = fleet(3)
    assert results(members.map("nap", 0.3)) == [0, 1, 2]
    assert [index for index, _, _ in results(members.map("who"))] == [0, 1, 2]
    assert len({pid for _, _, pid in results(members.map("who"))}) == 3


@pytest.mark.parametrize("cap", [1, 3])
def test_no_more_calls_wait_at_a_member_than_the_cap(fleet: Made, cap: int) -> None:
    members = fleet(2)
    waiting, most = {0: 0, 1: 0}, {0: 0, 1: 0}

    def args(index: int) -> tuple[float]:
        waiting[index] += 1
        most[index] = max(most[index], waiting[index])
        return (0.1,)

    for index, _ in members.stream("nap", args, cap):
        waiting[index] -= 1
        if index == 0:  # the slow one; meanwhile the other has done many
            break
    assert most == {0: cap, 1: cap}


def test_a_stream_asks_for_its_arguments_when_it_makes_the_call(fleet: Made) -> None:
    members = fleet(1)
    now = iter(range(100))
    stream = members.stream("echo", lambda _: (next(now),), in_flight=2)
    assert [value for _, value in islice(stream, 3)] == [0, 1, 2]
    assert next(now) == 4  # two were in flight when the third result came


def test_results_keep_the_order_of_the_calls_whichever_is_here_first(
    fleet: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = fleet(1)
    wait = module.ray.wait

    def newest_first(refs: list[Any], **given: Any) -> tuple[list[Any], list[Any]]:
        ready, _ = wait(refs, num_returns=len(refs), timeout=given["timeout"])
        return ready[-1:], [ref for ref in refs if ref not in ready[-1:]]

    monkeypatch.setattr(module.ray, "wait", newest_first)
    now = iter(range(100))
    stream = members.stream("echo", lambda _: (next(now),), in_flight=4)
    assert [value for _, value in islice(stream, 20)] == list(range(20))


def test_weights_reach_whom_they_are_sent_to_and_never_go_back(fleet: Made) -> None:
    members = fleet(2)
    members.publish(weights(1), 1)
    members.send()
    members.map("who")
    members.publish(weights(2), 2)
    members.send(1)
    members.publish(weights(3), 3)  # what is sent is what was published last
    assert [versions for _, versions in results(members.map("seen"))] == [[1], [1, 3]]
    members.publish(weights(4), 4)
    members.send()
    assert [versions for _, versions in results(members.map("seen"))] == [[1, 4], [1, 3, 4]]


def test_a_parcel_goes_from_member_to_member_by_itself(fleet: Made) -> None:
    """What this process gets is a reference: far smaller than what is in it."""
    from ray import cloudpickle

    members = fleet(2)
    parcels = results(members.map("fill", 200_000))
    assert all(len(cloudpickle.dumps(parcel)) < 10_000 for parcel in parcels)
    assert results(members.map("total", parcels)) == [200_000.0, 200_000.0]


def test_parcels_leave_the_object_store_when_nobody_holds_them(fleet: Made) -> None:
    """Or a long run fills it, and then the disk."""
    members, end = fleet(2), time.monotonic() + 20
    for _ in range(10):
        parcels = results(members.map("fill", 200_000))
        results(members.map("total", parcels))
    assert stored() >= 2  # those of the last round
    del parcels
    while stored():
        assert time.monotonic() < end, f"{stored()} objects are left"
        time.sleep(0.1)


def stored() -> int:
    """Objects in Ray's object store on this machine."""
    from ray._private.internal_api import memory_summary

    address = ray.get_runtime_context().gcs_address
    found = re.search(r"(\d+) objects", memory_summary(address, stats_only=True))
    assert found is not None
    return int(found[1])


def test_an_exception_in_a_member_is_raised_as_what_it_is(fleet: Made) -> None:
    members = fleet(2)
    with pytest.raises(ValueError, match="member 1 cannot"):
        members.map("fail", 1)
    assert results(members.map("echo", 5)) == [5, 5] and not members.stats.restarts


def test_an_error_that_nobody_waits_for_any_more_does_not_hide_the_first(
    fleet: Made, caplog: pytest.LogCaptureFixture
) -> None:
    members = fleet(1)
    stream = members.stream("fail", lambda _: (0,), in_flight=3)
    with pytest.raises(ValueError, match="member 0 cannot"):
        next(stream)
    members.settle()
    assert results(members.map("echo", 5)) == [5]
    assert "worker 0, when the run had ended: ValueError: member 0 cannot" in caplog.messages


def test_learning_libraries_are_not_there_and_arrays_have_one_thread(fleet: Made) -> None:
    (loaded,) = results(fleet(1).map("modules", ["jax", "torch", "numpy", "shoal.learners.base"]))
    assert loaded == ["numpy"]


# ---------------------------------------------------------------- death


@pytest.mark.parametrize("how", DEATHS)
def test_a_member_that_dies_in_map_is_replaced_and_asked_again(
    fleet: Made, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    members = fleet(2)
    members.publish(weights(7), 7)
    members.send()
    assert results(members.map("die", how)) == [1, 0]  # the second life of member 0, the first of 1
    assert results(members.map("seen")) == [(1, [7]), (0, [7])]
    health = members.stats
    assert (health.restarts, health.lost_calls, len(health.refill_s)) == ({0: 1}, 1, 1)
    assert caplog.messages[-1].startswith("worker 0 is back after")


def test_a_member_that_dies_in_a_stream_is_replaced_and_goes_on(fleet: Made) -> None:
    members = fleet(2)
    lives: list[tuple[int, int]] = []
    for index, restart in members.stream("die", lambda _: ("SIGKILL", 1), in_flight=2):
        lives.append((index, restart))
        if (1, 1) in lives:
            break
    assert (1, 0) not in lives and (0, 0) in lives
    assert members.stats.lost_calls == 2 and members.stats.restarts == {1: 1}


def test_who_dies_between_two_calls_is_replaced_too(fleet: Made) -> None:
    members = fleet(2)
    kill(members, 1)
    assert [restart for _, restart, _ in results(members.map("who"))] == [0, 1]


def test_without_a_retry_the_result_of_who_died_is_none(fleet: Made) -> None:
    members = fleet(3)
    given: list[tuple[Any, ...]] = [("os._exit", 1)] * 3
    assert results(members.map("die", each=given, retry=False)) == [0, None, 0]
    assert results(members.map("seen")) == [(0, []), (1, []), (0, [])]


def test_no_two_members_are_made_alike(fleet: Made) -> None:
    """Whether they replace a dead one, or come back after they were let go."""
    members = fleet(2)
    members.map("die", "SIGKILL", 1)
    lives = [tuple(results(members.map("who"))[1][:2])]
    members.resize(1)
    members.resize(2)
    lives.append(tuple(results(members.map("who"))[1][:2]))
    assert lives == [(1, 1), (1, 2)] and members.stats.restarts == {1: 1}


def test_deaths_in_a_row_end_the_run_and_nobody_waits_for_the_dead(fleet: Made) -> None:
    members = fleet(2)
    with pytest.raises(Died, match=r"worker . died 3 times in a row"):
        members.map("always_die")
    assert len(members.map("echo", 1)) == members.size < 2


def test_more_deaths_than_allowed_within_a_minute_end_the_run(fleet: Made) -> None:
    members = fleet(2, restarts_per_minute=1)
    members.map("die", "SIGKILL", 0)
    with pytest.raises(Died, match="the 2th death within a minute"):
        members.map("die", "SIGKILL", 1)


def test_what_was_lost_on_its_way_is_asked_again_with_its_weights(
    fleet: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call may never have reached the member, and then its weights did not either."""
    from ray.exceptions import ActorUnavailableError

    members = fleet(1)
    get, faults = module.ray.get, iter([True])

    def unreliable(ref: Any, **kwargs: Any) -> Any:
        result = get(ref, **kwargs)
        if result != (0, [1, 2]) or not next(faults, False):
            return result
        raise ActorUnavailableError("lost", b"0" * 16)

    members.publish(weights(1), 1)
    members.send()
    members.map("echo")
    members.publish(weights(2), 2)
    members.send()
    monkeypatch.setattr(module.ray, "get", unreliable)
    assert results(members.map("seen")) == [(0, [1, 2, 2])]
    assert members.stats.lost_calls == 1 and not members.stats.restarts


def test_a_member_whose_results_never_come_is_replaced(
    fleet: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import ActorUnavailableError

    members = fleet(1)
    get = module.ray.get

    def unreachable(ref: Any, **kwargs: Any) -> Any:
        result = get(ref, **kwargs)
        if isinstance(result, tuple) and result[:1] == (0,) and result[1:] == ([],):
            raise ActorUnavailableError("lost", b"0" * 16)
        return result

    monkeypatch.setattr(module.ray, "get", unreachable)
    assert results(members.map("seen")) == [(1, [])]
    assert members.stats.lost_calls == module.LOSSES and members.stats.restarts == {0: 1}


# ---------------------------------------------------------------- hanging


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (module, probing):
        monkeypatch.setattr(each, "SLICE", 0.2)


@pytest.mark.usefixtures("impatient")
def test_who_is_stuck_in_map_is_replaced_and_it_is_said_where(
    fleet: Made, caplog: pytest.LogCaptureFixture
) -> None:
    members = fleet(2, timeout=1.5)
    assert results(members.map("hang")) == [1, 0]
    said = next(text for text in caplog.messages if "stuck" in text)
    assert said.startswith("worker 0: it has been stuck in 'hang' for")
    assert "shoal/envs/single.py:2 in <module>; it is replaced" in said


@pytest.mark.usefixtures("impatient")
def test_who_is_stuck_in_a_stream_is_replaced_though_others_deliver(fleet: Made) -> None:
    members = fleet(2, timeout=1.5)
    came = members.stream("hang", lambda _: (0,))
    assert next(restart for index, restart in came if index == 0) == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("before", [True, False], ids=["amid_others", "first_call"])
def test_a_process_that_is_stopped_is_replaced(
    fleet: Made, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``cluster.timeout``, wherever it stood: it is not taken for one that compiles."""
    members = fleet(2, timeout=2.0)
    monkeypatch.setattr(module, "PATIENCE", 1000)
    (_, first, _), (_, second, pid) = results(members.map("who"))
    if before:
        members.map("seen")
    os.kill(pid, signal.SIGSTOP)
    try:
        lives = [restart for restart, _ in results(members.map("seen"))]
        assert lives == [first, second + 1]
    finally:
        members.close()
    assert gone(pid)


@pytest.mark.usefixtures("impatient")
def test_who_is_slow_but_goes_on_is_left_alone(fleet: Made) -> None:
    members = fleet(1, timeout=1.0)
    assert results(members.map("work", 3.0)) == [0] and not members.stats.restarts


@pytest.mark.usefixtures("impatient")
def test_a_pause_of_this_process_is_not_held_against_a_member(
    fleet: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock has jumped by an hour, between two looks, in the middle of a call."""
    members = fleet(1, timeout=2.0)
    clock, ahead = module.monotonic, [0.0]
    for each in (module, probing):
        monkeypatch.setattr(each, "monotonic", lambda: clock() + ahead[0])
    stream = members.stream("work", lambda _: (0.6,), in_flight=2)
    next(stream)  # it took three looks: a question is on its way
    ahead[0] = 3600.0
    assert [restart for _, restart in islice(stream, 3)] == [0, 0, 0]
    assert not members.stats.restarts


def gone(pid: int) -> bool:
    """Within five seconds."""
    import psutil

    with_it = [p for p in psutil.process_iter() if p.pid == pid]
    return not with_it or not psutil.wait_procs(with_it, timeout=5)[1]


@pytest.mark.usefixtures("impatient")
def test_an_interruption_does_not_wait_for_a_long_call(
    fleet: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "GRACE", 0.5)
    members = fleet(2)
    stream = members.stream("nap", lambda _: (600.0,))
    assert next(stream)[0] == 1
    stream.close()
    members.settle()
    assert [restart for _, restart, _ in results(members.map("who"))] == [1, 0]
    assert not members.stats.restarts  # it was not its fault


# ---------------------------------------------------------------- growing, shrinking, closing


def test_growing_and_shrinking_during_a_stream(fleet: Made) -> None:
    members = fleet(1)
    members.publish(weights(3), 3)
    members.send()
    stream = members.stream("who", in_flight=2)
    assert {index for index, _ in islice(stream, 3)} == {0}
    members.resize(3)
    assert next(index for index, _ in stream if index == 2) == 2
    members.resize(1)
    assert {index for index, _ in islice(stream, 6)} == {0}
    members.resize(2)  # who left with calls in flight is not thought to have them still
    assert next(restart for index, (_, restart, _) in stream if index == 1) == 1
    assert [(index, set(seen)) for index, seen in results(members.map("seen"))] == [
        (0, {3}),
        (1, {3}),
    ]


def test_more_members_than_there_are_cpus_are_refused(one_ray: None) -> None:
    members = RayFleet(Member, 1, Cluster(), 1.0)
    try:
        with pytest.raises(ConfigError, match="9 workers need 9 CPUs, but there are 4"):
            members.resize(9)
        assert members.size == 1
    finally:
        members.close()


def test_a_closed_fleet_leaves_no_process(fleet: Made) -> None:
    members = fleet(2)
    shards = members.spawn(Slice, 2, "shard")
    found = [*pids(members).values(), *pids(shards).values()]
    stream = members.stream("nap", lambda _: (600.0,))  # one is in the middle of a call
    next(stream)
    members.close()
    assert all(map(gone, found))


# ---------------------------------------------------------------- parts of a whole


def test_parts_of_a_whole_are_never_confused(fleet: Made) -> None:
    """The next call waits for the part that is missing, and gives each its own."""
    parts = fleet(3, Slice, whole=True)
    given: list[tuple[Any, ...]] = [("a", True), ("b",), ("c",)]
    assert results(parts.map("push", each=given, retry=False)) == [None, (1, "b"), (2, "c")]
    given = [("d",), ("e",), ("f",)]
    assert results(parts.map("push", each=given, retry=False)) == [(0, "d"), (1, "e"), (2, "f")]


def test_parts_of_a_whole_are_never_left_out(fleet: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the replacement takes."""
    monkeypatch.setattr(module, "REFILL", 0.0)
    parts = fleet(2, Slice, whole=True)
    kill(parts, 0)
    assert results(parts.map("echo", 1)) == [1, 1]


def test_a_barrier_goes_on_without_a_worker_that_does_not_come_back(
    fleet: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And takes it in again once it is there."""
    monkeypatch.setattr(module, "REFILL", 0.0)
    members = fleet(2)
    kill(members, 0)
    assert members.map("nap", 0.0) == [(1, 1)]
    assert members.map("nap", each=[(0.0,)], retry=False) == [(1, 1)]
    members.resize(2)  # waits until it is
    assert members.map("nap", 0.0) == [(0, 0), (1, 1)]


def test_what_collapses_with_a_node_is_one_failure(fleet: Made) -> None:
    members = fleet(3, restarts_per_minute=1)
    for member in list(members._members.values()):
        members._replace(member, "its node was gone during 'sample'")
    assert results(members.map("nap", 0.0)) == [0, 1, 2]


def test_whoever_cannot_be_sent_is_named(fleet: Made, caplog: Any) -> None:
    lock = logging.Handler().lock

    def make(index: int, restart: int) -> Any:
        return lock

    with pytest.raises(ConfigError, match="cannot be sent"):
        fleet(1, make)


def test_what_is_aside_comes_to_who_looks_and_not_to_who_waits(fleet: Made) -> None:
    """An error that is there already would come up in the wait of the others."""
    members = fleet(1)
    aside = members.spawn(Member, 1, "aside", aside=True)
    failing = aside.stream("fail", lambda _: (0,))
    assert next(failing.come) is None  # the call is made
    ray.wait(list(aside._calls), num_returns=1, timeout=60.0)  # type: ignore[attr-defined]
    stream = members.stream("nap", lambda _: (0.1,))
    assert [next(stream), next(stream)] == [(0, 0), (0, 0)]
    stream.close()
    with pytest.raises(ValueError, match="member 0 cannot"):
        failing.look()
