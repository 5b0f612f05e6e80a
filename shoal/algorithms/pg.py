"""REINFORCE with a baseline, Williams 1992; the policy gradient theorem, Sutton et al. 1999.

One gradient step on whole episodes: a return is only known when its episode has ended, so a
fragment goes on until the last episode in it has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shoal.algorithms import actor_critic
from shoal.algorithms.actor_critic import ActorCritic, masked_mean, standardise
from shoal.algorithms.base import Batch, Metrics, Model, Params
from shoal.config.bounds import setting
from shoal.config.schedule import Schedule
from shoal.nets.network import Network
from shoal.ops.kernels import Array, namespace
from shoal.ops.optimisers import Optimiser
from shoal.ops.returns import discounted_returns
from shoal.trajectory import Trajectory, pad, select


@dataclass(frozen=True)
class PG(ActorCritic):
    """Hyperparameters of REINFORCE."""

    lr: Schedule = setting(5e-3, above=0)  # Adam's step size
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    entropy_coef: Schedule = setting(0.0, least=0)  # weight of the entropy bonus
    value_coef: float = setting(0.5, least=0)  # on half the squared error of the baseline
    max_grad_norm: float | None = setting(0.5, above=0)  # global norm over all parameters
    baseline: bool = True  # subtract a learned value, which also bootstraps at time limits
    normalise_advantage: bool = True  # over the batch
    adam_eps: float = setting(1e-8, above=0)  # Adam's epsilon
    chunk: int | None = setting(None, least=1)  # env steps in a row of a recurrent network
    network: Any = field(default_factory=Network)  # or your own torch.nn.Module or flax module

    whole_episodes = True
    needs = frozenset({"on-policy"})

    def postprocess(self, model: Model, params: Params, trajectory: Trajectory) -> Batch:
        """Returns to the end of each episode; rows after a slot's last ending are left out.

        The value head stands in where a time limit cut an episode; without a baseline an episode
        simply ends there. The batch is padded to a power of two, so that episodes of ever other
        lengths do not compile ever other programs.
        """
        reward = trajectory.reward
        if self.baseline:
            v_tm1, v_t = actor_critic.values(model, params, trajectory)
        else:
            v_tm1 = v_t = np.zeros_like(reward)
        discount_t = (self.gamma * ~trajectory.terminated).astype(np.float32)
        target = discounted_returns(reward, discount_t, v_t, trajectory.last)
        ended_later = np.logical_or.accumulate(trajectory.last[::-1])[::-1]
        trajectory = replace(trajectory, valid=trajectory.valid & ended_later)
        ends = trajectory.last & trajectory.valid
        columns = {"advantage": target - v_tm1, "target": target, "episode_end": ends}
        batch = actor_critic.rows(model, trajectory, self.chunk, **columns)
        mask = batch["mask"]
        batch = select(batch, mask.reshape(len(mask), -1).any(1))
        return pad(batch, 1 << max(len(batch["mask"]) - 1, 1).bit_length())

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        log_prob, entropy, v = actor_critic.evaluate(model, {**aux, **params}, batch)
        xp = namespace(log_prob)
        mask, advantage = batch["mask"], batch["advantage"]
        if self.normalise_advantage:
            advantage = standardise(advantage, mask)
        # A sum over each episode's steps, averaged over episodes: a mean over steps would give
        # long episodes less weight per episode than the gradient of the expected return does.
        episodes = xp.clip(xp.sum(batch["episode_end"]), 1.0, None)
        policy_loss = -xp.sum(log_prob * advantage * mask) / episodes
        value_loss = masked_mean(0.5 * (v - batch["target"]) ** 2, mask)
        entropy = masked_mean(entropy, mask)
        total = policy_loss - aux["hyper/entropy_coef"] * entropy
        if self.baseline:
            total = total + self.value_coef * value_loss
        return total, Metrics(
            {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        )

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam", eps=self.adam_eps, clip_norm=self.max_grad_norm)
