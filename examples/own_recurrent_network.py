"""Train your own recurrent network on CartPole without its velocities.

python examples/own_recurrent_network.py

A module remembers if it has a method ``initial_memory()``. It is then called with the memory of
each row, and returns the next one beside its outputs; Shoal resets it where an episode begins.
"""

import torch

import shoal


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.LSTMCell(2, 64)
        self.pi = torch.nn.Linear(64, 2)
        self.v = torch.nn.Linear(64, 1)

    def initial_memory(self) -> dict[str, torch.Tensor]:
        return {"h": torch.zeros(64), "c": torch.zeros(64)}

    def forward(
        self, obs: torch.Tensor, memory: dict[str, torch.Tensor]
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]:
        h, c = self.cell(obs, (memory["h"], memory["c"]))
        return (self.pi(h), self.v(h)), {"h": h, "c": c}


if __name__ == "__main__":
    with shoal.Trainer(
        shoal.PPO(network=Net(), lr=1e-3), env="CartPole-v1", hide="1,3", stop_steps=50_000
    ) as trainer:
        for report in trainer:
            print(report["env_steps"], report["return_mean"])
        print("evaluation:", trainer.evaluate()["return_mean"])
