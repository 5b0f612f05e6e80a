"""The contract of a learner, and which of the two a run takes."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any, Protocol

import numpy as np

from shoal.algorithms.base import Algorithm, Metrics, Model, Params
from shoal.errors import ConfigError, ShoalError
from shoal.ops.kernels import Array, namespace
from shoal.ops.optimisers import Optimiser
from shoal.process.machine import cpus
from shoal.trajectory import Batch, ndarray, select

Weights = dict[str, ndarray]
Reduce = Callable[[ndarray], ndarray]  # a float32 vector -> its sum over all learners


class Learner(Protocol):
    """Holds the parameters and the optimiser's state, and moves them along gradients."""

    @property
    def version(self) -> int:
        """Of the weights: one more with every update."""

    @property
    def gradient_steps(self) -> int:
        """Optimiser steps taken so far."""

    def update(
        self,
        batch: Batch,
        indices: ndarray | None,
        hyper: Mapping[str, float],
        reduce: Reduce | None = None,
    ) -> dict[str, float]:
        """Take ``len(indices)`` gradient steps, step i on the rows ``batch[indices[i]]``.

        ``indices`` is int32 [steps, size], -1 being no row; None is one step on the whole batch.
        ``reduce`` sums a float32 vector over several learners that update together, each on rows of
        its own: every step is then that of one learner on all their rows. What it raises leaves the
        learner as it was.

        Returns the mean of each metric over the steps taken, ``grad_norm`` (before clipping) and
        ``gradient_steps`` taken.
        """

    def learn(
        self, batch: Batch, indices: ndarray | None, hyper: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, ndarray]]:
        """``update``, and the metrics of each row.

        Of every gradient step, one after the other: [steps * size]. Entries of the dict
        ``batch["step"]`` are [steps, ...], one for each gradient step.
        """

    def gradients(
        self, batch: Batch, hyper: Mapping[str, float]
    ) -> tuple[Weights, dict[str, float], dict[str, ndarray]]:
        """Gradients of the loss on the whole batch, its metrics, and those of each row.

        Entries of the dict ``batch["step"]`` are this one step's.
        """

    def apply(self, gradients: Mapping[str, ndarray], hyper: Mapping[str, float]) -> float:
        """One optimiser step with gradients from anywhere; returns their norm before clipping."""

    def weights(self) -> Weights:
        """What a policy acts with: parameters and normalisation, as NumPy arrays."""

    def set_aux(self, aux: Mapping[str, ndarray]) -> None:
        """Add or replace arrays that act and loss see but that are not differentiated."""

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """Take over another learner's ``weights``; the optimiser's state stays.

        Targets follow them as if each version had been a gradient step of this learner's.
        """

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another learner as an update of this one, version included."""

    def rollback(self, version: int) -> None:
        """Undo the newest update if it is past this version: it was interrupted."""

    def get_state(self) -> dict[str, Any]:
        """Everything that the next update depends on: a tree of NumPy arrays and numbers."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class State:
    """All that a learner is, in one value: replaced as a whole, so never seen half updated."""

    params: dict[str, Any]
    optimiser: dict[str, Any]
    aux: dict[str, Any]  # what act and loss see but nobody differentiates
    version: int = 0
    gradient_steps: int = 0
    targets: dict[str, Any] = field(default_factory=dict)  # what follows the parameters


class Holder:
    """What both learners do alike: hold the state, hand it out, take a step back.

    ``put`` turns a dict of NumPy arrays into the framework's own, ``numpy`` turns it back.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        model: Model,
        params: Mapping[str, ndarray],
        put: Callable[[Any], Any],
        numpy: Callable[[Mapping[str, Any]], Weights],
    ) -> None:
        self.algorithm, self.model = algorithm, model
        self._put, self._numpy = put, numpy
        frozen = model.net.frozen
        trained = {k: x for k, x in params.items() if k not in frozen}
        buffers = {k: x for k, x in params.items() if k in frozen}
        # The optimiser's zeros are made in NumPy: in JAX each shape of them would be compiled.
        optimiser, targets = algorithm.optimiser.init(trained), algorithm.targets(trained)
        self._now = State(put(trained), put(optimiser), put(buffers), targets=put(targets))
        self._past = self._now  # before the newest update
        self._led = False  # whether it has weights of another learner

    @property
    def version(self) -> int:
        return self._now.version

    @property
    def gradient_steps(self) -> int:
        return self._now.gradient_steps

    def weights(self) -> Weights:
        return self._numpy({**self._now.aux, **self._now.params})

    def set_aux(self, aux: Mapping[str, ndarray]) -> None:
        if aux:
            self._now = replace(self._now, aux={**self._now.aux, **self._put(dict(aux))})

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        now = self._now
        arrays = self._put(dict(weights))
        params = {name: arrays.pop(name) for name in now.params}
        targets = now.targets
        if targets and self._led:
            targets = self._followed(params, range(now.version + 1, version + 1))
        elif targets:  # the first that come: what follows them begins there, too
            targets = self._put(self.algorithm.targets(self._numpy(params)))
        self._led = True
        self._past = self._now = replace(
            now, params=params, aux=arrays, version=version, targets=targets
        )

    def _followed(self, params: Params, steps: range) -> Params:
        """The targets after these gradient steps, of which the parameters are the last."""
        targets = self._now.targets
        for step in steps if targets else ():
            targets = self._follow(params, targets, np.int32(step))
        return targets

    def _follow(self, params: Params, targets: Params, step: Any) -> Params:
        return self.algorithm.after_step(params, targets, step)

    def adopt(self, state: Mapping[str, Any]) -> None:
        past = self._now
        self.set_state(state)
        self._past = past

    def rollback(self, version: int) -> None:
        if self.version > version:
            self._now = self._past

    def get_state(self) -> dict[str, Any]:
        now = self._now
        arrays = {
            "params": now.params,
            "optimiser": now.optimiser,
            "aux": now.aux,
            "targets": now.targets,
        }
        return {
            **{name: self._numpy(x) for name, x in arrays.items()},
            "version": now.version,
            "gradient_steps": now.gradient_steps,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        names = "params", "optimiser", "aux", "targets"
        params, optimiser, aux, targets = (self._put(state[name]) for name in names)
        version, steps = state["version"], state["gradient_steps"]
        self._now = State(params, optimiser, aux, version, steps, targets)
        self._past = self._now

    def _commit(
        self,
        params: Params,
        optimiser: Params,
        steps: int,
        *seen: float,
        targets: Params | None = None,
    ) -> None:
        """Take over an update, unless the loss or gradient norm ``seen`` in it is not finite."""
        if not all(map(math.isfinite, seen)):
            raise ShoalError(
                f"training has diverged: the loss or its gradient is not finite in update "
                f"{self.version + 1}",
                f"{type(self.algorithm).__name__}, after {self.gradient_steps} gradient steps",
                "lower algorithm.lr, or clip or normalise more: rewards or observations may be "
                "large (rollout.scale_reward, rollout.normalise_obs)",
            )
        now = self._now
        self._past = now
        version, steps = now.version + 1, now.gradient_steps + steps
        targets = now.targets if targets is None else targets
        self._now = State(params, optimiser, now.aux, version, steps, targets)


def pack(tree: Mapping[str, Array], out: Array | None = None) -> Array:
    """All arrays of a dict as one vector; written into ``out``, a tensor of PyTorch's."""
    xp = namespace(*tree.values())
    flat = [xp.reshape(x, (-1,)) for x in tree.values()]
    return xp.concat(flat) if out is None else xp.concat(flat, out=out)


def unpack(vector: Array, like: Mapping[str, Array]) -> Params:
    """A vector as arrays of the names, order and shapes of ``like``."""
    xp, at, out = namespace(vector), 0, {}
    for name, x in like.items():
        end = at + math.prod(x.shape)
        out[name] = xp.reshape(vector[at:end], tuple(x.shape))
        at = end
    return out


class Packing:
    """Parameters as one vector for each of the optimiser's groups.

    So a dozen small parameters do not cost the optimiser a dozen times its calls in PyTorch, or a
    dozen times its kernels, to compile and to run, in JAX. The numbers are the same.
    """

    def __init__(self, optimiser: Optimiser, like: Mapping[str, Array]) -> None:
        self._like = like
        self._parts: dict[str, dict[str, Array]] = {}
        for name, x in like.items():
            self._parts.setdefault(optimiser.group(name), {})[name] = x

    def pack(self, tree: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> Params:
        """{group: vector}; written into those of ``out``, if it has any (PyTorch's)."""
        return {
            group: pack({name: tree[name] for name in part}, out.get(group) if out else None)
            for group, part in self._parts.items()
        }

    def unpack(self, packed: Mapping[str, Array]) -> Params:
        """{parameter: array}, in the order in which they were."""
        out: Params = {}
        for group, part in self._parts.items():
            out |= unpack(packed[group], part)
        return {name: out[name] for name in self._like}

    def pack_slots(self, state: Mapping[str, Array]) -> Params:
        """An optimiser's state (``"m/<name>"`` ..., ``"t"``), by groups."""
        out: Params = {}
        slots: dict[str, Params] = {}
        for key, x in state.items():
            slot, _, name = key.partition("/")
            if name:
                slots.setdefault(slot, {})[name] = x
            else:
                out[slot] = x
        for slot, tree in slots.items():
            out |= {f"{slot}/{group}": x for group, x in self.pack(tree).items()}
        return out

    def unpack_slots(self, packed: Mapping[str, Array]) -> Params:
        """Back to one entry for each parameter."""
        out: Params = {}
        slots: dict[str, Params] = {}
        for key, x in packed.items():
            slot, _, group = key.partition("/")
            if group:
                slots.setdefault(slot, {})[group] = x
            else:
                out[slot] = x
        for slot, tree in slots.items():
            out |= {f"{slot}/{name}": x for name, x in self.unpack(tree).items()}
        return out


STEP = "step"  # the entry of a batch that goes by gradient steps


def minibatch(batch: Batch, index: Any) -> Batch:
    """The rows of one gradient step; where the index is -1 (no row) the mask becomes 0."""
    if index is None:
        return batch
    rows = select({k: x for k, x in batch.items() if k != STEP}, index)
    mask = rows["mask"]
    xp = namespace(mask)
    rows["mask"] = mask * xp.reshape(index >= 0, (-1,) + (1,) * (mask.ndim - 1))
    return rows


def shareable(metrics: Metrics) -> Params:
    """What learners that update together average: scalars, and whether to stop as 0 or 1."""
    return metrics.scalars if metrics.stop is None else {**metrics.scalars, "stop": metrics.stop}


def to_share(gradient: Array, metrics: Mapping[str, Array], mask: Array, reduction: str) -> Array:
    """What a learner brings to a step that several take together, as one vector to be summed.

    Gradient and metrics are weighted by the rows they stand for: of losses that are means over
    rows, the weighted mean is that over all rows; losses that are sums, and their gradients, just
    add up.
    """
    xp = namespace(gradient)
    rows = xp.reshape(xp.sum(mask), (1,))
    weights = {"loss": xp.ones_like(rows)} if reduction == "sum" else {}
    told = [
        xp.reshape(xp.astype(metrics[name], gradient.dtype), (1,)) * weights.get(name, rows)
        for name in sorted(metrics)
    ]
    return xp.concat([gradient * rows if reduction == "mean" else gradient, *told, rows])


def shared(total: Array, names: list[str], reduction: str) -> tuple[Array, Params]:
    """Gradient and metrics of the step on all rows, from the sum of what the learners brought."""
    rows = namespace(total).clip(total[-1], 1.0, None)
    gradient, told = total[: -1 - len(names)], total[-1 - len(names) : -1]
    adds_up = {"loss"} if reduction == "sum" else set()
    metrics = {name: told[i] if name in adds_up else told[i] / rows for i, name in enumerate(names)}
    return (gradient / rows if reduction == "mean" else gradient), metrics


def convolves(model: Model) -> bool:
    """Whether the network has convolutions."""
    return any(len(shape) == 4 for shape in model.net.shapes().values())


def choose(wanted: str, model: Model, network: Any) -> str:
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
        # Not a daemon: a process that ends amid the import of native code would crash.
        Thread(target=importlib.import_module, args=(name,)).start()


def create(
    kind: str,
    algorithm: Algorithm,
    model: Model,
    params: Mapping[str, ndarray],
    threads: int,
    precision: str = "float32",
) -> Learner:
    """A learner that starts from these parameters. The framework is imported here, not before."""
    if kind == "torch":
        from shoal.learners.torch import TorchLearner

        return TorchLearner(algorithm, model, params, threads, precision)
    from shoal.learners.jax import JaxLearner

    return JaxLearner(algorithm, model, params, threads, precision)


def threads(model: Model, rows: int, beside: int = 0) -> int:
    """Threads worth using for one gradient step on so many rows.

    Those of this machine but for ``beside``, which sample meanwhile: a second thread of a
    convolutional network's step saves less of the wall clock than it takes of the CPU (170 ms on
    one, 105 ms on two; in bfloat16 97 and 78).

    Below about 40 MFLOP (a 64x64 network on 64 rows is 3) handing work to a second thread costs
    more than it saves: a step of DQN's with that network takes 77 us on one thread and 102 us on
    two; with 256x256, 26 MFLOP, 0.58 ms and 0.63 ms.
    """
    sizes = [int(np.prod(shape)) for shape in model.net.shapes().values()]
    small = 6 * sum(sizes) * rows < 40_000_000 and not convolves(model)
    return 1 if small else max(cpus() - beside, 1)
