"""The PyTorch learner: the same losses and optimisers, one gradient step after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from shoal.algorithms.base import Algorithm, Model, Params
from shoal.learners.base import Holder, Weights, minibatch
from shoal.trajectory import Batch, ndarray

_ALL = "all"  # the name of all parameters, packed


class TorchLearner(Holder):
    """A learner whose parameters are PyTorch tensors. See ``learners.base.Learner``."""

    def __init__(
        self, algorithm: Algorithm, model: Model, params: Mapping[str, ndarray], threads: int = 1
    ) -> None:
        torch.set_num_threads(threads)
        super().__init__(algorithm, model, params, _tensors, _numpy)

    def update(
        self, batch: Batch, indices: ndarray | None, hyper: Mapping[str, float]
    ) -> dict[str, float]:
        tensors, aux = _tensors(batch), self._with(hyper)
        now = self._now
        # As one vector: a dozen small parameters would cost the optimiser a dozen times its calls.
        params, opt = {_ALL: _pack(now.params)}, _pack_slots(now.optimiser)
        sums: dict[str, Any] = {}
        seen = taken = 0
        for index in [None] if indices is None else torch.from_numpy(indices).long():
            leaves = _unpack(params[_ALL], now.params)
            grads, metrics = self._differentiate(leaves, aux, minibatch(tensors, index))
            stop = bool(metrics.pop("stop", False))
            metrics["grad_norm"] = torch.zeros(())  # of a step that is not taken
            if not stop:
                grads = {_ALL: _pack(grads)}
                params, opt, metrics["grad_norm"] = self._step(params, grads, opt, aux["hyper/lr"])
                taken += 1
            seen += 1
            for name, x in metrics.items():
                sums[name] = sums.get(name, 0.0) + x
            if stop:
                break
        means = {k: float(x) / seen for k, x in sums.items()}
        new = _unpack(params[_ALL], now.params)
        slots = _unpack_slots(opt, now.params)
        self._commit(new, slots, taken, means["loss"], means["grad_norm"])
        return {**means, "gradient_steps": float(taken)}

    def gradients(
        self, batch: Batch, hyper: Mapping[str, float]
    ) -> tuple[Weights, dict[str, float]]:
        params = self._now.params
        grads, metrics = self._differentiate(params, self._with(hyper), _tensors(batch))
        return _numpy(grads), {k: float(x) for k, x in metrics.items()}

    def apply(self, gradients: Mapping[str, ndarray], hyper: Mapping[str, float]) -> float:
        now, lr = self._now, torch.tensor(hyper["lr"])
        params, opt, norm = self._step(now.params, _tensors(gradients), now.optimiser, lr)
        self._commit(params, opt, 1, float(norm))
        return float(norm)

    def _with(self, hyper: Mapping[str, float]) -> Params:
        # float32, as in JAX: a Python float would make the optimiser's scalars float64.
        return {**self._now.aux, **{f"hyper/{k}": torch.tensor(x) for k, x in hyper.items()}}

    def _differentiate(self, params: Params, aux: Params, batch: Batch) -> tuple[Params, Params]:
        leaves = {k: x.detach().requires_grad_() for k, x in params.items()}
        total, metrics = self.algorithm.loss(self.model, leaves, aux, batch)
        # A head that this loss leaves out (a baseline switched off) has a gradient of zero. All are
        # row-major, as what is saved and loaded: another layout is another rounding.
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        filled = {
            k: torch.zeros_like(x) if g is None else g.contiguous()
            for (k, x), g in zip(leaves.items(), grads, strict=True)
        }
        return filled, {"loss": total.detach(), **{k: x.detach() for k, x in metrics.items()}}

    def _step(
        self, params: Params, grads: Params, opt: Params, lr: Any
    ) -> tuple[Params, Params, Any]:
        with torch.no_grad():
            return self.algorithm.optimiser.update(params, grads, opt, lr)


def _pack(tree: Params) -> Any:
    """All arrays of a dict as one vector."""
    return torch.cat([x.reshape(-1) for x in tree.values()])


def _unpack(vector: Any, like: Params) -> Params:
    """A vector as views of the names, order and shapes of ``like``."""
    parts = torch.split(vector, [x.numel() for x in like.values()])
    return {k: part.view(x.shape) for part, (k, x) in zip(parts, like.items(), strict=True)}


def _pack_slots(optimiser: Params) -> Params:
    """An optimiser's state (``"m/<name>"`` ..., ``"t"``) for parameters packed into one vector."""
    slots: dict[str, Params] = {}
    for key, x in optimiser.items():
        slot, _, name = key.partition("/")
        slots.setdefault(slot, {})[name] = x
    return {
        slot if "" in tree else f"{slot}/{_ALL}": tree[""] if "" in tree else _pack(tree)
        for slot, tree in slots.items()
    }


def _unpack_slots(packed: Params, like: Params) -> Params:
    """Back to one entry for each parameter."""
    out: Params = {}
    for key, x in packed.items():
        slot, _, name = key.partition("/")
        out |= {f"{slot}/{k}": y for k, y in _unpack(x, like).items()} if name else {key: x}
    return out


def _tensors(tree: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy arrays to tensors; copied, because NumPy's may be read-only or written to later."""
    return {
        k: _tensors(x) if isinstance(x, Mapping) else torch.tensor(np.asarray(x, order="C"))
        for k, x in tree.items()
    }


def _numpy(tree: Mapping[str, Any]) -> Weights:
    return {k: x.detach().numpy().copy() for k, x in tree.items()}
