"""Shoal: distributed reinforcement learning, every system an algorithm under a plan.

``Trainer("ppo", env="CartPole-v1")`` trains, ``load(path)`` gives a policy that acts. Nothing heavy
is imported until it is first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.algorithms.a2c import A2C
    from shoal.algorithms.alphazero import AlphaZero
    from shoal.algorithms.appo import APPO
    from shoal.algorithms.ars import ARS
    from shoal.algorithms.base import Algorithm, Differentiable, Metrics, Model
    from shoal.algorithms.ddpg import DDPG, TD3
    from shoal.algorithms.dqn import DQN
    from shoal.algorithms.es import ES
    from shoal.algorithms.evolved import Evolved
    from shoal.algorithms.pg import PG
    from shoal.algorithms.policies import Policies
    from shoal.algorithms.ppo import PPO
    from shoal.algorithms.qt_opt import QTOpt
    from shoal.algorithms.sac import SAC
    from shoal.algorithms.vtrace import VTrace
    from shoal.app.report import report
    from shoal.app.run import Result, resume, run
    from shoal.config.bounds import setting
    from shoal.config.config import Checkpointing, Cluster, Config, Evaluation, Rollout, Stop
    from shoal.config.replay import Replay
    from shoal.config.schedule import Linear, Schedule
    from shoal.config.self_play import SelfPlay
    from shoal.evaluation import evaluate
    from shoal.evolution import Found, evolve
    from shoal.examining import check_env
    from shoal.exporting import Exported, export
    from shoal.games.base import Game
    from shoal.loggers.base import Logger
    from shoal.nets.network import Network
    from shoal.plans.allreduce import Allreduce
    from shoal.plans.async_gradients import AsyncGradients
    from shoal.plans.async_replay import AsyncReplay
    from shoal.plans.async_samples import AsyncSamples
    from shoal.plans.base import Plan
    from shoal.plans.bellman_updaters import BellmanUpdaters
    from shoal.plans.evolution import Evolution
    from shoal.plans.parameter_server import ParameterServer
    from shoal.plans.sync_replay import SyncReplay
    from shoal.plans.sync_samples import SyncSamples
    from shoal.policy import Policy, Team, load
    from shoal.recording import record
    from shoal.trainer import Trainer
    from shoal.versus import match

__version__ = "0.1.0"
_HOMES = {
    "Algorithm": "algorithms.base",
    "Differentiable": "algorithms.base",
    "Evolved": "algorithms.evolved",
    "Metrics": "algorithms.base",
    "Model": "algorithms.base",
    "A2C": "algorithms.a2c",
    "APPO": "algorithms.appo",
    "AlphaZero": "algorithms.alphazero",
    "ARS": "algorithms.ars",
    "DDPG": "algorithms.ddpg",
    "DQN": "algorithms.dqn",
    "ES": "algorithms.es",
    "PG": "algorithms.pg",
    "PPO": "algorithms.ppo",
    "Policies": "algorithms.policies",
    "QTOpt": "algorithms.qt_opt",
    "SAC": "algorithms.sac",
    "TD3": "algorithms.ddpg",
    "VTrace": "algorithms.vtrace",
    "Logger": "loggers.base",
    "Result": "app.run",
    "report": "app.report",
    "resume": "app.run",
    "run": "app.run",
    "Checkpointing": "config.config",
    "Cluster": "config.config",
    "Config": "config.config",
    "Evaluation": "config.config",
    "Replay": "config.replay",
    "SelfPlay": "config.self_play",
    "Rollout": "config.config",
    "Stop": "config.config",
    "setting": "config.bounds",
    "Linear": "config.schedule",
    "Schedule": "config.schedule",
    "check_env": "examining",
    "evaluate": "evaluation",
    "Exported": "exporting",
    "export": "exporting",
    "Found": "evolution",
    "evolve": "evolution",
    "Game": "games.base",
    "match": "versus",
    "Network": "nets.network",
    "Allreduce": "plans.allreduce",
    "AsyncGradients": "plans.async_gradients",
    "AsyncReplay": "plans.async_replay",
    "AsyncSamples": "plans.async_samples",
    "BellmanUpdaters": "plans.bellman_updaters",
    "Evolution": "plans.evolution",
    "ParameterServer": "plans.parameter_server",
    "SyncReplay": "plans.sync_replay",
    "SyncSamples": "plans.sync_samples",
    "Plan": "plans.base",
    "Policy": "policy",
    "Team": "policy",
    "load": "policy",
    "record": "recording",
    "Trainer": "trainer",
}
__all__ = [
    "A2C",
    "APPO",
    "ARS",
    "DDPG",
    "DQN",
    "ES",
    "PG",
    "PPO",
    "SAC",
    "TD3",
    "Algorithm",
    "Allreduce",
    "AlphaZero",
    "AsyncGradients",
    "AsyncReplay",
    "AsyncSamples",
    "BellmanUpdaters",
    "Checkpointing",
    "Cluster",
    "Config",
    "Differentiable",
    "Evaluation",
    "Evolution",
    "Evolved",
    "Exported",
    "Found",
    "Game",
    "Linear",
    "Logger",
    "Metrics",
    "Model",
    "Network",
    "ParameterServer",
    "Plan",
    "Policies",
    "Policy",
    "QTOpt",
    "Replay",
    "Result",
    "Rollout",
    "Schedule",
    "SelfPlay",
    "Stop",
    "SyncReplay",
    "SyncSamples",
    "Team",
    "Trainer",
    "VTrace",
    "__version__",
    "check_env",
    "evaluate",
    "evolve",
    "export",
    "load",
    "match",
    "record",
    "report",
    "resume",
    "run",
    "setting",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"shoal.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")
