"""A worker that differentiates too: it holds a learner beside its environments.

For the plans in which gradients travel instead of samples. Unlike a worker that only samples it
imports a learning framework, so it is a class of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.algorithms.by_policy import split
from shoal.config.config import Config
from shoal.fleet.collective import Broken, Reduce, open_store, own_address
from shoal.fleet.parcel import Parcel
from shoal.fleet.sample import Sample
from shoal.fleet.team import Team
from shoal.fleet.weight_shard import WeightSlice, slices, whole
from shoal.fleet.worker import Worker
from shoal.learners.choose import choose_framework, create_learner
from shoal.learners.device import CPU
from shoal.learners.policies import PolicyLearners
from shoal.ops.optimisers import global_norm
from shoal.ops.packing import Packing
from shoal.trajectory import Batch, ndarray, shape

if TYPE_CHECKING:
    from shoal.replay.local import LocalReplay


def own_device(config: Config, index: int) -> str:
    """Where the learner of a worker computes: on its CPU, or under a collective on its own GPU.

    A process of its own sees no other GPU than that; workers in one process share them out.
    """
    if not (config.plan.collective and config.device.startswith("cuda")):
        return CPU
    return f"cuda:{index}" if config.cluster.in_process or not config.rollout.workers else "cuda:0"


def takes_tensors(learner: Any) -> bool:
    """Whether gradients can go from GPU to GPU: PyTorch's, which are on one."""
    return type(learner).__module__.endswith(".torch") and learner.device != CPU


def own_learner(config: Config, model: Any, params: Mapping[str, ndarray], device: str) -> Any:
    """The learner of a worker, on one thread; of several policies, one for each."""
    algorithm = config.algorithm
    if not algorithm.parts:
        kind = choose_framework(config.learner, model, algorithm.network)
        return create_learner(kind, algorithm, model, params, 1, config.precision, device)
    own = split(params)
    return PolicyLearners(
        {
            name: own_learner(replace(config, algorithm=part), model[name], own[name], device)
            for name, part in algorithm.parts.items()
        }
    )


@dataclass
class Gradient:
    """What a worker found on one fragment of its own; ``sample`` is without its batch."""

    values: Any  # {name: array}, or a WeightSlice for each shard; None: there is none yet
    metrics: dict[str, float]
    sample: Sample
    replayed: int = 0  # transitions that were drawn for it


@dataclass
class Trained:
    """What a rank did in one update that all took together."""

    times: dict[str, float]  # seconds: gradient, idle
    metrics: dict[str, float] = field(default_factory=dict)
    state: dict[str, Any] | None = None  # of the learner, from rank 0: it is the same on all
    broken: str = ""  # why nothing was learned: another rank is gone


class LearningWorker:
    """A worker, or one of several policies, and a learner of its own beside it.

    Takes what ``Worker`` takes. All verbs that are not here are the worker's.
    """

    def __init__(self, config: Config, index: int, env: Any = None, restart: int = 0) -> None:
        kind: Any = Team if config.algorithm.parts else Worker
        self.worker = kind(config, index, env, restart)
        self.config, self.model = config, self.worker.model
        params = config.algorithm.init(self.model, np.random.default_rng([config.seed, 0]))
        self.learner = own_learner(config, self.model, params, own_device(config, index))
        self._rank = 0
        self._group: Any = None
        self._store: Any = None  # the meeting point of all ranks, if it is here
        self._reduce: Reduce | None = None
        self._batch: Batch = {}  # gathered, and not yet trained on
        self._replay: LocalReplay | None = None  # of its own samples, if the algorithm replays
        if "replay" in config.algorithm.needs:
            from shoal.replay.counts import Replayed
            from shoal.replay.local import LocalReplay

            share = config.replay.each(max(config.rollout.workers, 1))
            stacks, slots = self.worker.get_layout()
            fitted = share, config.algorithm, self.model, stacks, slots
            self._replay = LocalReplay(*fitted, Replayed())

    def __getattr__(self, name: str) -> Any:
        if name == "worker":  # not made yet
            raise AttributeError(name)
        return getattr(self.worker, name)

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """See ``Worker.set_weights``; the learner has them too."""
        self.worker.set_weights(weights, version)
        self.learner.set_weights(weights, version)

    def gradient(self, hyper: Mapping[str, float]) -> Gradient:
        """Sample a fragment, and differentiate the loss on it."""
        if self._replay is not None:
            return self._replayed(self._replay, hyper)
        sample = self.worker.sample()
        start = perf_counter()
        values, metrics, _ = self.learner.gradients(sample.batch, hyper)
        return Gradient(values, metrics, self._without_batch(sample, start))

    def _replayed(self, replay: LocalReplay, hyper: Mapping[str, float]) -> Gradient:
        """Sample a fragment if one is due, and differentiate the loss on what is drawn."""
        sample = Sample({}, 0, 0, self.worker.version, [], {}, {})
        if not replay.due():
            sample = self.worker.sample()
            replay.store(0, sample.batch)
        start = perf_counter()
        if not replay.due():
            return Gradient(None, {}, self._without_batch(sample, start))
        drawn = replay.draw(self.worker.rng, 1, hyper.get("beta", 0.0))
        noise = {name: x[0] for name, x in drawn.batch["step"].items()}  # of the one step
        values, metrics, rows = self.learner.gradients({**drawn.batch, "step": noise}, hyper)
        count = replay.trained(drawn, rows)
        return Gradient(values, metrics, self._without_batch(sample, start), count)

    def gradient_of(
        self,
        hyper: Mapping[str, float],
        normalisation: Mapping[str, ndarray],
        pieces: Sequence[WeightSlice],
        version: int,
    ) -> Gradient:
        """The same, with the weights pulled from shards; the gradient in slices for them.

        It is clipped here, where all of it is at hand.
        """
        now = self.learner.get_state()
        packing = Packing(self.config.algorithm.optimiser, now["params"])
        params = packing.unpack(whole([piece.vector.open() for piece in pieces]))
        weights = {**now["aux"], **normalisation, **params}
        self.set_weights(weights, version)
        found = self.gradient(hyper)
        if found.values is None:
            return found
        clip_norm = self.config.algorithm.optimiser.clip_norm
        norm = float(global_norm(found.values))
        scale = np.float32(1.0 if clip_norm is None else min(clip_norm / (norm + 1e-6), 1.0))
        gradient = packing.pack({name: x * scale for name, x in found.values.items()})
        found.values = [
            replace(piece, vector=Parcel(own))
            for piece, own in zip(pieces, slices(gradient, len(pieces)), strict=True)
        ]
        found.metrics["grad_norm"] = norm
        return found

    def open_meeting(self, peer: str) -> tuple[str, int]:
        """Where ranks in other processes can find each other: a host that they reach, and a port.

        ``peer`` is the address of one of them.
        """
        host = own_address(peer)
        self._store, port = open_store(host)
        return host, port

    def join(self, group: Any, rank: int, state: Mapping[str, Any]) -> str:
        """Begin from this state, and update together with the others from now on.

        Returns "", or why the others could not be found.
        """
        self.learner.set_state(state)
        self.worker.set_weights(self.learner.weights(), self.learner.version)
        self._rank, self._group = rank, group
        try:
            self._reduce = group.join(rank, on_device=takes_tensors(self.learner))
        except Broken as error:
            return str(error)
        return ""

    def gather(self, number: int, normalisation: Mapping[str, ndarray]) -> Sample:
        """Sample a fragment, whose batch stays here for ``train``."""
        self.learner.set_aux(normalisation)
        self.worker.set_weights(self.learner.weights(), self.learner.version)
        sample: Sample = self.worker.sample(number)
        self._batch = sample.batch
        return replace(sample, batch={})

    def train(self, hyper: Mapping[str, float], ranks: int) -> Trained:
        """Update on what was gathered, every gradient step averaged over all ranks."""
        start = perf_counter()
        times = {"idle": start - self.worker.idle_since}
        batch, self._batch = self._batch, {}
        try:
            indices = self.config.algorithm.indices(self.model, self.worker.rng, shape(batch))
            reduce = self._reduce if ranks > 1 else None
            metrics, _ = self.learner.update(batch, indices, hyper, reduce)
        except Broken as error:
            self._group.leave(self._rank)
            return Trained(times, broken=str(error))
        except BaseException:
            self._group.leave(self._rank)  # so that the others do not wait for this rank
            raise
        self.worker.idle_since = perf_counter()
        times["gradient"] = self.worker.idle_since - start
        return Trained(times, metrics, self.learner.get_state() if self._rank == 0 else None)

    def _without_batch(self, sample: Sample, start: float) -> Sample:
        """What the plan needs to know of a sample that stays here; times the work on it."""
        sample.times["gradient"] = perf_counter() - start
        self.worker.idle_since = perf_counter()
        return replace(sample, batch={})
