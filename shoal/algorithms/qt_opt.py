"""QT-Opt: Q-learning of floats as actions, whose maximum is searched for and not learned.

Kalashnikov et al. 2018 (arXiv:1806.10293). There is no policy besides Q(s, a): an action is found
by the cross-entropy method (`ops.cem`), when acting and in the targets. These come from two lagged
copies of the parameters, so that others than the learner can make them: see
`plans.bellman_updaters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from shoal.algorithms.actor_critic import masked_mean
from shoal.algorithms.base import Batch, Metrics, Model, Params, Records
from shoal.algorithms.off_policy import (
    FLOOR,
    TARGET,
    OffPolicy,
    refuse_memory,
    refused,
    targets_of,
)
from shoal.config.bounds import require, setting
from shoal.config.schedule import Schedule
from shoal.errors import ConfigError
from shoal.nets.base import Build, Head
from shoal.nets.joined import EMBEDDING, Joined
from shoal.nets.network import Activation, Network
from shoal.ops.cem import Fit, maximise
from shoal.ops.exploration import NoisyOrRandom
from shoal.ops.kernels import Array, constant, namespace, ndarray, scan, stop_gradient
from shoal.ops.optimisers import Optimiser
from shoal.ops.q_learning import cross_entropy, huber, sigmoid
from shoal.spaces.base import Spaces
from shoal.trajectory import Trajectory

KEPT, LAGGED = "kept/", "lagged/"  # before a parameter's name: what becomes the second copy; that
BEYOND = 1e-3  # how far beyond [0, 1] a return may lie by rounding


@dataclass(frozen=True)
class QTOpt(OffPolicy):
    """Hyperparameters; those of the search are the paper's, the others are for small problems."""

    lr: Schedule = setting(1e-3, above=0)  # Adam's step size (paper: 1e-4, with momentum)
    gamma: float = setting(0.9, least=0, most=1)  # discount per env step
    n_step: int = setting(1, least=1)  # env steps before the bootstrap
    bounded: bool = False  # returns in [0, 1]: Q is a sigmoid, its loss the cross-entropy
    samples: int = setting(64, least=2)  # actions drawn in each iteration of a search
    elites: int = setting(6, least=1)  # of them, how many the next iteration is fitted to
    iterations: int = setting(2, least=1)  # of a search
    tau: float = setting(0.005, above=0, most=1)  # first copy += tau (online - it) (paper: 1e-4)
    lag: int = setting(100, least=1)  # gradient steps from the first to the second (paper: 6,000)
    average: bool = True  # policies act with the first copy, the parameters' average
    noise: float = setting(0.1, least=0)  # std of exploration noise, in half action ranges
    epsilon: float = setting(0.1, least=0, most=1)  # probability of a random action
    random_steps: int = setting(1_000, least=0)  # env steps of random actions at the start
    max_grad_norm: float | None = setting(10.0, above=0)  # global norm; none: no clipping
    network: Any = field(default_factory=lambda: Network(hidden=(), activation="relu"))
    joined: int = setting(64, least=1)  # units of each layer behind the join of state and action
    layers: int = setting(2, least=1)  # how many of them, the join's own included
    activation: Activation = "relu"  # of these layers

    labelled = searches = True
    acting = frozenset({"samples", "elites", "iterations", "noise"})

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = f"at most algorithm.samples, {self.samples}"
        require(self.elites <= self.samples, "algorithm.elites", self.elites, fix)

    # -------------------------------------------------------------- the network

    def model(self, spaces: Spaces, build: Build) -> Model:
        """The network joins actions behind whatever encodes the state (``network``).

        Raises SpaceError where actions are not floats.
        """
        if spaces.action_kind != "box":
            raise refused("QT-Opt needs actions that are floats", spaces)
        dim = spaces.action_dim
        state = build(self.network, spaces, {EMBEDDING: Head(self.joined)})
        refuse_memory(state.memory)
        net = Joined(state, dim, (self.joined,) * self.layers, self.activation)
        return Model(spaces, net, NoisyOrRandom(dim))

    def search(self, model: Model, params: Params, states: Array, noise: Array) -> Fit:
        """The action of the highest value for each of ``states [N, ...]``, as ``net.embed`` made.

        ``noise`` is standard normal, [iterations, samples, dim].
        """
        net: Any = model.net
        xp, dim = namespace(states), model.dist.dim
        start = xp.zeros_like(noise[0, 0]), 0.5 + xp.zeros_like(noise[0, 0])  # of [-1, 1]
        assert noise.shape[-1] == dim
        return maximise(
            lambda actions: net.values(params, states, actions), noise, *start, elites=self.elites
        )

    # -------------------------------------------------------------- acting

    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Any
    ) -> tuple[Array, Records]:
        """The best action that a search finds; with noise, explored around.

        Searches of policies draw the same actions whenever they act, so that these follow from what
        is seen.
        """
        net: Any = model.net
        if self.average and TARGET + net.trained[0] in params:
            params = targets_of(params, net.trained)
        states = net.embed(params, obs)
        xp, lead = namespace(states), states.shape[:-1]
        shape = self.iterations, self.samples, model.dist.dim
        rows = xp.reshape(states, (-1, states.shape[-1]))
        found = self.search(model, params, rows, constant(_draws(shape), states)).action
        best = xp.reshape(found, (*lead, model.dist.dim))
        if noise is None:
            return best, {}
        epsilon = params.get("explore/epsilon", self.epsilon)
        return model.dist.explore(best, noise, self.noise, epsilon), {}

    def exploration(self, env_steps: int, slots: int) -> dict[str, ndarray]:
        """Random actions at first, then with a small probability."""
        epsilon = 1.0 if env_steps < self.random_steps else self.epsilon
        return {"explore/epsilon": np.asarray(epsilon, np.float32)}

    def postprocess(self, model: Model, params: Params, trajectory: Trajectory) -> Batch:
        """Env steps as they are. Raises ConfigError for returns that cannot be learned."""
        batch = super().postprocess(model, params, trajectory)
        self.admit(batch)
        return batch

    def admit(self, batch: Batch) -> None:
        """Raise ConfigError if ``bounded``, and an episode's return lies outside of [0, 1]."""
        if not self.bounded:
            return
        over = batch["terminated"] | batch["truncated"]
        value = np.full(over.shape[1:], np.nan)
        for t in reversed(range(len(over))):  # NaN where an episode goes on beyond the fragment
            earned = batch["reward"][t] + np.where(over[t], 0.0, self.gamma * value)
            value = np.where(batch["mask"][t], earned, np.nan)
            wrong = (value < -BEYOND) | (value > 1.0 + BEYOND)
            if wrong.any():
                reward = batch["reward"][batch["mask"]]
                raise ConfigError(
                    f"an episode's return is {value[wrong][0]:.6g} from one of its env steps on, "
                    "but with algorithm.bounded returns are learned as numbers in [0, 1]",
                    f"rewards from {reward.min():.6g} to {reward.max():.6g}",
                    "leave algorithm.bounded out, or scale the environment's rewards",
                )

    # -------------------------------------------------------------- learning

    def draw(
        self, model: Model, rng: np.random.Generator, steps: int, size: int
    ) -> dict[str, ndarray]:
        """What the searches of ``steps`` gradient steps draw: the same for all rows of a step."""
        shape = steps, self.iterations, self.samples, model.dist.dim
        return {"search": rng.standard_normal(shape, np.float32)}

    def targets(self, params: Mapping[str, ndarray]) -> dict[str, ndarray]:
        """Both copies as they begin, and the first as it was when the second was last renewed."""
        return {
            f"{copy}{k}": x.copy() for copy in (TARGET, KEPT, LAGGED) for k, x in params.items()
        }

    def beside(self, targets: Params) -> Params:
        """The first copy, if policies act with it."""
        return {k: x for k, x in targets.items() if self.average and k.startswith(TARGET)}

    def after_step(self, params: Params, targets: Params, step: Array) -> Params:
        """The copies after the run's gradient step of that number, from 1 on.

        The second is the first of 2/3 to 4/3 ``lag`` gradient steps before: so one array is kept
        for those in between, and not ``lag`` of them.
        """
        every = max(round(2 * self.lag / 3), 1)
        xp, due, moved = namespace(next(iter(params.values()))), step % every == 0, {}
        for name, new in params.items():
            first, kept = targets[TARGET + name], targets[KEPT + name]
            first = moved[TARGET + name] = first + self.tau * (new - first)
            moved[KEPT + name] = xp.where(due, first, kept)
            moved[LAGGED + name] = xp.where(due, kept, targets[LAGGED + name])
        return moved

    def target(self, model: Model, params: Params, batch: Batch, noise: Array) -> Array:
        """r + Gamma min_i Q_i(s', argmax_a Q_1(s', a)), [N], of the two copies (section 4.2)."""
        net: Any = model.net
        following = batch["next_obs"]
        first, second = (targets_of(params, net.trained, copy) for copy in (TARGET, LAGGED))
        states = net.embed(first, following)
        found = self.search(model, first, states, noise)
        other = self.q(model, second, following, found.action)
        xp = namespace(other)
        lower = self._value(xp.minimum(found.value, other))
        return batch["reward"] + batch["discount"] * lower

    def label(self, model: Model, params: Params, batch: Batch) -> Batch:
        """With the entry "target", [N], of rows that have none yet."""
        if "target" in batch:
            return batch
        noise, following = batch["step"]["search"], batch["next_obs"]
        if noise.ndim == 3:  # of one gradient step
            return {**batch, "target": self.target(model, params, batch, noise)}
        xp, steps = namespace(noise), noise.shape[0]
        columns = batch["reward"], batch["discount"], *following.values()
        parts = (xp.reshape(x, (steps, -1, *x.shape[1:])) for x in columns)

        def one(carry: Any, own: tuple[Array, ...]) -> tuple[Any, Array]:
            drawn, reward, discount, *obs = own
            rows = {"reward": reward, "discount": discount}
            rows["next_obs"] = dict(zip(following, obs, strict=True))
            return carry, self.target(model, params, rows, drawn)

        _, found = scan(one, (), (noise, *parts))
        return {**batch, "target": xp.reshape(found, (-1,))}

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        """Cross-entropy or Huber's loss of each row's target, weighted; rows: ``priority``."""
        y = batch.get("target")
        if y is None:
            y = self.target(model, aux, batch, batch["step"]["search"])
        y, weight, mask = stop_gradient(y), batch["weight"], batch["mask"]
        out = self.q(model, {**aux, **params}, batch["obs"], batch["action"])
        xp, value, scalars = namespace(out), self._value(out), {}
        if self.bounded:
            within = xp.clip(y, 0.0, 1.0)
            outside = xp.astype(xp.abs(y - within) > BEYOND, out.dtype)
            scalars["outside_bounds"] = masked_mean(outside, mask)
            y, rows = within, cross_entropy(out, within)
        else:
            rows = huber(y - value)
        scalars |= {"q_mean": masked_mean(value, mask), "target_mean": masked_mean(y, mask)}
        priority = stop_gradient(xp.abs(y - value)) + FLOOR
        return masked_mean(weight * rows, mask), Metrics(scalars, {"priority": priority})

    @property
    def warnings(self) -> dict[str, str]:
        """What it means that a metric is above 0."""
        return {
            "outside_bounds": "targets lie outside of [0, 1], and count as its ends: leave "
            "algorithm.bounded out, or scale the environment's rewards"
        }

    def q(self, model: Model, params: Params, obs: Mapping[str, Array], action: Array) -> Array:
        """The network's output for each row's own action, [N]: Q, or its logit if ``bounded``."""
        net: Any = model.net
        found: Array = net.values(params, net.embed(params, obs), action[:, None])[:, 0]
        return found

    def _value(self, out: Array) -> Array:
        return sigmoid(out) if self.bounded else out

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam", clip_norm=self.max_grad_norm)


@lru_cache(maxsize=8)
def _draws(shape: tuple[int, ...]) -> ndarray:
    """What every search of a policy draws: standard normal, float32."""
    drawn: ndarray = np.random.default_rng(0).standard_normal(shape, np.float32)
    return drawn
