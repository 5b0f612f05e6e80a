"""A network of states and actions, in which an action joins behind whatever encodes the state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shoal.nets.base import Net
from shoal.nets.init import Param, initialise, ndarray
from shoal.nets.mlp import ACTIVATIONS, MLP, linear
from shoal.ops.kernels import Array, namespace

EMBEDDING = "state"  # the head of the state's network whose output is joined


class Joined:
    """Q(s, a): one number for each state and each of any number of actions; a ``Net``.

    The state's own network is computed once, whatever the number of actions: what it makes of a
    state and the action's own product are added, as in QT-Opt's network (Kalashnikov et al. 2018,
    arXiv:1806.10293). Behind the sum stand fully connected layers.

    Args:
        state: a network whose head ``EMBEDDING`` has ``hidden[0]`` outputs.
        dim: numbers of an action.
        hidden: units of each layer behind the join, that of the sum first.
    """

    shared = False

    def __init__(self, state: Net, dim: int, hidden: tuple[int, ...], activation: str) -> None:
        self.state, self.memory, self.framework = state, state.memory, state.framework
        self._activation = ACTIVATIONS[activation]
        self._mlp = MLP("joined", hidden[0], hidden[1:], activation)
        self._parameters = [
            Param("action/w", (dim, hidden[0]), 1.0),
            *self._mlp.parameters(),
            *linear("q/out", self._mlp.size, 1, 1.0),
        ]
        self.trained = tuple(name for name in self.shapes() if name not in state.frozen)

    @property
    def frozen(self) -> frozenset[str]:
        return self.state.frozen

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.state.shapes() | {name: shape for name, shape, _ in self._parameters}

    def init(self, rng: np.random.Generator) -> dict[str, ndarray]:
        return {**self.state.init(rng), **initialise(self._parameters, rng)}

    def __call__(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        return self.state(params, obs, heads)

    def embed(self, params: Mapping[str, Array], obs: Mapping[str, Array]) -> Array:
        """What stands for each state: [..., hidden[0]]."""
        return self.state(params, obs, (EMBEDDING,))[0]

    def values(self, params: Mapping[str, Array], states: Array, actions: Array) -> Array:
        """The network's output [N, M] for states [N, hidden[0]] and actions [N or 1, M, dim]."""
        xp, m = namespace(states), actions.shape[1]
        x = self._activation(xp, states[:, None] + actions @ params["action/w"])
        x = self._mlp(xp, params, xp.reshape(x, (-1, x.shape[-1])))
        out = x @ params["q/out/w"] + params["q/out/b"]
        return xp.reshape(out, (-1, m))
