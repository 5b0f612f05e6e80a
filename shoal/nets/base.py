"""The contract of a network (`Net`), and what it is asked for (`Head`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from shoal.ops.kernels import Array, ndarray
from shoal.spaces.base import MEMORY, Spaces


@dataclass(frozen=True)
class Head:
    """One output of a network: ``[..., size + free]``.

    ``free`` further outputs do not depend on the observation: they are the parameter
    ``"<head>/free"``, which starts at zero (a Gaussian's log_std, PPO detail 24).
    """

    size: int
    gain: float = 1.0  # of the last layer's orthogonal initial weights
    free: int = 0
    own: bool = False  # the last hidden layer is not shared with other heads


class Net(Protocol):
    """A network without its parameters: structure, initial values, and a pure function.

    Arrays given to a net are never written to, and must not be changed by others afterwards.
    """

    @property
    def framework(self) -> str | None:
        """ "torch" or "jax" for a user's own module; None: every array library."""

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the parameters that are not to be differentiated (a module's buffers)."""

    @property
    def shared(self) -> bool:
        """Whether all heads come from one trunk, so that a second one costs next to nothing."""

    @property
    def memory(self) -> Mapping[str, ndarray]:
        """What it remembers of a slot as an episode begins, by name; {} for a feed-forward net.

        Such a net is a `RecurrentNet`: use ``step`` and ``unroll``, which take either.
        """

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, without allocating any."""

    def init(self, rng: np.random.Generator) -> dict[str, ndarray]:
        """Initial parameters, flat, float32 (a module's integer buffers keep their dtype)."""

    def __call__(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        """Outputs ``[..., size + free]`` of these heads for ``obs {path: [..., *shape]}``.

        Any leading axes. Each row is computed by itself. ``params`` may hold more than the net's
        own; of that, ``"norm/<path>/mean"`` and ``"norm/<path>/std"`` normalise a leaf. A
        recurrent net takes one step from the memory that each row of ``obs`` holds.
        """


class RecurrentNet(Net, Protocol):
    """A net that remembers. What it remembers are leaves ``MEMORY + name`` of the observation."""

    def step(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """What a call returns, and the next memory {MEMORY + name: [..., *shape]}."""

    def unroll(
        self,
        params: Mapping[str, Array],
        obs: Mapping[str, Array],
        begins: Array,
        heads: tuple[str, ...],
    ) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """Outputs [N, L, size + free] of N sequences of L steps, and the memory after the last.

        ``obs`` is [N, L, *shape], but the memory, [N, *shape], is that of each first step.
        ``begins`` is bool [N, L]: where an episode begins, the memory is the initial one before the
        step. That is the only place where an unroll resets it.
        """


def step(
    net: Net, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
) -> tuple[tuple[Array, ...], dict[str, Array]]:
    """Outputs of one step [...] of any net, and its next memory ({} without)."""
    if net.memory:
        recurrent: Any = net
        return recurrent.step(params, obs, heads)  # type: ignore[no-any-return]
    return net(params, obs, heads), {}


def unroll(
    net: Net,
    params: Mapping[str, Array],
    obs: Mapping[str, Array],
    begins: Array | None,
    heads: tuple[str, ...],
) -> tuple[tuple[Array, ...], dict[str, Array]]:
    """Outputs of any net along sequences, [N, L, size + free], and its memory after the last step.

    Without memory: of rows [N], and {}.
    """
    if net.memory:
        recurrent: Any = net
        return recurrent.unroll(params, obs, begins, heads)  # type: ignore[no-any-return]
    return net(params, obs, heads), {}


def initial_memory(net: Net) -> dict[str, ndarray]:
    """The memory of one slot as an episode begins, {MEMORY + name: [*shape]}."""
    return {MEMORY + name: x for name, x in net.memory.items()}


Build = Callable[[Any, Spaces, Mapping[str, Head]], Net]  # (settings or module, spaces, heads)
