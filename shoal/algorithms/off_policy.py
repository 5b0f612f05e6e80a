"""What all algorithms share that learn from a replay buffer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from shoal.algorithms.base import Differentiable, Params
from shoal.errors import NetworkError, SpaceError
from shoal.nets.base import Net
from shoal.ops.kernels import Array, namespace
from shoal.spaces.base import Spaces
from shoal.trajectory import ndarray

TARGET = "target/"  # before the name of a parameter: its target network's
FLOOR = 1e-6  # added to priorities, so that whatever was stored can be drawn again


class OffPolicy(Differentiable):
    """Transitions in, target networks beside."""

    needs = frozenset({"replay"})


def refused(what: str, spaces: Spaces) -> SpaceError:
    """The error for an action space that an algorithm cannot take, with systems that can."""
    fits = {
        "box": "sac, td3, ddpg, qt-opt or ppo",
        "discrete": "dqn, rainbow, sac or ppo",
        "multidiscrete": "ppo, a2c, impala or appo",
    }
    where, fix = f"action space: {spaces.action}", f"choose {fits[spaces.action_kind]}"
    return SpaceError(what, where, fix)


def refuse_memory(*found: object) -> None:
    """Raise NetworkError if one of these, of a policy or its critics, is a memory."""
    if any(found):
        raise NetworkError(
            "this network has a memory, but DDPG, TD3, SAC and QT-Opt learn from single "
            "transitions",
            "network",
            "leave network.memory out, or choose r2d2 or ppo",
        )


def copies(params: Mapping[str, ndarray], names: Iterable[str]) -> dict[str, ndarray]:
    """Target networks at the beginning: the parameters themselves."""
    return {f"{TARGET}{name}": params[name].copy() for name in names}


def follow(params: Params, targets: Params, due: Array, tau: float = 1.0) -> Params:
    """Targets moved towards the parameters by ``tau``, 1 being a copy, where that is due (bool)."""
    xp = namespace(next(iter(targets.values())))
    moved = {}
    for name, x in targets.items():
        new = params[name[len(TARGET) :]]
        moved[name] = xp.where(due, new if tau == 1.0 else x + tau * (new - x), x)
    return moved


def targets_of(aux: Params, names: Iterable[str], prefix: str = TARGET) -> Params:
    """All that ``aux`` holds, and the target networks' values under these parameters' names."""
    return {**aux, **{name: aux[prefix + name] for name in names}}


class Pair:
    """A policy's network and its critics', each with parameters of its own: a ``Net``.

    Called as a net, it is the policy's.
    """

    def __init__(self, policy: Net, critic: Net) -> None:
        self.policy, self.critic = policy, critic
        self.framework = policy.framework
        self.shared = False
        self.memory: Mapping[str, ndarray] = {}
        self.critic_names = tuple(critic.shapes())

    @property
    def frozen(self) -> frozenset[str]:
        return self.policy.frozen

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**self.policy.shapes(), **self.critic.shapes()}

    def init(self, rng: np.random.Generator) -> dict[str, ndarray]:
        return {**self.policy.init(rng), **self.critic.init(rng)}

    def __call__(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        return self.policy(params, obs, heads)
