"""V-trace actor-critic, Espeholt et al. 2018 (arXiv:1802.01561).

One gradient step on whole fragments that older weights sampled. What the difference between the two
policies does to values and to the gradient is corrected by clipped importance ratios, in the
learner, because only there are the newest weights. Under the plan ``async_samples`` this is IMPALA.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms import actor_critic
from shoal.algorithms.actor_critic import ActorCritic, bounded, masked_mean, masked_sum
from shoal.algorithms.base import Batch, Metrics, Model, Params
from shoal.config.bounds import require, setting
from shoal.config.schedule import Schedule
from shoal.nets.base import unroll
from shoal.nets.network import Network
from shoal.ops.kernels import Array, namespace, stop_gradient
from shoal.ops.optimisers import Optimiser
from shoal.ops.returns import vtrace
from shoal.trajectory import Trajectory


class Corrected(ActorCritic):
    """What V-trace and APPO share: batches of whole fragments, corrected for who sampled them."""

    gamma: float  # fields of the algorithm
    lambda_: float
    clip_rho: float
    clip_c: float
    clip_pg_rho: float
    corrected = True  # False takes all importance ratios for 1

    def postprocess(self, model: Model, params: Params, trajectory: Trajectory) -> Batch:
        """Whole fragments, one row for each slot, with the log-probabilities of who acted."""
        log_prob = actor_critic.behaviour_log_prob(model, params, trajectory)
        return actor_critic.sequences(
            model,
            params,
            trajectory,
            log_prob=log_prob.astype(np.float32, copy=False),
        )

    def correct(self, batch: Batch, log_prob: Array, v: Array) -> tuple[Array, Array, Array]:
        """V-trace from the policy that acted to the one given; nothing here is differentiated.

        Args:
            batch: of ``sequences``, with nothing in the rows that are masked (``without_masked``).
            log_prob: of the actions taken under the policy to learn about, [B, T].
            v: values of all observations, [B, T + 1].

        Returns:
            Targets of the values, advantages, and importance ratios (not clipped), each [B, T].
        """
        xp, log_prob, v = namespace(v), stop_gradient(log_prob), stop_gradient(v)
        rho = xp.exp(bounded(log_prob - batch["log_prob"]))
        used = rho if self.corrected else xp.ones_like(rho)
        # A masked row has a ratio of 0: its value stands as it is, and nothing passes through it.
        used = xp.where(batch["mask"] > 0, used, xp.zeros_like(rho))
        v_t = xp.where(batch["cut"], batch["v_final"], v[:, 1:])
        discount = self.gamma * xp.astype(~batch["terminated"], v.dtype)
        vs, advantage = vtrace(
            batch["reward"].T,
            discount.T,
            v[:, :-1].T,
            v_t.T,
            batch["last"].T,
            used.T,
            self.lambda_,
            self.clip_rho,
            self.clip_c,
            self.clip_pg_rho,
        )
        return vs.T, advantage.T, rho

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.clip_c <= self.clip_rho, "clip_c", self.clip_c, "at most clip_rho")


@dataclass(frozen=True)
class VTrace(Corrected):
    """Hyperparameters of the V-trace actor-critic; defaults from the paper's Table G.1 (Atari).

    But for lr and eps, which are for small networks, within the ranges of Table D.1.
    """

    lr: Schedule = setting(2e-3, above=0)  # RMSProp's step size; on Atari 6e-4, annealed to 0
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    lambda_: float = setting(1.0, least=0, most=1)  # shortens the traces (Remark 2)
    clip_rho: float = setting(1.0, above=0, infinite=True)  # bound of the ratios in the targets
    clip_c: float = setting(1.0, above=0, infinite=True)  # bound of the ratios in the traces
    clip_pg_rho: float = setting(1.0, above=0, infinite=True)  # in the policy gradient
    corrected: bool = True  # false: all ratios are 1 ("No-correction" in Table 2)
    entropy_coef: Schedule = setting(0.01, least=0)  # weight of the entropy bonus
    value_coef: float = setting(0.5, least=0)  # on half the squared error
    max_grad_norm: float | None = setting(40.0, above=0)  # global norm over all parameters
    rmsprop_decay: float = setting(0.99, least=0, below=1)  # decay of the mean of squared gradients
    rmsprop_momentum: float = setting(0.0, least=0, below=1)  # 0: none
    rmsprop_eps: float = setting(1e-3, above=0)  # added to the denominator; Atari: 0.01
    rmsprop_eps_inside: bool = True  # inside the root, as TensorFlow has it
    central: bool = False  # the value head sees the environment's state() too (several agents)
    network: Any = field(default_factory=Network)  # or your own torch.nn.Module or flax module

    reduction = "sum"

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        """Summed over time and batch (the note to Table D.1); metrics are means over rows."""
        batch = without_masked(batch)
        mask = batch["mask"]
        out, allowed, v = along(model, {**aux, **params}, batch)
        log_prob = model.dist.log_prob(out, batch["action"], allowed)
        vs, advantage, rho = self.correct(batch, log_prob, v)
        policy_loss = -masked_sum(log_prob * advantage, mask)
        value_loss = masked_sum(0.5 * (vs - v[:, :-1]) ** 2, mask)
        entropy = masked_sum(model.dist.entropy(out, allowed), mask)
        total = policy_loss + self.value_coef * value_loss - aux["hyper/entropy_coef"] * entropy
        xp = namespace(mask)
        rows = xp.clip(xp.sum(mask), 1.0, None)
        # Without lag a ratio is 1 up to rounding, on either side of the usual clip.
        clipped = xp.astype(rho > self.clip_rho * (1.0 + 1e-4), rho.dtype)
        scalars = {
            "policy_loss": policy_loss / rows,
            "value_loss": value_loss / rows,
            "entropy": entropy / rows,
            "rho_mean": masked_mean(rho, mask),
            "clip_fraction": masked_mean(clipped, mask),
        }
        return total, Metrics(scalars)

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser(
            "rmsprop",
            decay=self.rmsprop_decay,
            momentum=self.rmsprop_momentum,
            eps=self.rmsprop_eps,
            eps_inside=self.rmsprop_eps_inside,
            clip_norm=self.max_grad_norm,
        )


def along(model: Model, params: Params, batch: Batch) -> tuple[Array, Array | None, Array]:
    """Of whole fragments: the policy head's output [B, T, n_out], which actions were allowed there
    (None: all), and the values [B, T + 1]."""
    (out, v), _ = unroll(model.net, params, batch["obs"], batch.get("begins"), ("pi", "v"))
    allowed = batch["obs"].get("action_mask")
    return out[:, :-1], None if allowed is None else allowed[:, :-1], v[..., 0]


def without_masked(batch: Batch) -> Batch:
    """The same fragments with zeros for whatever stands in masked rows, [B, T, ...].

    A weight of 0 alone would not do: 0 times infinity is no number, in a gradient too.
    """
    there = batch["mask"] > 0
    xp = namespace(there)
    cleaned = {}
    for name in ("action", "reward", "log_prob", "v_final"):
        x = batch[name]
        rows = xp.reshape(there, tuple(there.shape) + (1,) * (x.ndim - there.ndim))
        cleaned[name] = xp.where(rows, x, xp.zeros_like(x))
    return {**batch, **cleaned}
