"""Who waits for whom, and who gets which weights? Asked of fakes that write down what happens."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from shoal.algorithms.a2c import A2C
from shoal.algorithms.appo import APPO
from shoal.algorithms.ppo import PPO
from shoal.plans.sync_samples import SyncSamples
from tests.plans.fakes import DROPPED, ROWS, SAMPLED, World, lags


@pytest.fixture
def world() -> World:
    return World(SyncSamples())


def test_every_row_is_trained_on_in_one_update_only(world: World) -> None:
    list(islice(world.updates, 3))
    rows = np.concatenate([batch["row"] for batch, _ in world.learner.batches])
    wanted = [10_000 * w + 10 * f + r for w in range(2) for f in (1, 2, 3) for r in range(ROWS)]
    assert sorted(rows.tolist()) == wanted


def test_rows_keep_the_order_of_the_workers(world: World) -> None:
    next(world.updates)
    batch = world.learner.batches[0][0]
    assert batch["row"].tolist() == [10, 11, 12, 13, 10_010, 10_011, 10_012, 10_013]
    assert batch["obs"]["obs"][:, 0].tolist() == batch["row"].tolist()


def test_all_sample_then_one_update_then_all_get_its_weights(world: World) -> None:
    list(islice(world.updates, 2))
    first, rest = world.events[:2], world.events[2:]
    assert first == [("weights", 0, 0, 0.0), ("weights", 1, 0, 0.0)]
    for i, version in enumerate((0, 1)):
        assert rest[5 * i : 5 * i + 5] == [
            ("sample", 0, version),
            ("sample", 1, version),
            ("update", 1.0 - version * 2 * SAMPLED / 50),
            ("weights", 0, version + 1, version + 1.0),
            ("weights", 1, version + 1, version + 1.0),
        ]


def test_nothing_is_sampled_ahead_of_its_update(world: World) -> None:
    """A generator that ran on would sample with old weights."""
    next(world.updates)
    assert len(world.named("sample")) == 2
    assert world.events[-1][0] == "weights"


def test_versions_never_go_back_and_the_lag_is_zero(world: World) -> None:
    updates = list(islice(world.updates, 4))
    versions = [version for _, _, version in world.named("sample")]
    assert versions == sorted(versions) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert lags(updates) == [0] * 8 and world.learner.lags == [0] * 8 * ROWS


def test_lag_is_reported_where_there_is_one(world: World) -> None:
    world.learner.version = 5
    assert lags([next(world.updates)]) == [0, 0]
    for worker in world.workers:
        worker.version = 3
    assert lags([next(world.updates)]) == [3, 3]


def test_counters_are_exact(world: World) -> None:
    list(islice(world.updates, 3))
    counters = world.run.counters
    assert counters.env_steps == counters.agent_steps == 3 * 2 * SAMPLED
    assert counters.trained_steps == 3 * 2 * ROWS
    assert counters.dropped_steps == 3 * 2 * DROPPED
    assert counters.episodes == 6
    assert counters.gradient_steps == 6
    assert world.run.fragments == 3


def test_annealing_follows_the_env_steps_and_ends_with_the_run(world: World) -> None:
    list(islice(world.updates, 7))
    rates = [lr for _, lr in world.named("update")]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


def test_a_run_without_an_end_anneals_nothing(world: World) -> None:
    world.run.total_env_steps = None
    list(islice(world.updates, 3))
    assert [lr for _, lr in world.named("update")] == [1.0, 1.0, 1.0]


def test_indices_are_of_all_workers_rows_and_new_each_time(world: World) -> None:
    list(islice(world.updates, 2))
    first, second = (indices for _, indices in world.learner.batches)
    assert sorted(first[0].tolist()) == sorted(second[0].tolist()) == list(range(2 * ROWS))
    assert first.tolist() != second.tolist()


def test_normalisation_is_of_everything_seen_and_goes_out_with_the_weights(world: World) -> None:
    list(islice(world.updates, 2))
    seen = np.concatenate([batch["row"] for batch, _ in world.learner.batches])
    for worker in world.workers:
        assert worker.weights["norm/obs/mean"] == pytest.approx([seen.mean()])
        assert worker.weights["norm/obs/std"] == pytest.approx([seen.std()])


def test_an_update_reports_metrics_episodes_and_times(world: World) -> None:
    update = next(world.updates)
    assert update.metrics == {"loss": 1.0, "gradient_steps": 2.0, "hyper/lr": 1.0}
    assert update.episodes == [(0.0, 1), (1.0, 1)]
    assert [(work.worker, work.env_steps) for work in update.work] == [(0, SAMPLED), (1, SAMPLED)]
    assert [work.busy for work in update.work] == [1.0, 1.0]  # what was idle is not
    assert update.concurrency == 0  # two workers that took turns
    assert set(update.times) == {"wait", "transfer", "learn", "broadcast"}
    assert all(seconds >= 0 for seconds in update.times.values())


def test_the_plan_refuses_nothing() -> None:
    """Not even APPO, which corrects for old weights: under this plan there are none."""
    assert [SyncSamples().refuses(kind) for kind in (PPO, A2C, APPO)] == [None] * 3
