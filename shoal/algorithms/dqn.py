"""Deep Q-learning and what was added to it, each as a switch.

DQN (Mnih et al. 2015, Nature 518), double (van Hasselt et al. 2016, arXiv:1509.06461), dueling
(Wang et al. 2016, arXiv:1511.06581), n-step, distributional (C51: Bellemare et al. 2017,
arXiv:1707.06887) and noisy (Fortunato et al. 2018, arXiv:1706.10295). All of them together, with
prioritised replay (Schaul et al. 2016, arXiv:1511.05952), are Rainbow (Hessel et al. 2018,
arXiv:1710.02298); all off is DQN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from shoal.algorithms import noisy
from shoal.algorithms.actor_critic import masked_mean
from shoal.algorithms.base import Batch, Known, Metrics, Model, Params, Records
from shoal.algorithms.off_policy import (
    FLOOR,
    OffPolicy,
    copies,
    follow,
    refused,
    targets_of,
)
from shoal.config.bounds import require, setting
from shoal.config.schedule import Schedule
from shoal.nets.base import Build, Head
from shoal.nets.network import Network
from shoal.ops.exploration import EpsilonGreedy
from shoal.ops.kernels import Array, constant, namespace, ndarray, stop_gradient
from shoal.ops.optimisers import Optimiser
from shoal.ops.q_learning import allowed, dueling, huber, log_softmax, pick, project
from shoal.spaces.base import Spaces
from shoal.trajectory import Trajectory


@dataclass(frozen=True)
class DQN(OffPolicy):
    """Hyperparameters; defaults are for small problems, ``tuned.yaml`` has those of Atari."""

    lr: Schedule = setting(5e-4, above=0)  # step size
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    n_step: int = setting(1, least=1)  # env steps before the bootstrap (Rainbow: 3)
    double: bool = False  # Double DQN: choose by the online network, value by the target
    dueling: bool = False  # separate streams for value and advantages
    atoms: int = setting(1, least=1)  # of the return distribution; 1: the mean alone (C51: 51)
    v_min: float = setting(-10.0)  # return of the first atom
    v_max: float = setting(10.0)  # return of the last atom
    noisy: bool = False  # explore by noise in the weights instead of epsilon
    sigma: float = setting(0.5, least=0)  # initial scale of that noise (Rainbow, Table 1)
    epsilon_start: float = setting(1.0, least=0, most=1)  # probability of a random action at first
    epsilon: float = setting(0.05, least=0, most=1)  # the same, after epsilon_steps
    epsilon_steps: int = setting(10_000, least=1)  # env steps over which epsilon falls
    ladder: float | None = setting(None, least=0)  # environment i: epsilon^(1 + ladder i / (n - 1))
    target_every: int = setting(500, least=1)  # gradient steps between copies to the target network
    max_grad_norm: float | None = setting(10.0, above=0)  # global norm (dueling paper, section 4.2)
    rule: Literal["adam", "adagrad", "rmsprop"] = "adam"  # optimiser
    eps: float = setting(1e-8, above=0)  # the optimiser's epsilon
    network: Any = field(default_factory=lambda: Network(hidden=(120, 84), activation="relu"))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.v_min < self.v_max, "v_max", self.v_max, f"above v_min, {self.v_min}")

    # -------------------------------------------------------------- the network

    def model(self, spaces: Spaces, build: Build) -> Model:
        """Raises SpaceError where actions are not one choice of several."""
        if spaces.action_kind != "discrete":
            raise refused("DQN needs actions that are one choice of several", spaces)
        n = spaces.action_n[0]
        heads = {"q": Head(n * self.atoms)}
        if self.dueling:
            heads = {"a": Head(n * self.atoms, own=True), "v": Head(self.atoms, own=True)}
        net = build(self.network, spaces, heads)
        width = noisy.width(noisy.layers(net.shapes())) if self.noisy else 0
        return Model(spaces, net, EpsilonGreedy(n, width))

    def init(self, model: Model, rng: np.random.Generator) -> dict[str, ndarray]:
        params = model.net.init(rng)
        if not self.noisy:
            return params
        return noisy.init(noisy.layers(model.net.shapes()), params, rng, self.sigma)

    def values(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Array | None = None
    ) -> Array:
        """Value of every action, or logits of its return's atoms: [..., actions, atoms]."""
        if self.noisy and noise is not None:
            net: Any = model.net  # hashable, as whatever is compared by identity
            params = noisy.perturbed(_layers(net), params, noise)
        if self.dueling:
            a, v = model.net(params, obs, ("a", "v"))
            return dueling(self._atomic(v, 1), self._atomic(a, model.dist.n))
        (q,) = model.net(params, obs, ("q",))
        return self._atomic(q, model.dist.n)

    def _atomic(self, out: Array, n: int) -> Array:
        return namespace(out).reshape(out, (*out.shape[:-1], n, self.atoms))

    def q(self, values: Array) -> Array:
        """Mean return of every action, [..., actions], from ``values``."""
        if self.atoms == 1:
            return values[..., 0]
        xp = namespace(values)
        return xp.sum(xp.exp(log_softmax(values)) * self.z(values), axis=-1)

    def z(self, like: Array) -> Array:
        """Returns of the atoms, [atoms]."""
        return constant(np.linspace(self.v_min, self.v_max, self.atoms, dtype=np.float32), like)

    # -------------------------------------------------------------- acting

    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Any
    ) -> tuple[Array, Records]:
        """The best action; with noise, exploring: by epsilon, or by the noise in the weights.

        All rows of a call see the same weights, so of a noisy network's noise the first row's
        serves all.
        """
        mask = obs.get("action_mask")
        own = None
        if noise is not None and self.noisy:
            own = namespace(noise).reshape(noise, (-1, noise.shape[-1]))[0, 2:]
        values = self.values(model, params, obs, own)
        q, records = self.q(values), {"values": values}
        if noise is None or self.noisy:
            return model.dist.mode(q, mask), records
        epsilon = params.get("explore/epsilon", self.epsilon)
        return model.dist.choose(q, noise, epsilon, mask), records

    def exploration(self, env_steps: int, slots: int) -> dict[str, ndarray]:
        """Epsilon: falling over the run, or of each environment its own (a ladder).

        epsilon_i = epsilon^(1 + ladder i / (slots - 1)) (Horgan et al. 2018, arXiv:1803.00933,
        section 4.1, for workers of one environment each).
        """
        if self.ladder is not None:
            i = np.arange(slots) / max(slots - 1, 1)
            epsilon = self.epsilon ** (1.0 + self.ladder * i)
        else:
            done = min(env_steps / self.epsilon_steps, 1.0)
            epsilon = np.asarray(self.epsilon_start * (1.0 - done) + self.epsilon * done)
        return {"explore/epsilon": epsilon.astype(np.float32)}

    def known(self, model: Model, params: Params, trajectory: Trajectory) -> Known:
        """The values that ``act`` recorded, and those of the observations it did not act on.

        So first priorities cost next to nothing (Horgan et al. 2018, arXiv:1803.00933, section 3).
        """
        known = trajectory.records["values"]
        last = self.values(model, params, {path: x[-1:] for path, x in trajectory.obs.items()})
        final = known[0, :0]
        if len(trajectory.final_t):
            final = self.values(model, params, trajectory.final)
        return {"values": np.concatenate([known, last])}, {"values": final}

    # -------------------------------------------------------------- learning

    def draw(
        self, model: Model, rng: np.random.Generator, steps: int, size: int
    ) -> dict[str, ndarray]:
        """Noise for ``steps`` gradient steps: two draws for the online network, one for targets."""
        if not self.noisy:
            return {}
        return {"noise": rng.standard_normal((steps, 3, model.dist.width), np.float32)}

    def targets(self, params: Mapping[str, ndarray]) -> dict[str, ndarray]:
        """The target network at the beginning: the online one."""
        return copies(params, params)

    def after_step(self, params: Params, targets: Params, step: Array) -> Params:
        """The target network after the run's gradient step of that number, from 1 on."""
        return follow(params, targets, step % self.target_every == 0)

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        """Weighted mean over rows; row metric ``priority``: what to draw each by next."""
        values, following, judge = self._valued(model, params, aux, batch)
        mask = batch["next_obs"].get("action_mask")
        best = namespace(judge).argmax(allowed(self.q(judge), mask), axis=-1)
        chosen, then = pick(values, batch["action"]), pick(following, best)
        error, priority = self._error(chosen, then, batch["reward"], batch["discount"])
        loss = masked_mean(batch["weight"] * error, batch["mask"])
        q = stop_gradient(self.q(values))
        scalars = {"q_mean": masked_mean(pick(q, batch["action"]), batch["mask"])}
        if self.atoms > 1:
            xp, reward = namespace(values), batch["reward"]
            outside = (reward < self.v_min) | (reward > self.v_max)
            scalars["outside_support"] = masked_mean(xp.astype(outside, q.dtype), batch["mask"])
        return loss, Metrics(scalars, {"priority": stop_gradient(priority) + FLOOR})

    def _valued(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Array, Array]:
        """Values of each row's observation, and of the next one: to bootstrap from, and to choose
        the next action by. All are what was recorded while acting, if the batch has it."""
        if "known" in batch:
            following = batch["next_known"]["values"]
            return batch["known"]["values"], following, following
        online, target = {**aux, **params}, targets_of(aux, params)
        noise = batch["step"].get("noise", (None, None, None))
        values = self.values(model, online, batch["obs"], noise[0])
        judge = following = stop_gradient(self.values(model, target, batch["next_obs"], noise[2]))
        if self.double:
            judge = stop_gradient(self.values(model, online, batch["next_obs"], noise[1]))
        return values, following, judge

    @property
    def warnings(self) -> dict[str, str]:
        """What it means that a metric is above 0."""
        return {
            "outside_support": f"rewards of {self.n_step} env steps lie outside of the support of "
            f"returns, [{self.v_min:g}, {self.v_max:g}], and count as its ends: widen "
            "algorithm.v_min and v_max, or clip rewards (rollout.clip_reward)"
        }

    def _error(
        self, chosen: Array, then: Array, reward: Array, discount: Array
    ) -> tuple[Array, Array]:
        """Loss and priority of each row, [N]: of the TD error, or of the distribution's KL."""
        xp = namespace(chosen)
        if self.atoms == 1:
            td = reward + discount * then[:, 0] - chosen[:, 0]
            return huber(td), xp.abs(td)
        m = project(xp.exp(log_softmax(then)), self.z(then), reward, discount)
        cross = -xp.sum(m * log_softmax(chosen), axis=-1)
        entropy = -xp.sum(m * xp.log(xp.clip(m, 1e-12, None)), axis=-1)
        return cross, xp.clip(cross - entropy, 0.0, None)

    @property
    def optimiser(self) -> Optimiser:
        kind, inside = self.rule, self.rule == "rmsprop"  # centred, as DQN's is (Nature, methods)
        return Optimiser(
            kind,
            decay=0.95,
            centered=inside,
            eps=self.eps,
            eps_inside=inside,
            clip_norm=self.max_grad_norm,
        )


@lru_cache(maxsize=8)
def _layers(net: Any) -> list[noisy.Layer]:
    return noisy.layers(net.shapes())
