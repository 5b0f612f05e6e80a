"""Who waits for whom, and who gets which weights? Asked of fakes that write down what happens."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from shoal.algorithms.a2c import A2C
from shoal.algorithms.ppo import PPO
from shoal.fleet.local import LocalFleet
from shoal.fleet.worker import Sample
from shoal.ops.moments import Moments
from shoal.plans.base import Run
from shoal.plans.sync_samples import SyncSamples, sync_samples

ROWS, DROPPED = 4, 1


class FakeWorker:
    """Its rows are numbered: worker, fragment, row."""

    def __init__(self, index: int, events: list[Any]) -> None:
        self.index, self.events = index, events
        self.version, self.fragments = -1, 0
        self.weights: dict[str, Any] = {}

    def set_weights(self, weights: Any, version: int) -> None:
        self.weights, self.version = weights, version
        self.events.append(("weights", self.index, version, float(weights["x"])))

    def sample(self) -> Sample:
        self.events.append(("sample", self.index, self.version))
        self.fragments += 1
        row = 1000 * self.index + 10 * self.fragments + np.arange(ROWS)
        batch = {"obs": {"obs": row[:, None]}, "row": row, "mask": np.ones(ROWS, np.float32)}
        moments = {"obs": Moments.of(row[:, None].astype(float))}
        times = {"env": 0.25, "act": 0.5, "postprocess": 0.25}
        episodes = [(float(self.index), self.fragments)]
        return Sample(batch, ROWS + DROPPED, ROWS, self.version, episodes, moments, times)

    def close(self) -> None:
        self.events.append(("close", self.index))


class FakeLearner:
    """Its one weight counts its updates."""

    def __init__(self, events: list[Any]) -> None:
        self.events, self.version, self.gradient_steps = events, 0, 0
        self.batches: list[Any] = []
        self.aux: dict[str, Any] = {}

    def update(self, batch: Any, indices: Any, hyper: Any) -> dict[str, float]:
        self.events.append(("update", hyper["lr"]))
        self.batches.append((batch, indices))
        self.version += 1
        self.gradient_steps += 2
        return {"loss": float(self.version), "gradient_steps": 2.0}

    def weights(self) -> dict[str, Any]:
        return {"x": np.asarray(float(self.version)), **self.aux}

    def set_aux(self, aux: Any) -> None:
        self.aux.update(aux)


class FakeAlgorithm:
    def indices(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        return rng.permutation(rows)[None]

    def hyper(self, progress: float) -> dict[str, float]:
        return {"lr": 1.0 - progress}


class World:
    """Two workers, a learner and a run of 50 env steps, and all that happened to them."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.learner = FakeLearner(self.events)
        self.fleet = LocalFleet(self.worker, 2)
        self.run = Run(FakeAlgorithm(), np.random.default_rng(0), 50)  # type: ignore[arg-type]
        self.updates = sync_samples(self.fleet, self.learner, self.run)  # type: ignore[arg-type]

    def worker(self, index: int) -> Any:
        return FakeWorker(index, self.events)

    def named(self, kind: str) -> list[Any]:
        return [event for event in self.events if event[0] == kind]


@pytest.fixture
def world() -> World:
    return World()


def test_every_row_is_trained_on_in_one_update_only(world: World) -> None:
    list(islice(world.updates, 3))
    rows = np.concatenate([batch["row"] for batch, _ in world.learner.batches])
    wanted = [1000 * w + 10 * f + r for w in range(2) for f in (1, 2, 3) for r in range(ROWS)]
    assert sorted(rows.tolist()) == wanted


def test_rows_keep_the_order_of_the_workers(world: World) -> None:
    next(world.updates)
    batch = world.learner.batches[0][0]
    assert batch["row"].tolist() == [10, 11, 12, 13, 1010, 1011, 1012, 1013]
    assert batch["obs"]["obs"][:, 0].tolist() == batch["row"].tolist()


def test_all_sample_then_one_update_then_all_get_its_weights(world: World) -> None:
    list(islice(world.updates, 2))
    first, rest = world.events[:2], world.events[2:]
    assert first == [("weights", 0, 0, 0.0), ("weights", 1, 0, 0.0)]
    for i, version in enumerate((0, 1)):
        assert rest[5 * i : 5 * i + 5] == [
            ("sample", 0, version),
            ("sample", 1, version),
            ("update", 1.0 - version * 2 * (ROWS + DROPPED) / 50),
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
    assert [update.lag for update in updates] == [0, 0, 0, 0]


def test_lag_is_reported_where_there_is_one(world: World) -> None:
    world.learner.version = 5
    update = next(world.updates)
    assert update.lag == 0
    for worker in world.fleet._workers:
        worker.version = 3
    assert next(world.updates).lag == 3


def test_counters_are_exact(world: World) -> None:
    list(islice(world.updates, 3))
    counters = world.run.counters
    assert counters.env_steps == counters.agent_steps == 3 * 2 * (ROWS + DROPPED)
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
    for worker in world.fleet._workers:
        assert worker.weights["norm/obs/mean"] == pytest.approx([seen.mean()])
        assert worker.weights["norm/obs/std"] == pytest.approx([seen.std()])


def test_an_update_reports_metrics_episodes_and_times(world: World) -> None:
    update = next(world.updates)
    assert update.metrics == {"loss": 1.0, "gradient_steps": 2.0, "hyper/lr": 1.0}
    assert update.episodes == [(0.0, 1), (1.0, 1)]
    # Two workers that took turns: what they were busy with adds up.
    assert [update.times[name] for name in ("env", "act", "postprocess")] == [0.5, 1.0, 0.5]
    assert all(seconds >= 0 for seconds in update.times.values())


def test_the_plan_refuses_what_is_not_on_policy() -> None:
    class OffPolicy:
        needs = frozenset({"replay"})

    plan = SyncSamples()
    assert plan.refuses(PPO) is None and plan.refuses(A2C) is None
    assert "on-policy" in (plan.refuses(OffPolicy) or "")
