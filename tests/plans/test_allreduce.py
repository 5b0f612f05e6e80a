"""Do all ranks update together or not at all, and is what a lost rank cost counted as dropped?"""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from shoal.fleet.collective import Broken
from shoal.fleet.learning import Trained
from shoal.fleet.local import LocalFleet
from shoal.fleet.sample import Sample
from shoal.plans.allreduce import Allreduce
from tests.plans.fakes import DROPPED, ROWS, SAMPLED, FakeLearner, FakeWorker, World, lags


class Rank(FakeWorker):
    """Takes one gradient step in each update; its state counts them."""

    lonely = ""  # why it cannot find the others

    def join(self, group: Any, rank: int, state: Any) -> str:
        self.events.append(("join", self.index, rank, state["version"]))
        self.rank, self.state = rank, dict(state)
        return self.lonely

    def gather(self, number: int, normalisation: Any) -> Sample:
        self.version = self.state["version"]
        self.events.append(("gather", self.index, number))
        return self.sample(number)

    def train(self, hyper: Any, ranks: int) -> Trained:
        self.events.append(("train", self.index, ranks))
        self.state = {"version": self.version + 1, "gradient_steps": self.version + 1}
        state = self.state if self.rank == 0 else None
        return Trained({"gradient": 0.5, "idle": 1.0}, {"loss": 1.0 + self.rank}, state)


class Copy(FakeLearner):
    def get_state(self) -> Any:
        return {"version": self.version, "gradient_steps": self.gradient_steps}

    def adopt(self, state: Any) -> None:
        self.version, self.gradient_steps = state["version"], state["gradient_steps"]


class Losing(LocalFleet):
    """In the update that ``fates`` names, something happens to a member.

    "gone": its sample is lost. "died": its update is lost. "broken": it gave the update up.
    """

    def __init__(self, make: Any, size: int, fates: dict[int, list[str]]) -> None:
        super().__init__(make, size)
        self.fates, self.calls = fates, 0

    def map(self, verb: str, *args: Any, **how: Any) -> list[tuple[int, Any]]:
        results = super().map(verb, *args, **how)
        self.calls += verb == "gather"
        for i, fate in enumerate(self.fates.get(self.calls, [])):
            if (verb, fate) in (("gather", "gone"), ("train", "died")):
                results[i] = i, None
            elif (verb, fate) == ("train", "broken"):
                results[i] = i, Trained({"idle": 1.0}, broken="another rank left")
        return results


def made(fates: dict[int, list[str]] | None = None, ranks: int = 2) -> World:
    world = World(Allreduce())
    world.learner = Copy(world.events)
    world.events.clear()
    world.workers = [Rank(i, world.events) for i in range(4)]
    world.fleet = Losing(lambda i, restart: world.workers[i], ranks, fates or {})
    world.updates = world.plan.run(world.fleet, world.learner, world.run)
    return world


def test_ranks_meet_once_and_nobody_is_sent_weights_after_that() -> None:
    world = made()
    updates = list(islice(world.updates, 3))
    kinds = [event[0] for event in world.events]
    assert kinds[:4] == ["weights", "weights", "join", "join"]
    assert not {"weights", "join"} & set(kinds[4:])
    assert sorted(event[1:] for event in world.named("join")) == [(0, 0, 0), (1, 1, 0)]
    assert lags(updates) == [0] * 6
    assert [n for _, i, n in world.named("gather") if i == 0] == [0, 1, 2]
    spent = [work.times for update in updates for work in update.work]
    assert all(times["gradient"] == 0.5 and times["idle"] == 8.0 + 1.0 for times in spent)
    assert world.learner.version == world.run.fragments == 3
    counters = world.run.counters
    assert counters.env_steps == 6 * SAMPLED and counters.gradient_steps == 3
    assert counters.trained_steps == 6 * ROWS and counters.dropped_steps == 6 * DROPPED


@pytest.mark.parametrize(
    ("fate", "arrived"),
    [
        (["died", "broken"], 2),
        (["broken", "died"], 2),
        (["died", "died"], 2),
        (["", "died"], 2),
        (["gone", ""], 1),
        (["", "gone"], 1),
        (["gone", "gone"], 0),
        (["broken", "broken"], 2),
    ],
)
def test_an_update_that_lost_a_rank_is_nobodys_and_what_arrived_is_dropped(
    fate: list[str], arrived: int
) -> None:
    """And all begin again from the copy: whoever had got through the update too."""
    world = made({3: fate})
    updates = list(islice(world.updates, 4))
    counters = world.run.counters
    assert counters.env_steps == (4 * 2 + arrived) * SAMPLED
    assert counters.trained_steps == 4 * 2 * ROWS
    assert counters.dropped_steps == 4 * 2 * DROPPED + arrived * SAMPLED
    assert world.in_flight == 0
    assert counters.gradient_steps == world.learner.version == world.run.fragments == 4
    joins = [event[1:] for event in world.named("join")]
    assert sorted(joins[2:]) == [(0, 0, 2), (1, 1, 2)]  # at the last version that all held
    assert len(lags(updates)) == 8
    assert sum(len(update.work) for update in updates) == 8 + arrived
    assert sum(len(update.episodes) for update in updates) == counters.episodes == 8 + arrived


def test_ranks_that_come_or_go_meet_anew_at_the_newest_weights() -> None:
    world = made()
    list(islice(world.updates, 2))
    world.fleet.resize(3)
    assert len(next(world.updates).work) == 3
    assert [event[3] for event in world.named("join")[2:]] == [2, 2, 2]
    world.fleet.resize(1)
    update = next(world.updates)
    assert [work.worker for work in update.work] == [0]
    assert world.learner.version == 4 and world.in_flight == 0


def test_ranks_that_live_but_lose_each_other_end_the_run_with_the_cause() -> None:
    world = made({turn: ["broken", "broken"] for turn in range(2, 9)})
    next(world.updates)
    with pytest.raises(Broken, match="3 times in a row, though none has died: another rank left"):
        next(world.updates)
    assert world.fleet.calls == 4 and world.in_flight == 0


def test_ranks_that_never_find_each_other_end_the_run_with_the_cause() -> None:
    world = made()
    world.workers[1].lonely = "connection refused"
    with pytest.raises(Broken, match="connection refused"):
        next(world.updates)
    assert len(world.named("join")) == 2 * 3 and not world.named("gather")


def test_failures_between_which_an_update_succeeds_end_nothing() -> None:
    world = made({turn: ["broken", "broken"] for turn in (2, 3, 5, 6, 8, 9)})
    assert [update.metrics["loss"] for update in islice(world.updates, 4)] == [1.0] * 4
