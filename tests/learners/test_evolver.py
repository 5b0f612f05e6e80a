"""Does a generation take the step that others' code takes on the same noise?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from shoal.algorithms.ars import ARS
from shoal.algorithms.es import ES
from shoal.errors import ConfigError
from shoal.learners.evolver import Evolver, Recipe

SIZE, TABLE, SIGMA = 6, 5000, 0.1
START = {"w": np.arange(4, dtype=np.float32).reshape(2, 2), "b": np.ones(2, np.float32)}


def evolver(algorithm: Any, seed: int = 0, **fields: Any) -> Any:
    return closing(Evolver(algorithm, START, seed, TABLE, pairs=2, **fields))


def stepped(algorithm: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """The population of one generation, its scores [n, 2], and theta before and after the step."""
    with evolver(algorithm) as learner:
        before = learner.theta()
        population = learner.perturbed(learner.draws().at, SIGMA)
        scores = -((population - 1.5) ** 2).sum(1).astype(np.float64).reshape(-1, 2)
        weights = algorithm.weigh(scores).astype(np.float32)
        learner.evolve(Recipe(weights, algorithm.lr, {}))
        return population, scores, before, learner.theta()


def told(
    kind: Any, optimizer: Any, population: Any, scores: Any, before: Any, **fields: Any
) -> Any:
    """What evosax makes of the same generation. It minimises; + and - are two halves there."""
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    population, fitness = (
        np.concatenate([x[0::2], x[1::2]]) for x in (population, -scores.ravel())
    )
    es = kind(
        population_size=len(population),
        solution=before,
        optimizer=optimizer,
        std_schedule=optax.constant_schedule(SIGMA),
        **fields,
    )
    key, params = jax.random.key(0), es.default_params
    state, _ = es.tell(key, population, fitness, es.init(key, before, params), params)
    return np.asarray(state.mean)


def test_es_takes_the_step_of_evosax() -> None:
    """With Adam, whose first step does not depend on the 1 / sigma that only evosax has."""
    optax = pytest.importorskip("optax")
    algorithms = pytest.importorskip("evosax.algorithms")
    found = stepped(ES(directions=20, lr=0.05, sigma=SIGMA, l2=0.0))
    other = told(algorithms.Open_ES, optax.adam(0.05), *found[:3])
    assert np.abs(found[3] - found[2]).max() > 0.04
    np.testing.assert_allclose(found[3], other, atol=1e-5)


def test_ars_takes_the_step_of_evosax() -> None:
    """With half of the directions, as evosax has it."""
    optax = pytest.importorskip("optax")
    algorithms = pytest.importorskip("evosax.algorithms")
    found = stepped(ARS(directions=20, top=10, lr=0.05, sigma=SIGMA))
    other = told(algorithms.ARS, optax.sgd(0.05), *found[:3])
    assert np.abs(found[3] - found[2]).max() > 1e-3
    np.testing.assert_allclose(found[3], other, atol=1e-5)


def test_weight_decay_is_part_of_the_gradient() -> None:
    """As in the released code: Adam's first step goes by the sign of l2 theta - g."""
    algorithm = ES(directions=2, lr=0.1, l2=0.5)
    with evolver(algorithm) as learner:
        before = learner.theta()
        learner.evolve(Recipe(np.array([1e-9, 0.0], np.float32), 0.1, {}))
        moved = learner.theta() - before
    np.testing.assert_allclose(moved, -0.1 * np.sign(before), atol=1e-3)


def test_all_directions_of_all_generations_are_others() -> None:
    with evolver(ES(directions=50)) as learner, evolver(ES(directions=50), seed=1) as other:
        starts = [tuple(e.draws(v).at) for e in (learner, other) for v in range(3)]
        assert len(set(starts)) == 6
        assert max(map(max, starts)) <= TABLE - SIZE


def test_perturbations_are_mirrored() -> None:
    with evolver(ES(directions=3)) as learner:
        found = learner.perturbed(learner.draws().at, 0.5)
        np.testing.assert_allclose(found[0::2] + found[1::2], 2 * np.stack([learner.theta()] * 3))
        assert np.abs(found[0] - found[1]).max() > 0.1


def test_a_step_is_rolled_back() -> None:
    with evolver(ARS(directions=2)) as learner:
        before = learner.theta()
        learner.evolve(Recipe(np.ones(2, np.float32), 0.1, {"norm/obs/mean": np.ones(1)}))
        assert np.any(learner.theta() != before)
        learner.rollback(0)
        assert learner.version == 0
        np.testing.assert_array_equal(learner.theta(), before)
        assert learner.weights().keys() == START.keys()


def test_frozen_parameters_are_not_perturbed() -> None:
    with evolver(ARS(directions=2), frozen=frozenset({"b"})) as learner:
        assert learner.size == 4
        learner.evolve(Recipe(np.ones(2, np.float32), 0.1, {}))
        np.testing.assert_array_equal(learner.weights()["b"], START["b"])


def test_a_table_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="table_size is 5"):
        Evolver(ES(), START, 0, 5, pairs=1)


@pytest.fixture(autouse=True)
def no_table_is_left() -> Iterator[None]:
    from shoal.learners.noise_table import folder

    yield
    assert not list(folder().glob(f"shoal-noise-*-{TABLE}"))
