"""The contract of an algorithm that learns from the returns of perturbed weights.

It needs no loss and no gradient: each of ``directions`` random directions is tried in both signs,
and the returns say what each of them counts for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.algorithms.base import Algorithm, Model, Params, Records
from shoal.config.schedule import Schedule
from shoal.errors import NetworkError
from shoal.nets.base import Build, Head
from shoal.ops import distributions
from shoal.ops.deterministic import Plain
from shoal.ops.kernels import Array
from shoal.spaces.base import Spaces
from shoal.trajectory import ndarray


class Evolved(Algorithm):
    """What evolution strategies and random search share: a deterministic policy, perturbed.

    ``weigh`` and ``optimiser`` must be given.
    """

    lr: Schedule
    sigma: Schedule  # standard deviation of the perturbations
    directions: int  # in one generation
    needs = frozenset({"returns"})

    # -------------------------------------------------------------- the policy

    def model(self, spaces: Spaces, build: Build) -> Model:
        """One head: logits of which the highest is taken, or the numbers of the action itself."""
        dist: Any = self.actions(spaces)
        net = build(self.network, spaces, {"pi": Head(dist.n_out, gain=0.01)})
        if net.memory:
            what = f"{type(self).__name__} perturbs feed-forward networks, and this one remembers"
            raise NetworkError(what, None, "leave the network's memory out")
        return Model(spaces, net, dist)

    def actions(self, spaces: Spaces) -> Any:
        """How the network's output becomes an action."""
        if spaces.action_kind == "box":
            return Plain(spaces.action_dim)
        return distributions.for_space(spaces.action_kind, spaces.action_n, spaces.action_dim)

    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Any
    ) -> tuple[Array, Records]:
        """The best action; with noise, as ``model.dist`` explores. There is nothing to record."""
        (out,) = model.net(params, obs, ("pi",))
        return choose(model, out, obs, noise), {}

    @property
    def acts_with_noise(self) -> bool:
        """Whether perturbed policies also add noise to their actions."""
        return False

    @property
    def reference(self) -> int:
        """Observations in the reference batch of virtual batch normalisation; 0: there is none."""
        return 0

    @property
    def measured_share(self) -> float:
        """Part of the perturbed episodes whose observations count for normalisation."""
        return 1.0

    # -------------------------------------------------------------- what returns say

    def score(self, reward: ndarray) -> ndarray:
        """What an env step adds to what perturbations are compared by; float [B], by default its
        reward."""
        return reward

    @abstractmethod
    def weigh(self, scores: ndarray) -> ndarray:
        """What each direction counts for, [directions], from scores [directions, 2] of + and -.

        The step goes along their weighted sum. All 0 if the scores say nothing.
        """

    def decay(self, theta: ndarray) -> ndarray | None:
        """What is added to the negative of the step's direction, [size]; None: nothing."""
        return None

    @property
    def first_cap(self) -> int | None:
        """Env steps after which perturbed episodes are cut, at first; None: never."""
        return None

    def next_cap(self, cap: int, lengths: ndarray) -> int:
        """The same for the next generation, given the lengths of this one's episodes."""
        return cap


def choose(model: Model, out: Array, obs: Mapping[str, Array], noise: Any) -> Array:
    """Actions for a network's output."""
    mask = obs.get("action_mask")
    if noise is None:
        return model.dist.mode(out, mask)
    return model.dist.sample(out, noise, mask)


def is_linear(params: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the parameters of one layer: of a linear policy."""
    return set(params) == {"pi/out/w", "pi/out/b"}
