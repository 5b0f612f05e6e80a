"""The contract of an algorithm: what is learned.

An algorithm is a frozen dataclass of hyperparameters and pure functions of arrays. It knows
neither who runs it (plans), nor where (fleet), nor who differentiates it (learners).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from shoal.nets import Net
from shoal.ops.kernels import Array
from shoal.ops.optimisers import Optimiser
from shoal.spaces import Spaces
from shoal.trajectory import Batch, Obs, Trajectory, ndarray

Params = dict[str, Array]  # flat: {"pi/0/w": ..., "pi/0/b": ..., ...}
State = dict[str, Array]  # recurrent state of B slots; empty for feed-forward networks
Metrics = dict[str, Array]


class Model(NamedTuple):
    """What an algorithm's functions need to know of the world: fixed for a run, without arrays."""

    spaces: Spaces
    net: Net
    dist: Any  # how the network's output becomes an action: ops.distributions


class Algorithm(Protocol):
    """The triple of the RLlib paper (policy, postprocessor, loss), and its optimiser."""

    @property
    def gamma(self) -> float:
        """Discount per env step."""

    @property
    def whole_episodes(self) -> bool:
        """Whether a fragment must hold whole episodes (Monte Carlo returns without a critic)."""

    @property
    def stops_early(self) -> bool:
        """Whether ``loss`` returns a metric "stop"."""

    @property
    def needs(self) -> frozenset[str]:
        """What the algorithm asks of a plan, checked before a run.

        "on-policy": that the weights to be updated are those that sampled. "epochs": that a batch
        can be gone through in several gradient steps. "replay": transitions, drawn again and again
        from all that was sampled.
        """

    @property
    def reduction(self) -> str:
        """Whether the loss is a "mean" or a "sum" over rows: how gradients of parts add up."""

    def model(self, spaces: Spaces) -> Model:
        """Build the network's structure. Raises NetworkError or SpaceError when it cannot fit."""

    def init(self, model: Model, rng: np.random.Generator) -> dict[str, ndarray]:
        """Initial parameters, float32, the same bits for every array library."""

    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], state: State, noise: Any
    ) -> tuple[Array, dict[str, Array], State]:
        """Actions [...] for observations {leaf: [..., *shape]}, extras to record, next state.

        ``noise`` is an array of ``model.dist.noise``; None takes the most likely action.
        """

    def postprocess(self, model: Model, params: Params, trajectory: Trajectory) -> Batch:
        """Trajectory to batch, on the worker, in NumPy. Row weights stand in ``batch["mask"]``."""

    def prepare(self, model: Model, params: Params, batch: Batch) -> Batch:
        """What the learner adds to a batch before its gradient steps, with its newest parameters.

        Once an update, in the learner's arrays, not differentiated; may change what a row is.
        """

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        """Scalar to minimise over ``params``, and metrics (scalars).

        ``aux`` holds what is not differentiated: normalisation, targets and ``"hyper/<name>"``
        scalars. A metric named ``"stop"`` (bool) ends the update before this gradient is applied;
        metrics named ``"rows/<name>"`` are of each row, [N].
        """

    def targets(self, params: Mapping[str, ndarray]) -> dict[str, ndarray]:
        """What follows the parameters (target networks), as it begins; ``loss`` finds it in aux."""

    def after_step(self, params: Params, targets: Params, step: Array) -> Params:
        """The targets after the run's gradient step of this number (int32 scalar, from 1 on)."""

    def indices(self, rng: np.random.Generator, rows: int) -> ndarray | None:
        """Rows of each gradient step of an update, int32 [steps, size]; -1 is no row.

        ``rows`` is the number of entries of the batch's mask, as the plan sees it.

        None: one gradient step on the whole batch.
        """

    def hyper(self, progress: float) -> dict[str, float]:
        """Current value of what is annealed, and of ``lr``; progress of the run in [0, 1]."""

    @property
    def optimiser(self) -> Optimiser:
        """How gradients become steps."""


__all__ = ["Algorithm", "Array", "Batch", "Metrics", "Model", "Obs", "Params", "State"]
