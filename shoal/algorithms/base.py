"""The contract of an algorithm: what is learned.

An algorithm is a frozen dataclass of hyperparameters, derived from ``Algorithm``, and pure
functions of arrays. It knows neither who runs it (plans), nor where (fleet), nor who differentiates
it (learners).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

import numpy as np

from shoal.config.bounds import check_bounds
from shoal.config.schedule import Schedule, at
from shoal.nets.base import Build, Net
from shoal.ops.kernels import Array
from shoal.ops.moments import Moments
from shoal.ops.optimisers import Optimiser
from shoal.spaces.base import Spaces
from shoal.trajectory import Batch, Obs, Trajectory, Window, ndarray

Params = dict[str, Array]  # flat: {"pi/0/w": ..., "pi/0/b": ..., ...}
Records = dict[str, Array]
Known = tuple[dict[str, ndarray], dict[str, ndarray]]


class Model(NamedTuple):
    """What an algorithm's functions need to know of the world: fixed for a run, without arrays."""

    spaces: Spaces
    net: Net
    dist: Any  # how the network's output becomes an action: ops.distributions


class Metrics(NamedTuple):
    """What a loss reports beside its value."""

    scalars: dict[str, Array]  # averaged over the gradient steps of an update
    rows: Mapping[str, Array] = {}  # of each row, [N]: "priority", say
    stop: Array | None = None  # bool: end the update before this gradient is applied


class Algorithm(ABC):
    """A policy, and how its parameters move: what every algorithm has.

    ``model``, ``act`` and ``optimiser`` must be given. An algorithm that learns by gradients of a
    loss is ``Differentiable``, one that learns from returns alone is ``Evolved``
    (``algorithms.evolved``). The plan that runs it unless another is named follows from ``needs``.
    """

    gamma: float  # a field of every algorithm: discount per env step
    network: Any = None  # of every algorithm: settings of a network, or a user's own module
    central: bool = False  # whether ``model`` needs the environment's state among the spaces

    searches: ClassVar[bool] = False  # whether ``act`` searches, so that last digits decide much
    plays: ClassVar[bool] = False  # whether it learns games, as the player to move sees them
    acting: ClassVar[frozenset[str]] = frozenset()
    """Settings that only say how ``act`` acts, which a trained policy may be given anew."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the algorithm asks of a plan, checked before a run.

    "on-policy": the weights to be updated are those that sampled. "epochs": several gradient steps
    on one batch. "replay": transitions, drawn again and again from a buffer of all that was
    sampled. "returns": whole episodes of perturbed weights, and nothing else. "policies": fragments
    of several policies at once. "buffers": a replay buffer for each of them.
    """

    @property
    def parts(self) -> Mapping[str, Algorithm]:
        """The algorithms that it is composed of, by policy; {} of one alone."""
        return {}

    def __post_init__(self) -> None:
        check_bounds(self)

    # -------------------------------------------------------------- the policy

    @abstractmethod
    def model(self, spaces: Spaces, build: Build) -> Model:
        """The network and the distribution of actions for these spaces.

        ``build(self.network, spaces, heads)`` makes a network of the user's settings, with these
        heads. Raises NetworkError or SpaceError if it cannot fit.
        """

    def init(self, model: Model, rng: np.random.Generator) -> dict[str, ndarray]:
        """Initial parameters, float32, the same bits for every array library."""
        return model.net.init(rng)

    def memory(self, model: Model) -> dict[str, ndarray]:
        """What ``act`` remembers from step to step: its value when an episode begins, by name.

        Arrays of one slot. ``act`` finds the present ones, [..., *shape], among its observations
        under ``MEMORY + name``, and returns the next ones among its records under the same names.
        They travel with the observation: into the trajectory, the replay buffer and checkpoints.
        By default what the network remembers.
        """
        return dict(model.net.memory)

    def window(self, model: Model) -> Window | None:
        """What a replay buffer draws: sequences of env steps; None: single transitions."""
        return None

    def records(self, model: Model) -> dict[str, ndarray]:
        """What a replay buffer keeps of the records of ``act``: an example of one slot, by name.

        ``loss`` finds them in ``batch["records"]``. A trajectory holds all records anyway.
        """
        return {}

    @abstractmethod
    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Any
    ) -> tuple[Array, Records]:
        """Actions [...] for observations {leaf: [..., *shape]}, and what to record beside them.

        ``noise`` is an array of ``model.dist.noise``; None takes the most likely action. Records
        {name: [..., *shape]} reach ``postprocess`` as columns of the trajectory.
        """

    def exploration(self, env_steps: int, slots: int) -> dict[str, ndarray]:
        """What ``act`` explores with, among its parameters, after ``env_steps`` of the run.

        Scalars, or arrays [slots] of which each worker gets the part of its own environments;
        ``slots`` counts the environments of all workers. Names begin with "explore/".
        """
        return {}

    def beside(self, targets: Params) -> Params:
        """Target networks that travel with the weights, because policies act with them."""
        return {}

    def deviation(self, moments: Moments) -> ndarray:
        """What observations are divided by if they are normalised, from all that were seen."""
        return moments.std()

    # -------------------------------------------------------------- how parameters move

    @property
    @abstractmethod
    def optimiser(self) -> Optimiser:
        """How gradients, or what stands in for them, become steps."""

    def hyper(self, progress: float) -> dict[str, float]:
        """Present value of every field that may be annealed; progress of the run in [0, 1]."""
        # Annotations are text: `from __future__ import annotations` stands above every algorithm.
        names = [f.name for f in fields(self) if f.type in (Schedule, "Schedule")]  # type: ignore[arg-type]
        return {name: at(getattr(self, name), progress) for name in names}

    @property
    def warnings(self) -> dict[str, str]:
        """What to tell the user, once, when the metric of that name is above 0."""
        return {}


class Differentiable(Algorithm):
    """The triple of the RLlib paper (policy, postprocessor, loss), and its optimiser.

    ``model``, ``act``, ``loss`` and ``optimiser`` must be given; all else has a default.
    """

    whole_episodes: ClassVar[bool] = False  # whether a fragment must hold whole episodes
    reduction: ClassVar[str] = "mean"  # over rows in the loss, or "sum": how gradients add up
    labelled: ClassVar[bool] = False  # whether ``label``, from targets alone, makes all that
    # ``loss`` needs of what followed: so others than the learner can do it
    n_step: int = 1  # env steps before the bootstrap, of transitions from a replay buffer
    minibatch_size: int | None = None  # rows of one gradient step; None: the whole batch

    # -------------------------------------------------------------- what is trained on

    def postprocess(self, model: Model, params: Params, trajectory: Trajectory) -> Batch:
        """Trajectory to batch. Weights of its rows stand in ``batch["mask"]``.

        Runs on the worker, in NumPy; no framework traces it, so the number of rows may depend on
        what was sampled. By default the env steps as they are, as a replay buffer takes them.
        """
        return trajectory.steps(self.records(model))

    def admit(self, batch: Batch) -> None:
        """Raise if env steps, as a replay buffer takes them, are not what ``loss`` can learn from.

        It sees what workers sampled only if ``postprocess`` calls it; of demonstrations, all.
        """

    def label(self, model: Model, params: Params, batch: Batch) -> Batch:
        """What the learner adds to a batch before its gradient steps, with its newest parameters.

        Once an update, in the learner's arrays, not differentiated; may change what a row is.
        ``params`` holds target networks and annealed hyperparameters too.
        """
        return batch

    def indices(
        self, model: Model, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> ndarray | None:
        """Rows of each gradient step of an update, int32 [steps, size]; -1 is no row.

        ``shape`` is that of the batch's mask, [N] or [N, L], before ``label``. None: one gradient
        step on the whole batch.
        """
        return None

    def draw(
        self, model: Model, rng: np.random.Generator, steps: int, size: int
    ) -> dict[str, ndarray]:
        """Randomness of ``steps`` gradient steps on ``size`` rows, {name: [steps, ...]}.

        ``loss`` finds that of its own step in ``batch["step"]``.
        """
        return {}

    def known(self, model: Model, params: Params, trajectory: Trajectory) -> Known:
        """What ``loss`` can take instead of a fragment's observations, for first priorities.

        ({name: [T + 1, B, ...]}, {name: [K, ...]}) for ``trajectory.obs`` and ``.final``: ``loss``
        then finds them in ``batch["known"]`` and ``["next_known"]``, and no observations but
        action masks. Without any, it is given the observations.
        """
        return {}, {}

    # -------------------------------------------------------------- the loss

    @abstractmethod
    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        """Scalar to minimise over ``params``, and metrics.

        ``aux`` holds what is not differentiated: normalisation, targets and ``"hyper/<name>"``
        scalars.
        """

    @property
    def stops_early(self) -> bool:
        """Whether ``loss`` fills ``Metrics.stop``."""
        return False

    def targets(self, params: Mapping[str, ndarray]) -> dict[str, ndarray]:
        """Target networks as they begin; ``loss`` finds them in aux."""
        return {}

    def after_step(self, params: Params, targets: Params, step: Array) -> Params:
        """The targets after the run's gradient step of this number (int32 scalar, from 1 on)."""
        return targets


__all__ = [
    "Algorithm",
    "Array",
    "Batch",
    "Differentiable",
    "Metrics",
    "Model",
    "Obs",
    "Params",
    "Records",
]
