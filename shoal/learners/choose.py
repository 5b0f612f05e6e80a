"""Which framework a run learns in, and with how many threads."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np

from shoal.algorithms.base import Differentiable, Model
from shoal.algorithms.by_policy import split
from shoal.config.config import Config
from shoal.errors import ConfigError
from shoal.learners.base import Learner
from shoal.learners.device import CPU
from shoal.process import interrupts
from shoal.process.machine import cpus
from shoal.trajectory import ndarray


def convolves(model: Model) -> bool:
    """Whether the network has convolutions."""
    return any(len(shape) == 4 for shape in model.net.shapes().values())


def choose_framework(wanted: str, model: Model, network: Any) -> str:
    """ "jax" or "torch" for this run.

    A user's own module learns in its own framework. Otherwise JAX, which compiles all gradient
    steps of an update into one call; but PyTorch, where it is installed, for convolutions, whose
    gradients it computes two to three times faster on a CPU.

    Raises ConfigError when the wanted one cannot be had.
    """
    own = model.net.framework
    if own is not None and wanted not in ("auto", own):
        raise ConfigError(
            f"learner={wanted!r} cannot train a network that is written in {own}",
            f"network: {network!r:.80}",
            f"use learner={own!r} or learner='auto'",
        )
    have_torch = importlib.util.find_spec("torch") is not None
    if wanted == "auto":
        wanted = own or ("torch" if have_torch and convolves(model) else "jax")
    if wanted == "torch" and not have_torch:
        raise ConfigError(
            "learner='torch' needs PyTorch, which is not installed",
            None,
            "pip install \"shoal[torch]\", or use learner='jax'",
        )
    return wanted


def preload(wanted: str) -> None:
    """Begin to import the framework that a run will most likely take, in a thread.

    For the seconds in which processes start and this one would only wait.
    """
    name = "torch" if wanted == "torch" else "jax"
    if importlib.util.find_spec(name) is not None:
        # Not a daemon: a process that ends during the import of native code would crash. It takes
        # no signal, nor do the framework's threads: Ray's handlers would end the process there.
        with interrupts.held():
            Thread(target=importlib.import_module, args=(name,)).start()


def create_learner(
    kind: str,
    algorithm: Differentiable,
    model: Model,
    params: Mapping[str, ndarray],
    threads: int,
    precision: str = "float32",
    device: str = CPU,
    heavy: bool = False,
) -> Learner:
    """A learner that starts from these parameters. The framework is imported here, not before.

    Raises ConfigError as ``choose_device`` does.
    """
    if kind == "torch":
        from shoal.learners.torch import TorchLearner

        return TorchLearner(algorithm, model, params, threads, precision, device, heavy)
    from shoal.learners.jax import JaxLearner

    return JaxLearner(algorithm, model, params, threads, precision, device, heavy)


def copy_of_ranks(config: Config) -> Config:
    """The settings of a learner that only holds a copy of what the ranks of a collective hold.

    It takes no gradient step, and so neither a GPU nor a number format that only GPUs have.
    """
    precision = "float32" if config.precision == "tf32" else config.precision
    return replace(config, device=CPU, precision=precision)


def learner_of(
    config: Config, model: Any, params: Mapping[str, ndarray], workers: int, beside: int
) -> tuple[str, Any]:
    """The framework and the learner of a run with this number of workers.

    With several policies the learner holds one for each. ``beside`` workers sample on this machine
    while it learns. Raises ConfigError as ``choose_framework`` and ``choose_device`` do.
    """
    algorithm = config.algorithm
    if not algorithm.parts:
        kind = choose_framework(config.learner, model, algorithm.network)
        rows = rows_per_step(config, workers)
        cores = threads(model, rows, beside)
        how = cores, config.precision, config.device, heavy(model, rows)
        return kind, create_learner(kind, algorithm, model, params, *how)
    from shoal.learners.policies import PolicyLearners

    own, found = split(params), {}
    for name, part in algorithm.parts.items():
        alone = replace(config, algorithm=part)
        found[name] = learner_of(alone, model[name], own[name], workers, beside)
    kinds = {kind for kind, _ in found.values()}
    kind = kinds.pop() if len(kinds) == 1 else config.learner
    return kind, PolicyLearners({name: learner for name, (_, learner) in found.items()})


def rows_per_step(config: Config, workers: int) -> int:
    """Rows that one gradient step of a run sees."""
    algorithm, rollout = config.algorithm, config.rollout
    if "replay" in algorithm.needs:
        return config.replay.batch_size
    sampled = rollout.fragment_length * rollout.envs_per_worker * workers
    return int(algorithm.minibatch_size or sampled)


def threads(model: Model, rows: int, beside: int = 0) -> int:
    """Number of threads worth using for one gradient step on ``rows`` rows.

    Those of this machine but for ``beside``, which sample meanwhile: a second thread of a
    convolutional network's step saves less of the wall clock than it takes of the CPU (170 ms on
    one, 105 ms on two; in bfloat16 97 and 78).

    Below about 40 MFLOP (a 64x64 network on 64 rows is 3) handing work to a second thread costs
    more than it saves: a step of DQN's with that network takes 77 us on one thread and 102 us on
    two; with 256x256, 26 MFLOP, 0.58 ms and 0.63 ms.
    """
    return max(cpus() - beside, 1) if heavy(model, rows) else 1


def heavy(model: Model, rows: int) -> bool:
    """Whether a gradient step on ``rows`` rows is long: over 40 MFLOP, or convolutions."""
    sizes = [int(np.prod(shape)) for shape in model.net.shapes().values()]
    return 6 * sum(sizes) * rows >= 40_000_000 or convolves(model)
