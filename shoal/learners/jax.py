"""The JAX learner: all gradient steps of an update are one compiled call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shoal.algorithms.base import Differentiable, Metrics, Model, Params
from shoal.learners.base import STEP, Reduce, Weights
from shoal.learners.bfloat16 import rounded
from shoal.learners.device import CPU, choose_device, jax_device
from shoal.learners.state import LearnerBase, minibatch, shareable
from shoal.ops.packing import Packing, pack, shared, to_share, unpack
from shoal.trajectory import Batch, ndarray


def start(threads: int) -> Any:
    """Import JAX, with its thread count set before and compilations kept on disk between runs.

    XLA reads its flags once, so they cannot change later in the process; what the user has set
    in the environment stays.
    """
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_cpu_multi_thread_eigen" not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        os.environ.setdefault("NPROC", "1")  # size of XLA's own pool
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    cache = os.environ.get("SHOAL_CACHE", str(Path.home() / ".cache" / "shoal" / "xla"))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return jax


class JaxLearner(LearnerBase):
    """A learner whose parameters are JAX arrays. See ``learners.base.Learner``."""

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
        jax = start(threads)
        self.device = choose_device(device, "jax", heavy, precision)
        # What is compiled runs where the parameters are: batches are copied there by the call.
        put = partial(jax.device_put, device=jax_device(self.device))
        super().__init__(algorithm, model, params, put, _numpy)
        self._bfloat16 = precision == "bfloat16"
        if self.device.startswith("cuda"):  # whose products are in TF32 if nothing is said
            exact = "highest" if precision == "float32" else "default"
            jax.config.update("jax_default_matmul_precision", exact)
        self._names: list[str] = []  # of the metrics in ``_update``'s vector
        self._whole_names: list[str] = []  # and in ``_whole``'s
        self._shared_names: list[str] = []  # of those that learners share when they update together
        self._update = jax.jit(self._steps)
        self._gradients = jax.jit(self._differentiate)
        self._apply = jax.jit(algorithm.optimiser.update)
        self._label = jax.jit(self._labelled)
        self._after = jax.jit(algorithm.after_step)
        self._own = jax.jit(self._own_part)
        self._whole = jax.jit(self._whole_step)

    def update(
        self,
        batch: Batch,
        indices: ndarray | None,
        hyper: Mapping[str, float],
        reduce: Reduce | None = None,
    ) -> tuple[dict[str, float], dict[str, ndarray]]:
        if reduce is not None:
            return self._together(batch, indices, hyper, reduce)
        now, aux = self._now, self._with(hyper)
        held = now.params, now.optimiser, now.targets, np.int32(now.gradient_steps)
        params, opt, targets, values, rows = self._update(*held, aux, batch, indices)
        metrics = dict(zip(self._names, np.asarray(values).tolist(), strict=True))
        taken = round(metrics["gradient_steps"])
        self._commit(params, opt, taken, metrics["loss"], metrics["grad_norm"], targets=targets)
        return metrics, {name: np.asarray(x).reshape(-1) for name, x in rows.items()}

    def gradients(
        self, batch: Batch, hyper: Mapping[str, float]
    ) -> tuple[Weights, dict[str, float], dict[str, ndarray]]:
        params, aux = self._now.params, self._with(hyper)
        seen = {**aux, **self._now.targets}
        labelled = self._label(params, aux, self._now.targets, batch)
        grads, metrics = self._gradients(params, seen, labelled)
        return (
            _numpy(grads),
            {k: float(x) for k, x in metrics.scalars.items()},
            _numpy(metrics.rows),
        )

    def apply(self, gradients: Mapping[str, ndarray], hyper: Mapping[str, float]) -> float:
        now = self._now
        params, opt, norm = self._apply(
            now.params, dict(gradients), now.optimiser, np.float32(hyper["lr"])
        )
        step = now.gradient_steps + 1
        targets = self._followed(params, range(step, step + 1))
        self._commit(params, opt, 1, float(norm), targets=targets)
        return float(norm)

    def _follow(self, params: Params, targets: Params, step: Any) -> Params:
        followed: Params = self._after(params, targets, step)
        return followed

    def _with(self, hyper: Mapping[str, float]) -> Params:
        return {**self._now.aux, **{f"hyper/{k}": np.float32(x) for k, x in hyper.items()}}

    def _differentiate(self, params: Params, aux: Params, batch: Batch) -> tuple[Params, Metrics]:
        """Gradients, and the loss's metrics with the loss among its scalars."""
        import jax

        loss = partial(self.algorithm.loss, self.model)
        differentiate = self._rounded(jax.value_and_grad(loss, has_aux=True))
        (total, metrics), grads = differentiate(params, aux, batch)
        return grads, metrics._replace(scalars={"loss": total, **metrics.scalars})

    def _labelled(self, params: Params, aux: Params, targets: Params, batch: Batch) -> Batch:
        import jax

        label = self._rounded(partial(self.algorithm.label, self.model))
        return jax.lax.stop_gradient(label({**aux, **targets, **params}, batch))

    def _rounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not self._bfloat16:
            return function
        return rounded(function, convolutions=self.device.startswith("cuda"))

    def _steps(
        self,
        params: Params,
        opt: Params,
        targets: Params,
        steps: Any,
        aux: Params,
        batch: Batch,
        indices: Any,
    ) -> tuple[Params, Params, Params, Any, Params]:
        """Traced once per shape: scan one gradient step over the rows of ``indices``.

        Metrics leave as one vector, because each array fetched from JAX costs some 20 us.
        """
        import jax
        import jax.numpy as jnp

        may_stop = self.algorithm.stops_early
        packing = Packing(self.algorithm.optimiser, params)
        batch = self._labelled(params, aux, targets, batch)

        def step(carry: Any, now: Any) -> tuple[Any, Any]:
            packed, opt, followers, number, stopped = carry
            index, own = now
            leaves = packing.unpack(packed)
            rows = minibatch(batch, index) | {STEP: own}
            grads, metrics = self._differentiate(leaves, {**aux, **followers}, rows)
            scalars = dict(metrics.scalars)
            if metrics.stop is not None:
                stopped = stopped | metrics.stop
            new, new_opt, norm = self.algorithm.optimiser.update(
                packed, packing.pack(grads), opt, aux["hyper/lr"]
            )
            scalars["grad_norm"] = jnp.where(stopped, 0.0, norm)
            if followers:
                followers = self.algorithm.after_step(packing.unpack(new), followers, number + 1)
            if may_stop:
                new, new_opt = jax.tree.map(
                    lambda old, new: jnp.where(stopped, old, new), (packed, opt), (new, new_opt)
                )
            return (new, new_opt, followers, number + 1, stopped), (scalars, ~stopped, metrics.rows)

        def guarded(carry: Any, index: Any) -> tuple[Any, Any]:
            """Once stopped, the remaining steps cost nothing."""
            idle = jax.tree.map(
                lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(step, carry, index)[1]
            )
            return jax.lax.cond(carry[4], lambda: (carry, idle), lambda: step(carry, index))  # type: ignore[no-any-return]

        carry = (packing.pack(params), packing.pack_slots(opt), targets, steps, jnp.asarray(False))
        own = batch.get(STEP, {})
        if indices is None:
            own = {name: x[0] for name, x in own.items()}
            carry, (metrics, taken, rows) = step(carry, (None, own))
        else:
            each = guarded if may_stop else step
            carry, (metrics, taken, rows) = jax.lax.scan(each, carry, (indices, own))
        count = jnp.sum(taken)
        # A stopped run's own step counts in the metrics (its KL is the reason) but not as taken.
        seen = jnp.maximum(jnp.minimum(count + 1, taken.size), 1) if may_stop else taken.size
        means = {k: jnp.sum(x) / seen for k, x in metrics.items()}
        means["gradient_steps"] = count
        self._names = sorted(means)
        new, slots = packing.unpack(carry[0]), packing.unpack_slots(carry[1])
        stacked = jnp.stack([means[k].astype(jnp.float32) for k in self._names])
        return new, slots, carry[2], stacked, rows

    def _together(
        self, batch: Batch, indices: ndarray | None, hyper: Mapping[str, float], reduce: Reduce
    ) -> tuple[dict[str, float], dict[str, ndarray]]:
        """The same steps, each gradient summed over several learners before it is applied."""
        now, aux = self._now, self._with(hyper)
        packing = Packing(self.algorithm.optimiser, now.params)
        packed, opt = packing.pack(now.params), packing.pack_slots(now.optimiser)
        batch = self._label(now.params, aux, now.targets, batch)
        sums: dict[str, float] = {}
        by_row: dict[str, list[ndarray]] = {}
        seen = taken = 0
        for index in [None] if indices is None else indices:
            own, rows = self._own(packed, now.params, aux, batch, index)
            for name, x in rows.items():
                by_row.setdefault(name, []).append(np.asarray(x))
            total = reduce(np.asarray(own))
            new, new_opt, values = self._whole(packed, opt, now.params, aux, total)
            metrics = dict(zip(self._whole_names, np.asarray(values).tolist(), strict=True))
            stop = metrics.pop("stop", 0.0) > 0.0
            if stop:
                metrics["grad_norm"] = 0.0  # of a step that is not taken
            else:
                packed, opt, taken = new, new_opt, taken + 1
            seen += 1
            for name, x in metrics.items():
                sums[name] = sums.get(name, 0.0) + x
            if stop:
                break
        means = {name: x / seen for name, x in sums.items()}
        new, slots = packing.unpack(packed), packing.unpack_slots(opt)
        self._commit(new, slots, taken, means["loss"], means["grad_norm"])
        every = {name: np.concatenate(x) for name, x in by_row.items()}
        return {**means, "gradient_steps": float(taken)}, every

    def _own_part(
        self, packed: Any, like: Params, aux: Params, batch: Batch, index: Any
    ) -> tuple[Any, Params]:
        """This learner's share of a step, as ``to_share`` makes it, and the metrics of its rows."""
        rows = minibatch(batch, index)
        params = Packing(self.algorithm.optimiser, like).unpack(packed)
        grads, metrics = self._differentiate(params, aux, rows)
        scalars = shareable(metrics)
        self._shared_names = sorted(scalars)
        gradient = pack({name: grads[name] for name in like})
        share = to_share(gradient, scalars, rows["mask"], self.algorithm.reduction)
        return share, dict(metrics.rows)

    def _whole_step(
        self, packed: Params, opt: Params, like: Params, aux: Params, total: Any
    ) -> tuple[Params, Params, Any]:
        """The step on what all learners brought, and its metrics as one vector."""
        import jax.numpy as jnp

        gradient, metrics = shared(total, self._shared_names, self.algorithm.reduction)
        optimiser = self.algorithm.optimiser
        grads = Packing(optimiser, like).pack(unpack(gradient, like))
        new, new_opt, norm = optimiser.update(packed, grads, opt, aux["hyper/lr"])
        metrics["grad_norm"] = norm
        self._whole_names = sorted(metrics)
        return new, new_opt, jnp.stack([metrics[k] for k in self._whole_names])


def _numpy(tree: Mapping[str, Any]) -> Weights:
    return {k: np.asarray(x) for k, x in tree.items()}
