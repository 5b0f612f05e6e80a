"""Gradient steps: SGD, AdaGrad, RMSProp and Adam as pure functions of flat dicts of arrays.

One source for every array library: a run in JAX and one in PyTorch differ by rounding only, and an
optimiser's state is saved as what it is, a plain dict of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, Literal

from shoal.errors import ConfigError
from shoal.ops.kernels import Array, in_blocks, namespace, sum_of_squares

Arrays = dict[str, Array]
_KINDS = "adagrad", "adam", "rmsprop", "sgd"
ALL = "all"  # the name of the parameters that are in no group


@dataclass(frozen=True)
class Group:
    """Parameters with steps of their own, such as a delayed policy."""

    name: str
    prefixes: tuple[str, ...]  # with one of which their names begin
    rate: float = 1.0  # factor of the step size
    every: int = 1  # gradient steps; only the last of them moves these parameters


@dataclass(frozen=True)
class Optimiser:
    """How gradients become steps: Kingma and Ba 2015 (arXiv:1412.6980), Algorithm 1; Hinton's
    RMSProp, centred as in Graves 2013 (arXiv:1308.0850); Duchi et al. 2011's diagonal AdaGrad, as
    in Dean et al. 2012 and Gorila (arXiv:1507.04296); or SGD.

    What divides a step is sqrt(v + eps) with ``eps_inside``, as TensorFlow and the papers on DQN,
    A3C and IMPALA have it, else sqrt(v) + eps, as PyTorch and the paper on Adam have it. With an
    eps of 0.1 that is another algorithm, not a detail.

    Raises:
        ConfigError: for an unknown kind, or a field that this kind has no use for.
    """

    kind: Literal["adagrad", "adam", "rmsprop", "sgd"] = "adam"
    b1: float = 0.9  # adam: decay of the gradient's average
    b2: float = 0.999  # adam: decay of the squared gradient's average
    decay: float = 0.99  # rmsprop: decay of the squared gradient's average
    momentum: float = 0.0  # rmsprop, sgd: decay of the steps' sum
    centered: bool = False  # rmsprop: divide by the variance, not the second moment
    eps: float = 1e-8  # adagrad, adam, rmsprop
    eps_inside: bool = False
    clip_norm: float | None = None  # of all gradients together, before anything else
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            fix = f"take one of {', '.join(_KINDS)}"
            raise ConfigError(f"no optimiser is called {self.kind!r}", None, fix)
        if self.kind == "adam" and self.momentum:
            raise ConfigError("Adam has no momentum but b1", f"momentum={self.momentum}", "set b1")
        if self.kind == "adagrad" and self.momentum:
            raise ConfigError("AdaGrad has no momentum", f"momentum={self.momentum}", "leave it 0")
        if self.kind != "rmsprop" and self.centered:
            raise ConfigError(f"only rmsprop can be centered, not {self.kind}", "centered=True")

    def init(self, params: Mapping[str, Array]) -> Arrays:
        """The state before the first step, in the library of ``params``.

        ``"t"`` counts the steps (int32 scalar); of each parameter, ``"m/<name>"`` averages the
        gradient, ``"v/<name>"`` its square, ``"h/<name>"`` sums its squares, ``"step/<name>"`` sums
        the steps; only what is needed.
        """
        xp = namespace(next(iter(params.values())))
        state: Arrays = {"t": xp.asarray(0, dtype=xp.int32)}
        for slot in self._slots:
            state |= {f"{slot}/{name}": xp.zeros_like(x) for name, x in params.items()}
        return state

    def update(
        self,
        params: Mapping[str, Array],
        grads: Mapping[str, Array],
        state: Mapping[str, Array],
        lr: float | Array,
        out: tuple[Arrays, Arrays] | None = None,
    ) -> tuple[Arrays, Arrays, Array]:
        """One gradient step of size ``lr``: new parameters, new state, norm before clipping.

        ``out``, parameters and a state that nobody needs any more, is memory for the new ones where
        they are long vectors; it may be ``params`` and ``state`` themselves.
        """
        xp = namespace(next(iter(params.values())))
        norm, scale = global_norm(grads), None
        if self.clip_norm is not None:
            scale = xp.clip(self.clip_norm / (norm + 1e-6), None, 1.0)
        t = xp.asarray(state["t"] + 1, dtype=xp.int32)
        lr = xp.asarray(lr, dtype=norm.dtype)
        known = {ALL: self._scalars(xp, t, lr)}
        known |= {
            g.name: self._scalars(xp, (t + g.every - 1) // g.every, lr * g.rate)
            for g in self.groups
        }
        wait = {g.name: t % g.every != 0 for g in self.groups if g.every > 1}
        after, new = {}, {"t": t}
        for name, x in params.items():
            group = self.group(name)
            rate, eps = known[group]
            old = {slot: state[f"{slot}/{name}"] for slot in self._slots}
            move = partial(self._moved, xp, scale, rate, eps, wait.get(group))
            into = None
            if out is not None:
                into = {"x": out[0][name], **{k: out[1][f"{k}/{name}"] for k in old}}
            moved = in_blocks(move, {"x": x, "g": grads[name], **old}, into)
            after[name] = moved.pop("x")
            new.update({f"{slot}/{name}": value for slot, value in moved.items()})
        return after, new, norm

    def group(self, name: str) -> str:
        """Name of the group of a parameter; a group's own name is in that group too."""
        for group in self.groups:
            if name == group.name or name.startswith(group.prefixes):
                return group.name
        return ALL

    @property
    def _slots(self) -> tuple[str, ...]:
        if self.kind == "adam":
            return "m", "v"
        if self.kind == "adagrad":
            return ("h",)
        root = ("m", "v") if self.centered else ("v",)
        return (root if self.kind == "rmsprop" else ()) + (("step",) if self.momentum else ())

    def _scalars(self, xp: Any, t: Array, lr: Array) -> tuple[Array, Array]:
        """Step size and eps with Adam's two bias corrections already in them.

        So they cost a few operations per step, not per parameter; the step is the same.
        """
        if self.kind != "adam":
            return lr, self.eps
        n = xp.astype(t, lr.dtype)
        # 1 - b**t through expm1: float32 would lose four digits of it while b**t is near 1.
        seen1, seen2 = (
            -xp.expm1(n * (math.log(b) if b else -math.inf)) for b in (self.b1, self.b2)
        )
        root = xp.sqrt(seen2)
        return lr * root / seen1, self.eps * (seen2 if self.eps_inside else root)

    def _moved(
        self, xp: Any, scale: Array | None, rate: Array, eps: Array, wait: Array | None, old: Arrays
    ) -> Arrays:
        """A parameter ``"x"`` and its slots, after a step along ``"g"``."""
        step, new = self._step(xp, old["g"] if scale is None else old["g"] * scale, old, eps)
        new["x"] = old["x"] - rate * step
        if wait is None:
            return new
        return {name: xp.where(wait, old[name], value) for name, value in new.items()}

    def _step(self, xp: Any, g: Array, old: Arrays, eps: Array) -> tuple[Array, Arrays]:
        """The step of one parameter for a step size of 1, and its new slots."""
        adam = self.kind == "adam"
        b1, b2 = (self.b1, self.b2) if adam else (self.decay, self.decay)
        step, new = g, {}
        if "m" in old:
            new["m"] = b1 * old["m"] + (1.0 - b1) * g
        if "v" in old:
            v = new["v"] = b2 * old["v"] + (1.0 - b2) * (g * g)
            if self.centered:  # a variance, which rounding can bring just below 0
                v = xp.clip(v - new["m"] * new["m"], 0.0, None)
            step = (new["m"] if adam else g) / self._root(xp, v, eps)
        if "h" in old:
            new["h"] = old["h"] + g * g
            step = g / self._root(xp, new["h"], eps)
        if "step" in old:
            step = new["step"] = self.momentum * old["step"] + step
        return step, new

    def _root(self, xp: Any, v: Array, eps: Array) -> Array:
        """What divides a step."""
        return xp.sqrt(v + eps) if self.eps_inside else xp.sqrt(v) + eps


def global_norm(arrays: Mapping[str, Array]) -> Array:
    """Euclidean norm of all arrays together, as one vector (PPO detail 11)."""
    xp = namespace(next(iter(arrays.values())))
    return xp.sqrt(reduce(add, (sum_of_squares(x) for x in arrays.values())))
