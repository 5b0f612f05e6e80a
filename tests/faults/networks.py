"""A network that breaks in the middle of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


class Net(torch.nn.Module):
    """Raises when it is called for the n-th time."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.when, self.calls = when, 0
        self.pi, self.v = torch.nn.Linear(2, 3), torch.nn.Linear(2, 1)

    def forward(self, x: Any) -> dict[str, Any]:
        self.calls += 1
        if self.calls == self.when:
            raise ZeroDivisionError("an empty layer")  # here
        return {"pi": self.pi(x), "v": self.v(x)}


def line() -> int:
    """Where it raises."""
    lines = Path(__file__).read_text().split("\n")
    return next(n for n, text in enumerate(lines, 1) if text.endswith("# here"))
