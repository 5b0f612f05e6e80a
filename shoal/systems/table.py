"""Every named system is an algorithm under a plan: one row of this table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from shoal.algorithms.a2c import A2C
from shoal.algorithms.alphazero import AlphaZero
from shoal.algorithms.appo import APPO
from shoal.algorithms.ars import ARS
from shoal.algorithms.base import Algorithm
from shoal.algorithms.ddpg import DDPG, TD3
from shoal.algorithms.dqn import DQN
from shoal.algorithms.es import ES
from shoal.algorithms.pg import PG
from shoal.algorithms.policies import Policies
from shoal.algorithms.ppo import PPO
from shoal.algorithms.qt_opt import QTOpt
from shoal.algorithms.sac import SAC
from shoal.algorithms.vtrace import VTrace
from shoal.config.config import Config, Rollout
from shoal.config.replay import Replay
from shoal.config.settings import name_of
from shoal.config.trust import find
from shoal.errors import ConfigError, cut, did_you_mean
from shoal.nets.network import Network
from shoal.plans.allreduce import Allreduce
from shoal.plans.async_gradients import AsyncGradients
from shoal.plans.async_replay import AsyncReplay
from shoal.plans.async_samples import AsyncSamples
from shoal.plans.bellman_updaters import BellmanUpdaters
from shoal.plans.evolution import Evolution
from shoal.plans.parameter_server import ParameterServer
from shoal.plans.sync_replay import SyncReplay
from shoal.plans.sync_samples import SyncSamples


@dataclass(frozen=True)
class System:
    """A row: the algorithm, the plan, and the defaults of sampling and replay."""

    name: str
    algorithm: Any
    plan: Any
    rollout: Rollout
    source: str
    replay: Replay = field(default_factory=Replay)


EIGHT = Rollout(envs_per_worker=8, fragment_length=16)
FOUR = Rollout(envs_per_worker=4, fragment_length=8)
BATCHES = Replay(batch_size=256, replay_ratio=256.0)  # a gradient step for each env step
# The paper's Table 2, but for what is of Atari's size: lr 1e-4 with eps 1e-3, targets copied every
# 2500 gradient steps, batches of 64 sequences, 4e6 env steps.
R2D2 = DQN(
    gamma=0.997,
    n_step=5,
    double=True,
    dueling=True,
    rescale=1e-3,
    ladder=7.0,
    epsilon=0.4,
    max_grad_norm=40.0,
    network=Network(hidden=(128, 128), activation="relu", memory="lstm"),
)

SYSTEMS = {
    row.name: row
    for row in (
        System(
            "pg",
            PG(),
            SyncSamples(),
            Rollout(envs_per_worker=8, fragment_length=200),
            "Williams 1992; Sutton et al. 1999",
        ),
        System(
            "a2c",
            A2C(),
            SyncSamples(),
            Rollout(envs_per_worker=8, fragment_length=5),
            "Mnih et al. 2016 (arXiv:1602.01783)",
        ),
        System(
            "a3c",
            A2C(lr=2e-3),  # within the paper's search range, 1e-4 to 1e-2
            AsyncGradients(),
            Rollout(envs_per_worker=8, fragment_length=10),
            "Mnih et al. 2016 (arXiv:1602.01783)",
        ),
        System(
            "ppo",
            PPO(),
            SyncSamples(),
            Rollout(envs_per_worker=16, fragment_length=128),
            "Schulman et al. 2017 (arXiv:1707.06347)",
        ),
        System(
            "dd-ppo",
            PPO(normalise_advantage=False),  # as the paper: each rank would have its own statistics
            Allreduce(),
            Rollout(envs_per_worker=8, fragment_length=128),
            "Wijmans et al. 2020 (arXiv:1911.00357)",
        ),
        System(
            "impala",
            VTrace(),
            AsyncSamples(),
            Rollout(envs_per_worker=8, fragment_length=64),
            "Espeholt et al. 2018 (arXiv:1802.01561)",
        ),
        System(
            "appo",
            APPO(epochs=2),
            AsyncSamples(),
            Rollout(envs_per_worker=8, fragment_length=128),
            "Petrenko et al. 2020 (arXiv:2006.11751)",
        ),
        *(
            System(name, algorithm, SyncReplay(), rollout, source, replay)
            for name, algorithm, rollout, replay, source in (
                ("dqn", DQN(), EIGHT, Replay(), "Mnih et al. 2015 (Nature 518)"),
                (
                    "double-dqn",
                    DQN(double=True),
                    EIGHT,
                    Replay(),
                    "van Hasselt et al. 2016 (arXiv:1509.06461)",
                ),
                (
                    "dueling-dqn",
                    DQN(dueling=True),
                    EIGHT,
                    Replay(),
                    "Wang et al. 2016 (arXiv:1511.06581)",
                ),
                (
                    "prioritized-dqn",
                    DQN(double=True),
                    EIGHT,
                    Replay(alpha=0.6),
                    "Schaul et al. 2016 (arXiv:1511.05952)",
                ),
                (
                    "c51",
                    DQN(atoms=51),
                    EIGHT,
                    Replay(),
                    "Bellemare et al. 2017 (arXiv:1707.06887)",
                ),
                (
                    "noisy-dqn",
                    DQN(noisy=True),
                    EIGHT,
                    Replay(),
                    "Fortunato et al. 2018 (arXiv:1706.10295)",
                ),
                (
                    "rainbow",
                    DQN(n_step=3, double=True, dueling=True, atoms=51, noisy=True),
                    EIGHT,
                    Replay(alpha=0.5),
                    "Hessel et al. 2018 (arXiv:1710.02298)",
                ),
                ("ddpg", DDPG(), FOUR, BATCHES, "Lillicrap et al. 2016 (arXiv:1509.02971)"),
                ("td3", TD3(), FOUR, BATCHES, "Fujimoto et al. 2018 (arXiv:1802.09477)"),
                ("sac", SAC(), FOUR, BATCHES, "Haarnoja et al. 2018 (arXiv:1812.05905)"),
            )
        ),
        System(
            "ape-x",
            DQN(n_step=3, double=True, dueling=True, ladder=7.0, epsilon=0.4),
            AsyncReplay(),
            Rollout(workers=2, envs_per_worker=8, fragment_length=16),
            "Horgan et al. 2018 (arXiv:1803.00933)",
            Replay(alpha=0.6),
        ),
        System(
            "ape-x-dpg",
            DDPG(n_step=5, noise=0.3),
            AsyncReplay(),
            Rollout(workers=2, envs_per_worker=4, fragment_length=16),
            "Horgan et al. 2018 (arXiv:1803.00933)",
            Replay(batch_size=256, replay_ratio=256.0, alpha=0.6),
        ),
        *(
            System(
                name,
                R2D2,
                AsyncReplay(),
                Rollout(workers=2, envs_per_worker=8, fragment_length=16, previous=True),
                source,
                Replay(alpha=0.9, beta=0.6, batch_size=16),
            )
            for name, source in (
                ("r2d2", "Kapturowski et al. 2019 (ICLR)"),
                ("r2d3", "Paine et al. 2019 (arXiv:1909.01387)"),
            )
        ),
        System(
            "qt-opt",
            QTOpt(),
            BellmanUpdaters(updaters=2),
            Rollout(workers=2, envs_per_worker=4, fragment_length=8),
            "Kalashnikov et al. 2018 (arXiv:1806.10293)",
            Replay(replay_ratio=64.0),  # a gradient step for each env step
        ),
        System(
            "alphazero",
            AlphaZero(),
            SyncReplay(),
            Rollout(envs_per_worker=64, fragment_length=16),
            "Silver et al. 2018 (arXiv:1712.01815)",
            Replay(batch_size=256, replay_ratio=8.0),
        ),
        System(
            "gorila",
            DQN(rule="adagrad", lr=0.01),
            ParameterServer(outlier_std=6.0),
            Rollout(workers=2, envs_per_worker=8, fragment_length=1),
            "Nair et al. 2015 (arXiv:1507.04296)",
        ),
        System(
            "es",
            ES(),
            Evolution(),
            Rollout(envs_per_worker=16, normalise_obs=True),
            "Salimans et al. 2017 (arXiv:1703.03864)",
        ),
        System(
            "ars",
            ARS(),
            Evolution(),
            Rollout(envs_per_worker=8, normalise_obs=True),
            "Mania et al. 2018 (arXiv:1803.07055)",
        ),
    )
}
POLICIES = System(  # composed of the others, and therefore none of the table's
    "policies", Policies(), SyncSamples(), Rollout(), "de Witt et al. 2020 (arXiv:2011.09533)"
)
REPLAYED_POLICIES = replace(POLICIES, plan=SyncReplay(), rollout=EIGHT)
PLANS = (
    SyncSamples,
    SyncReplay,
    AsyncReplay,
    BellmanUpdaters,
    Allreduce,
    AsyncGradients,
    AsyncSamples,
    ParameterServer,
    Evolution,
)


def system(name: str) -> System:
    """The row of that name, in any case. Raises ConfigError, with the nearest name, if none is."""
    name = name.lower().replace("_", "-")
    row = POLICIES if name == POLICIES.name else SYSTEMS.get(name)
    if row is None:
        raise ConfigError(
            f"there is no system {name!r}",
            None,
            f"{did_you_mean(name.lower(), SYSTEMS)}there are: {', '.join(SYSTEMS)}",
        )
    return row


def row_of(algorithm: Any) -> System:
    """The row with the defaults of an algorithm: that of the nearest class it derives from.

    A class that derives from none of the table's has a row of its own, under its "module:Name": it
    runs under ``sync_replay`` if it needs a replay buffer, under ``evolution`` if it learns from
    returns, else under ``sync_samples``.

    Raises ConfigError for what is no ``Algorithm``.
    """
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(
            f"{type(algorithm).__name__} is no algorithm",
            None,
            f"give a system's name ({', '.join(SYSTEMS)}), or an object of a class that derives "
            "from shoal.Algorithm",
        )
    if isinstance(algorithm, Policies):
        return REPLAYED_POLICIES if "replay" in algorithm.needs else POLICIES
    rows = [r for r in SYSTEMS.values() if isinstance(algorithm, type(r.algorithm))]
    if not rows:
        needs, plan = algorithm.needs, cast(Any, SyncSamples())
        plan = SyncReplay() if "replay" in needs else Evolution() if "returns" in needs else plan
        return System(name_of(algorithm), algorithm, plan, Rollout(), "")
    line = type(algorithm).__mro__
    return min(rows, key=lambda r: line.index(type(r.algorithm)))


def default_config(what: str | System | Any, env: Any) -> Config:
    """The configuration of a system on an environment before anything is changed.

    ``what`` is a system's name, "module:Name" (imported: a ``System``, an algorithm or its class),
    or such an object. The configuration of a user's own has the name of Shoal's system that its
    algorithm derives from, or the name of its class.
    """
    what = made(what, "system")
    if isinstance(what, str):
        row = system(what)
    elif isinstance(what, System):
        row = replace(what, name=row_of(what.algorithm).name)
    else:
        row = replace(row_of(what), algorithm=what)
    return Config(row.name, env, row.algorithm, row.plan, row.rollout, row.replay)


def made(what: Any, kind: str) -> Any:
    """What "module:Name" names, called if it is a class; anything else as it is."""
    if not isinstance(what, str) or ":" not in what:
        return what
    found = find(what, kind)
    return found() if isinstance(found, type) else found


def with_plan(config: Config, plan: Any) -> Config:
    """The configuration under a plan: an object, or the name of one with default options.

    Raises ConfigError, with the nearest name, if there is none of that name, or it is no plan.
    """
    if isinstance(plan, str):
        wanted = plan.lower().replace("-", "_")
        if wanted == config.plan.name:
            return config
        plans = {each.name: each for each in PLANS}
        if wanted not in plans:
            raise ConfigError(
                f"there is no plan {plan!r}",
                None,
                f"{did_you_mean(wanted, plans)}there are: {', '.join(plans)}",
            )
        plan = plans[wanted]()
    if isinstance(plan, type) or not callable(getattr(plan, "refuses", None)):
        what = f"{cut(repr(plan), 80)} is no plan"
        raise ConfigError(what, None, f"give a name ({', '.join(p.name for p in PLANS)}) or a plan")
    return replace(config, plan=plan)


def matrix() -> list[tuple[str, str, str, str]]:
    """Every pair as (algorithm, plan, its system or "", why it cannot run or "")."""
    named: dict[tuple[type, type], str] = {}
    for row in SYSTEMS.values():  # the first of the systems that differ in switches only
        named.setdefault((type(row.algorithm), type(row.plan)), row.name)
    rows: list[tuple[str, str, str, str]] = []
    for algorithm in dict.fromkeys(type(row.algorithm) for row in SYSTEMS.values()):
        for plan in PLANS:
            reason = plan().refuses(algorithm) or ""
            rows.append((algorithm.__name__, plan().name, named.get((algorithm, plan), ""), reason))
    return rows


def unread(config: Config | System) -> dict[str, str]:
    """Groups of settings, and single ones, that this algorithm does not read, and why not."""
    name, needs = type(config.algorithm).__name__, config.algorithm.needs
    if config.algorithm.plays:
        result = f"{name} learns from the results of games, as they are"
        return {
            "rollout.scale_reward": result,
            "rollout.clip_reward": result,
            "replay.demos": f"{name} learns from the visits of its searches, and others have none",
        }
    if "replay" in needs:
        return {}
    if "returns" not in needs:
        return {"replay": f"{name} learns from trajectories, without a replay buffer"}
    whole = f"{name} learns from the returns of whole episodes, as they are"
    names = "fragment_length", "scale_reward", "clip_reward"
    return {
        "replay": f"{name} learns from returns, without a replay buffer",
        **{f"rollout.{name}": whole for name in names},
        **{k: f"{name} has no gradient to compute" for k in ("learner", "precision", "device")},
    }


def reads(config: Config | System, path: str) -> bool:
    """Whether this algorithm reads the setting at that path."""
    return not any(path == name or path.startswith(f"{name}.") for name in unread(config))
