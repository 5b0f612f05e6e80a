"""PPO on CartPole-v0 from a config dict: N iterations, a checkpoint every 100.

python examples/ppo_cartpole.py [ITERATIONS]
"""

import sys
from pprint import pprint

import shoal

config = {
    "rollout": {"workers": 0, "envs_per_worker": 8, "fragment_length": 256},
    "algorithm": {"lr": 1e-3, "gamma": 0.99},
    "seed": 0,
}
iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 200

with shoal.Trainer("ppo", env="CartPole-v0", config=config) as trainer:
    for i in range(iterations):
        result = trainer.train()
        pprint(result, sort_dicts=False)

        if i % 100 == 0:
            checkpoint = trainer.save("runs/example-ppo-cartpole")
            print("checkpoint saved at", checkpoint)
