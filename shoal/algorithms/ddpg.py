"""Deterministic policies and critics of actions.

DDPG (Lillicrap et al. 2016, arXiv:1509.02971), and TD3 (Fujimoto et al. 2018, arXiv:1802.09477),
which is DDPG with three changes, each a field here: two critics of which the lower counts, noise on
the target's action, and a policy that moves less often.

Policy and critics take their gradient step together, from the parameters before it: one loss, one
step, under every plan. (The authors' code moves the policy after the critics, which differs by one
step of the critics in what the policy sees.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms.actor_critic import masked_mean
from shoal.algorithms.base import Batch, Metrics, Model, Params, Records
from shoal.algorithms.off_policy import (
    FLOOR,
    OffPolicy,
    Pair,
    copies,
    follow,
    refuse_memory,
    refused,
    targets_of,
)
from shoal.config.bounds import setting
from shoal.config.schedule import Schedule
from shoal.nets.array_net import ArrayNet
from shoal.nets.base import Build, Head
from shoal.nets.network import Network
from shoal.ops.deterministic import Tanh
from shoal.ops.exploration import RandomFirst
from shoal.ops.kernels import Array, namespace, ndarray, stop_gradient
from shoal.ops.optimisers import Group, Optimiser
from shoal.spaces.base import OWN, Leaf, Spaces

POLICY = "trunk/", "pi/", "module/"  # what names of the policy's parameters begin with


class Critics(OffPolicy):
    """What DDPG, TD3 and SAC share."""

    lr: Schedule
    gamma: float
    critics: int
    tau: float
    target_every: int
    random_steps: int
    max_grad_norm: float | None
    network: Any
    critic: Network | None

    def pair(self, spaces: Spaces, build: Build, policy: Head, size: int, of_actions: bool) -> Pair:
        """A policy of that head, and critics with ``size`` outputs each, of actions or of none."""
        settings = self.critic or self.network
        if not isinstance(settings, Network):
            settings = Network(hidden=(256, 256), activation="relu")
        leaves = [*spaces.leaves]
        if of_actions:
            leaves.append(Leaf(OWN, "box", (spaces.action_dim,), np.dtype(np.float32)))
        heads = {f"q{i}": Head(size) for i in range(self.critics)}
        critic = ArrayNet(settings, leaves, heads, trunk="critic")
        net = build(self.network, spaces, {"pi": policy})
        refuse_memory(net.memory, settings.memory)
        return Pair(net, critic)

    def q(self, model: Model, params: Params, obs: Mapping[str, Array]) -> tuple[Array, ...]:
        """What each critic says: [N, size]."""
        heads = tuple(f"q{i}" for i in range(self.critics))
        found: tuple[Array, ...] = model.net.critic(params, obs, heads)  # type: ignore[attr-defined]
        return found

    def exploration(self, env_steps: int, slots: int) -> dict[str, ndarray]:
        """Random actions at first."""
        return {"explore/random": np.asarray(env_steps < self.random_steps)}

    def after_step(self, params: Params, targets: Params, step: Array) -> Params:
        """The target networks after the run's gradient step of that number, from 1 on."""
        return follow(params, targets, step % self.target_every == 0, self.tau)

    def judged(
        self, batch: Batch, values: tuple[Array, ...], target: Array
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Loss, priority of each row and metrics, from the critics' values and their target [N]."""
        td = [value - target for value in values]
        weight, mask = batch["weight"], batch["mask"]
        loss = sum(masked_mean(weight * error * error, mask) for error in td)
        size = sum(namespace(error).abs(error) for error in td) / len(td)
        metrics = {"critic_loss": loss, "q_mean": masked_mean(values[0], mask)}
        return loss, stop_gradient(size) + FLOOR, metrics


def lowest(values: tuple[Array, ...]) -> Array:
    """The lowest of several critics' values, entry by entry."""
    low = values[0]
    for value in values[1:]:
        low = namespace(low).minimum(low, value)
    return low


def held(params: Params, names: tuple[str, ...]) -> Params:
    """Parameters, some of which no gradient reaches."""
    return {**params, **{name: stop_gradient(params[name]) for name in names}}


@dataclass(frozen=True)
class DDPG(Critics):
    """Hyperparameters; defaults are TD3's code's where both have them."""

    lr: Schedule = setting(1e-3, above=0)  # Adam's step size
    policy_rate: float = setting(1.0, above=0)  # the policy's lr / lr (DDPG's paper: 0.1)
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    n_step: int = setting(1, least=1)  # env steps before the bootstrap (Ape-X: 5)
    critics: int = setting(1, least=1)  # number of critics; the lowest value counts
    policy_every: int = setting(1, least=1)  # gradient steps between two of the policy
    target_noise: float = setting(0.0, least=0)  # std on target actions, in half ranges
    target_clip: float = setting(0.5, least=0)  # bound of that noise
    target_every: int = setting(1, least=1)  # gradient steps between target network updates
    tau: float = setting(0.005, above=0, most=1)  # target += tau (online - target)
    noise: float = setting(0.1, least=0)  # std of exploration noise, in half action ranges
    random_steps: int = setting(1_000, least=0)  # env steps of random actions at the start
    max_grad_norm: float | None = setting(None, above=0)  # global norm; none: no clipping
    network: Any = field(default_factory=lambda: Network(hidden=(256, 256), activation="relu"))
    critic: Network | None = None  # network of the critics; none: as the policy's

    def model(self, spaces: Spaces, build: Build) -> Model:
        """Raises SpaceError where actions are not floats."""
        if spaces.action_kind != "box":
            raise refused(f"{type(self).__name__} needs actions that are floats", spaces)
        dim = spaces.action_dim
        net = self.pair(spaces, build, Head(dim, gain=0.01), 1, of_actions=True)
        return Model(spaces, net, RandomFirst(Tanh(dim), dim))

    def init(self, model: Model, rng: np.random.Generator) -> dict[str, ndarray]:
        return model.net.init(rng)

    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Any
    ) -> tuple[Array, Records]:
        """The policy's action; with noise, explored around."""
        (out,) = model.net(params, obs, ("pi",))
        dist = model.dist.dist
        if noise is None:
            return dist.mode(out), {}
        normal, uniform = model.dist.split(noise)
        action = dist.sample(out, self.noise * normal)
        action = namespace(out).where(params["explore/random"], uniform, action)
        return action, {}

    def draw(
        self, model: Model, rng: np.random.Generator, steps: int, size: int
    ) -> dict[str, ndarray]:
        """Noise of the targets' actions for ``steps`` gradient steps on ``size`` rows each."""
        if not self.target_noise:
            return {}
        shape = steps, size, model.spaces.action_dim
        return {"noise": rng.standard_normal(shape, np.float32)}

    def targets(self, params: Mapping[str, ndarray]) -> dict[str, ndarray]:
        return copies(params, params)

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        """Squared TD errors, weighted, and what the first critic thinks of the policy's actions."""
        online, target = {**aux, **params}, targets_of(aux, params)
        obs, following = batch["obs"], batch["next_obs"]
        dist, xp = model.dist.dist, namespace(batch["reward"])
        (out,) = model.net(target, following, ("pi",))
        then = dist.mode(out)
        if self.target_noise:
            noise = self.target_noise * batch["step"]["noise"]
            then = xp.clip(then + xp.clip(noise, -self.target_clip, self.target_clip), -1.0, 1.0)
        next_q = lowest(self.q(model, target, {**following, OWN: then}))[..., 0]
        y = stop_gradient(batch["reward"] + batch["discount"] * next_q)
        values = self.q(model, online, {**obs, OWN: batch["action"]})
        loss, priority, metrics = self.judged(batch, tuple(q[..., 0] for q in values), y)

        (out,) = model.net(online, obs, ("pi",))
        still = held(online, model.net.critic_names)  # type: ignore[attr-defined]
        judged = self.q(model, still, {**obs, OWN: dist.mode(out)})[0][..., 0]
        policy_loss = -masked_mean(judged, batch["mask"])
        scalars = {**metrics, "policy_loss": policy_loss}
        return loss + policy_loss, Metrics(scalars, {"priority": priority})

    @property
    def optimiser(self) -> Optimiser:
        groups: tuple[Group, ...] = ()
        if self.policy_rate != 1.0 or self.policy_every != 1:
            groups = (Group("policy", POLICY, self.policy_rate, self.policy_every),)
        return Optimiser("adam", clip_norm=self.max_grad_norm, groups=groups)


@dataclass(frozen=True)
class TD3(DDPG):
    """DDPG's hyperparameters, with TD3's changes to it switched on (its paper, section 5)."""

    lr: Schedule = setting(3e-4, above=0)  # Adam's step size
    critics: int = setting(2, least=1)  # number of critics; the lowest value counts
    policy_every: int = setting(2, least=1)  # gradient steps between two of the policy
    target_noise: float = setting(0.2, least=0)  # std on target actions, in half ranges
    target_every: int = setting(2, least=1)  # gradient steps between target network updates
