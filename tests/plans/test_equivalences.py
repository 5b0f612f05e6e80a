"""Plans that must come to the same: those with one worker, and many ranks and one learner.

All in this process, so that seeds and the order of things are the same. Weights are compared after
20 updates, in which they moved by far more than the tolerance.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from shoal.fleet.learning import LearningWorker
from shoal.plans.allreduce import Allreduce
from shoal.plans.async_gradients import AsyncGradients
from shoal.plans.async_samples import AsyncSamples
from shoal.plans.parameter_server import ParameterServer
from shoal.plans.sync_samples import SyncSamples
from shoal.trainer import Trainer
from tests.worlds import RECURRENT, TINY, Script, difference

NORMALISED = {"normalise_obs": True, "scale_reward": True}
REMEMBERS = {"network": RECURRENT}
EXTRA = pytest.mark.parametrize(
    "extra", [{}, NORMALISED, REMEMBERS], ids=["plain", "normalised", "lstm"]
)
UPDATES = 20
EPISODES = partial(Script, length=6)  # for averages over episodes: ranks of equal weight


def made(system: str, plan: Any, env: Any = "CartPole-v1", **fields: Any) -> Trainer:
    small = {"network": TINY, "envs_per_worker": 4, "fragment_length": 8, "learner": "torch"}
    return Trainer(system, env, plan=plan, **{**small, "in_process": True, **fields})


def ran(trainer: Trainer, updates: int = UPDATES) -> dict[str, np.ndarray]:
    """Its weights after this number of updates, which must have moved them."""
    before = trainer.learner.weights()
    for _ in range(updates):
        next(trainer.updates)
    after = trainer.learner.weights()
    assert max(np.abs(after[name] - x).max() for name, x in before.items()) > 1e-4
    return after


def agree(first: dict[str, Any], second: dict[str, Any], atol: float = 1e-6) -> None:
    assert first.keys() == second.keys()
    for name, x in first.items():
        np.testing.assert_allclose(x, second[name], atol=atol, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("learner", ["torch", "jax"])
@EXTRA
def test_a3c_with_one_worker_is_a2c(learner: str, extra: Any) -> None:
    """The same gradient, applied elsewhere (Mnih et al. 2016, Algorithm S3, with one thread)."""
    both = [
        made("a2c", plan, learner=learner, **extra) for plan in (AsyncGradients(), SyncSamples())
    ]
    agree(*map(ran, both))
    first, second = (trainer.run.counters for trainer in both)
    assert first == second


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_a_parameter_server_with_one_worker_is_a2c(shards: int) -> None:
    server = made("a2c", ParameterServer(shards=shards, sync_every=5))
    straight = made("a2c", SyncSamples())
    agree(ran(server, UPDATES // 5), ran(straight))
    assert server.run.counters == straight.run.counters
    assert server.learner.gradient_steps == UPDATES


def test_a_parameter_server_gives_out_the_normalisation_too() -> None:
    server = made("a2c", ParameterServer(sync_every=5), **NORMALISED)
    agree(ran(server, UPDATES // 5), ran(made("a2c", SyncSamples(), **NORMALISED)))


@pytest.mark.parametrize("system", ["a2c", "impala"])
def test_shards_hold_what_one_would_to_the_bit(system: str) -> None:
    """With several workers, whose gradients are of old weights."""
    one, *others = (
        ran(made(system, ParameterServer(shards=shards, sync_every=5), workers=3), 4)
        for shards in (1, 2, 3, 4)
    )
    assert not any(difference(one, other) for other in others)


ROWS = 4 * 8  # of one worker


@pytest.mark.parametrize("learner", ["torch", "jax"])
@pytest.mark.parametrize(
    ("system", "fields"),
    [
        ("a2c", {}),
        ("a2c", NORMALISED),
        ("a2c", REMEMBERS),
        ("ppo", {**REMEMBERS, "normalise_advantage": False, "epochs": 2}),
        ("impala", REMEMBERS),
        ("pg", {"normalise_advantage": False, "env": EPISODES}),
        ("impala", {}),
        ("ppo", {"normalise_advantage": False, "epochs": 3}),
        ("appo", {"epochs": 2}),
    ],
)
def test_ranks_that_train_together_are_one_learner_on_all_they_sampled(
    system: str, fields: Any, learner: str
) -> None:
    """Wijmans et al. 2020, section 3; for several passes over a batch, with whole batches.

    These are compared after one update: ranks draw the order of rows from generators of their own,
    which in turn draw the actions.
    """
    both, updates = [], 1 if "epochs" in fields else UPDATES
    for plan, share in ((Allreduce(), 1), (SyncSamples(), 2)):
        size = {"minibatch_size": share * ROWS} if "epochs" in fields else {}
        both.append(made(system, plan, workers=2, learner=learner, **fields, **size))
    agree(*(ran(trainer, updates) for trainer in both))
    first, second = (trainer.run.counters for trainer in both)
    assert first == second


@pytest.mark.parametrize("learner", ["torch", "jax"])
def test_ranks_hold_the_same_weights_to_the_bit(
    learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each update."""
    states: dict[int, list[Any]] = {}
    train = LearningWorker.train

    def watched(worker: LearningWorker, *args: Any) -> Any:
        told = train(worker, *args)
        states.setdefault(worker.learner.version, []).append(worker.learner.get_state())
        return told

    monkeypatch.setattr(LearningWorker, "train", watched)
    trainer = made("dd-ppo", Allreduce(), workers=3, learner=learner, epochs=2, minibatch_size=16)
    ran(trainer, 5)
    assert [len(of_ranks) for of_ranks in states.values()] == [3] * 5
    for first, *others in states.values():
        assert not any(difference(first, other) for other in others)
    assert not difference(first["params"], trainer.learner.get_state()["params"])


@pytest.mark.parametrize("system", ["impala", "appo"])
@EXTRA
def test_one_asynchronous_worker_in_lock_step_is_synchronous(system: str, extra: Any) -> None:
    """To the bit: nobody is ahead of anybody."""
    size = {"minibatch_size": 16} if system == "appo" else {}
    alone, straight = (
        made(system, plan, **extra, **size) for plan in (AsyncSamples(in_flight=1), SyncSamples())
    )
    assert not difference(ran(alone), ran(straight))
    assert alone.run.counters == straight.run.counters
