"""A user's flax.linen.Module or flax.nnx.Module as a `Net`. Flax is imported with the first one."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.nets.fit import refuse_other_floats
from shoal.nets.init import ndarray
from shoal.nets.modules import PREFIX, ModuleNet, Values, moody


class FlaxNet(ModuleNet):
    """What both kinds of flax modules share: compiled on the CPU to act, traced to learn."""

    framework = "jax"

    def _eager(self, values: Values, obs: Values) -> Any:
        import jax

        if "call" not in self._memo:
            self._memo["call"] = jax.jit(self._call)
        cpu = jax.local_devices(backend="cpu")[0]
        values = self._remembered(values, lambda x: jax.device_put(x, cpu))
        return self._memo["call"](values, {path: _padded(x) for path, x in obs.items()})

    def _numpy(self, x: Any) -> ndarray | None:
        import jax

        return np.asarray(x) if isinstance(x, jax.Array) else None


class LinenNet(FlaxNet):
    """A flax.linen.Module: ``init`` with the run's seed, ``apply`` without mutable collections."""

    def _evaluating(self, module: Any) -> Any:
        return module  # its calls say what they do: a layer in training mode raises

    def _values(self, module: Any, obs: Values, seed: int) -> Values:
        import jax
        from flax.core import meta
        from flax.traverse_util import flatten_dict

        arguments = self._arguments(jax.device_put(obs))
        variables = meta.unbox(module.init(jax.random.key(seed), *arguments))
        flat = flatten_dict(variables, sep="/")  # type: ignore[no-untyped-call]
        refuse_other_floats(module, flat)
        return {PREFIX + name: np.asarray(x) for name, x in flat.items()}

    def _frozen(self) -> frozenset[str]:
        return frozenset(x for x in self._names if not x.startswith(f"{PREFIX}params/"))

    def _call(self, values: Values, obs: Values) -> Any:
        from flax.traverse_util import unflatten_dict

        flat = {name.removeprefix(PREFIX): x for name, x in values.items()}
        variables = unflatten_dict(flat, sep="/")  # type: ignore[no-untyped-call]
        return self._module.apply(variables, *self._arguments(obs))


class NnxNet(FlaxNet):
    """A flax.nnx.Module, split and merged; its random streams stay where they are."""

    def _evaluating(self, module: Any) -> Any:
        from flax import nnx

        copy = nnx.clone(module)
        copy.eval()
        return copy

    def _moody(self, module: Any) -> list[str]:
        from flax import nnx

        return moody(("/".join(map(str, path)), x) for path, x in nnx.iter_graph(module))

    def _values(self, module: Any, obs: Values, seed: int) -> Values:
        values = {name: x[...] for name, (_, x) in _variables(module).items()}
        refuse_other_floats(module, values)
        return {name: np.asarray(x) for name, x in values.items()}

    def _frozen(self) -> frozenset[str]:
        from flax import nnx

        variables = _variables(self._module).items()
        return frozenset(name for name, (_, x) in variables if not isinstance(x, nnx.Param))

    def _call(self, values: Values, obs: Values) -> Any:
        from flax import nnx

        graph, streams, *_ = nnx.split(self._module, nnx.RngState, ...)
        variables = _variables(self._module).items()
        state = nnx.from_flat_state(
            [(path, variable.replace(values[name])) for name, (path, variable) in variables]
        )
        return nnx.merge(graph, streams, state)(*self._arguments(obs))


def _variables(module: Any) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """Path and nnx.Variable of everything but random streams, by name."""
    from flax import nnx

    parts: Any = nnx.split(module, nnx.RngState, ...)  # graph, random streams, the others
    state = nnx.to_flat_state(parts[-1])
    return {PREFIX + "/".join(map(str, path)): (path, x) for path, x in state}


def _padded(x: ndarray) -> ndarray:
    """Zero rows appended, up to one of four sizes per power of two: few shapes to compile."""
    n = len(x)
    unit = 1 << max(0, (n - 1).bit_length() - 3)
    missing = max(1, -(-n // unit) * unit) - n
    return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x
