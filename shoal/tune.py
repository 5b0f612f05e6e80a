"""Searches over settings, and populations, on Ray Tune::

    from shoal import tune

    tune.run_experiments({
        "step sizes": {
            "run": "PPO",
            "env": "CartPole-v0",
            "stop": {"episode_reward_mean": 200},
            "config": {"lr": tune.grid_search([0.01, 0.001, 0.0001])},
        },
    })

``grid_search``, ``choice``, ``uniform``, ``loguniform``, ``randint`` and the like are Ray Tune's
own. What a file for ``shoal tune`` holds is in ``shoal.tuning.search``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, did_you_mean
from shoal.tuning.search import RANGES, Asha, Fifo, HyperBand, Population, Search, read

__all__ = [
    "Asha",
    "Fifo",
    "HyperBand",
    "Population",
    "Tuner",
    "grid_search",
    "run_experiments",
]
_KEYS = ("run", "env", "stop", "config", "num_samples")
_STOPS = {  # the names that RLlib's examples stop by
    "episode_reward_mean": "stop.return_mean",
    "episode_return_mean": "stop.return_mean",
    "timesteps_total": "stop.env_steps",
    "time_total_s": "stop.seconds",
}
_SETTINGS = {  # the names that RLlib's first examples give settings
    "num_workers": "rollout.workers",
    "num_envs": "rollout.envs_per_worker",
    "sgd_stepsize": "algorithm.lr",
    "env_config": "rollout.env_kwargs",
}


def grid_search(values: list[Any]) -> dict[str, list[Any]]:
    """Try each of these values, with each of every other grid."""
    return {"grid_search": list(values)}


def run_experiments(
    experiments: Mapping[str, Mapping[str, Any]],
    *,
    out: str | Path | None = None,
    show: bool = True,
    address: str | None = None,
    **options: Any,
) -> Any:
    """Run named experiments together; returns their ``Outcome``.

    Each has ``run`` (a system's name or an algorithm), ``env``, ``stop`` ({"return_mean": 200}, or
    by RLlib's names), ``config`` (settings by any name that ``Trainer`` takes, with ranges in the
    place of values) and ``num_samples``.

    Args:
        experiments: by name.
        out: folder; one that holds an interrupted search goes on. None: runs/tune-TIME.
        show: print the status.
        address: of a Ray cluster.
        options: of ``shoal.tuning.search.Tune``: ``scheduler=Asha()``, ``searcher="optuna"``,
            ``samples``, ``seed``, ``metric``, ``mode``, ``parallel``, ``failures``.

    Raises ConfigError, before anything runs, for a key or setting that does not exist, for settings
    that cannot be together, and for trials that ask for more than there is.
    """
    from shoal.app.display import create_display
    from shoal.tuning.run import run

    searches = [_search(str(name), dict(given), options) for name, given in experiments.items()]
    if not searches:
        raise ConfigError("there are no experiments", None, "give {name: {run, env, stop, config}}")
    folder = (
        Path(out) if out is not None else Path("runs", f"tune-{time.strftime('%Y%m%d-%H%M%S')}")
    )
    if not show:
        return run(searches, folder, None, address)
    with create_display() as display:
        return run(searches, folder, display, address)


class Tuner:
    """One experiment: ``Tuner("ppo", "CartPole-v1", {"lr": tune.loguniform(1e-4, 1e-2)}).fit()``.

    Args:
        system: a system's name or an algorithm.
        env: as ``Trainer`` takes it.
        space: settings by any name that ``Trainer`` takes, with ranges in the place of values.
        stop: {"return_mean": ..., "env_steps": ..., "seconds": ...}
        options: as ``run_experiments`` takes them, ``out`` and ``show`` among them.
    """

    def __init__(
        self,
        system: Any,
        env: Any,
        space: Mapping[str, Any] | None = None,
        *,
        stop: Mapping[str, Any] | None = None,
        name: str = "trials",
        **options: Any,
    ) -> None:
        given = {"run": system, "env": env, "config": dict(space or {}), "stop": dict(stop or {})}
        self._experiments, self._options = {name: given}, options

    def fit(self) -> Any:
        """Run it, or go on with what ``out`` holds; returns an ``Outcome``."""
        return run_experiments(self._experiments, **self._options)


def _search(name: str, given: dict[str, Any], options: Mapping[str, Any]) -> Search:
    strange = [key for key in given if key not in _KEYS]
    if strange:
        hint = did_you_mean(strange[0], _KEYS)
        what = f"experiment {name!r} has no {strange[0]!r}"
        raise ConfigError(what, None, f"{hint}it has: {', '.join(_KEYS)}")
    fixed: dict[str, Any] = {"system": given.get("run"), "env": given.get("env")}
    for key, value in dict(given.get("stop") or {}).items():
        plain = "." in key or key.startswith("stop")
        fixed[_STOPS.get(key) or (key if plain else f"stop.{key}")] = value
    for key, value in dict(given.get("config") or {}).items():
        if key == "num_gpus" and not value:  # a learner takes what there is
            continue
        fixed[_SETTINGS.get(key) or key] = value
    tune = {k: x for k, x in options.items() if x is not None}
    if "num_samples" in given:
        tune["samples"] = given["num_samples"]
    found = read({**fixed, "tune": tune}, name)
    return replace(found, paths=tuple(path for path in sys.path if path))


def __getattr__(name: str) -> Any:
    if name not in RANGES:
        raise AttributeError(f"module 'shoal.tune' has no attribute {name!r}")
    from ray import tune as ray_tune

    return getattr(ray_tune, name)
