"""Advantage actor-critic, Mnih et al. 2016 (arXiv:1602.01783), Algorithm S3.

One gradient step on the whole batch of n-step returns. Under the plan ``sync_samples`` this is A2C;
under ``async_gradients`` it is A3C.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms import actor_critic
from shoal.algorithms.actor_critic import ActorCritic, masked_mean, standardise
from shoal.algorithms.base import Batch, Metrics, Model, Params
from shoal.config.bounds import setting
from shoal.config.schedule import Schedule
from shoal.nets.network import Network
from shoal.ops.kernels import Array
from shoal.ops.optimisers import Optimiser
from shoal.ops.returns import gae
from shoal.trajectory import Trajectory


@dataclass(frozen=True)
class A2C(ActorCritic):
    """Hyperparameters of A2C; defaults from OpenAI baselines' a2c unless they say other."""

    lr: Schedule = setting(7e-4, above=0)  # RMSProp's step size
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    lambda_: float = setting(1.0, least=0, most=1)  # 1: n-step returns (the paper); below: GAE
    entropy_coef: Schedule = setting(0.0, least=0)  # weight of the entropy bonus; 0.01 on Atari
    value_coef: float = setting(0.5, least=0)  # on the squared error
    max_grad_norm: float | None = setting(0.5, above=0)  # global norm over all parameters
    normalise_advantage: bool = False  # over the batch
    rmsprop_decay: float = setting(0.99, least=0, below=1)  # decay of the mean of squared gradients
    rmsprop_eps: float = setting(1e-5, above=0)  # added to the denominator
    rmsprop_eps_inside: bool = True  # inside the root, as TensorFlow and the paper have it
    chunk: int | None = setting(None, least=1)  # env steps in a row of a recurrent network
    central: bool = False  # the value head sees the environment's state() too (several agents)
    network: Any = field(default_factory=Network)  # or your own torch.nn.Module or flax module

    needs = frozenset({"on-policy"})

    def postprocess(self, model: Model, params: Params, trajectory: Trajectory) -> Batch:
        """n-step returns (lambda = 1) or GAE, bootstrapped at time limits and fragment ends."""
        v_tm1, v_t = actor_critic.values(model, params, trajectory)
        discount_t = (self.gamma * ~trajectory.terminated).astype(np.float32)
        advantage = gae(trajectory.reward, discount_t, v_tm1, v_t, trajectory.last, self.lambda_)
        return actor_critic.rows(
            model, trajectory, self.chunk, advantage=advantage, target=advantage + v_tm1
        )

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        log_prob, entropy, v = actor_critic.evaluate(model, {**aux, **params}, batch)
        mask, advantage = batch["mask"], batch["advantage"]
        if self.normalise_advantage:
            advantage = standardise(advantage, mask)
        policy_loss = -masked_mean(log_prob * advantage, mask)
        value_loss = masked_mean((v - batch["target"]) ** 2, mask)
        entropy = masked_mean(entropy, mask)
        total = policy_loss + self.value_coef * value_loss - aux["hyper/entropy_coef"] * entropy
        return total, Metrics(
            {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        )

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser(
            "rmsprop",
            decay=self.rmsprop_decay,
            eps=self.rmsprop_eps,
            eps_inside=self.rmsprop_eps_inside,
            clip_norm=self.max_grad_norm,
        )
