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
from shoal.algorithms.actor_critic import masked_mean, standardise
from shoal.algorithms.base import Batch, Metrics, Model, Params
from shoal.algorithms.ppo import clipped_surrogate, k3, minibatches, value_error
from shoal.algorithms.vtrace import OffPolicy, along, bounded, without_masked
from shoal.config.bounds import check
from shoal.config.schedule import Schedule, at
from shoal.nets import Network
from shoal.ops.kernels import Array, namespace
from shoal.ops.optimisers import Optimiser
from shoal.trajectory import ndarray

_MOST = math.log(2.0)  # log of the most that mu / pi_t may stretch the ratio, as in RLlib


@dataclass(frozen=True)
class APPO(OffPolicy):
    """Hyperparameters of APPO; defaults from RLlib's unless they say other."""

    lr: Schedule = 5e-4  # Adam's step size
    gamma: float = 0.99  # discount per env step
    lambda_: float = 1.0  # shortens V-trace's traces
    clip: Schedule = 0.2  # of the ratio, +-: PPO's paper; RLlib has 0.4, Sample Factory 0.1
    clip_rho: float = 1.0  # of pi_t / mu in the targets: whose values are learned
    clip_c: float = 1.0  # of pi_t / mu in the traces: how fast they are learned
    clip_pg_rho: float = 1.0  # of pi_t / mu in the advantages
    entropy_coef: Schedule = 0.01  # weight of the entropy bonus
    value_coef: float = 0.5  # on half the squared error
    kl_coef: float = 0.0  # on KL(pi_t || pi)
    max_grad_norm: float | None = 40.0  # over all parameters together
    epochs: int = 1  # passes over a batch; more of them on old samples do harm
    minibatch_size: int = 128  # rows of one gradient step; our own choice, for small networks
    normalise_advantage: bool = False  # within each minibatch; large ones bear it better
    adam_eps: float = 1e-5  # Adam's epsilon, as PPO's (detail 3)
    network: Any = field(default_factory=Network)  # or your own torch.nn.Module or flax module

    whole_episodes = False
    stops_early = False
    needs = frozenset({"epochs"})
    reduction = "mean"

    def __post_init__(self) -> None:
        self._check()
        check(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        least = 2 if self.normalise_advantage else 1
        check(
            self.minibatch_size >= least,
            "minibatch_size",
            self.minibatch_size,
            f"at least {least}: one row has no spread to normalise by",
        )
        check(self.kl_coef >= 0, "kl_coef", self.kl_coef, "at least 0")
        ok = self.max_grad_norm is None or self.max_grad_norm > 0
        check(ok, "max_grad_norm", self.max_grad_norm, "above 0, or none")

    def prepare(self, model: Model, params: Params, batch: Batch) -> Batch:
        """From whole fragments [B, T] to rows [B * T], with what ``params`` = pi_t say of them.

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
        return total, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": kl,
            "clip_fraction": masked_mean(clipped, mask),
            "rho_mean": masked_mean(rho, mask),
        }

    def indices(self, rng: np.random.Generator, rows: int) -> ndarray:
        """``epochs`` passes over the rows in random order, as PPO's."""
        return np.concatenate(
            [minibatches(rng, rows, self.minibatch_size) for _ in range(self.epochs)]
        )

    def hyper(self, progress: float) -> dict[str, float]:
        return {
            "lr": at(self.lr, progress),
            "clip": at(self.clip, progress),
            "entropy_coef": at(self.entropy_coef, progress),
        }

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
