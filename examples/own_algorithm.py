"""An algorithm of your own: advantage-weighted regression, Peng et al. 2019 (arXiv:1910.00177).

The policy is moved towards the actions that turned out better than expected: a weighted regression
on what was done, so samples of older weights do no harm, and every plan of trajectories can run it.

    python examples/own_algorithm.py
    shoal train CartPole-v1 --system examples/own_algorithm.py:AWR --stop-steps 100000
    shoal train CartPole-v1 --system examples/own_algorithm.py:AWR --plan async-samples --workers 2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal import Differentiable, Metrics, Model, Network, Schedule, setting
from shoal.nets.base import Head
from shoal.ops import distributions
from shoal.ops.kernels import namespace, stop_gradient
from shoal.ops.optimisers import Optimiser
from shoal.ops.returns import gae
from shoal.trajectory import Trajectory, flat


@dataclass(frozen=True)
class AWR(Differentiable):
    """Its fields are its settings: on the command line, in files, and in Python."""

    lr: Schedule = setting(2e-3, above=0)  # Adam's step size
    gamma: float = setting(0.99, least=0, most=1)  # discount per env step
    lambda_: float = setting(0.95, least=0, most=1)  # of the advantage estimate
    temperature: float = setting(0.3, above=0)  # of the weights: exp(advantage / temperature)
    most: float = setting(20.0, above=0)  # bound of the weights
    network: Any = field(default_factory=Network)

    def model(self, spaces: Any, build: Any) -> Model:
        """A policy head and a value head on one of Shoal's networks."""
        dist = distributions.for_space(spaces.action_kind, spaces.action_n, spaces.action_dim)
        free = spaces.action_dim if spaces.action_kind == "box" else 0  # log standard deviations
        heads = {"pi": Head(dist.n_out - free, gain=0.01, free=free), "v": Head(1)}
        return Model(spaces, build(self.network, spaces, heads), dist)

    def act(self, model: Model, params: Any, obs: Mapping[str, Any], noise: Any) -> Any:
        """On the worker, in NumPy: actions [B], and nothing to record."""
        (out,) = model.net(params, obs, ("pi",))
        mask = obs.get("action_mask")
        if noise is None:
            return model.dist.mode(out, mask), {}
        return model.dist.sample(out, noise, mask), {}

    def postprocess(self, model: Model, params: Any, trajectory: Trajectory) -> Any:
        """On the worker: from a trajectory [T, B] to rows [T * B] with their advantages."""
        v_tm1, v_t = trajectory.values(lambda obs: model.net(params, obs, ("v",))[0][..., 0])
        discount_t = (self.gamma * ~trajectory.terminated).astype(np.float32)
        advantage = gae(trajectory.reward, discount_t, v_tm1, v_t, trajectory.last, self.lambda_)
        return {
            "obs": trajectory.rows(),
            "action": flat(trajectory.action),
            "advantage": flat(advantage),
            "target": flat(advantage + v_tm1),
            "mask": flat(trajectory.valid).astype(np.float32),
        }

    def loss(self, model: Model, params: Any, aux: Any, batch: Any) -> Any:
        """In the learner, on arrays of JAX, PyTorch or NumPy."""
        out, v = model.net({**aux, **params}, batch["obs"], ("pi", "v"))
        xp, mask = namespace(out), batch["mask"]
        rows = xp.clip(xp.sum(mask), 1.0, None)
        advantage = batch["advantage"]
        spread = xp.sqrt(xp.sum(mask * advantage**2) / rows) + 1e-8
        weight = xp.clip(xp.exp(advantage / spread / self.temperature), None, self.most)
        log_prob = model.dist.log_prob(out, batch["action"], batch["obs"].get("action_mask"))
        policy_loss = -xp.sum(mask * stop_gradient(weight) * log_prob) / rows
        value_loss = xp.sum(mask * (v[..., 0] - batch["target"]) ** 2) / rows
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss}
        return policy_loss + 0.5 * value_loss, Metrics(metrics)

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam", clip_norm=1.0)


if __name__ == "__main__":
    from shoal import Trainer

    with Trainer(AWR(), "CartPole-v1", envs_per_worker=8, fragment_length=32) as trainer:
        for report in trainer:
            print(report["env_steps"], report["return_mean"])
            if report["env_steps"] > 150_000:
                break
