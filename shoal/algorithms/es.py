"""Evolution strategies, Salimans et al. 2017 (arXiv:1703.03864).

Mirrored normal perturbations of all weights, ranked by the returns of their episodes; the weighted
sum of the perturbations takes the place of a gradient in Adam's step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from shoal.algorithms.evolved import Evolved
from shoal.config.bounds import require, setting
from shoal.config.schedule import Schedule
from shoal.errors import SpaceError
from shoal.nets.network import Network
from shoal.ops.deterministic import Binned, Plain
from shoal.ops.evolution import centred_ranks, next_cap, rank_weights
from shoal.ops.moments import Moments
from shoal.ops.optimisers import Optimiser
from shoal.spaces.base import Spaces
from shoal.trajectory import ndarray

Shaping = Literal["centered_rank", "sign", "centered_sign_rank"]


@dataclass(frozen=True)
class ES(Evolved):
    """Hyperparameters; defaults from the released code (humanoid.json) unless they say other."""

    lr: Schedule = setting(0.01, above=0)  # Adam's step size
    sigma: Schedule = setting(0.02, above=0)  # standard deviation of the perturbations
    directions: int = setting(64, least=1)  # pairs + and - in a generation (humanoid.json: 5,000)
    l2: float = setting(0.005, least=0)  # weight decay, before Adam
    shaping: Shaping = "centered_rank"  # of returns, or of their rewards' signs
    action_noise: float = setting(0.01, least=0)  # std on the perturbed policies' box actions
    bins: int | None = setting(None, least=2)  # box actions are the best of this number of values
    cap: int | None = setting(None, least=1)  # env steps of a first generation's episodes at most
    cap_share: float = setting(0.5, above=0, most=1)  # of episodes at the cap that lengthen it
    cap_ratio: float = setting(2.0, above=1)  # by which it is lengthened
    obs_share: float = setting(0.01, above=0, most=1)  # of episodes that normalisation measures
    virtual_norm: int = setting(128, least=0)  # observations that convolutions are normalised by
    network: Any = field(default_factory=Network)  # or your own torch.nn.Module or flax module

    def __post_init__(self) -> None:
        super().__post_init__()
        names = get_args(Shaping)
        require(self.shaping in names, "algorithm.shaping", self.shaping, f"one of {names}")

    def actions(self, spaces: Spaces) -> Any:
        """How the network's output becomes an action. Raises SpaceError for bins without bounds."""
        if spaces.action_kind != "box":
            return super().actions(spaces)
        if self.bins is None:
            return Plain(spaces.action_dim, self.action_noise)
        if not np.all(np.isfinite([spaces.action.low, spaces.action.high])):
            what = f"algorithm.bins is {self.bins}, but the actions have no bounds"
            raise SpaceError(what, f"action space: {spaces.action}", "leave algorithm.bins out")
        return Binned(spaces.action_dim, self.action_noise, self.bins)

    @property
    def acts_with_noise(self) -> bool:
        return self.action_noise > 0

    @property
    def measured_share(self) -> float:
        return self.obs_share

    @property
    def reference(self) -> int:
        return self.virtual_norm

    def score(self, reward: ndarray) -> ndarray:
        """Its reward, or only whether that is good or bad."""
        return reward if self.shaping == "centered_rank" else np.sign(reward)

    def weigh(self, scores: ndarray) -> ndarray:
        """Centred ranks over all perturbations together, or the sums of signs as they are."""
        return rank_weights(scores if self.shaping == "sign" else centred_ranks(scores))

    def decay(self, theta: ndarray) -> ndarray | None:
        return np.float32(self.l2) * theta if self.l2 else None

    @property
    def first_cap(self) -> int | None:
        return self.cap

    def next_cap(self, cap: int, lengths: ndarray) -> int:
        return next_cap(cap, lengths, self.cap_share, self.cap_ratio)

    def deviation(self, moments: Moments) -> ndarray:
        """At least 0.1, as in the released code."""
        return np.sqrt(np.maximum(moments.var, 0.01))

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam")
