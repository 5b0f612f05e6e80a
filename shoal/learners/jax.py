"""The JAX learner: all gradient steps of an update are one compiled call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shoal.algorithms.base import Algorithm, Model, Params
from shoal.learners.base import (
    ALL,
    Holder,
    Reduce,
    Weights,
    minibatch,
    pack,
    pack_slots,
    shared,
    to_share,
    unpack,
    unpack_slots,
)
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


class JaxLearner(Holder):
    """A learner whose parameters are JAX arrays. See ``learners.base.Learner``."""

    def __init__(
        self, algorithm: Algorithm, model: Model, params: Mapping[str, ndarray], threads: int = 1
    ) -> None:
        jax = start(threads)
        super().__init__(algorithm, model, params, jax.device_put, _numpy)
        self._names: list[str] = []  # of the metrics that leave ``_update`` as one vector
        self._whole_names: list[str] = []  # and ``_whole``
        self._told: list[str] = []  # of those that learners who update together share
        self._update = jax.jit(self._steps)
        self._gradients = jax.jit(self._differentiate)
        self._apply = jax.jit(algorithm.optimiser.update)
        self._prepare = jax.jit(self._prepared)
        self._own = jax.jit(self._own_part)
        self._whole = jax.jit(self._whole_step)

    def update(
        self,
        batch: Batch,
        indices: ndarray | None,
        hyper: Mapping[str, float],
        reduce: Reduce | None = None,
    ) -> dict[str, float]:
        if reduce is not None:
            return self._together(batch, indices, hyper, reduce)
        now = self._now
        params, opt, values = self._update(
            now.params, now.optimiser, self._with(hyper), batch, indices
        )
        metrics = dict(zip(self._names, np.asarray(values).tolist(), strict=True))
        self._commit(
            params, opt, round(metrics["gradient_steps"]), metrics["loss"], metrics["grad_norm"]
        )
        return metrics

    def gradients(
        self, batch: Batch, hyper: Mapping[str, float]
    ) -> tuple[Weights, dict[str, float]]:
        params, aux = self._now.params, self._with(hyper)
        grads, metrics = self._gradients(params, aux, self._prepare(params, aux, batch))
        return _numpy(grads), {k: float(x) for k, x in metrics.items()}

    def apply(self, gradients: Mapping[str, ndarray], hyper: Mapping[str, float]) -> float:
        now = self._now
        params, opt, norm = self._apply(
            now.params, dict(gradients), now.optimiser, np.float32(hyper["lr"])
        )
        self._commit(params, opt, 1, float(norm))
        return float(norm)

    def _with(self, hyper: Mapping[str, float]) -> Params:
        return {**self._now.aux, **{f"hyper/{k}": np.float32(x) for k, x in hyper.items()}}

    def _differentiate(self, params: Params, aux: Params, batch: Batch) -> tuple[Params, Params]:
        import jax

        loss = partial(self.algorithm.loss, self.model)
        (total, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, aux, batch)
        return grads, {"loss": total, **metrics}

    def _prepared(self, params: Params, aux: Params, batch: Batch) -> Batch:
        import jax

        return jax.lax.stop_gradient(self.algorithm.prepare(self.model, {**aux, **params}, batch))

    def _steps(
        self, params: Params, opt: Params, aux: Params, batch: Batch, indices: Any
    ) -> tuple[Params, Params, Any]:
        """Traced once per shape: scan one gradient step over the rows of ``indices``.

        Metrics leave as one vector, because each array fetched from JAX costs some 20 us.
        """
        import jax
        import jax.numpy as jnp

        may_stop = self.algorithm.stops_early
        batch = self._prepared(params, aux, batch)

        def step(carry: Any, index: Any) -> tuple[Any, Any]:
            packed, opt, stopped = carry
            leaves = unpack(packed[ALL], params)
            grads, metrics = self._differentiate(leaves, aux, minibatch(batch, index))
            stopped = stopped | metrics.pop("stop", jnp.asarray(False))
            grads = {ALL: pack({name: grads[name] for name in params})}
            new, new_opt, norm = self.algorithm.optimiser.update(
                packed, grads, opt, aux["hyper/lr"]
            )
            metrics["grad_norm"] = jnp.where(stopped, 0.0, norm)
            if may_stop:
                new, new_opt = jax.tree.map(
                    lambda old, new: jnp.where(stopped, old, new), (packed, opt), (new, new_opt)
                )
            return (new, new_opt, stopped), (metrics, ~stopped)

        def guarded(carry: Any, index: Any) -> tuple[Any, Any]:
            """Once stopped, the remaining steps cost nothing."""
            idle = jax.tree.map(
                lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(step, carry, index)[1]
            )
            return jax.lax.cond(carry[2], lambda: (carry, idle), lambda: step(carry, index))  # type: ignore[no-any-return]

        carry = ({ALL: pack(params)}, pack_slots(opt), jnp.asarray(False))
        if indices is None:
            carry, (metrics, taken) = step(carry, None)
        else:
            carry, (metrics, taken) = jax.lax.scan(guarded if may_stop else step, carry, indices)
        count = jnp.sum(taken)
        # A stopped run's own step counts in the metrics (its KL is the reason) but not as taken.
        seen = jnp.maximum(jnp.minimum(count + 1, taken.size), 1) if may_stop else taken.size
        means = {k: jnp.sum(x) / seen for k, x in metrics.items()}
        means["gradient_steps"] = count
        self._names = sorted(means)
        new, slots = unpack(carry[0][ALL], params), unpack_slots(carry[1], params)
        return new, slots, jnp.stack([means[k].astype(jnp.float32) for k in self._names])

    def _together(
        self, batch: Batch, indices: ndarray | None, hyper: Mapping[str, float], reduce: Reduce
    ) -> dict[str, float]:
        """The same steps, each gradient summed over several learners before it is applied."""
        now, aux = self._now, self._with(hyper)
        packed, opt = {ALL: pack(now.params)}, pack_slots(now.optimiser)
        batch = self._prepare(now.params, aux, batch)
        sums: dict[str, float] = {}
        seen = taken = 0
        for index in [None] if indices is None else indices:
            own = self._own(packed[ALL], now.params, aux, batch, index)
            new, new_opt, values = self._whole(packed, opt, aux, reduce(np.asarray(own)))
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
        new, slots = unpack(packed[ALL], now.params), unpack_slots(opt, now.params)
        self._commit(new, slots, taken, means["loss"], means["grad_norm"])
        return {**means, "gradient_steps": float(taken)}

    def _own_part(self, packed: Any, like: Params, aux: Params, batch: Batch, index: Any) -> Any:
        """This learner's share of a step, as ``to_share`` has it."""
        rows = minibatch(batch, index)
        grads, metrics = self._differentiate(unpack(packed, like), aux, rows)
        self._told = sorted(metrics)
        gradient = pack({name: grads[name] for name in like})
        return to_share(gradient, metrics, rows["mask"], self.algorithm.reduction)

    def _whole_step(
        self, packed: Params, opt: Params, aux: Params, total: Any
    ) -> tuple[Params, Params, Any]:
        """The step on what all learners brought, and its metrics as one vector."""
        import jax.numpy as jnp

        gradient, metrics = shared(total, self._told, self.algorithm.reduction)
        new, new_opt, norm = self.algorithm.optimiser.update(
            packed, {ALL: gradient}, opt, aux["hyper/lr"]
        )
        metrics["grad_norm"] = norm
        self._whole_names = sorted(metrics)
        return new, new_opt, jnp.stack([metrics[k] for k in self._whole_names])


def _numpy(tree: Mapping[str, Any]) -> Weights:
    return {k: np.asarray(x) for k, x in tree.items()}
