"""Do shards step as one server would, and refuse gradients that are stale, outliers or foreign?

Golden numbers are of a small simulation of Gorila's server (Nair et al. 2015, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.fleet.learning import Gradient
from shoal.fleet.parcel import Parcel
from shoal.fleet.weight_shard import Outliers, WeightShard, WeightSlice, cut, joined, slices, whole
from shoal.ops.optimisers import ALL, Group, Optimiser
from shoal.ops.packing import Packing
from shoal.plans.parameter_server import ParameterServer
from tests.plans.fakes import DROPPED, ROWS, SAMPLED, FakeLearner, FakeWorker, World, lags, paces
from tests.worlds import difference

OPTIMISERS = {
    "sgd": Optimiser("sgd", momentum=0.9),
    "adam": Optimiser("adam"),
    "rmsprop": Optimiser("rmsprop", momentum=0.5, centered=True, eps_inside=True),
    "adagrad": Optimiser("adagrad"),
    "delayed": Optimiser("adam", groups=(Group("later", ("b",), rate=0.5, every=2),)),
}
PARAMS = {"a": (3, 4), "b": (5,), "c": (2, 3)}


def server(optimiser: Optimiser, state: Any, shards: int, max_lag: int = 20) -> list[WeightShard]:
    return [
        WeightShard(optimiser, *cut(optimiser, state, k, shards), max_lag) for k in range(shards)
    ]


def fresh(optimiser: Optimiser, seed: int = 0) -> dict[str, Any]:
    """A learner's state before its first update."""
    rng = np.random.default_rng(seed)
    params = {k: rng.standard_normal(shape, np.float32) for k, shape in PARAMS.items()}
    slots = {k: np.asarray(x) for k, x in optimiser.init(params).items()}
    return {"params": params, "optimiser": slots, "aux": {}, "version": 0, "gradient_steps": 0}


# ------------------------------------------------------------------------------- shards


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_shards_together_move_as_one_optimiser_does(kind: str, shards: int) -> None:
    """To the bit, slots included, when they get the same gradients in the same order."""
    optimiser, rng = OPTIMISERS[kind], np.random.default_rng(1)
    state = fresh(optimiser)
    made = server(optimiser, state, shards)
    params, slots = state["params"], state["optimiser"]
    for _ in range(10):
        gradient = {k: rng.standard_normal(shape, np.float32) for k, shape in PARAMS.items()}
        params, slots, _ = optimiser.update(params, gradient, slots, np.float32(0.01))
        packed = Packing(optimiser, params).pack(gradient)
        for shard, own in zip(made, slices(packed, shards), strict=True):
            piece = shard.pull()
            assert shard.push(WeightSlice(Parcel(own), piece.version, 0), 0.01)
    found = joined(optimiser, state, [shard.get_state() for shard in made], 10)
    for name, x in params.items():
        np.testing.assert_array_equal(found["params"][name], x, err_msg=name)
    assert found["optimiser"].keys() == slots.keys()
    for name, x in slots.items():
        np.testing.assert_array_equal(found["optimiser"][name], x, err_msg=name)
    assert (found["version"], found["gradient_steps"]) == (1, 10)


@pytest.mark.parametrize(("size", "shards"), [(10, 1), (10, 3), (3, 4), (7, 7)])
def test_slices_cover_a_vector_evenly(size: int, shards: int) -> None:
    vectors = {"a": np.arange(size), "t": np.asarray(3)}
    found = slices(vectors, shards)
    lengths = [len(part["a"]) for part in found]
    assert len(found) == shards and max(lengths) - min(lengths) <= 1
    back = whole(found)
    assert back["a"].tolist() == list(range(size)) and back["t"] == 3


def test_age_is_counted_in_updates_of_the_shard() -> None:
    """However long ago that was: there is no clock in it."""
    shard = server(Optimiser("sgd"), fresh(Optimiser("sgd")), 1, max_lag=2)[0]
    ones = {name: np.ones_like(x) for name, x in shard.get_state()[0].items()}
    old = WeightSlice(Parcel(ones), 0, 0)
    assert [shard.push(old, 0.1) for _ in range(5)] == [True, True, True, False, False]
    assert shard.version == 3
    assert shard.push(WeightSlice(old.vector, 1, 0), 0.1)


def test_versions_of_a_shard_that_died_mean_nothing_to_the_next() -> None:
    state = fresh(Optimiser("sgd"))
    shard = WeightShard(Optimiser("sgd"), *cut(Optimiser("sgd"), state, 0, 1), 20, restart=1)
    before = shard.get_state()[0][ALL].copy()
    piece = shard.pull()
    assert piece.restart == 1
    assert not shard.push(WeightSlice(piece.vector, piece.version, 0), 0.1)
    np.testing.assert_array_equal(shard.get_state()[0][ALL], before)
    assert shard.push(piece, 0.1)


def pushed(max_lag: int, seed: int) -> tuple[float, float]:
    """The loss of a quadratic after 3,000 pushes, most of them very old; and the share refused.

    Gradients are of the weights as they were 100 pushes that were taken ago (with probability .8),
    or 0 to 4, with some noise.
    """
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal(10).astype(np.float32)
    shard = WeightShard(
        Optimiser("sgd"), {ALL: theta}, Optimiser("sgd").init({ALL: theta}), max_lag
    )
    seen, refused = [theta] * 101, 0  # seen[-1] is now
    for _ in range(3000):
        age = 100 if rng.random() < 0.8 else int(rng.integers(5))
        gradient = seen[-1 - age] + 0.01 * rng.standard_normal(10)
        piece = WeightSlice(Parcel({ALL: gradient.astype(np.float32)}), shard.version - age, 0)
        if shard.push(piece, 0.05):
            seen = [*seen[1:], shard.get_state()[0][ALL]]
        else:
            refused += 1
    return 0.5 * float(
        np.sum(np.square(shard.get_state()[0][ALL], dtype=np.float64))
    ), refused / 3000


@pytest.mark.parametrize("seed", range(3))
def test_refusing_old_gradients_is_what_keeps_a_quadratic_from_diverging(seed: int) -> None:
    loss, refused = pushed(50, seed)
    assert loss < 1e-4 and refused == pytest.approx(0.8, abs=0.03)
    loss, refused = pushed(10**9, seed)
    assert loss > 1e6 and refused == 0


# ----------------------------------------------------------------------------- outliers


@pytest.mark.parametrize("seed", range(3))
def test_outliers_are_refused_and_do_not_widen_the_gate(seed: int) -> None:
    """|loss| of mean 1 and deviation .1, one in a hundred at 50; refused above 3 deviations."""
    rng = np.random.default_rng(seed)
    loss = rng.normal(1.0, 0.1, 100_000) * rng.choice([-1.0, 1.0], 100_000)
    odd = rng.random(100_000) < 0.01
    odd[:100] = False  # while it learns what is usual, nothing is refused
    gate = Outliers(3.0, 100)
    refused = np.array([gate.reject(50.0 if o else x) for x, o in zip(loss, odd, strict=True)])
    assert refused[odd].all() and odd.sum() > 900
    assert 0.001 < refused[~odd].mean() < 0.0025  # a normal tail above 3 holds .00135
    assert np.sqrt(gate._m2 / (gate._count - 1)) < 0.12
    assert gate._mean == pytest.approx(1.0, abs=0.01)


def test_what_is_refused_again_and_again_is_no_outlier() -> None:
    """Losses that have changed for good, as by a copy to the target network, are learned anew."""
    outliers, rng = Outliers(3.0, 100), np.random.default_rng(0)
    assert not any(outliers.reject(loss) for loss in rng.normal(1.0, 0.1, 200))
    changed = [outliers.reject(loss) for loss in rng.normal(50.0, 0.1, 400)]
    assert 80 < sum(changed) < 110 and not any(changed[110:])


def test_nothing_is_refused_before_there_is_enough_to_compare_with_or_unless_asked() -> None:
    gate = Outliers(1.0, 5)
    assert not any(gate.reject(10.0**i) for i in range(5))
    assert gate.reject(1e9)
    assert not any(Outliers(None, 2).reject(x) for x in (1.0, 1.0, 1.0, 1e9))


# ------------------------------------------------------------------------------ the plan


class Puller(FakeWorker):
    """Its gradients are numbered; ``odd`` says which have a loss of 1e6."""

    odd = frozenset[int]()

    def gradient_of(
        self,
        hyper: Mapping[str, float],
        normalisation: Any,
        pieces: Sequence[WeightSlice],
        version: int,
    ) -> Gradient:
        self.pulled = [piece.version for piece in pieces]
        self.set_weights({"x": pieces[0].vector.open()[ALL]}, version)
        found = self.gradient(hyper)
        found.metrics["loss"] = 1e6 if self.fragments in self.odd else 1.0 + self.fragments % 2
        found.values = [
            WeightSlice(
                Parcel({ALL: np.ones_like(piece.vector.open()[ALL])}), piece.version, piece.restart
            )
            for piece in pieces
        ]
        return found


class Holder(FakeLearner):
    """Holds a vector of 6 weights, which each gradient of ones moves by -lr."""

    state: Any

    def __init__(self, events: list[Any]) -> None:
        super().__init__(events)
        params = {"x": np.zeros(6, np.float32)}
        slots = {k: np.asarray(x) for k, x in Optimiser("sgd").init(params).items()}
        counts = {"version": 0, "gradient_steps": 0}
        self.state = {"params": params, "optimiser": slots, "aux": {}, **counts}

    def get_state(self) -> Any:
        return self.state

    def adopt(self, state: Any) -> None:
        self.state = state
        self.version, self.gradient_steps = state["version"], state["gradient_steps"]


class Server(World):
    def __init__(self, plan: ParameterServer, seed: int = 0, odd: frozenset[int] = frozenset()):
        self.odd = odd
        super().__init__(plan, 4, paces(seed), seed)
        self.learner = Holder(self.events)
        self.run.total_env_steps = None  # lr stays 1
        self.updates = plan.run(self.fleet, self.learner, self.run)

    def worker(self, index: int, restart: int) -> Any:
        made = Puller(index, self.events)
        made.odd = self.odd
        return made


@pytest.mark.parametrize("seed", range(4))
def test_every_gradient_moves_the_shards_once_or_is_dropped(seed: int) -> None:
    world = Server(ParameterServer(shards=3, max_lag=4, sync_every=5), seed)
    updates = list(islice(world.updates, 12))
    came = len(world.named("came"))
    taken = world.learner.gradient_steps
    assert taken == 12 * 5 < came
    np.testing.assert_array_equal(world.learner.state["params"]["x"], np.full(6, -60.0))
    counters = world.run.counters
    assert counters.env_steps == came * SAMPLED and counters.gradient_steps == taken
    assert counters.trained_steps == taken * ROWS
    assert counters.dropped_steps == taken * DROPPED + (came - taken) * SAMPLED
    assert 2 < max(lags(updates)) <= 4 and len(lags(updates)) == taken
    assert sum(len(update.work) for update in updates) == came


@pytest.mark.parametrize("seed", range(2))
def test_versions_that_a_worker_pulls_never_go_back(seed: int) -> None:
    world = Server(ParameterServer(shards=2), seed)
    list(islice(world.updates, 6))
    for worker in range(4):
        seen = [version for _, i, version in world.named("sample") if i == worker]
        assert seen == sorted(seen) and seen[-1] > seen[0] == 0
    assert world.fleet.most == 1


def test_a_gradient_with_an_outliers_loss_moves_nothing() -> None:
    options = ParameterServer(sync_every=5, max_lag=1000, outlier_std=5.0, outlier_warmup=8)
    world = Server(options, 0, odd=frozenset({12, 15}))
    updates = list(islice(world.updates, 12))
    odd = sum(worker.fragments > 12 for worker in world.workers)
    assert odd >= 3
    assert len(world.named("came")) - world.learner.gradient_steps >= odd
    assert max(update.metrics["loss"] for update in updates) <= 2.0
    assert world.in_flight == 0


def test_shards_begin_where_the_learner_is_and_are_let_go_with_the_plan() -> None:
    world = Server(ParameterServer(sync_every=5))
    next(world.updates)
    world.updates.close()
    assert [fleet.size for fleet in world.fleet.spawned] == [0]
    again = world.plan.run(world.fleet, world.learner, world.run)
    next(again)
    np.testing.assert_array_equal(world.learner.state["params"]["x"], np.full(6, -10.0))
    assert world.in_flight == 0


def test_after_an_interruption_nothing_is_counted_that_the_learner_did_not_get() -> None:
    """What shards had taken since the last copy is lost with them."""
    world = Server(ParameterServer(sync_every=50, max_lag=1000))
    next(world.updates)
    boundary = world.run.get_state()
    broken = world.workers[1]

    def fail(*args: Any) -> Any:
        raise ZeroDivisionError

    broken.gradient_of = fail
    with pytest.raises(ZeroDivisionError):
        next(world.updates)
    assert world.fleet.closed and world.fleet.spawned[0].size == 0
    world.run.set_state(boundary)  # as a trainer does
    assert world.run.counters.gradient_steps == world.learner.gradient_steps == 50
    assert not difference(world.run.get_state(), boundary) and world.in_flight == 0


@pytest.mark.parametrize(
    "field",
    [
        {"shards": 0},
        {"max_lag": -1},
        {"sync_every": 0},
        {"outlier_warmup": 1},
        {"outlier_std": 0.0},
        {"outlier_std": float("nan")},
    ],
)
def test_impossible_options_are_refused_by_name(field: Any) -> None:
    with pytest.raises(ConfigError, match=f"plan.{next(iter(field))}"):
        ParameterServer(**field)
