"""A policy that sees what its agent sees, and a critic that sees the whole environment too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shoal.errors import NetworkError
from shoal.nets.base import Net
from shoal.ops.kernels import Array, ndarray

_OWN = "central/"  # prefix of the critic's parameters


class CentralNet:
    """Two nets as one: ``actor`` gives the head "pi", ``critic`` the head "v" (Yu et al. 2022,
    arXiv:2103.01955, section 3). Acting takes the actor's observations only.

    Raises NetworkError for nets that remember.
    """

    framework: str | None
    shared = False
    memory: Mapping[str, ndarray]

    def __init__(self, actor: Net, critic: Net) -> None:
        if actor.memory or critic.memory:
            raise NetworkError(
                "a central critic cannot have a network with memory yet",
                "algorithm.network",
                "leave out the memory, or algorithm.central",
            )
        self.actor, self.critic = actor, critic
        self.framework, self.memory = actor.framework, {}

    @property
    def frozen(self) -> frozenset[str]:
        """See `Net.frozen`."""
        return self.actor.frozen | {_OWN + name for name in self.critic.frozen}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Net.shapes`."""
        critic = {_OWN + name: shape for name, shape in self.critic.shapes().items()}
        return {**self.actor.shapes(), **critic}

    def init(self, rng: np.random.Generator) -> dict[str, ndarray]:
        """See `Net.init`."""
        actor = self.actor.init(rng)
        return {**actor, **{_OWN + name: x for name, x in self.critic.init(rng).items()}}

    def __call__(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        """See `Net.__call__`."""
        found: list[Array] = []
        for head in heads:
            if head == "v":
                own = {k.removeprefix(_OWN): x for k, x in params.items() if _is_critic(k)}
                found += self.critic(own, obs, ("v",))
            else:
                found += self.actor(params, obs, (head,))
        return tuple(found)


def _is_critic(name: str) -> bool:
    return name.startswith((_OWN, "norm/"))
