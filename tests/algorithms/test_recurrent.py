"""Actor-critics with memory: is what is trained on what acted, wherever episodes begin and end?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import pytest

from shoal.algorithms import actor_critic, vtrace
from shoal.algorithms.a2c import A2C
from shoal.algorithms.appo import APPO
from shoal.algorithms.pg import PG
from shoal.algorithms.ppo import PPO
from shoal.algorithms.vtrace import VTrace
from shoal.fleet.worker import Worker
from shoal.learners.bfloat16 import rounded
from shoal.learners.choose import create_learner
from shoal.nets.network import Network
from shoal.trajectory import select
from tests.worlds import Scripts, settings, worker

LSTM = Network(hidden=(4,), memory="lstm", memory_size=5)
GRU = Network(hidden=(), memory="gru", memory_size=5, shared=True)
CHUNKED = [PPO(chunk=3), A2C(chunk=3), PG(chunk=3), PPO(chunk=8), A2C(), PPO(chunk=1)]
FRAGMENTS = [VTrace(), APPO()]


def named(algorithm: Any) -> str:
    return f"{type(algorithm).__name__} {getattr(algorithm, 'chunk', '')}"


def made(algorithm: Any, network: Any = LSTM, env: Any = None, length: int = 8) -> Worker:
    rollout = {"envs_per_worker": 3, "fragment_length": length}
    config = settings("ppo", env or Scripts(), seed=3, rollout=rollout)
    return worker(replace(config, algorithm=replace(algorithm, network=network)))


def unlike(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


@pytest.mark.parametrize("network", [LSTM, GRU], ids=["lstm", "gru"])
@pytest.mark.parametrize("algorithm", CHUNKED, ids=named)
def test_chunks_are_replayed_as_they_were_acted(algorithm: Any, network: Any) -> None:
    """Log-probabilities and values of the weights that acted are those that were recorded."""
    w = made(algorithm, network)
    for _ in range(3):
        sample, trajectory = w.play(w.sampling(None))
        batch, mask = sample.batch, sample.batch["mask"] > 0
        log_prob, _, v = actor_critic.evaluate(w.model, w.weights, batch)
        expected = actor_critic.behaviour_log_prob(w.model, w.weights, trajectory)
        kept = trajectory.valid
        if isinstance(algorithm, PG):  # rows after the last ending are left out
            kept = kept & np.logical_or.accumulate(trajectory.last[::-1])[::-1]
        assert mask.sum() == kept.sum() > 0
        np.testing.assert_allclose(np.sort(log_prob[mask]), np.sort(expected[kept]), atol=1e-5)
        recorded = trajectory.records["v"][kept]
        np.testing.assert_allclose(np.sort(v[mask]), np.sort(recorded), atol=1e-5)
        if isinstance(algorithm, PPO):
            assert unlike(log_prob[mask], batch["log_prob"][mask]) < 1e-5
            assert unlike(v[mask], batch["value"][mask]) < 1e-5


@pytest.mark.parametrize("algorithm", FRAGMENTS, ids=named)
def test_fragments_are_replayed_as_they_were_acted(algorithm: Any) -> None:
    w = made(algorithm)
    for _ in range(3):
        sample, trajectory = w.play(w.sampling(None))
        batch = sample.batch
        out, _, v = vtrace.along(w.model, w.weights, batch)
        valid = batch["mask"] > 0
        np.testing.assert_allclose(
            out[valid], np.swapaxes(trajectory.records["pi"], 0, 1)[valid], atol=1e-5
        )
        np.testing.assert_allclose(v[:, :-1][valid], trajectory.records["v"].T[valid], atol=1e-5)


def test_appo_trains_on_whole_fragments_from_the_memory_that_began_them() -> None:
    w = made(APPO(minibatch_size=16))
    w.sample()
    sample, trajectory = w.play(w.sampling(None))
    algorithm = w.config.algorithm
    rows = algorithm.label(w.model, w.weights, sample.batch)
    log_prob, _, _ = actor_critic.evaluate(w.model, w.weights, rows)
    assert rows["mask"].shape == (3, 8)
    assert unlike(log_prob, rows["log_prob_old"]) < 1e-5
    valid = rows["mask"] > 0
    expected = actor_critic.behaviour_log_prob(w.model, w.weights, trajectory).T
    assert unlike(log_prob[valid], expected[valid]) < 1e-5
    index = algorithm.indices(w.model, np.random.default_rng(0), sample.batch["mask"].shape)
    assert index.shape == (2, 2)  # 16 steps are two fragments, and there are three


@pytest.mark.parametrize("size", [6, 7, 1])
def test_a_minibatch_holds_whole_chunks(size: int) -> None:
    ppo = PPO(minibatch_size=max(size, 2), epochs=2, chunk=3)
    index = ppo.indices(made(ppo).model, np.random.default_rng(0), (9, 3))
    steps = 9 if size < 6 else 5
    assert len(index) == 2 * steps
    for epoch in np.split(index, 2):
        assert sorted(epoch[epoch >= 0].tolist()) == list(range(9))


class Native:
    """A vector environment of Gymnasium's, which resets itself in a step of its own."""

    def __call__(self, num_envs: int = 1) -> gym.vector.VectorEnv:
        makers = [Scripts() for _ in range(num_envs)]
        return gym.vector.SyncVectorEnv(makers)


def test_rows_of_an_environments_own_reset_are_masked_and_reset_the_memory() -> None:
    w = made(PPO(chunk=4), env=Native())
    for _ in range(3):
        sample, trajectory = w.play(w.sampling(None))
        assert not trajectory.valid.all()
        mask = sample.batch["mask"] > 0
        log_prob, _, v = actor_critic.evaluate(w.model, w.weights, sample.batch)
        assert unlike(log_prob[mask], sample.batch["log_prob"][mask]) < 1e-5
        assert unlike(v[mask], sample.batch["value"][mask]) < 1e-5


@pytest.mark.parametrize("kind", ["jax", "torch"])
@pytest.mark.parametrize("algorithm", [PPO(chunk=4, epochs=1), A2C(), PG(), *FRAGMENTS], ids=named)
def test_both_learners_take_the_same_steps(algorithm: Any, kind: str) -> None:
    """As NumPy has the loss: a step of plain gradient descent would lower it."""
    w = made(algorithm)
    algorithm = w.config.algorithm
    w.sample()
    batch = w.sample().batch
    learner = create_learner(kind, algorithm, w.model, w.weights, 1)
    hyper = {**algorithm.hyper(0.0), "lr": 1e-4}
    shape = batch["mask"].shape
    index = algorithm.indices(w.model, np.random.default_rng(0), shape)
    whole = index if index is None else np.arange(shape[0], dtype=np.int32)[None]
    aux = {f"hyper/{name}": np.float32(x) for name, x in hyper.items()}
    rows = algorithm.label(w.model, {**w.weights, **aux}, batch)
    expected, _ = algorithm.loss(w.model, w.weights, aux, rows)
    metrics = learner.update(batch, whole, hyper)
    metrics = metrics[0] if isinstance(metrics, tuple) else metrics
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    after, _ = algorithm.loss(w.model, learner.weights(), aux, rows)
    assert float(after) < float(expected)


def test_a_memory_that_is_ignored_gives_the_feed_forward_losses() -> None:
    """Chunks of one step of a net whose cell sees no state, against rows of the same function."""
    w = made(PPO(chunk=1))
    w.weights = {k: np.zeros_like(x) if k.endswith("w_h") else x for k, x in w.weights.items()}
    forget = slice(5, 10)  # closed: the cell's past does not count either
    for trunk in ("pi", "v"):
        bias = w.weights[f"{trunk}/lstm/b"].copy()
        bias[forget] = -100.0
        w.weights[f"{trunk}/lstm/b"] = bias
    batch = w.sample().batch
    rows = select(batch, slice(None))
    chunk_of_all = {k: x for k, x in rows["obs"].items()}
    found = actor_critic.evaluate(w.model, w.weights, rows)
    other = {k: np.ones_like(x) if k.startswith("~memory") else x for k, x in chunk_of_all.items()}
    again = actor_critic.evaluate(w.model, w.weights, {**rows, "obs": other})
    for one, two in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, two)


def test_in_bfloat16_every_product_of_a_scan_is() -> None:
    w = made(PPO(chunk=4))
    algorithm, batch = w.config.algorithm, w.sample().batch
    aux = {f"hyper/{name}": np.float32(x) for name, x in algorithm.hyper(0.0).items()}

    def loss(params: Any) -> Any:
        return algorithm.loss(w.model, params, aux, jax.device_put(batch))[0]

    traced = jax.make_jaxpr(rounded(jax.grad(loss)))(jax.device_put(w.weights))
    inside = [line for line in traced.eqns if line.primitive.name == "scan"]
    assert len(inside) == 4  # forwards and backwards, of two trunks
    for scan in inside:
        found = list(products(scan.params["jaxpr"].jaxpr))
        assert found and set(found) == {"bfloat16"}


def products(jaxpr: Any) -> Iterator[str]:
    """The dtypes of the factors of all matrix products, those of inner functions too."""
    for line in jaxpr.eqns:
        if line.primitive.name == "dot_general":
            yield from (str(x.aval.dtype) for x in line.invars)
        for param in line.params.values():
            if hasattr(param, "jaxpr"):
                yield from products(param.jaxpr)
