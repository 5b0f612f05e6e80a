"""QT-Opt's log and its figures: ``python -m tools.qt_opt log FOLDER`` writes episodes of a script.

They are of ``shoal/Reach-v0``, as a Minari data set: the script moves towards the object or
anywhere, and closes now and then, near the object more often.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms.base import Algorithm, Model
from shoal.envs import make_for_evaluation
from shoal.envs.reach import GRASP, REACH
from shoal.nets.network import Network
from shoal.ops.exploration import NoisyOrRandom
from shoal.ops.optimisers import Optimiser
from shoal.policy import Policy
from shoal.recording import record

ENV = "shoal/Reach-v0"


@dataclass(frozen=True)
class Script(Algorithm):
    """Sees hand and object in the picture; nothing is learned."""

    gamma: float = 0.9
    network: Any = field(default_factory=lambda: Network(hidden=(1,)))
    wanders: float = 0.5  # probability of a random move
    closes: float = 0.3  # of closing near the object
    errs: float = 0.2  # of closing elsewhere

    def model(self, spaces: Any, build: Any) -> Model:
        return Model(spaces, build(self.network, spaces, {}), NoisyOrRandom(spaces.action_dim))

    def act(self, model: Model, params: Any, obs: Mapping[str, Any], noise: Any) -> Any:
        picture = obs["obs"].astype(np.float64)
        size = picture.shape[-2]
        centres = (np.arange(size) + 0.5) / size
        mass = picture.sum((-3, -2)) + 1e-9
        x = (picture.sum(-3) * centres[:, None]).sum(-2) / mass
        y = (picture.sum(-2) * centres[:, None]).sum(-2) / mass
        places = np.stack([x, y], -1)  # [..., 3, 2]
        normal, uniform, chance = noise[..., :3], noise[..., 3:6], noise[..., 6]
        way = np.clip((places[..., 1, :] - places[..., 0, :]) / REACH, -1.0, 1.0)
        move = np.clip(way + 0.3 * normal[..., :2], -1.0, 1.0)
        move = np.where((chance < self.wanders)[..., None], uniform[..., :2], move)
        then = places[..., 0, :] + REACH * move
        near = np.linalg.norm(then - places[..., 1, :], axis=-1) < GRASP
        closed = (uniform[..., 2] + 1.0) / 2.0 < np.where(near, self.closes, self.errs)
        grip = np.where(closed, 1.0, -1.0) * np.abs(normal[..., 2]).clip(0.05, 1.0)
        return np.concatenate([move, grip[..., None]], -1).astype(np.float32), {}

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("sgd")


def log(folder: str, episodes: int, seed: int) -> None:
    """Record episodes of the script."""
    world = make_for_evaluation(ENV, 1, range(1))
    policy = Policy(Script(), world.spaces, {}, seed)
    world.close()
    found = record(policy, ENV, episodes, folder, seed=seed, explore=True)
    print(
        f"{episodes} episodes, {found['env_steps']} env steps, success {found['return_mean']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("what", choices=["log"])
    parser.add_argument("folder", nargs="?", default="log")
    parser.add_argument("--episodes", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    log(args.folder, args.episodes, args.seed)


if __name__ == "__main__":
    main()
