"""Asynchronous PPO: the clipped surrogate of Schulman et al. 2017 (arXiv:1707.06347) on what older
weights sampled, with V-trace's advantages (Espeholt et al. 2018, arXiv:1802.01561).

Three policies meet. mu acted; pi_t is the learner's when the update begins, and V-trace corrects
from mu to it; pi is the one that moves, and the surrogate keeps it near pi_t. So the advantage
carries pi_t / mu and the ratio carries pi / pi_t, and nothing is corrected twice. RLlib's APPO and
Sample Factory (Petrenko et al. 2020, arXiv:2006.11751) are built like this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms import actor_critic
from shoal.algorithms.actor_critic import bounded, masked_mean, standardise
from shoal.algorithms.base import Batch, Metrics, Model, Params
from shoal.algorithms.ppo import clipped_surrogate, k3, minibatches, value_error
from shoal.algorithms.vtrace import Corrected, along, without_masked
from shoal.config.bounds import setting
from shoal.config.schedule import Schedule
from shoal.nets.network import Network
from shoal.ops.kernels import Array, namespace
from shoal.ops.optimisers import Optimiser
from shoal.spaces.base import MEMORY
from shoal.trajectory import ndarray

_MOST = math.log(2.0)  # log of the most that mu / pi_t may stretch the ratio, as in RLlib


@dataclass(frozen=True)
class APPO(Corrected):
    """Hyperparameters of APPO; defaults from RLlib's unless they say other."""

    lr: Schedule = setting(5e-4, above=0)  # Adam's step size
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    lambda_: float = setting(1.0, least=0, most=1)  # shortens V-trace's traces
    clip: Schedule = setting(0.2, above=0)  # range of the ratio (RLlib: 0.4, Sample Factory: 0.1)
    clip_rho: float = setting(1.0, above=0, infinite=True)  # bound of pi_t / mu in the targets
    clip_c: float = setting(1.0, above=0, infinite=True)  # bound of pi_t / mu in the traces
    clip_pg_rho: float = setting(1.0, above=0, infinite=True)  # ... in the advantages
    entropy_coef: Schedule = setting(0.01, least=0)  # weight of the entropy bonus
    value_coef: float = setting(0.5, least=0)  # on half the squared error
    kl_coef: float = setting(0.0, least=0)  # weight of KL(pi_t || pi)
    max_grad_norm: float | None = setting(40.0, above=0)  # global norm over all parameters
    epochs: int = setting(1, least=1)  # passes over each batch; more harm on old samples
    minibatch_size: int = setting(128, least=1)  # rows of one gradient step (our choice)
    normalise_advantage: bool = False  # within each minibatch; use large ones
    adam_eps: float = setting(1e-5, above=0)  # Adam's epsilon, as PPO's (detail 3)
    central: bool = False  # the value head sees the environment's state() too (several agents)
    network: Any = field(default_factory=Network)  # or your own torch.nn.Module or flax module

    needs = frozenset({"epochs"})

    def __post_init__(self) -> None:
        super().__post_init__()
        actor_critic.check_minibatch(self.minibatch_size, self.normalise_advantage)

    def label(self, model: Model, params: Params, batch: Batch) -> Batch:
        """From whole fragments [B, T] to rows [B * T], with what ``params`` = pi_t say of them.

        A recurrent network is unrolled along whole fragments: they stay rows [B, T].

        ``advantage`` and ``target`` are V-trace's from mu to pi_t, ``log_prob`` is mu's and
        ``log_prob_old`` pi_t's, of the actions taken.
        """
        batch = without_masked(batch)
        out, allowed, v = along(model, params, batch)
        log_prob_old = model.dist.log_prob(out, batch["action"], allowed)
        target, advantage, _ = self.correct(batch, log_prob_old, v)
        columns = {
            "action": batch["action"],
            "mask": batch["mask"],
            "log_prob": batch["log_prob"],
            "log_prob_old": log_prob_old,
            "advantage": advantage,
            "target": target,
        }
        if model.net.memory:  # rows are whole fragments
            obs = {p: x if p.startswith(MEMORY) else x[:, :-1] for p, x in batch["obs"].items()}
            return {"obs": obs, "begins": batch["begins"][:, :-1], **columns}
        return {
            "obs": {path: _flat(x[:, :-1]) for path, x in batch["obs"].items()},
            **{name: _flat(x) for name, x in columns.items()},
        }

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        log_prob, entropy, v = actor_critic.evaluate(model, {**aux, **params}, batch)
        mask, advantage = batch["mask"], batch["advantage"]
        if self.normalise_advantage:
            advantage = standardise(advantage, mask)
        log_ratio = log_ratio_of(log_prob, batch["log_prob_old"], batch["log_prob"])
        surrogate, clipped = clipped_surrogate(log_ratio, advantage, aux["hyper/clip"])
        policy_loss = -masked_mean(surrogate, mask)
        value_loss = masked_mean(value_error(v, batch["target"], v, None), mask)
        entropy = masked_mean(entropy, mask)
        kl = masked_mean(k3(bounded(log_prob - batch["log_prob_old"])), mask)
        total = policy_loss + self.value_coef * value_loss - aux["hyper/entropy_coef"] * entropy
        if self.kl_coef:
            total = total + self.kl_coef * kl
        rho = namespace(mask).exp(bounded(batch["log_prob_old"] - batch["log_prob"]))
        scalars = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": kl,
            "clip_fraction": masked_mean(clipped, mask),
            "rho_mean": masked_mean(rho, mask),
        }
        return total, Metrics(scalars)

    def indices(self, model: Model, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """``epochs`` passes over the rows in random order, as PPO's; see ``label``."""
        rows, size = math.prod(shape), self.minibatch_size
        if model.net.memory:
            rows, size = shape[0], max(size * shape[0] // rows, 1)
        return np.concatenate([minibatches(rng, rows, size) for _ in range(self.epochs)])

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam", eps=self.adam_eps, clip_norm=self.max_grad_norm)


def log_ratio_of(log_prob: Array, log_prob_old: Array, log_prob_mu: Array) -> Array:
    """Log of r = clip(mu / pi_t, 0, 2) (pi / mu) of each row, as RLlib's loss has it.

    That is pi / pi_t, but where mu took an action that pi_t would hardly take r stays small.
    """
    xp = namespace(log_prob)
    return bounded(xp.clip(log_prob_mu - log_prob_old, None, _MOST) + log_prob - log_prob_mu)


def _flat(x: Array) -> Array:
    """[B, T, ...] -> [B * T, ...]."""
    return namespace(x).reshape(x, (-1, *x.shape[2:]))
