"""What a worker returns: one fragment, and what the run counts of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from shoal.ops.moments import Moments


@dataclass
class Sample:
    """One fragment, postprocessed, with what the run needs to know about it."""

    batch: Any  # a Batch, or a Parcel of one
    env_steps: int  # steps of environments
    trained_steps: int  # of the agent steps, rows that the batch holds; the others were dropped
    version: int  # of the weights that acted
    episodes: list[tuple[float, int]]  # (return, length in env steps) of those that ended here
    moments: dict[str, Moments]  # of observations and returns, where the run normalises them
    times: dict[str, float] = field(default_factory=dict)  # seconds: env, act, postprocess, idle
    outside: dict[str, int] = field(default_factory=dict)  # env steps, by leaf: see envs.Bounds
    agent_steps: int = -1  # transitions of agents; as many as env steps, unless it is given

    returns: dict[str, list[float]] = field(default_factory=dict)  # of the episodes, by policy
    steps: dict[str, int] = field(default_factory=dict)  # of agents, by policy
    games: list[tuple[int, float]] = field(default_factory=list)  # see fleet.opponents

    def of(self, policy: str) -> Sample:
        """One policy's part of a sample of several: its batch and its agents' steps."""
        return replace(self, batch=self.batch[policy], agent_steps=self.steps[policy])

    def __post_init__(self) -> None:
        if self.agent_steps < 0:
            self.agent_steps = self.env_steps
