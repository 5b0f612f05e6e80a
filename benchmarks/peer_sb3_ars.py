"""ARS of sb3-contrib under the pair's settings, in its best form: AsyncEval on two processes."""

from __future__ import annotations

import torch
from common import BALANCING, DIRECTIONS, SIGMA, arguments, measure
from sb3_contrib import ARS
from sb3_contrib.common.vec_env import AsyncEval
from stable_baselines3.common.env_util import make_vec_env

PROCESSES = 2


def main() -> None:
    args = arguments()
    env = make_vec_env(args.env, n_envs=1, seed=0)
    model = ARS(
        "LinearPolicy",
        env,
        n_delta=DIRECTIONS,
        delta_std=SIGMA,
        learning_rate=1e-12,
        policy_kwargs={"with_bias": True},
        seed=0,
    )
    if args.env == "CartPole-v1":
        w = torch.tensor(BALANCING)
        with torch.no_grad():
            model.policy.action_net[0].weight.copy_(torch.stack([-w, w]))
        model.weights = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    makers = [lambda: make_vec_env(args.env, n_envs=1) for _ in range(PROCESSES)]
    workers = AsyncEval(makers, model.policy)
    _, callback = model._setup_learn(10**12, None)

    def update() -> int:
        before = model.num_timesteps
        model._do_one_update(callback, workers)
        return int(model.num_timesteps - before)

    measure(update, args.seconds, ("sb3-contrib", "stable-baselines3", "torch"), warmup=2.0)
    workers.close()


if __name__ == "__main__":
    main()
