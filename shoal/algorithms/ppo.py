"""Proximal policy optimisation, Schulman et al. 2017 (arXiv:1707.06347).

Several epochs of minibatch steps on one batch of on-policy rows, kept near the policy that sampled
them by clipping the probability ratio. The implementation details that matter are numbered as in
Huang et al. 2022, "The 37 implementation details of PPO".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms import actor_critic
from shoal.algorithms.actor_critic import ActorCritic, bounded, masked_mean, standardise
from shoal.algorithms.base import Batch, Metrics, Model, Params
from shoal.config.bounds import setting
from shoal.config.schedule import Schedule
from shoal.nets.network import Network
from shoal.ops.kernels import Array, namespace, stop_gradient
from shoal.ops.optimisers import Optimiser
from shoal.ops.returns import gae
from shoal.trajectory import Trajectory, ndarray


@dataclass(frozen=True)
class PPO(ActorCritic):
    """Hyperparameters of PPO; defaults from the paper's Table 3 (MuJoCo) unless they say other."""

    lr: Schedule = setting(3e-4, above=0)  # Adam's step size
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    lambda_: float = setting(0.95, least=0, most=1)  # of GAE: 0 is the TD error, 1 is Monte Carlo
    clip: Schedule = setting(0.2, above=0)  # range of the probability ratio: 1 +- clip
    clip_value: float | None = setting(None, above=0)  # of the value's change (detail 9)
    entropy_coef: Schedule = setting(0.0, least=0)  # weight of the entropy bonus
    value_coef: float = setting(0.5, least=0)  # on half the squared error
    max_grad_norm: float | None = setting(0.5, above=0)  # of all parameters (detail 11)
    epochs: int = setting(10, least=1)  # passes over each batch
    minibatch_size: int = setting(64, least=1)  # rows of one gradient step
    normalise_advantage: bool = True  # within each minibatch (detail 7)
    target_kl: float | None = setting(None, above=0)  # end an update at this KL
    adam_eps: float = setting(1e-5, above=0)  # Adam's epsilon (detail 3)
    chunk: int | None = setting(None, least=1)  # env steps in a row of a recurrent network
    central: bool = False  # the value head sees the environment's state() too (several agents)
    network: Any = field(default_factory=Network)  # or your own torch.nn.Module or flax module

    needs = frozenset({"on-policy", "epochs"})

    def __post_init__(self) -> None:
        super().__post_init__()
        actor_critic.check_minibatch(self.minibatch_size, self.normalise_advantage)

    def postprocess(self, model: Model, params: Params, trajectory: Trajectory) -> Batch:
        """Advantages by GAE, bootstrapped at time limits and at the fragment's end (detail 5)."""
        v_tm1, v_t = actor_critic.values(model, params, trajectory)
        discount_t = (self.gamma * ~trajectory.terminated).astype(np.float32)
        advantage = gae(trajectory.reward, discount_t, v_tm1, v_t, trajectory.last, self.lambda_)
        return actor_critic.rows(
            model,
            trajectory,
            self.chunk,
            log_prob=actor_critic.behaviour_log_prob(model, params, trajectory),
            advantage=advantage,
            value=v_tm1,
            target=advantage + v_tm1,
        )

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        log_prob, entropy, v = actor_critic.evaluate(model, {**aux, **params}, batch)
        mask, advantage = batch["mask"], batch["advantage"]
        if self.normalise_advantage:
            advantage = standardise(advantage, mask)
        log_ratio = bounded(log_prob - batch["log_prob"])
        surrogate, clipped = clipped_surrogate(log_ratio, advantage, aux["hyper/clip"])
        policy_loss = -masked_mean(surrogate, mask)
        value_loss = masked_mean(
            value_error(v, batch["target"], batch["value"], self.clip_value), mask
        )
        entropy = masked_mean(entropy, mask)
        total = policy_loss + self.value_coef * value_loss - aux["hyper/entropy_coef"] * entropy
        kl = stop_gradient(masked_mean(k3(log_ratio), mask))
        scalars = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": kl,
            "clip_fraction": masked_mean(clipped, mask),
        }
        stop = None if self.target_kl is None else kl > self.target_kl
        return total, Metrics(scalars, stop=stop)

    def indices(self, model: Model, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """A fresh permutation per epoch, cut into minibatches of equal size (detail 6).

        Chunks of a recurrent network stay whole: a minibatch has about as many steps as rows else.
        """
        rows, *steps = shape
        size = max(self.minibatch_size // math.prod(steps), 1)
        return np.concatenate([minibatches(rng, rows, size) for _ in range(self.epochs)])

    @property
    def stops_early(self) -> bool:
        return self.target_kl is not None

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam", eps=self.adam_eps, clip_norm=self.max_grad_norm)


def clipped_surrogate(log_ratio: Array, advantage: Array, clip: Array) -> tuple[Array, Array]:
    """min(r A, clip(r, 1 - eps, 1 + eps) A) of each row, and whether r was outside (eq. 7); [N]."""
    xp = namespace(log_ratio)
    ratio = xp.exp(log_ratio)
    low, high = 1.0 - clip, 1.0 + clip
    bounded = xp.where(ratio < low, low, xp.where(ratio > high, high, ratio))
    outside = xp.astype((ratio < low) | (ratio > high), advantage.dtype)
    return xp.minimum(ratio * advantage, bounded * advantage), outside


def value_error(v: Array, target: Array, v_old: Array, clip: float | None) -> Array:
    """Half the squared error of each row; clipped, the worse of moving freely and by +-clip."""
    xp = namespace(v)
    error = (v - target) ** 2
    if clip is not None:
        near = v_old + xp.clip(v - v_old, -clip, clip)
        error = xp.maximum(error, (near - target) ** 2)
    return 0.5 * error


def k3(log_ratio: Array) -> Array:
    """Schulman's low-variance estimator of KL(old || new), (r - 1) - log r, of each row."""
    xp = namespace(log_ratio)
    return xp.exp(log_ratio) - 1.0 - log_ratio


def minibatches(rng: np.random.Generator, rows: int, size: int) -> ndarray:
    """One epoch: every row exactly once, in random order, int32 [ceil(rows / size), <= size].

    Where the size does not divide the rows, all minibatches shrink alike and -1 (no row) fills the
    last: equal shapes compile once, and no row is left out.
    """
    steps = -(-rows // size)
    width = -(-rows // steps)
    order = np.full(steps * width, -1, np.int32)
    order[:rows] = rng.permutation(rows)
    # Deal the rows out like cards, so that the few missing ones are spread over the minibatches.
    return np.ascontiguousarray(order.reshape(width, steps).T)
