"""Train your own network: a torch.nn.Module that returns (policy outputs, value).

python examples/own_network.py
"""

import torch

import shoal


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh())
        self.pi = torch.nn.Linear(64, 2)
        self.v = torch.nn.Linear(64, 1)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(obs)
        return self.pi(hidden), self.v(hidden)


if __name__ == "__main__":
    with shoal.Trainer(
        shoal.PPO(network=Net(), lr=1e-3), env="CartPole-v1", stop_steps=50_000
    ) as trainer:
        for report in trainer:
            print(report["env_steps"], report["return_mean"])
        trainer.save("runs/own-network")

    policy = shoal.load("runs/own-network", network=Net())
