"""Soft actor-critic with a temperature that finds itself.

Haarnoja et al. 2018 (arXiv:1812.05905): two critics of which the lower counts, a policy squashed by
tanh, a temperature that holds the policy's entropy at a target; and for choices, where means over
actions take the place of samples, Christodoulou 2019 (arXiv:1910.07207).

Policy, critics and temperature take their gradient step together, from the parameters before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms.actor_critic import masked_mean
from shoal.algorithms.base import Batch, Metrics, Model, Params, Records
from shoal.algorithms.ddpg import Critics, held, lowest
from shoal.algorithms.off_policy import copies, refused, targets_of
from shoal.config.bounds import setting
from shoal.config.schedule import Schedule
from shoal.nets.base import Build, Head
from shoal.nets.network import Network
from shoal.ops.distributions import Categorical
from shoal.ops.exploration import RandomFirst
from shoal.ops.kernels import Array, namespace, ndarray, stop_gradient
from shoal.ops.optimisers import Optimiser
from shoal.ops.q_learning import allowed, log_softmax, pick
from shoal.ops.squashed import TanhGaussian
from shoal.spaces.base import ACTION_MASK, OWN, Spaces

LOG_ALPHA = "log_alpha"  # the parameter that is the temperature's logarithm


@dataclass(frozen=True)
class SAC(Critics):
    """Hyperparameters; defaults are the authors' (Table 1), but for the random start."""

    lr: Schedule = setting(3e-4, above=0)  # Adam's step size, of policy, critics and temperature
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    n_step: int = setting(1, least=1)  # env steps before the bootstrap
    critics: int = setting(2, least=1)  # number of critics; the lowest value counts
    alpha: float = setting(1.0, above=0)  # initial temperature
    tune_alpha: bool = True  # tune the temperature to hold target_entropy
    target_entropy: float | None = setting(None)  # none: -1 per float; half of a choice's maximum
    target_every: int = setting(1, least=1)  # gradient steps between target network updates
    tau: float = setting(0.005, above=0, most=1)  # target += tau (online - target)
    random_steps: int = setting(1_000, least=0)  # env steps of random actions at the start
    max_grad_norm: float | None = setting(None, above=0)  # global norm; none: no clipping
    network: Any = field(default_factory=lambda: Network(hidden=(256, 256), activation="relu"))
    critic: Network | None = None  # network of the critics; none: as the policy's

    def model(self, spaces: Spaces, build: Build) -> Model:
        """Raises SpaceError where actions are several choices at once."""
        if spaces.action_kind == "box":
            dim = spaces.action_dim
            net = self.pair(spaces, build, Head(2 * dim, gain=0.01), 1, of_actions=True)
            return Model(spaces, net, RandomFirst(TanhGaussian(dim), dim))
        if spaces.action_kind != "discrete":
            raise refused("SAC needs actions that are floats or one choice of several", spaces)
        n = spaces.action_n[0]
        net = self.pair(spaces, build, Head(n, gain=0.01), n, of_actions=False)
        return Model(spaces, net, RandomFirst(Categorical(n), 0))

    def init(self, model: Model, rng: np.random.Generator) -> dict[str, ndarray]:
        params = model.net.init(rng)
        return {**params, LOG_ALPHA: np.full(1, math.log(self.alpha), np.float32)}

    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Any
    ) -> tuple[Array, Records]:
        """A sample of the policy's; with no noise, its mode."""
        (out,) = model.net(params, obs, ("pi",))
        mask, dist = obs.get("action_mask"), model.dist.dist
        if noise is None:
            return dist.mode(out, mask), {}
        own, _ = model.dist.split(noise)
        action = dist.sample(out, own, mask)
        random = model.dist.sample(out, noise, mask)
        return namespace(out).where(params["explore/random"], random, action), {}

    def draw(
        self, model: Model, rng: np.random.Generator, steps: int, size: int
    ) -> dict[str, ndarray]:
        """Noise for ``steps`` gradient steps on ``size`` rows: of next and of present actions."""
        if model.spaces.action_kind != "box":
            return {}
        shape = steps, 2, size, model.spaces.action_dim
        return {"noise": rng.standard_normal(shape, np.float32)}

    def targets(self, params: Mapping[str, ndarray]) -> dict[str, ndarray]:
        """The critics' alone."""
        return copies(params, [name for name in params if name.startswith(("q", "critic/"))])

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        """Squared TD errors of the critics, weighted; the policy's loss; the temperature's."""
        critics = model.net.critic_names  # type: ignore[attr-defined]
        online = {**aux, **params}
        target, still = targets_of(aux, critics), held(online, critics)
        xp, mask = namespace(batch["reward"]), batch["mask"]
        log_alpha = params[LOG_ALPHA][0]
        alpha = xp.exp(stop_gradient(log_alpha))
        of_choices = model.spaces.action_kind != "box"
        losses = self._of_choices if of_choices else self._of_floats
        then, values, policy_rows, entropy = losses(model, online, target, still, batch, alpha)
        y = stop_gradient(batch["reward"] + batch["discount"] * then)
        loss, priority, metrics = self.judged(batch, values, y)
        policy_loss = masked_mean(policy_rows, mask)
        mean_entropy = stop_gradient(masked_mean(entropy, mask))
        metrics |= {
            "policy_loss": policy_loss,
            "entropy": mean_entropy,
            "alpha": alpha,
        }
        loss = loss + policy_loss
        if self.tune_alpha:  # equation 18: up while there is less entropy than wanted
            wanted = self.wanted(model.spaces, batch)
            loss = loss + xp.exp(log_alpha) * (mean_entropy - wanted)
        return loss, Metrics(metrics, {"priority": priority})

    def wanted(self, spaces: Spaces, batch: Batch) -> float | Array:
        """The entropy that the temperature aims at, in nats: its mean over the batch.

        For choices it is half the maximum over the allowed ones: a target out of reach, in a state
        with few of them, would raise the temperature without end.
        """
        if self.target_entropy is not None:
            return self.target_entropy
        if spaces.action_kind == "box":
            return -float(spaces.action_dim)
        mask = batch["obs"].get(ACTION_MASK)
        if mask is None:
            return 0.5 * math.log(spaces.action_n[0])
        xp = namespace(mask)
        count = xp.sum(xp.astype(mask, batch["mask"].dtype), axis=-1)
        return 0.5 * masked_mean(xp.log(xp.clip(count, 1.0, None)), batch["mask"])

    def _of_floats(
        self,
        model: Model,
        online: Params,
        target: Params,
        still: Params,
        batch: Batch,
        alpha: Array,
    ) -> tuple[Array, tuple[Array, ...], Array, Array]:
        """For each row: soft value of what followed, critics' values, policy's loss, entropy."""
        dist, noise = model.dist.dist, batch["step"]["noise"]
        obs, following = batch["obs"], batch["next_obs"]
        (out,) = model.net(online, following, ("pi",))
        action, log_prob = dist.sample_log_prob(out, noise[0])
        then = lowest(self.q(model, target, {**following, OWN: action}))[..., 0]
        then = then - alpha * log_prob
        found = self.q(model, online, {**obs, OWN: batch["action"]})
        (out,) = model.net(online, obs, ("pi",))
        action, log_prob = dist.sample_log_prob(out, noise[1])
        low = lowest(self.q(model, still, {**obs, OWN: action}))[..., 0]
        return then, tuple(q[..., 0] for q in found), alpha * log_prob - low, -log_prob

    def _of_choices(
        self,
        model: Model,
        online: Params,
        target: Params,
        still: Params,
        batch: Batch,
        alpha: Array,
    ) -> tuple[Array, tuple[Array, ...], Array, Array]:
        """The same, as means over all choices."""
        obs, following = batch["obs"], batch["next_obs"]
        xp = namespace(batch["reward"])
        (out,) = model.net(online, following, ("pi",))
        log_p = log_softmax(allowed(out, following.get("action_mask")))
        low = lowest(self.q(model, target, following))
        then = xp.sum(xp.exp(log_p) * (low - alpha * log_p), axis=-1)
        found = self.q(model, online, obs)
        (out,) = model.net(online, obs, ("pi",))
        log_p = log_softmax(allowed(out, obs.get("action_mask")))
        p = xp.exp(log_p)
        low = lowest(tuple(stop_gradient(q) for q in found))
        rows = xp.sum(p * (alpha * log_p - low), axis=-1)
        entropy = -xp.sum(p * log_p, axis=-1)
        return then, tuple(pick(q, batch["action"]) for q in found), rows, entropy

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam", clip_norm=self.max_grad_norm)
