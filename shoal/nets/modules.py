"""A user's own network: a torch.nn.Module, flax.linen.Module or flax.nnx.Module as a `Net`.

The module is called as ``module(obs)`` on a batch ``[N, ...]`` of observations in the environment's
own form (an array, or dicts and tuples of arrays): float32 and not scaled, except that uint8 of two
axes or more (images) stays uint8, choices stay integers and a mask stays bool. It returns one array
per head, as a tuple in the order of the heads, as a dict by their names, or alone where there is
one head: ``[N, size]`` or ``[N, size + free]``, or ``[N]`` for a single number.

A recurrent module has a method ``initial_memory()``: a dict of arrays, the memory of one
environment as an episode begins. It is called as ``module(obs, memory)`` with the memory
``[N, *shape]`` of each row, and returns a pair: the outputs, and the next memory as a dict. Shoal
unrolls it along sequences and resets it where an episode begins.

It acts and learns in evaluation mode, so that an observation has one answer, and log-probabilities
are of the function that sampled. A module that computes something else in the mode it was given in
(Dropout, BatchNorm in training mode) is refused. What it changes in itself during a call is
dropped. Its object is never written to; its parameters travel as ``"module/<name>"`` arrays.
"""

from __future__ import annotations

import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np

from shoal.errors import NetworkError
from shoal.nets.base import Head
from shoal.nets.fit import (
    ROWS,
    alike,
    by_head,
    check_memory,
    check_outputs,
    in_training_mode,
    memory_of,
    where,
)
from shoal.nets.init import ndarray
from shoal.nets.inputs import Floats, append
from shoal.nets.recurrent import unrolled
from shoal.ops.kernels import Array, namespace
from shoal.spaces.base import ACTION_MASK, MEMORY, Spaces

log = logging.getLogger("shoal.nets")

PREFIX = "module/"  # of the names of a module's own values
_MOODY = "Dropout|BatchNorm|InstanceNorm|RReLU"  # classes of layers that have two modes
_TRAINING_ERRORS = "InvalidRngError", "ModifyScopeVariableError"  # flax's, of layers in training

Values = dict[str, Any]  # of a module, by the names of Net.shapes()


class ModuleNet(ABC):
    """What the adapters share: the form of inputs and outputs, and the dry run that checks them."""

    framework: str
    shared = True  # one call gives all heads

    def __init__(
        self,
        module: Any,
        spaces: Spaces,
        heads: Mapping[str, Head],
        create: Callable[[int], Any] | None,
    ) -> None:
        self._spaces, self._heads, self._create = spaces, heads, create
        self._memo: dict[str, Any] = {}
        self._floats = {leaf.path: Floats(leaf, scaled=False) for leaf in spaces.leaves}
        self.memory: Mapping[str, ndarray] = memory_of(module)
        zeros = self._zeros()
        try:
            self._module = self._evaluating(module)
            values = self._values(self._module, zeros, 0)
            self._names = tuple(values)
            self.frozen = self._frozen()
            raw = self._eager(values, zeros)
        except NetworkError:
            raise
        except Exception as exc:
            if type(exc).__name__ in _TRAINING_ERRORS:
                raise in_training_mode(module, str(exc).partition("(http")[0]) from exc
            shapes = ", ".join(f"{path} {x.dtype} {list(x.shape)}" for path, x in zeros.items())
            exc.add_note(
                f"while Shoal tried {where(module)} on {ROWS} observations of zeros: {shapes}"
            )
            raise
        if self.memory:
            raw = check_memory(module, raw, self.memory, self._numpy)
        # Heads whose `free` outputs the module leaves to Shoal.
        self._free = check_outputs(module, raw, heads, self._numpy)
        self._refuse_training(module, values)
        self._shapes = {name: tuple(x.shape) for name, x in values.items()}
        self._shapes.update({f"{head}/free": (heads[head].free,) for head in self._free})

    @abstractmethod
    def _values(self, module: Any, obs: Values, seed: int) -> Values:
        """All values of the module by their names, NumPy. May call it once on ``obs``."""

    @abstractmethod
    def _evaluating(self, module: Any) -> Any:
        """A copy in evaluation mode; the module itself if it has no modes."""

    def _refuse_training(self, module: Any, values: Values) -> None:
        """Raises NetworkError if the mode it was given in matters, or if it is random in both."""
        space = deepcopy(self._spaces.observation)
        space.seed(0)
        samples = [self._spaces.flatten(space.sample()) for _ in range(ROWS)]
        sample = {k: np.stack([x[k] for x in samples]) for k in samples[0]}
        sample |= {MEMORY + name: x for name, x in self._begun(ROWS).items()}
        sample = self._rows({}, sample, ROWS)

        def outputs(**other: ndarray) -> list[ndarray | None]:
            found, _ = self._parts(self._eager(values, {**sample, **other}))
            return [self._numpy(found[head]) for head in self._heads]

        first = outputs()
        other = {MEMORY + k: x + np.ones((), x.dtype) for k, x in self._begun(ROWS).items()}
        if other and alike(first, outputs(**other)):
            log.warning("%s never uses its memory", where(module))
        if not alike(first, outputs()):
            raise NetworkError(
                f"{type(module).__qualname__} gives two answers for one observation",
                where(module),
                "let evaluation mode be deterministic: F.dropout(x, training=self.training)",
            )
        mine, self._module = self._module, self._given(module)
        if self._module is not mine:
            self._memo = {}
            why = ", ".join(self._moody(module))
            try:
                given = outputs()
            except Exception as exc:
                raise in_training_mode(module, why) from exc
            self._module, self._memo = mine, {}
            if not alike(first, given):
                raise in_training_mode(module, why)

    def _given(self, module: Any) -> Any:
        """The module in the mode that its owner gave it in."""
        return module

    def _moody(self, module: Any) -> list[str]:
        """Names of layers that may depend on the mode."""
        return []

    @abstractmethod
    def _frozen(self) -> frozenset[str]:
        """Names of the values that are not trained."""

    @abstractmethod
    def _call(self, values: Values, obs: Values) -> Any:
        """What the module returns: a pure function of its framework's arrays."""

    def _arguments(self, obs: Values) -> tuple[Any, ...]:
        """What the module is called with: observations, nested, and its memory, if it has one."""
        if not self.memory:
            return (self._spaces.nest(obs),)
        return self._spaces.nest(obs), {name: obs[MEMORY + name] for name in self.memory}

    def _parts(self, raw: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """What the module returned: outputs by head, and the next memory by name."""
        raw, memory = raw if self.memory else (raw, {})
        return by_head(raw, self._heads), memory

    def _begun(self, n: int) -> Values:
        """The memory of n rows as episodes begin, by name."""
        return {k: np.broadcast_to(x, (n, *x.shape)).copy() for k, x in self.memory.items()}

    @abstractmethod
    def _eager(self, values: Values, obs: Values) -> Any:
        """The same, but of NumPy arrays, and without gradients."""

    @abstractmethod
    def _numpy(self, x: Any) -> ndarray | None:
        """An output as NumPy array; None if it is not an array of the framework."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def init(self, rng: np.random.Generator) -> dict[str, ndarray]:
        seed = int(rng.integers(2**31))
        module = self._module if self._create is None else self._create(seed)
        free = {f"{head}/free": np.zeros(self._heads[head].free, np.float32) for head in self._free}
        return {**self._values(module, self._zeros(), seed), **free}

    def __call__(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        return self.step(params, obs, heads)[0]

    def step(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """See `nets.base.RecurrentNet`."""
        leaf = self._spaces.leaves[0]
        x = obs[leaf.path]
        lead = tuple(x.shape[: x.ndim - len(leaf.shape)])
        n = math.prod(lead)
        rows = self._rows(params, obs, n)
        values = {name: params[name] for name in self._names}
        acting = all(isinstance(array, np.ndarray) for array in (x, *values.values()))
        outputs, then = self._parts((self._eager if acting else self._call)(values, rows))
        outs = []
        for head in heads:
            out: Array = self._numpy(outputs[head]) if acting else outputs[head]
            out = out[:n]  # without what was padded
            xp = namespace(out)
            out = xp.astype(out if out.ndim == 2 else out[:, None], xp.float32, copy=False)
            if head in self._free:
                out = append(xp, out, params[f"{head}/free"])
            outs.append(xp.reshape(out, (*lead, out.shape[-1])))
        memory: dict[str, Array] = {}
        for name, initial in self.memory.items():
            state: Array = self._numpy(then[name]) if acting else then[name]
            xp = namespace(state)
            state = xp.astype(state[:n], getattr(xp, initial.dtype.name), copy=False)
            memory[MEMORY + name] = xp.reshape(state, (*lead, *initial.shape))
        return tuple(outs), memory

    def unroll(
        self,
        params: Mapping[str, Array],
        obs: Mapping[str, Array],
        begins: Array,
        heads: tuple[str, ...],
    ) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """See `nets.base.RecurrentNet`."""
        return unrolled(self, params, obs, begins, heads)

    def _rows(self, params: Mapping[str, Array], obs: Mapping[str, Array], n: int) -> Values:
        """Observations ``[N, *shape]`` with the dtypes that the module is promised."""
        rows: Values = {}
        for leaf in self._spaces.leaves:
            x = obs[leaf.path]
            xp = namespace(x)
            x = xp.reshape(x, (n, *leaf.shape))
            kept = leaf.n or (leaf.dtype == np.uint8 and len(leaf.shape) > 1)
            if not kept or f"norm/{leaf.path}/mean" in params:
                x = self._floats[leaf.path](xp, params, x)
            rows[leaf.path] = x
        if self._spaces.mask_space is not None:
            mask = obs[ACTION_MASK]
            rows[ACTION_MASK] = namespace(mask).reshape(mask, (n, sum(self._spaces.action_n)))
        for name, initial in self.memory.items():
            x = obs[MEMORY + name]
            rows[MEMORY + name] = namespace(x).reshape(x, (n, *initial.shape))
        return rows

    def _zeros(self) -> Values:
        zeros: Values = {
            leaf.path: np.zeros((ROWS, *leaf.shape), leaf.dtype) for leaf in self._spaces.leaves
        }
        if self._spaces.mask_space is not None:
            zeros[ACTION_MASK] = np.ones((ROWS, sum(self._spaces.action_n)), bool)
        zeros |= {MEMORY + name: x for name, x in self._begun(ROWS).items()}
        return self._rows({}, zeros, ROWS)

    def _remembered(self, values: Values, convert: Callable[[Values], Values]) -> Values:
        """``convert(values)``, done once for the same arrays: weights change rarely."""
        arrays = tuple(values.values())
        seen, converted = self._memo.get("values", ((), {}))
        if len(seen) != len(arrays) or any(a is not b for a, b in zip(seen, arrays, strict=True)):
            converted = convert(values)
            self._memo["values"] = arrays, converted
        return converted  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memo": {}}  # compiled functions stay in their process


def moody(layers: Iterable[tuple[str, Any]]) -> list[str]:
    """Those of the layers, by name, that may depend on the mode."""
    kinds = [(name, type(layer).__name__) for name, layer in layers]
    return [f"{name} ({kind})" for name, kind in kinds if re.search(_MOODY, kind)]
