"""Deep Q-learning and what was added to it, each as a switch.

DQN (Mnih et al. 2015, Nature 518), double (van Hasselt et al. 2016, arXiv:1509.06461), dueling
(Wang et al. 2016, arXiv:1511.06581), n-step, distributional (C51: Bellemare et al. 2017,
arXiv:1707.06887) and noisy (Fortunato et al. 2018, arXiv:1706.10295). All of them together, with
prioritised replay (Schaul et al. 2016, arXiv:1511.05952), are Rainbow (Hessel et al. 2018,
arXiv:1710.02298); all off is DQN.

With a recurrent network it learns from sequences, as R2D2 does (Kapturowski et al. 2019, ICLR).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
from shoal.errors import ConfigError
from shoal.nets.base import Build, Head, step, unroll
from shoal.nets.network import Network
from shoal.ops.exploration import EpsilonGreedy
from shoal.ops.kernels import Array, arange, constant, namespace, ndarray, stop_gradient
from shoal.ops.optimisers import Optimiser
from shoal.ops.q_learning import (
    allowed,
    backup,
    dueling,
    huber,
    log_softmax,
    mixed_priority,
    pick,
    project,
)
from shoal.spaces.base import MEMORY, Spaces
from shoal.trajectory import Trajectory, Window


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
    rescale: float | None = setting(
        None, above=0, help="learn values rescaled by R2D2's h, of this epsilon (paper: 1e-3)"
    )
    sequence: int = setting(80, least=1)  # with memory: env steps trained on (R2D2, Table 2)
    burn_in: int = setting(40, least=0)  # env steps before them that only refresh the memory
    overlap: int = setting(40, least=0)  # env steps that neighbouring sequences have in common
    eta: float = setting(0.9, least=0, most=1)  # weight of the largest error in a priority
    max_grad_norm: float | None = setting(10.0, above=0)  # global norm (dueling paper, section 4.2)
    rule: Literal["adam", "adagrad", "rmsprop"] = "adam"  # optimiser
    eps: float = setting(1e-8, above=0)  # the optimiser's epsilon
    network: Any = field(default_factory=lambda: Network(hidden=(120, 84), activation="relu"))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.v_min < self.v_max, "v_max", self.v_max, f"above v_min, {self.v_min}")
        shorter = f"shorter than algorithm.sequence, {self.sequence}"
        require(self.overlap < self.sequence, "algorithm.overlap", self.overlap, shorter)

    # -------------------------------------------------------------- the network

    def model(self, spaces: Spaces, build: Build) -> Model:
        """Raises SpaceError where actions are not one choice of several.

        And ConfigError if settings of sequences were changed for a network without memory.
        """
        if spaces.action_kind != "discrete":
            raise refused("DQN needs actions that are one choice of several", spaces)
        n = spaces.action_n[0]
        heads = {"q": Head(n * self.atoms)}
        if self.dueling:
            heads = {"a": Head(n * self.atoms, own=True), "v": Head(self.atoms, own=True)}
        net = build(self.network, spaces, heads)
        if not net.memory:
            self._refuse_sequences()
        width = noisy.width(noisy.layers(net.shapes())) if self.noisy else 0
        return Model(spaces, net, EpsilonGreedy(n, width))

    def _refuse_sequences(self) -> None:
        for f in fields(DQN):
            value = getattr(self, f.name)
            if f.name in ("sequence", "burn_in", "overlap", "eta") and value != f.default:
                raise ConfigError(
                    f"algorithm.{f.name} is {value}, but nothing reads it: the network has no "
                    "memory, and learns from single transitions",
                    None,
                    "leave it out, or take a recurrent network (network.memory=lstm)",
                )

    def window(self, model: Model) -> Window | None:
        """Sequences for a recurrent network."""
        if not model.net.memory:
            return None
        return Window(self.sequence, self.burn_in, self.overlap, self.eta)

    def init(self, model: Model, rng: np.random.Generator) -> dict[str, ndarray]:
        params = model.net.init(rng)
        if not self.noisy:
            return params
        return noisy.init(noisy.layers(model.net.shapes()), params, rng, self.sigma)

    def values(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Array | None = None
    ) -> Array:
        """Value of every action, or logits of its return's atoms: [..., actions, atoms]."""
        return self._joined(model, model.net(self._noisy(model, params, noise), obs, self.heads))

    def unrolled(
        self, model: Model, params: Params, batch: Batch, noise: Array | None = None
    ) -> Array:
        """``values`` along sequences, from the first trained env step on: [N, M + n_step, ...].

        The prefix of each (burn-in) only brings the stored memory up to these parameters: no
        gradient flows through it.
        """
        net, length = model.net, self.burn_in
        params, begins, obs = self._noisy(model, params, noise), batch["begins"], batch["obs"]
        memory = {path: x for path, x in obs.items() if path.startswith(MEMORY)}
        rows = {path: x for path, x in obs.items() if path not in memory}
        if length:
            fixed = {name: stop_gradient(x) for name, x in params.items()}
            prefix = {path: x[:, :length] for path, x in rows.items()} | memory
            _, memory = unroll(net, fixed, prefix, begins[:, :length], self.heads)
            memory = {path: stop_gradient(x) for path, x in memory.items()}
        rest = {path: x[:, length:] for path, x in rows.items()} | memory
        return self._joined(model, unroll(net, params, rest, begins[:, length:], self.heads)[0])

    @property
    def heads(self) -> tuple[str, ...]:
        """Those of the network."""
        return ("a", "v") if self.dueling else ("q",)

    def _noisy(self, model: Model, params: Params, noise: Array | None) -> Params:
        if not self.noisy or noise is None:
            return params
        net: Any = model.net  # hashable, as whatever is compared by identity
        return noisy.perturbed(_layers(net), params, noise)

    def _joined(self, model: Model, outs: tuple[Array, ...]) -> Array:
        first = self._atomic(outs[0], model.dist.n)
        return dueling(self._atomic(outs[1], 1), first) if self.dueling else first

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
        outs, memory = step(model.net, self._noisy(model, params, own), obs, self.heads)
        values = self._joined(model, outs)
        q, records = self.q(values), {"values": values, **memory}
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
        """Weighted mean over rows; row metric ``priority``: what to draw each by next.

        Of sequences, the mean is over all env steps.
        """
        values, following, judge, mask = self._valued(model, params, aux, batch)
        xp, valid, weight = namespace(values), batch["mask"], batch["weight"]
        action, reward, discount, counted = (
            xp.reshape(x, (-1,))
            for x in (batch["action"], batch["reward"], batch["discount"], valid)
        )
        best = xp.argmax(allowed(self.q(judge), mask), axis=-1)
        chosen, then = pick(values, action), pick(following, best)
        error, priority = self._error(chosen, then, reward, discount)
        if valid.ndim > 1:
            error, weight = xp.reshape(error, valid.shape), weight[:, None]
            priority = mixed_priority(xp.reshape(priority, valid.shape), valid, self.eta)
        loss = masked_mean(weight * error, valid)
        q = stop_gradient(self.q(values))
        scalars = {"q_mean": masked_mean(pick(q, action), counted)}
        if self.atoms > 1:
            outside = (reward < self.v_min) | (reward > self.v_max)
            scalars["outside_support"] = masked_mean(xp.astype(outside, q.dtype), counted)
        return loss, Metrics(scalars, {"priority": stop_gradient(priority) + FLOOR})

    def _valued(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Array, Array, Array | None]:
        """Values of each row's observation, and of the next one: to bootstrap from, and to choose
        the next action by. All are what was recorded while acting, if the batch has it.

        And the actions that are allowed there. The env steps of sequences are rows too: [N M, ...].
        """
        if "known" in batch:
            following = batch["next_known"]["values"]
            mask = batch["next_obs"].get("action_mask")
            return batch["known"]["values"], following, following, mask
        online, target = {**aux, **params}, targets_of(aux, params)
        noise = batch["step"].get("noise", (None, None, None))
        if model.net.memory:
            return self._of_sequences(model, online, target, batch, noise)
        values = self.values(model, online, batch["obs"], noise[0])
        judge = following = stop_gradient(self.values(model, target, batch["next_obs"], noise[2]))
        if self.double:
            judge = stop_gradient(self.values(model, online, batch["next_obs"], noise[1]))
        return values, following, judge, batch["next_obs"].get("action_mask")

    def _of_sequences(
        self, model: Model, online: Params, target: Params, batch: Batch, noise: Any
    ) -> tuple[Array, Array, Array, Array | None]:
        """One unroll of each network: of the online one, both its values and its choices."""
        values = self.unrolled(model, online, batch, noise[0])
        followed = stop_gradient(self.unrolled(model, target, batch, noise[2]))
        xp = namespace(values)
        n, steps = batch["then"].shape
        row = arange(n, values)[:, None]

        def then(x: Array, first: int) -> Array:
            found = x[row, batch["then"] - first]
            return xp.reshape(found, (n * steps, *found.shape[2:]))

        following = then(followed, self.burn_in)
        judge = then(stop_gradient(values), self.burn_in) if self.double else following
        mask = batch["obs"].get("action_mask")
        now = xp.reshape(values[:, :steps], (n * steps, *values.shape[2:]))
        return now, following, judge, None if mask is None else then(mask, 0)

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
            td = backup(reward, discount, then[:, 0], self.rescale) - chosen[:, 0]
            return huber(td), xp.abs(td)
        m = project(xp.exp(log_softmax(then)), self.z(then), reward, discount, self.rescale)
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
