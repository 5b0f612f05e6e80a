"""A policy: what a trained agent does, as one object that needs neither learner nor fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shoal import checkpoint
from shoal.algorithms.base import Algorithm, Model
from shoal.config.config import Config
from shoal.config.settings import merge, to_dict
from shoal.errors import CheckpointError, ConfigError
from shoal.spaces import Spaces
from shoal.systems import default_config, system, with_plan
from shoal.trajectory import ndarray


class Policy:
    """Acts on observations as its environment gives them.

    It holds everything that acting takes: weights, normalisation, action masks, rescaling.
    """

    def __init__(
        self, algorithm: Algorithm, spaces: Spaces, weights: Mapping[str, ndarray], seed: int = 0
    ) -> None:
        self.algorithm, self.spaces = algorithm, spaces
        self.model: Model = algorithm.model(spaces)
        self.weights = dict(weights)
        self.rng = np.random.default_rng(seed)

    def __repr__(self) -> str:
        size = sum(x.size for name, x in self.weights.items() if name in self.model.net.shapes())
        return f"<Policy: {type(self.algorithm).__name__}, {size:,} weights>"

    def act(self, obs: Any, *, explore: bool = False, action_mask: Any = None) -> Any:
        """The action, ready for ``env.step``, for one observation or a batch of them.

        ``obs`` is in the environment's own form (an array, or a dict or tuple of them), with any
        leading axes. ``explore=False`` takes the most likely action, True samples. ``action_mask``
        is that of ``info``, if the environment gives it there: bool [..., choices], or a tuple of
        one for each component. The action has the space's shape and dtype; one of a Discrete space
        is an int.
        """
        flat = self.spaces.flatten(obs)
        if action_mask is not None:
            flat["action_mask"] = self.spaces.flatten_mask(action_mask)
        action = self.spaces.to_env(self.choose(flat, self.rng if explore else None))
        return int(action) if self.spaces.action_kind == "discrete" and not action.ndim else action

    def choose(self, obs: Mapping[str, ndarray], rng: np.random.Generator | None = None) -> ndarray:
        """Actions in policy form (see ``shoal.spaces``) for ``{leaf: [..., *shape]}``.

        The most likely ones; with ``rng``, samples.
        """
        noise = None
        if rng is not None:
            first = self.spaces.leaves[0]
            x = obs[first.path]
            noise = self.model.dist.noise(rng, x.shape[: x.ndim - len(first.shape)])
        action, _, _ = self.algorithm.act(self.model, self.weights, obs, {}, noise)
        return np.asarray(action)


def load(path: str | Path, *, network: Any = None, algorithm: Any = None) -> Policy:
    """The policy of a checkpoint or run folder.

    ``network`` is needed where the run trained a user's own module: an instance of the same class;
    ``algorithm`` likewise.

    Raises CheckpointError when the checkpoint is damaged, of another version, or does not fit.
    """
    state, meta = checkpoint.load(Path(path))
    config = saved_config(path, meta, network=network, algorithm=algorithm)
    with checkpoint.blame(path):
        spaces = Spaces.from_json(meta["spaces"])
        weights = {**state["learner"]["aux"], **state["learner"]["params"]}
    policy = Policy(config.algorithm, spaces, weights, config.seed)
    expected = policy.model.net.shapes()
    found = {name: weights[name].shape for name in expected if name in weights}
    if found != expected:
        wrong = sorted(k for k in expected if found.get(k) != expected[k])
        raise CheckpointError(
            f"the weights do not fit the network: {wrong[0]} is {found.get(wrong[0], 'missing')}, "
            f"expected {expected[wrong[0]]}",
            str(path),
            "load it with the network that it was trained with",
        )
    return policy


def saved_config(
    path: str | Path,
    meta: Mapping[str, Any],
    *,
    env: Any = None,
    network: Any = None,
    algorithm: Any = None,
) -> Config:
    """The configuration in a checkpoint's ``meta``; ``env`` and ``network`` replace what it names.

    ``algorithm`` is of the class that the run had; its settings are those of the run.

    Raises CheckpointError when it is none, and ConfigError for a user's own algorithm, network or
    environment that only its user can give again.
    """
    with checkpoint.blame(path):
        saved = dict(meta["config"])
        name = str(meta["system"])
        start = system(name).algorithm
        own = meta.get("algorithm", {"object": class_name(start)})["object"]
        if own != class_name(start if algorithm is None else algorithm):
            raise ConfigError(
                f"the algorithm was of the class {own}, which no checkpoint holds",
                str(path),
                "pass one again in Python: Trainer.restore(path, algorithm=...)",
            )
        start = start if algorithm is None else algorithm
        if network is not None:
            start = replace(start, network=network)
            saved["algorithm"] = {k: x for k, x in saved["algorithm"].items() if k != "network"}
        config = replace(default_config(name, env or saved["env"]), algorithm=start)
        config = with_plan(config, saved["plan"]["name"])
        if env is not None:
            saved["env"] = env
        return merge(config, saved, str(path))


def class_name(algorithm: Any) -> str:
    """An algorithm's class, as ``saved_config`` compares it."""
    return str(to_dict(type(algorithm))["object"])
