"""Augmented random search, Mania et al. 2018 (arXiv:1803.07055), Algorithm 2.

Random search over (by default) linear policies. V1 sees observations as they are, V2 normalises
them (``rollout.normalise_obs``); "-t" learns only from the ``top`` directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms.base import Model
from shoal.algorithms.evolved import Evolved, is_linear
from shoal.config.bounds import require, setting
from shoal.config.schedule import Schedule
from shoal.nets.network import Network
from shoal.ops.evolution import search_weights
from shoal.ops.moments import Moments
from shoal.ops.optimisers import Optimiser
from shoal.trajectory import ndarray

CONSTANT = 1e-7  # standard deviation below which an observation tells nothing


def linear() -> Network:
    """One layer, without a hidden one."""
    return Network(hidden=())


@dataclass(frozen=True)
class ARS(Evolved):
    """Hyperparameters; defaults from the authors' code (its arguments' defaults)."""

    lr: Schedule = setting(0.02, above=0)  # alpha: step size
    sigma: Schedule = setting(0.03, above=0)  # nu: standard deviation of the perturbations
    directions: int = setting(8, least=1)  # N: pairs + and - in a generation
    top: int | None = setting(None, least=1)  # b: directions that count; none: all of them
    survival_bonus: float = setting(0.0)  # of each env step, left out in training (Hopper: 1)
    network: Any = field(default_factory=linear)  # a linear policy, as the paper has it

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = f"at most algorithm.directions, {self.directions}"
        require(self.top is None or self.top <= self.directions, "algorithm.top", self.top, wanted)

    def init(self, model: Model, rng: np.random.Generator) -> dict[str, ndarray]:
        """Zeros, as the paper begins; with hidden layers these would stay zeros."""
        params = model.net.init(rng)
        if is_linear(params):
            return {name: np.zeros_like(x) for name, x in params.items()}
        return params

    def score(self, reward: ndarray) -> ndarray:
        return reward - self.survival_bonus

    def weigh(self, scores: ndarray) -> ndarray:
        return search_weights(scores, self.top)

    def deviation(self, moments: Moments) -> ndarray:
        """Infinite for what does not vary, so that it becomes 0."""
        std = np.sqrt(moments.var)
        return np.where(std < CONSTANT, np.inf, std)

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("sgd")
