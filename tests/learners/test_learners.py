"""Do the two learners do the same, and exactly what their contract says?"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.a2c import A2C
from shoal.algorithms.appo import APPO
from shoal.algorithms.pg import PG
from shoal.algorithms.ppo import PPO
from shoal.algorithms.vtrace import VTrace
from shoal.errors import ConfigError, ShoalError
from shoal.fleet.collective import Broken, Reduce, ThreadGroup
from shoal.learners.choose import choose_framework, create_learner, threads
from shoal.learners.state import minibatch
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.ops import kernels
from shoal.spaces.gym import GymSpaces
from shoal.trajectory import concatenate, select
from tests.worlds import MODEL, TINY, Script, Scripts, difference, settings, worker

KINDS = ["jax", "torch"]
PLAIN = PPO(network=TINY, max_grad_norm=0.5)
STOPPING = replace(PLAIN, target_kl=0.02)
ADVANTAGE = A2C(network=TINY)
EPISODES = PG(network=TINY)
CORRECTED = VTrace(network=TINY)
ROWS = APPO(network=TINY, epochs=3, minibatch_size=4, normalise_advantage=False, kl_coef=0.3)
EVERY = [PLAIN, ADVANTAGE, EPISODES, CORRECTED, ROWS]
HYPER = {"lr": 3e-3, "clip": 0.2, "entropy_coef": 0.01}


class Continuous(Script):
    action_space = Box(-1.0, 1.0, (2,), np.float32)


class Wider(Script):
    observation_space = Box(-np.inf, np.inf, (4,), np.float32)

    def _draw(self) -> np.ndarray:
        return self.np_random.standard_normal(4, dtype=np.float32)


@cache
def sampled(algorithm: Any = PLAIN, env: Any = Scripts, seed: int = 0) -> Any:
    """A worker with its first fragment of 16 rows."""
    made = worker(
        replace(settings("ppo", env() if env is Scripts else env, seed), algorithm=algorithm)
    )
    return made, made.sample()


@pytest.fixture
def batch() -> dict[str, Any]:
    """The rows, with advantages that let the policy move."""
    rows = dict(sampled()[1].batch)
    rng = np.random.default_rng(0)
    rows["advantage"] = rng.standard_normal(16, dtype=np.float32)
    return rows


@cache
def built(kind: str, algorithm: Any, rank: int) -> tuple[Any, Any]:
    made, _ = sampled()
    learner = create_learner(kind, algorithm, made.model, made.weights, 1)
    return learner, learner.get_state()


def fresh(kind: str, algorithm: Any = PLAIN, rank: int = 0) -> Any:
    """A learner as it was made; compiled once for all tests. ``rank`` is for several at once."""
    learner, state = built(kind, algorithm, rank)
    learner.set_state(state)
    return learner


def indices(seed: int = 0) -> np.ndarray:
    """Five epochs of 4 gradient steps on 4 rows each."""
    return PPO(epochs=5, minibatch_size=4).indices(MODEL, np.random.default_rng(seed), (16,))


def close(a: Any, b: Any, atol: float) -> None:
    assert a.keys() == b.keys()
    for name, x in a.items():
        np.testing.assert_allclose(x, b[name], rtol=0, atol=atol, err_msg=name)


def moved(a: Any, b: Any) -> float:
    return max(float(np.abs(x - b[name]).max()) for name, x in a.items())


# ---------------------------------------------------------------------- the same on both


@pytest.mark.parametrize(
    ("algorithm", "env"),
    [
        *((algorithm, Scripts) for algorithm in EVERY),
        *((algorithm, Continuous) for algorithm in (PLAIN, CORRECTED, ROWS)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, tuple(map(type, EVERY))) else x.__name__,
)
def test_losses_and_gradients_are_the_same_in_every_library(algorithm: Any, env: Any) -> None:
    made, sample = sampled(algorithm, env)
    hyper = {**algorithm.hyper(0.0), "entropy_coef": 0.01}
    found = {
        kind: create_learner(kind, algorithm, made.model, made.weights, 1).gradients(
            sample.batch, hyper
        )
        for kind in KINDS
    }
    for name, g in found["jax"][0].items():
        np.testing.assert_allclose(g, found["torch"][0][name], rtol=1e-5, atol=2e-6, err_msg=name)
    aux = {f"hyper/{name}": np.float32(x) for name, x in hyper.items()}
    prepared = algorithm.label(made.model, made.weights, sample.batch)
    total, metrics = algorithm.loss(made.model, made.weights, aux, prepared)
    numpy = {"loss": float(total), **{name: float(x) for name, x in metrics.scalars.items()}}
    for kind in KINDS:
        assert found[kind][1] == pytest.approx(numpy, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_gradients_differ_by_its_rounding(kind: str) -> None:
    """Eight bits of a factor: 0.4 % of each, more than nothing and less than the gradient."""
    made, sample = sampled(ADVANTAGE)
    hyper = ADVANTAGE.hyper(0.0)
    rough, exact = (
        create_learner(kind, ADVANTAGE, made.model, made.weights, 1, precision).gradients(
            sample.batch, hyper
        )[0]
        for precision in ("bfloat16", "float32")
    )
    for name, g in exact.items():
        assert rough[name].dtype == np.float32
        assert 0 < np.abs(rough[name] - g).max() < 0.05 * np.abs(g).max(), name


def test_both_learners_come_to_the_same_parameters(batch: Any) -> None:
    ends, metrics = {}, {}
    for kind in KINDS:
        learner = fresh(kind)
        metrics[kind], _ = learner.update(batch, indices(), HYPER)
        ends[kind] = learner.weights()
        assert learner.gradient_steps == 20
    close(ends["jax"], ends["torch"], atol=1e-4)
    assert moved(ends["jax"], sampled()[0].weights) > 0.01
    assert metrics["jax"] == pytest.approx(metrics["torch"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda x: type(x).__name__)
def test_whichever_learns_the_same_seed_acts_alike(algorithm: Any) -> None:
    """The same actions over the first fragment, the same parameters after its update."""
    actions, ends = {}, {}
    for kind in KINDS:
        made = worker(replace(settings("ppo", Scripts(), seed=3), algorithm=algorithm))
        learner = create_learner(kind, algorithm, made.model, made.weights, 1)
        made.set_weights(learner.weights(), 0)
        sample = made.sample()
        index = algorithm.indices(made.model, np.random.default_rng(0), sample.batch["mask"].shape)
        learner.update(sample.batch, index, algorithm.hyper(0.0))
        actions[kind], ends[kind] = sample.batch["action"].ravel().tolist(), learner.weights()
    assert actions["jax"] == actions["torch"]
    assert len(set(actions["jax"])) > 1
    close(ends["jax"], ends["torch"], atol=1e-5)


# ------------------------------------------------------------------- what was asked for


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_is_its_gradient_steps_one_after_the_other(kind: str, batch: Any) -> None:
    """Step i on ``batch[indices[i]]``; metrics are the means over the steps."""
    learner = fresh(kind)
    metrics, _ = learner.update(batch, indices(), HYPER)
    end, each = learner.weights(), []
    learner = fresh(kind)
    for rows in indices():
        grads, step, _ = learner.gradients(select(batch, rows), HYPER)
        each.append({**step, "grad_norm": learner.apply(grads, HYPER)})
    close(learner.weights(), end, atol=2e-6)
    means = {name: float(np.mean([step[name] for step in each])) for name in each[0]}
    assert metrics == pytest.approx({**means, "gradient_steps": 20.0}, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_one_update_on_everything_is_gradients_then_apply(kind: str, batch: Any) -> None:
    learner = fresh(kind)
    learner.update(batch, None, HYPER)
    end, state = learner.weights(), learner.get_state()
    learner = fresh(kind)
    learner.apply(learner.gradients(batch, HYPER)[0], HYPER)
    close(learner.weights(), end, atol=1e-7)
    assert (learner.version, learner.gradient_steps) == (1, 1)
    assert (state["version"], state["gradient_steps"]) == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_row_is_no_row(kind: str, batch: Any) -> None:
    """-1 must not train on the last row."""
    learner = fresh(kind)
    learner.update(batch, np.array([[3, 7, 5, -1], [-1, 1, -1, 2]], np.int32), HYPER)
    end = learner.weights()
    learner = fresh("torch")
    for rows in ([3, 7, 5], [1, 2]):
        learner.apply(learner.gradients(select(batch, np.array(rows)), HYPER)[0], HYPER)
    close(learner.weights(), end, atol=1e-5)


def test_a_missing_row_stays_masked_where_it_was_masked(batch: Any) -> None:
    batch["mask"] = np.zeros(16, np.float32)
    assert not minibatch(batch, np.array([0, 5, -1]))["mask"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_leaves_its_batch_and_earlier_weights_alone(kind: str, batch: Any) -> None:
    learner = fresh(kind)
    before = learner.weights()
    copies = {name: x.copy() for name, x in before.items()}
    rows = select(batch, np.arange(16))
    learner.update(batch, indices(), HYPER)
    assert not difference(before, copies)
    assert not difference(select(batch, np.arange(16)), rows)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_alone_change_nothing(kind: str, batch: Any) -> None:
    learner = fresh(kind)
    before = learner.get_state()
    learner.gradients(batch, HYPER)
    assert not difference(learner.get_state(), before)


# ------------------------------------------------------------- what the newest weights add


class Prepared(APPO):
    """For rows that were prepared already."""

    def label(self, model: Any, params: Any, batch: Any) -> Any:
        return batch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduce", [None, np.copy], ids=["alone", "together"])
def test_a_batch_is_prepared_once_by_the_weights_that_begin_the_update(
    kind: str, reduce: Any
) -> None:
    """Not by those that sampled, and not anew in each gradient step."""
    made, sample = sampled(ROWS)
    algorithm = Prepared(**{name: getattr(ROWS, name) for name in ROWS.__dataclass_fields__})
    hyper = {**HYPER, "lr": 0.03}
    index = ROWS.indices(made.model, np.random.default_rng(0), sample.batch["mask"].shape)
    learner, steps = fresh(kind, ROWS), fresh(kind, algorithm)
    for _ in range(2):
        begin = steps.weights()
        rows = ROWS.label(made.model, begin, sample.batch)
        learner.update(sample.batch, index, hyper, reduce)
        for one in index:
            steps.apply(steps.gradients(select(rows, one), hyper)[0], hyper)
        close(learner.weights(), steps.weights(), atol=2e-5)
        steps.set_weights(learner.weights(), 0)
    assert moved(learner.weights(), begin) > 0.02
    assert learner.version == 2


class Numbered(PPO):
    """Reports the return of each row that a gradient step sees."""

    def loss(self, model: Any, params: Any, aux: Any, batch: Any) -> Any:
        total, metrics = super().loss(model, params, aux, batch)
        return total, metrics._replace(rows={"target": batch["target"]})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduce", [None, np.copy], ids=["alone", "together"])
@pytest.mark.parametrize("index", [None, indices()], ids=["whole", "steps"])
def test_metrics_of_rows_are_in_the_order_of_the_gradient_steps(
    kind: str, reduce: Any, index: Any, batch: Any
) -> None:
    batch["target"] = np.arange(16, dtype=np.float32)
    learner = fresh(kind, Numbered(network=TINY))
    _, rows = learner.update(batch, index, HYPER, reduce)
    order = np.arange(16) if index is None else index.reshape(-1)
    np.testing.assert_array_equal(rows["target"], order)


# ------------------------------------------------------------------ several that learn together


def together(
    learners: list[Any], parts: list[Any], orders: list[Any], join: Callable[[int], Reduce]
) -> list[dict[str, float]]:
    """One update of all learners at once, each on a part; what each of them tells."""
    with ThreadPoolExecutor(len(learners)) as pool:
        told = [
            pool.submit(learner.update, parts[rank], orders[rank], HYPER, join(rank))
            for rank, learner in enumerate(learners)
        ]
        return [update.result(60)[0] for update in told]


def parts_of(algorithm: Any) -> tuple[Any, list[Any], Any, list[Any]]:
    """(batch, its parts, order of rows, orders of the parts): step i takes the same rows."""
    rng = np.random.default_rng(0)
    batch = concatenate([dict(sampled(algorithm, seed=seed)[1].batch) for seed in (0, 1)])
    # Some other policy acted, and some rows do not count: more of them in the first part.
    batch["log_prob"] = batch.get("log_prob", batch["mask"]) + np.float32(0.4) * rng.choice(
        [-1, 1], batch["mask"].shape
    ).astype(np.float32)
    batch["mask"] = (rng.random(batch["mask"].shape) < 0.8).astype(np.float32)
    batch["mask"].reshape(-1)[[0, 2, 3, 5, 6]] = 0
    n = len(batch["mask"])
    ends = [n // 4, n // 2, n]
    if algorithm.indices(MODEL, rng, (4, 4)) is not None:
        ends = [n // 2, n]
    parts = [select(batch, np.arange(a, b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    orders = [algorithm.indices(MODEL, rng, part["mask"].shape) for part in parts]
    if orders[0] is None:
        return batch, parts, None, orders
    orders = [order[:6] for order in orders]
    orders[0][1, 2:] = -1  # no row
    first = parts[0]["mask"].size
    shifted = np.where(orders[1] < 0, -1, orders[1] + first)
    return batch, parts, np.concatenate([orders[0], shifted], 1).astype(np.int32), orders


APART = [
    ADVANTAGE,
    CORRECTED,
    ROWS,
    replace(PLAIN, normalise_advantage=False, minibatch_size=4),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", APART, ids=lambda x: type(x).__name__)
def test_several_learners_take_the_steps_of_one_on_all_their_rows(
    kind: str, algorithm: Any
) -> None:
    batch, parts, order, orders = parts_of(algorithm)
    assert len({float(part["mask"].mean()) for part in parts}) > 1
    one = fresh(kind, algorithm)
    metrics, _ = one.update(batch, order, HYPER)
    wanted, begin = one.get_state(), sampled()[0].weights
    learners = [fresh(kind, algorithm, rank) for rank in range(len(parts))]
    told = together(learners, parts, orders, ThreadGroup(len(parts)).join)
    states = [learner.get_state() for learner in learners]
    for state in states[1:]:
        assert not difference(state, states[0])  # to the bit on all ranks
    for part in ("params", "optimiser"):
        close(states[0][part], wanted[part], atol=1e-6)
    assert moved(wanted["params"], begin) > 1e-3
    assert told[0] == told[-1] == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    assert (states[0]["version"], states[0]["gradient_steps"]) == (1, wanted["gradient_steps"])


@pytest.mark.parametrize("kind", KINDS)
def test_all_stop_when_one_has_gone_too_far(kind: str, batch: Any) -> None:
    """Else some would wait for the others' next step."""
    learners = [fresh(kind, STOPPING, rank) for rank in range(2)]
    before = [learner.get_state() for learner in learners]
    far = {**batch, "log_prob": batch["log_prob"] - 2}
    told = together(learners, [batch, far], [indices(), indices(1)], ThreadGroup(2).join)
    assert [metrics["gradient_steps"] for metrics in told] == [0.0, 0.0]
    for learner, state in zip(learners, before, strict=True):
        assert not difference(learner.get_state()["params"], state["params"])


@pytest.mark.parametrize("kind", KINDS)
def test_together_with_nobody_is_alone(kind: str, batch: Any) -> None:
    """In turns, as when the others come and go: metrics keep their names."""
    learner = fresh(kind)
    ends, told = [], []
    for reduce in (None, np.copy, None, np.copy):
        learner.set_state(built(kind, PLAIN, 0)[1])
        told.append(learner.update(batch, indices(), HYPER, reduce)[0])
        ends.append(learner.weights())
    for i in (1, 2, 3):
        assert told[i] == pytest.approx(told[0], rel=1e-4, abs=1e-6)
        close(ends[i], ends[0], atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_the_others_left_leaves_the_learner_as_it_was(kind: str, batch: Any) -> None:
    learner = fresh(kind)
    learner.update(batch, indices(1), HYPER)
    before, steps = learner.get_state(), iter(range(3))

    def reduce(vector: np.ndarray) -> np.ndarray:
        if next(steps) == 2:
            raise Broken("another rank left the collective")
        return vector

    with pytest.raises(Broken):
        learner.update(batch, indices(), HYPER, reduce)
    assert not difference(learner.get_state(), before)
    learner.rollback(0)  # the update before is still the newest
    assert learner.version == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_of_others_that_is_not_finite_is_refused(kind: str, batch: Any) -> None:
    learner = fresh(kind)
    before = learner.get_state()
    with pytest.raises(ShoalError, match="diverged"):
        learner.update(batch, indices(), HYPER, lambda vector: vector * np.float32("nan"))
    assert not difference(learner.get_state(), before)


# --------------------------------------------------------------------- stopping by KL


@pytest.mark.parametrize("kind", KINDS)
def test_target_kl_ends_the_update_before_the_step_that_went_too_far(kind: str, batch: Any) -> None:
    fast = {**HYPER, "lr": 0.03}
    learner = fresh(kind, STOPPING)
    metrics, _ = learner.update(batch, indices(), fast)
    taken = int(metrics["gradient_steps"])
    assert 0 < taken < 19
    assert learner.gradient_steps == taken
    stopped = learner.weights()
    free = fresh(kind)
    each = []
    for rows in indices()[: taken + 1]:
        grads, step, _ = free.gradients(select(batch, rows), fast)
        each.append(step)
        if len(each) <= taken:
            free.apply(grads, fast)
    close(stopped, free.weights(), atol=1e-6)
    kls = [step["kl"] for step in each]
    assert max(kls[:-1]) <= 0.02 < kls[-1]
    # What stopped it is in the mean: it is the reason.
    assert metrics["kl"] == pytest.approx(np.mean(kls), rel=1e-3)
    assert metrics["loss"] == pytest.approx(np.mean([s["loss"] for s in each]), rel=1e-3, abs=1e-5)


def test_both_learners_stop_at_the_same_step_with_the_same_metrics(batch: Any) -> None:
    jax, torch = (
        fresh(kind, STOPPING).update(batch, indices(), {**HYPER, "lr": 0.03})[0] for kind in KINDS
    )
    assert jax == pytest.approx(torch, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_at_once_takes_no_step_and_reports_the_same_metrics(kind: str, batch: Any) -> None:
    """Rows that another policy sampled: their KL is past the target before the first step."""
    learner = fresh(kind, STOPPING)
    names = learner.update(batch, indices(), HYPER)[0].keys()
    learner = fresh(kind, STOPPING)
    before = learner.get_state()
    metrics, _ = learner.update({**batch, "log_prob": batch["log_prob"] - 2}, indices(), HYPER)
    assert metrics["gradient_steps"] == 0 and metrics["grad_norm"] == 0
    assert metrics.keys() == names
    after = learner.get_state()
    assert not difference(after["params"], before["params"])
    assert not difference(after["optimiser"], before["optimiser"])
    assert after["version"] == 1


# -------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lr", "clip", "entropy_coef"])
def test_what_is_annealed_reaches_every_step(kind: str, name: str, batch: Any) -> None:
    """The update's steps, each with the new value; without it, the first or the last differ."""
    rows = {**batch, "log_prob": batch["log_prob"] - 0.15}
    begin = {**HYPER, "entropy_coef": 1.0}
    annealed = {**begin, name: 0.1 * begin[name]}
    steps = len(indices())

    def stepwise(hypers: list[dict[str, float]]) -> Any:
        learner = fresh(kind)
        for index, hyper in zip(indices(), hypers, strict=True):
            learner.apply(learner.gradients(select(rows, index), hyper)[0], hyper)
        return learner.weights()

    learner = fresh(kind)
    learner.update(rows, indices(), annealed)
    close(learner.weights(), stepwise([annealed] * steps), atol=2e-6)
    for missed in (0, steps - 1):
        hypers = [begin if i == missed else annealed for i in range(steps)]
        assert moved(learner.weights(), stepwise(hypers)) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_learning_rate_nothing_moves(kind: str, batch: Any) -> None:
    learner = fresh(kind)
    before = learner.weights()
    learner.update(batch, indices(), {**HYPER, "lr": 0.0})
    assert not difference(learner.weights(), before)


class Traced(PPO):
    """Counts how often its loss is called: by JAX, only to be traced."""

    calls = 0

    def loss(self, model: Any, params: Any, aux: Any, batch: Any) -> Any:
        Traced.calls += 1
        return super().loss(model, params, aux, batch)


def test_annealing_compiles_nothing_anew(batch: Any) -> None:
    made, _ = sampled()
    learner = create_learner("jax", Traced(network=TINY), made.model, made.weights, 1)
    learner.update(batch, indices(), HYPER)
    before = Traced.calls
    for progress in (0.25, 0.5, 1.0):
        learner.update(batch, indices(seed=1), {k: x * (1 - progress) for k, x in HYPER.items()})
    assert before > 0 and Traced.calls == before


# --------------------------------------------------------------------------- its state


@pytest.mark.parametrize("kind", KINDS)
def test_rollback_takes_the_newest_update_back_to_the_bit(kind: str, batch: Any) -> None:
    learner = fresh(kind)
    learner.update(batch, indices(), HYPER)
    before = learner.get_state()
    learner.update(batch, indices(seed=1), HYPER)
    once = learner.get_state()
    learner.rollback(1)
    assert not difference(learner.get_state(), before)
    learner.update(batch, indices(seed=1), HYPER)
    assert not difference(learner.get_state(), once)


def test_updates_in_old_memory_leave_the_update_before_whole(batch: Any) -> None:
    """PyTorch's long vectors are written over those of two updates ago, not those of the last."""
    made, _ = sampled()
    algorithm = PPO(network=Network(hidden=(600, 500)))
    weights = algorithm.init(algorithm.model(made.model.spaces, build), np.random.default_rng(0))
    assert sum(x.size for x in weights.values()) > kernels.BLOCK
    learner = create_learner(
        "torch", algorithm, algorithm.model(made.model.spaces, build), weights, 1
    )
    states = []
    for seed in range(4):
        learner.update(batch, indices(seed=seed)[:4], HYPER)
        copied = {name: x.copy() for name, x in learner.get_state()["params"].items()}
        states.append(copied)

    def interrupted(vector: np.ndarray) -> np.ndarray:
        if next(steps) == 1:
            raise Broken("in the middle of an update")
        return vector

    steps = iter(range(3))
    with pytest.raises(Broken):
        learner.update(batch, indices(), HYPER, interrupted)
    for version in (4, 3):
        learner.rollback(version)
        assert not difference(learner.get_state()["params"], states[version - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_rollback_leaves_a_finished_update_alone(kind: str, batch: Any) -> None:
    """An interruption that came before the learner moved must not undo the update before."""
    learner = fresh(kind)
    learner.update(batch, indices(), HYPER)
    before = learner.get_state()
    learner.rollback(1)
    assert not difference(learner.get_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_adopted_is_an_update_that_can_be_taken_back(kind: str, batch: Any) -> None:
    learner, other = fresh(kind), fresh(kind, rank=1)
    learner.update(batch, indices(), HYPER)
    before = learner.get_state()
    other.set_state(before)
    other.update(batch, indices(seed=1), HYPER)
    learner.adopt(other.get_state())
    assert not difference(learner.get_state(), other.get_state())
    learner.rollback(2)  # it is finished: nothing to undo
    assert learner.version == 2
    learner.rollback(1)
    assert not difference(learner.get_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_are_taken_over_and_the_optimiser_stays(kind: str, batch: Any) -> None:
    learner, other = fresh(kind), fresh(kind, rank=1)
    for each, seed in ((learner, 1), (other, 2)):
        each.update(batch, indices(seed), HYPER)
    norm = {"norm/obs/mean": np.ones(3, np.float32), "norm/obs/std": np.full(3, 2, np.float32)}
    other.set_aux(norm)
    own, weights = learner.get_state(), other.weights()
    learner.set_weights(weights, 7)
    now = learner.get_state()
    assert not difference(learner.weights(), weights)
    assert not difference(now["params"], other.get_state()["params"])
    assert not difference(now["aux"], norm)
    assert not difference(now["optimiser"], own["optimiser"])
    assert (now["version"], now["gradient_steps"]) == (7, own["gradient_steps"])
    learner.rollback(6)  # there is nothing before them
    assert not difference(learner.weights(), weights)
    learner.update(batch, indices(), HYPER)
    assert learner.version == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_update_changes_nothing(kind: str, batch: Any) -> None:
    learner = fresh(kind)
    before = learner.get_state()
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        learner.update({**batch, "action": np.zeros((16, 7, 2), np.int64)}, indices(), HYPER)
    assert not difference(learner.get_state(), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["rows", "lr"])
def test_an_update_that_is_not_finite_is_refused_as_a_whole(
    kind: str, how: str, batch: Any
) -> None:
    learner = fresh(kind)
    before = learner.get_state()
    rows, hyper = dict(batch), dict(HYPER)
    if how == "rows":
        rows["target"] = np.full(16, np.inf, np.float32)
    else:
        hyper["lr"] = float("inf")
    with pytest.raises(ShoalError, match="diverged"):
        learner.update(rows, indices(), hyper)
    assert not difference(learner.get_state(), before)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_state_goes_on_in_another_learner(source: str, target: str, batch: Any) -> None:
    """To the bit in the same library, within rounding in the other."""
    first = fresh(source)
    first.set_aux({"norm/obs/mean": np.ones(3, np.float32), "norm/obs/std": np.ones(3, np.float32)})
    first.update(batch, indices(), HYPER)
    state = first.get_state()
    first.update(batch, indices(seed=1), HYPER)
    wanted = first.get_state()
    second = fresh(target)
    second.set_state(state)
    assert not difference(second.get_state(), state)
    second.update(batch, indices(seed=1), HYPER)
    found = second.get_state()
    if source == target:
        assert not difference(found, wanted)
    for part in ("params", "optimiser", "aux"):
        close(found[part], wanted[part], atol=1e-5)
    assert (found["version"], found["gradient_steps"]) == (2, 40)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_after_a_restore_are_the_same_to_the_bit(kind: str) -> None:
    """The layout of the initial arrays may not live on in the state: with four inputs PyTorch
    rounds the product of a column-major matrix otherwise."""
    made, sample = sampled(PLAIN, Wider)
    learner = create_learner(kind, PLAIN, made.model, made.weights, 1)
    for _ in range(3):
        learner.apply(learner.gradients(sample.batch, HYPER)[0], HYPER)
    found = learner.gradients(sample.batch, HYPER)
    learner.set_state(learner.get_state())
    assert not difference(learner.gradients(sample.batch, HYPER), found)


@pytest.mark.parametrize("kind", KINDS)
def test_normalisation_is_seen_by_the_loss_and_never_trained(kind: str, batch: Any) -> None:
    mean, std = np.array([1, -2, 0.5], np.float32), np.array([2, 0.5, 4], np.float32)
    learner = fresh(kind)
    learner.set_aux({"norm/obs/mean": mean, "norm/obs/std": std})
    found = learner.gradients(batch, HYPER)[1]
    scaled = {**batch, "obs": {"obs": np.clip((batch["obs"]["obs"] - mean) / std, -10, 10)}}
    plain = fresh(kind).gradients(scaled, HYPER)[1]
    assert found == pytest.approx(plain, rel=1e-5, abs=1e-6)
    learner = fresh(kind)
    learner.set_aux({"norm/obs/mean": mean, "norm/obs/std": std})
    learner.update(batch, indices(), HYPER)
    assert not difference(learner.weights()["norm/obs/mean"], mean)
    assert not difference(learner.weights()["norm/obs/std"], std)


# ------------------------------------------------------------------------ which of the two


def model_of(space: Any) -> Any:
    return PPO().model(GymSpaces(space, Discrete(2)), build)


VECTOR, IMAGE = Box(-1, 1, (3,), np.float32), Box(0, 255, (36, 36, 1), np.uint8)


@pytest.mark.parametrize(
    ("space", "network", "kind"),
    [
        (VECTOR, Network(), "jax"),
        (IMAGE, Network(), "torch"),
        (IMAGE, Network(encoder="mlp"), "jax"),
    ],
)
def test_auto_takes_torch_for_convolutions_only(space: Any, network: Any, kind: str) -> None:
    model = PPO(network=network).model(GymSpaces(space, Discrete(2)), build)
    assert choose_framework("auto", model, network) == kind


@pytest.mark.parametrize("wanted", KINDS)
def test_a_wish_is_granted(wanted: str) -> None:
    assert choose_framework(wanted, model_of(IMAGE), Network()) == wanted


def test_a_users_module_learns_in_its_own_framework_only() -> None:
    import torch

    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.body(x).split((2, 1), -1)

    network = Body()
    model = PPO(network=network).model(GymSpaces(VECTOR, Discrete(2)), build)
    assert choose_framework("auto", model, network) == "torch"
    with pytest.raises(ConfigError, match="torch"):
        choose_framework("jax", model, network)


@pytest.mark.parametrize(
    ("space", "beside", "used"), [(VECTOR, 0, 1), (IMAGE, 0, 6), (IMAGE, 2, 4), (IMAGE, 9, 1)]
)
def test_threads_only_where_they_pay(
    space: Any, beside: int, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    assert threads(model_of(space), 64, beside) == used
