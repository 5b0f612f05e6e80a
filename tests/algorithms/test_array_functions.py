"""Are the functions of every algorithm array functions: the same in NumPy, JAX and PyTorch?

In JAX they are traced, as a plan that compiles them would. ``postprocess`` runs on workers, in
NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from shoal.config.config import Rollout
from shoal.config.replay import Replay
from shoal.fleet.worker import Worker
from shoal.nets.network import Network
from shoal.replay.counts import Replayed
from shoal.replay.local import LocalReplay
from shoal.spaces.base import MEMORY
from shoal.systems.table import SYSTEMS, default_config
from tests.worlds import TINY, Script

RECURRENT = Network(hidden=(8,), memory="lstm", memory_size=4)


class Floats(Script):
    action_space = Box(-1.0, 1.0, (2,), np.float32)


OTHERS = ("ddpg", "td3", "ape-x-dpg", "qt-opt", "es", "ars", "alphazero")  # floats, no loss, games
TARGETS = {name for name, row in SYSTEMS.items() if "replay" in row.algorithm.needs}
CASES = {
    **{name: (name, TINY, Script) for name in SYSTEMS if name not in OTHERS},
    **{f"{name}-floats": (name, TINY, Floats) for name in ("ppo", "ddpg", "td3", "sac", "qt-opt")},
    **{f"{name}-lstm": (name, RECURRENT, Script) for name in ("pg", "ppo", "impala", "appo")},
    **{f"{name}-lstm": (name, RECURRENT, Script) for name in ("dqn", "rainbow", "r2d2")},
}


@cache
def case(name: str) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """(algorithm, model, parameters, all else that acts or is trained on)."""
    system, network, env = CASES[name]
    config = default_config(system, env)
    algorithm = replace(config.algorithm, network=network)
    if network.memory and "replay" in algorithm.needs:
        algorithm = replace(algorithm, sequence=4, burn_in=2, overlap=2)
    rollout = Rollout(envs_per_worker=2, fragment_length=8)
    made = Worker(replace(config, algorithm=algorithm, rollout=rollout), 0)
    model = made.model
    params = algorithm.init(model, np.random.default_rng(0))
    explore = algorithm.exploration(0, 2)
    made.set_weights({**params, **explore}, 0)
    batch = made.sample().batch
    if "replay" in algorithm.needs:
        small = Replay(capacity=40, warmup=8, batch_size=8)
        replay = LocalReplay(small, algorithm, model, made.get_stacks(), 2, Replayed())
        replay.store(0, batch)
        batch = replay.draw(np.random.default_rng(0), 1, 0.0).batch
        batch["step"] = {key: x[0] for key, x in batch["step"].items()}
    aux = {f"hyper/{key}": np.float32(x) for key, x in algorithm.hyper(0.0).items()}
    aux |= algorithm.targets(params) | explore
    return algorithm, model, params, {"aux": aux, "batch": batch}


def nested(tree: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Mapping):
        return {key: nested(x, convert) for key, x in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(nested(x, convert) for x in tree)
    return convert(tree)


def same_everywhere(function: Callable[..., Any], *arguments: Any) -> None:
    """What it returns is the same in NumPy, compiled by JAX, and in PyTorch."""
    wanted = function(*arguments)
    traced = jax.jit(function)(*arguments)
    tensors = function(*nested(arguments, lambda x: torch.from_numpy(np.array(x))))
    for found in (traced, tensors):
        compare(wanted, nested(found, np.asarray))


def compare(wanted: Any, found: Any, where: str = "") -> None:
    if isinstance(wanted, Mapping):
        assert wanted.keys() == found.keys(), where
        for key, x in wanted.items():
            compare(x, found[key], f"{where}/{key}")
    elif isinstance(wanted, tuple):
        for i, (x, y) in enumerate(zip(wanted, found, strict=True)):
            compare(x, y, f"{where}/{i}")
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5, err_msg=where)


@pytest.mark.parametrize("name", CASES)
def test_label(name: str) -> None:
    algorithm, model, params, given = case(name)
    same_everywhere(partial(algorithm.label, model), {**given["aux"], **params}, given["batch"])


@pytest.mark.parametrize("name", CASES)
def test_loss(name: str) -> None:
    algorithm, model, params, given = case(name)
    aux = given["aux"]
    batch = algorithm.label(model, {**aux, **params}, given["batch"])

    def loss(params: Any, aux: Any, batch: Any) -> Any:
        total, metrics = algorithm.loss(model, params, aux, batch)
        return total, metrics.scalars, dict(metrics.rows)

    same_everywhere(loss, params, aux, batch)


@pytest.mark.parametrize("greedy", [False, True], ids=["explores", "greedy"])
@pytest.mark.parametrize("name", CASES)
def test_act(name: str, greedy: bool) -> None:
    algorithm, model, params, _ = case(name)
    rng = np.random.default_rng(1)
    obs = {"obs": rng.standard_normal((16, 3)).astype(np.float32)}
    for key, x in algorithm.memory(model).items():
        obs[MEMORY + key] = rng.standard_normal((16, *x.shape)).astype(np.float32)
    params = {**params, **algorithm.exploration(5_000, 16)}
    noise = None if greedy else model.dist.noise(rng, (16,))

    def act(params: Any, obs: Any, noise: Any = None) -> Any:
        return algorithm.act(model, params, obs, noise)

    same_everywhere(act, params, obs, *([] if greedy else [noise]))


@pytest.mark.parametrize("step", [1, 10_000])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[0] in TARGETS])
def test_after_step(name: str, step: int) -> None:
    algorithm, _, params, _ = case(name)
    targets = {key: x + 1 for key, x in algorithm.targets(params).items()}
    same_everywhere(algorithm.after_step, params, targets, np.int32(step))
