"""What every plan is given besides its fleet and learner: the run, and its counters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from shoal.algorithms.base import Algorithm
from shoal.ops.moments import Moments
from shoal.trajectory import ndarray


@dataclass
class Counters:
    """What a run has done so far. Always: sampled = trained + dropped + in flight."""

    env_steps: int = 0  # sampled
    agent_steps: int = 0  # the same, times the agents that acted in each
    trained_steps: int = 0
    dropped_steps: int = 0
    gradient_steps: int = 0
    episodes: int = 0


@dataclass
class Run:
    """The moving parts of a run that are neither in workers nor in the learner."""

    algorithm: Algorithm
    rng: np.random.Generator
    total_env_steps: int | None  # of the whole run, where it is known: what annealing refers to
    counters: Counters = field(default_factory=Counters)
    moments: dict[str, Moments] = field(default_factory=dict)
    fragments: int = 0  # that each worker has sampled, in the plans that wait for all of them

    def hyper(self) -> dict[str, float]:
        """The algorithm's annealed hyperparameters, now."""
        total = self.total_env_steps
        return self.algorithm.hyper(min(self.counters.env_steps / total, 1.0) if total else 0.0)

    def observe(self, moments: dict[str, Moments]) -> None:
        """Merge what a worker saw into the run's moments; exact, whatever the order."""
        for name, new in moments.items():
            old = self.moments.get(name)
            self.moments[name] = new if old is None else old.merge(new)

    def normalisation(self) -> dict[str, ndarray]:
        """The moments as the arrays that a network reads: "norm/<leaf>/mean" and ".../std"."""
        out: dict[str, ndarray] = {}
        for name, moments in self.moments.items():
            out[f"norm/{name}/std"] = np.asarray(moments.std(), np.float32)
            if name != "reward":
                out[f"norm/{name}/mean"] = np.asarray(moments.mean, np.float32)
        return out

    def get_state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "counters": asdict(self.counters),
            "fragments": self.fragments,
            "moments": {name: m.arrays() for name, m in self.moments.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.counters = Counters(**state["counters"])
        self.fragments = state["fragments"]
        self.moments = {name: Moments.from_arrays(m) for name, m in state["moments"].items()}


@dataclass
class Update:
    """What a plan yields after every update of the weights."""

    metrics: dict[str, float]
    episodes: list[tuple[float, int]]
    times: dict[str, float]  # seconds spent, by what for
    lag: float = 0.0  # versions between the weights that sampled and those that were updated


class Plan(Protocol):
    """A frozen dataclass of options whose ``run`` is the plan's generator."""

    def refuses(self, algorithm: type) -> str | None:
        """Why this plan cannot run the algorithm; None when it can."""

    def run(self, fleet: Any, learner: Any, run: Run) -> Any:
        """Yield an ``Update`` after every update of the weights, without an end."""
