"""Shoal: distributed reinforcement learning, every system an algorithm under a plan.

``Trainer("ppo", env="CartPole-v1")`` trains, ``load(path)`` gives a policy that acts. Nothing heavy
is imported until it is first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.algorithms.a2c import A2C
    from shoal.algorithms.appo import APPO
    from shoal.algorithms.pg import PG
    from shoal.algorithms.ppo import PPO
    from shoal.algorithms.vtrace import VTrace
    from shoal.config import Checkpointing, Config, Linear, Rollout, Stop
    from shoal.evaluation import evaluate
    from shoal.nets import Network
    from shoal.plans.sync_samples import SyncSamples
    from shoal.policy import Policy, load
    from shoal.trainer import Trainer

__version__ = "0.1.0"
_HOMES = {
    "A2C": "algorithms.a2c",
    "APPO": "algorithms.appo",
    "PG": "algorithms.pg",
    "PPO": "algorithms.ppo",
    "VTrace": "algorithms.vtrace",
    "Checkpointing": "config",
    "Config": "config",
    "Linear": "config",
    "Rollout": "config",
    "Stop": "config",
    "evaluate": "evaluation",
    "Network": "nets",
    "SyncSamples": "plans.sync_samples",
    "Policy": "policy",
    "load": "policy",
    "Trainer": "trainer",
}
__all__ = [
    "A2C",
    "APPO",
    "PG",
    "PPO",
    "Checkpointing",
    "Config",
    "Linear",
    "Network",
    "Policy",
    "Rollout",
    "Stop",
    "SyncSamples",
    "Trainer",
    "VTrace",
    "__version__",
    "evaluate",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"shoal.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")
