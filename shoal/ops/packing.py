"""Parameters as vectors, one per optimiser group; gradients that several learners add up."""

from __future__ import annotations

import math
from collections.abc import Mapping

from shoal.ops.kernels import Array, namespace
from shoal.ops.optimisers import Optimiser

Params = dict[str, Array]


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

    A dozen small parameters would cost the optimiser a dozen times the calls in PyTorch, or a dozen
    times the kernels to compile and run in JAX. The numbers are the same.
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


def to_share(gradient: Array, metrics: Mapping[str, Array], mask: Array, reduction: str) -> Array:
    """A learner's contribution to a step of several learners, as one vector to be summed.

    Gradient and metrics are weighted by their number of rows: if the loss is a mean over rows, the
    weighted mean is the mean over all rows; sums just add up.
    """
    xp = namespace(gradient)
    rows = xp.reshape(xp.sum(mask), (1,))
    weights = {"loss": xp.ones_like(rows)} if reduction == "sum" else {}
    values = [
        xp.reshape(xp.astype(metrics[name], gradient.dtype), (1,)) * weights.get(name, rows)
        for name in sorted(metrics)
    ]
    return xp.concat([gradient * rows if reduction == "mean" else gradient, *values, rows])


def shared(total: Array, names: list[str], reduction: str) -> tuple[Array, Params]:
    """Gradient and metrics of the step on all rows, from the sum of the contributions."""
    rows = namespace(total).clip(total[-1], 1.0, None)
    gradient, values = total[: -1 - len(names)], total[-1 - len(names) : -1]
    adds_up = {"loss"} if reduction == "sum" else set()
    metrics = {
        name: values[i] if name in adds_up else values[i] / rows for i, name in enumerate(names)
    }
    return (gradient / rows if reduction == "mean" else gradient), metrics
