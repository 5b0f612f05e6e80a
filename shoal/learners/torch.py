"""The PyTorch learner: the same losses and optimisers, one gradient step after the other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from shoal.algorithms.base import Differentiable, Metrics, Model, Params
from shoal.learners.base import STEP, Reduce, Weights
from shoal.learners.device import CPU, choose_device
from shoal.learners.state import LearnerBase, minibatch, shareable
from shoal.ops.packing import Packing, pack, shared, to_share, unpack
from shoal.process import interrupts
from shoal.trajectory import Batch, ndarray

Packed = tuple[Params, Params]  # parameters and the optimiser's state, as vectors


class TorchLearner(LearnerBase):
    """A learner whose parameters are PyTorch tensors. See ``learners.base.Learner``."""

    def __init__(
        self,
        algorithm: Differentiable,
        model: Model,
        params: Mapping[str, ndarray],
        threads: int = 1,
        precision: str = "float32",
        device: str = CPU,
        heavy: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        self.device = choose_device(device, "torch", heavy, precision)
        self._bfloat16 = precision == "bfloat16"
        if self.device.startswith("cuda"):
            torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
            torch.backends.cudnn.allow_tf32 = precision != "float32"
        super().__init__(algorithm, model, params, partial(_tensors, device=self.device), _numpy)
        self._packed: tuple[Any, Packed] | None = None  # a state, and its parameters as vectors
        self._before: Packed | None = None  # those of the state before, which may come back
        self._spare: Packed | None = None  # those of the one before that: memory for the next
        self._grads: Params = {}  # vectors that gradients are written into

    def update(
        self,
        batch: Batch,
        indices: ndarray | None,
        hyper: Mapping[str, float],
        reduce: Reduce | None = None,
    ) -> tuple[dict[str, float], dict[str, ndarray]]:
        aux, now = self._with(hyper), self._now
        tensors = self._labelled(aux, self._put(batch))
        packing = Packing(self.algorithm.optimiser, now.params)
        if self._packed is None or self._packed[0] is not now:
            packed = packing.pack(now.params), packing.pack_slots(now.optimiser)
            self._packed, self._before, self._spare = (now, packed), None, None
        (params, opt), out = self._packed[1], self._spare
        targets, own = now.targets, tensors.get(STEP, {})
        sums: dict[str, Any] = {}
        by_row: dict[str, list[Any]] = {}
        seen = taken = 0
        steps = [None] if indices is None else torch.from_numpy(indices).long().to(self.device)
        for i, index in enumerate(steps):
            if reduce is None:  # else the other ranks would wait for this one
                interrupts.check()
            leaves = packing.unpack(params)
            rows = minibatch(tensors, index) | {STEP: {name: x[i] for name, x in own.items()}}
            by_name, metrics = self._differentiate(leaves, {**aux, **targets}, rows)
            for name, x in metrics.rows.items():
                by_row.setdefault(name, []).append(x)
            scalars = dict(shareable(metrics))
            if reduce is not None:
                whole, scalars = self._shared(pack(by_name), scalars, rows["mask"], reduce)
                by_name = unpack(whole, by_name)
            stop = bool(scalars.pop("stop", 0.0) > 0)
            scalars["grad_norm"] = self._scalar(0.0)  # of a step that is not taken
            if not stop:
                grads = self._grads = packing.pack(by_name, self._grads)
                lr = aux["hyper/lr"]
                params, opt, scalars["grad_norm"] = self._step(params, grads, opt, lr, out)
                out = params, opt  # they may be written over: nobody else has seen them
                taken += 1
                if targets:
                    step = now.gradient_steps + taken
                    targets = self._follow(packing.unpack(params), targets, step)
            seen += 1
            for name, x in scalars.items():
                sums[name] = sums.get(name, 0.0) + x
            if stop:
                break
        means = {k: x / seen for k, x in _floats(sums).items()}
        new, slots = packing.unpack(params), packing.unpack_slots(opt)
        self._commit(new, slots, taken, means["loss"], means["grad_norm"], targets=targets)
        if taken:
            self._spare, self._before = self._before, self._packed[1]
            self._packed = self._now, (params, opt)
        every = _numpy({name: torch.cat(x) for name, x in by_row.items()})
        return {**means, "gradient_steps": float(taken)}, every

    def gradients(
        self, batch: Batch, hyper: Mapping[str, float]
    ) -> tuple[Weights, dict[str, float], dict[str, ndarray]]:
        params, aux = self._now.params, self._with(hyper)
        tensors = self._labelled(aux, self._put(batch))
        grads, metrics = self._differentiate(params, {**aux, **self._now.targets}, tensors)
        return _numpy(grads), _floats(metrics.scalars), _numpy(metrics.rows)

    def apply(self, gradients: Mapping[str, ndarray], hyper: Mapping[str, float]) -> float:
        now, lr = self._now, self._scalar(hyper["lr"])
        params, opt, norm = self._step(now.params, self._put(gradients), now.optimiser, lr)
        step = now.gradient_steps + 1
        targets = self._followed(params, range(step, step + 1))
        self._commit(params, opt, 1, float(norm), targets=targets)
        return float(norm)

    def _with(self, hyper: Mapping[str, float]) -> Params:
        # float32, as in JAX: a Python float would make the optimiser's scalars float64.
        return {**self._now.aux, **{f"hyper/{k}": self._scalar(x) for k, x in hyper.items()}}

    def _scalar(self, x: float) -> Any:
        return torch.tensor(x, device=self.device)

    def _differentiate(self, params: Params, aux: Params, batch: Batch) -> tuple[Params, Metrics]:
        leaves = {k: x.detach().requires_grad_() for k, x in params.items()}
        with self._precision():
            total, metrics = self.algorithm.loss(self.model, leaves, aux, batch)
        # A head that this loss leaves out (a baseline switched off) has a gradient of zero. All are
        # row-major, as what is saved and loaded: another layout is another rounding.
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        filled = {
            k: torch.zeros_like(x) if g is None else g.contiguous()
            for (k, x), g in zip(leaves.items(), grads, strict=True)
        }
        scalars = {"loss": total, **metrics.scalars}
        return filled, Metrics(
            {k: x.detach() for k, x in scalars.items()},
            {k: x.detach() for k, x in metrics.rows.items()},
            metrics.stop,
        )

    def _precision(self) -> Any:
        """Products and convolutions in bfloat16, where asked for; all else stays in float32."""
        if not self._bfloat16:
            return nullcontext()
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16)

    def _labelled(self, aux: Params, batch: Batch) -> Batch:
        with torch.no_grad(), self._precision():
            params = {**aux, **self._now.targets, **self._now.params}
            return self.algorithm.label(self.model, params, batch)

    def _shared(
        self, gradient: Any, metrics: Params, mask: Any, reduce: Reduce
    ) -> tuple[Any, Params]:
        """Gradient and metrics of a step that several learners take together."""
        reduction = self.algorithm.reduction
        own: Any = to_share(gradient, metrics, mask, reduction)
        if getattr(reduce, "on_device", False):
            total: Any = reduce(own)
        else:
            total = torch.from_numpy(reduce(own.cpu().numpy())).to(self.device)
        return shared(total, sorted(metrics), reduction)

    def _follow(self, params: Params, targets: Params, step: Any) -> Params:
        with torch.no_grad():
            return super()._follow(params, targets, torch.tensor(int(step), device=self.device))

    def _step(
        self, params: Params, grads: Params, opt: Params, lr: Any, out: Packed | None = None
    ) -> tuple[Params, Params, Any]:
        with torch.no_grad():
            return self.algorithm.optimiser.update(params, grads, opt, lr, out)


def _tensors(tree: Mapping[str, Any], device: str = CPU) -> dict[str, Any]:
    """NumPy arrays to tensors; copied, because NumPy's may be read-only or written to later.

    To a GPU they go through pinned memory: the copy there then runs beside what this process does.
    """
    found: dict[str, Any] = {}
    for k, x in tree.items():
        if isinstance(x, Mapping):
            found[k] = _tensors(x, device)
            continue
        found[k] = torch.tensor(np.asarray(x, order="C"))
        if device.startswith("cuda"):
            found[k] = found[k].pin_memory()
        found[k] = found[k].to(device, non_blocking=True)
    return found


def _numpy(tree: Mapping[str, Any]) -> Weights:
    return {k: x.detach().cpu().numpy().copy() for k, x in tree.items()}


def _floats(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Scalars of one dtype, fetched at once: a GPU is waited for once, not for each."""
    if not scalars:
        return {}
    return dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True))
