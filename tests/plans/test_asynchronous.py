"""What must hold in the asynchronous plans, in whatever order and however late results come?

Members of a scripted fleet run at the same time, one of them ten times slower than the others.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.plans.async_gradients import AsyncGradients
from shoal.plans.async_samples import AsyncSamples
from tests.plans.fakes import DROPPED, ROWS, SAMPLED, World, lags, paces

PLANS = [
    pytest.param(AsyncSamples(max_lag=3), id="samples"),
    pytest.param(AsyncSamples(fragments=3, in_flight=3, max_lag=1), id="samples-by-three"),
    pytest.param(AsyncSamples(in_flight=1, max_lag=0), id="samples-lag-0"),
    pytest.param(AsyncGradients(max_lag=3), id="gradients"),
]
each_plan = pytest.mark.parametrize("plan", PLANS)
each_seed = pytest.mark.parametrize("seed", range(4))


def made(plan: Any, seed: int) -> World:
    return World(plan, 4, paces(seed), seed)


def numbers(world: World) -> list[int]:
    """Of all samples that came, in no order: (worker, fragment) as their first rows have it."""
    came: dict[int, int] = {}
    found = []
    for _, worker in world.named("came"):
        came[worker] = came.get(worker, 0) + 1
        found.append(10_000 * worker + 10 * came[worker])
    return found


@each_plan
@each_seed
def test_every_sample_is_trained_on_once_or_dropped(plan: Any, seed: int) -> None:
    world = made(plan, seed)
    updates = list(islice(world.updates, 60))
    step = ROWS if isinstance(plan, AsyncSamples) else 1  # a gradient goes by its first row
    trained = world.learner.taken[::step]
    assert len(trained) == len(set(trained)) == 60 * getattr(plan, "fragments", 1)
    came = numbers(world)
    assert set(trained) <= set(came)
    dropped = len(came) - len(trained)
    assert dropped > 0  # the slow one's, at least: else this would ask nothing
    counters = world.run.counters
    assert counters.env_steps == len(came) * SAMPLED
    assert counters.trained_steps == len(trained) * ROWS
    assert counters.dropped_steps == len(trained) * DROPPED + dropped * SAMPLED
    told = [work for update in updates for work in update.work]
    assert len(told) == len(came)
    assert sum(work.lag is None for work in told) == dropped
    assert sum(len(update.episodes) for update in updates) == counters.episodes == len(came)


@each_plan
@each_seed
def test_nothing_is_trained_on_that_is_older_than_max_lag(plan: Any, seed: int) -> None:
    world = made(plan, seed)
    updates = list(islice(world.updates, 60))
    assert max(world.learner.lags) == plan.max_lag  # and it is made use of
    assert min(world.learner.lags) >= 0
    assert max(lags(updates)) == plan.max_lag
    assert {work.worker for update in updates for work in update.work} == {0, 1, 2, 3}


@each_plan
@each_seed
def test_versions_never_go_back_at_a_worker(plan: Any, seed: int) -> None:
    world = made(plan, seed)
    list(islice(world.updates, 60))
    for worker in range(4):
        seen = [version for _, i, version in world.named("sample") if i == worker]
        assert seen == sorted(seen) and seen[-1] > seen[0] == 0


@each_plan
@each_seed
def test_a_slow_worker_holds_nobody_up(plan: Any, seed: int) -> None:
    world = made(plan, seed)
    list(islice(world.updates, 60))
    came = np.bincount([worker for _, worker in world.named("came")], minlength=4)
    assert came[0] > 0 and came[1:].min() > 3 * came[0]


@each_plan
@each_seed
def test_accounts_are_exact_at_any_moment(plan: Any, seed: int) -> None:
    """What has come but is neither trained on nor dropped is in the hands of the plan."""
    world = made(plan, seed)
    for update in islice(world.updates, 30):
        assert world.in_flight == 0
        assert sum(work.env_steps for work in update.work) <= world.run.counters.env_steps
    world.updates.close()
    assert world.fleet.closed
    counters = world.run.counters
    before = counters.env_steps
    world.updates = plan.run(world.fleet, world.learner, world.run)
    next(world.updates)
    assert counters.env_steps > before and world.in_flight == 0


def test_what_was_in_flight_when_the_learner_failed_is_dropped_by_the_next_who_goes_on() -> None:
    world = made(AsyncSamples(fragments=3), 0)
    next(world.updates)

    def fail() -> None:
        raise KeyboardInterrupt

    world.learner.work = fail
    with pytest.raises(KeyboardInterrupt):
        next(world.updates)
    counters = world.run.counters
    assert world.in_flight == 3 * SAMPLED
    dropped = counters.dropped_steps
    world.learner.work = lambda: None
    world.updates = world.plan.run(world.fleet, world.learner, world.run)
    trained = set(world.learner.taken)
    next(world.updates)
    assert world.in_flight == 0
    assert counters.dropped_steps == dropped + 3 * SAMPLED + 3 * DROPPED
    assert len(set(world.learner.taken) - trained) == 3 * ROWS


# ------------------------------------------------------------------------ back-pressure


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_a_worker_is_never_further_ahead_than_in_flight(in_flight: int) -> None:
    world = made(AsyncSamples(in_flight=in_flight), 1)
    list(islice(world.updates, 40))
    assert world.fleet.most == in_flight


def test_a_worker_takes_its_next_gradient_from_what_its_last_one_led_to() -> None:
    world = made(AsyncGradients(), 1)
    list(islice(world.updates, 40))
    assert world.fleet.most == 1


@each_plan
def test_a_learner_that_never_comes_stops_the_sampling(plan: Any) -> None:
    """While it learns, nobody is asked for more; what waits for it then is told."""
    world = World(plan, 3, lambda index, call: 1.0)
    asked: list[int] = []

    def slow() -> None:
        asked.append(sum(world.fleet.calls))
        world.fleet.now += 1000.0

    world.learner.work = slow
    updates = list(islice(world.updates, 12))
    came = [sum(len(update.work) for update in updates[: i + 1]) for i in range(12)]
    ahead = [calls - n for calls, n in zip(asked, came, strict=True)]
    cap = 3 * getattr(plan, "in_flight", 1)
    assert max(ahead) == cap - 1  # the one that was taken last is asked for its next afterwards
    # What was asked for since the last update is not there yet; all the rest has come and waits.
    assert cap - 1 - getattr(plan, "fragments", 1) <= updates[-1].queue < cap


# ----------------------------------------------------------------------- the weight edge


@each_plan
@each_seed
def test_weights_go_to_the_worker_whose_result_was_taken(plan: Any, seed: int) -> None:
    """To it alone, and before it is asked for more."""
    world = made(plan, seed)
    list(islice(world.updates, 40))
    edges = [event for event in world.events if event[0] in ("came", "sent", "call")]
    for i, (kind, worker) in enumerate(edges):
        if kind == "came" and i + 2 < len(edges):
            assert edges[i + 1 : i + 3] == [("sent", worker), ("call", worker)]
        if kind == "sent":
            assert edges[i - 1] == ("came", worker)


@each_plan
def test_a_call_is_made_with_the_newest_weights(plan: Any) -> None:
    """In each plan the version that a worker samples with is the learner's when it was asked."""
    world = World(plan, 3, paces(5))
    list(islice(world.updates, 30))
    version, asked = 0, 0
    for event in world.events:
        version += event[0] == "update"
        if event[0] == "sample":
            assert event[2] == version
            asked += 1
    assert asked > 30


def test_normalisation_goes_out_with_the_weights() -> None:
    world = made(AsyncSamples(), 2)
    list(islice(world.updates, 30))
    newest = max(world.workers, key=lambda worker: worker.version)
    assert newest.version > 10
    mean = newest.weights["norm/obs/mean"]
    everything = world.run.moments["obs"].mean
    rows = [10_000.0 * i + 10.0 * n for i in range(4) for n in range(1, 40)]
    assert min(rows) < mean < max(rows) and everything == pytest.approx(mean, rel=0.2)


def test_annealing_follows_the_env_steps_of_the_run() -> None:
    world = made(AsyncGradients(), 3)
    seen = []
    for _ in islice(world.updates, 12):
        seen.append(max(1.0 - world.run.counters.env_steps / 50, 0.0))
    assert [lr for _, lr in world.named("update")] == pytest.approx(seen)
    assert seen[-1] == 0.0 < seen[0]


# -------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: AsyncSamples(fragments=0), "plan.fragments"),
        (lambda: AsyncSamples(in_flight=0), "plan.in_flight"),
        (lambda: AsyncSamples(max_lag=-1), "plan.max_lag"),
        (lambda: AsyncSamples(max_lag=1.5), "plan.max_lag"),  # type: ignore[arg-type]
        (lambda: AsyncGradients(max_lag=-1), "plan.max_lag"),
    ],
)
def test_impossible_options_are_refused_by_name(make: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        make()
