"""Every named system is an algorithm under a plan: one line of this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from shoal.algorithms.a2c import A2C
from shoal.algorithms.appo import APPO
from shoal.algorithms.ddpg import DDPG, TD3
from shoal.algorithms.dqn import DQN
from shoal.algorithms.pg import PG
from shoal.algorithms.ppo import PPO
from shoal.algorithms.sac import SAC
from shoal.algorithms.vtrace import VTrace
from shoal.config import Config, Linear, Replay, Rollout, load_file, merge, nearest, route
from shoal.envs import best_return
from shoal.errors import ConfigError
from shoal.plans.allreduce import Allreduce
from shoal.plans.async_gradients import AsyncGradients
from shoal.plans.async_replay import AsyncReplay
from shoal.plans.async_samples import AsyncSamples
from shoal.plans.parameter_server import ParameterServer
from shoal.plans.sync_replay import SyncReplay
from shoal.plans.sync_samples import SyncSamples


@dataclass(frozen=True)
class System:
    """A row: what is learned, how it is run, and how it samples unless told otherwise."""

    name: str
    algorithm: Any
    plan: Any
    rollout: Rollout
    source: str
    replay: Replay = field(default_factory=Replay)


EIGHT = Rollout(envs_per_worker=8, fragment_length=16)
FOUR = Rollout(envs_per_worker=4, fragment_length=8)
BATCHES = Replay(batch_size=256, replay_ratio=256.0)  # a gradient step for each env step

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
        System(
            "gorila",
            DQN(rule="adagrad", lr=0.01),
            ParameterServer(outlier_std=6.0),
            Rollout(workers=2, envs_per_worker=8, fragment_length=1),
            "Nair et al. 2015 (arXiv:1507.04296)",
        ),
    )
}
PLANS = (
    SyncSamples,
    SyncReplay,
    AsyncReplay,
    Allreduce,
    AsyncGradients,
    AsyncSamples,
    ParameterServer,
)


def system(name: str) -> System:
    """The row of that name. Raises ConfigError, with the nearest name, when there is none."""
    row = SYSTEMS.get(name)
    if row is None:
        raise ConfigError(
            f"there is no system {name!r}",
            None,
            f"did you mean {nearest(name, SYSTEMS)!r}? There are: {', '.join(SYSTEMS)}",
        )
    return row


def default_config(name: str, env: Any) -> Config:
    """The configuration of a system on an environment before anything is changed."""
    row = system(name)
    return Config(name, env, row.algorithm, row.plan, row.rollout, row.replay)


def with_plan(config: Config, plan: Any) -> Config:
    """The configuration under a plan, given as such or by its name with its default options.

    Raises ConfigError, with the nearest name, where there is none of that name.
    """
    if isinstance(plan, str):
        wanted = plan.replace("-", "_")
        if wanted == config.plan.name:
            return config
        plans = {each.name: each for each in PLANS}
        if wanted not in plans:
            raise ConfigError(
                f"there is no plan {plan!r}",
                None,
                f"did you mean {nearest(wanted, plans)!r}? There are: {', '.join(plans)}",
            )
        plan = plans[wanted]()
    return replace(config, plan=plan)


def tuned(name: str, env: str) -> dict[str, Any]:
    """Settings known to do well for a system on an environment (``tuned.yaml``).

    An entry's name may be a pattern ("ALE/*"); the environment's own name comes first.

    Raises ConfigError, with the environments that have some, when there are none.
    """
    known = load_file(Path(__file__).with_name("tuned.yaml")).get(name, {})
    name_of = env if env in known else next((k for k in known if fnmatchcase(env, k)), None)
    if name_of is None:
        raise ConfigError(
            f"there are no tuned settings of {name} for {env}",
            None,
            f"leave tuned out, or take one of: {', '.join(known) or '(none)'}",
        )
    settings: dict[str, Any] = known[name_of]
    return settings


def configure(
    what: str | Config | Any,
    env: Any,
    changes: Mapping[str, Any] | str | Path | None = None,
    fields: Mapping[str, Any] | None = None,
    *,
    plan: Any = None,
    where: str | None = None,
    use_tuned: bool = False,
    final: bool = True,
) -> Config:
    """One configuration from a system's name, an algorithm or a whole ``Config``, and changes.

    Later ones win: the system's defaults, tuned settings, ``changes`` (a nested mapping, or a YAML
    or JSON file of one, a run's ``config.json`` too), then ``fields`` (names wherever they stand in
    the tree). ``where`` the changes come from is told in errors.

    Raises ConfigError for what is unknown, of the wrong type, or cannot be together; the last only
    where the configuration is ``final``, so that its caller adds nothing more.
    """
    if isinstance(changes, str | Path):
        where, changes = str(changes), load_file(changes)
    nested = dict(changes or {})
    nested.pop("shoal", None)  # the version that wrote a config.json
    named = nested.get("system")
    if isinstance(what, str) and named not in (None, what):
        raise ConfigError(
            f"the system is {what!r}, but these settings are for {named!r}", where, "name one"
        )
    if what is None:
        what = named
    if env is None:
        env = what.env if isinstance(what, Config) else nested.get("env")
    if what is None or env is None:
        missing = "system" if what is None else "env"
        raise ConfigError(f"no {missing} was given", where, f"name one: {missing}=...")
    nested |= {"env": env}
    if isinstance(what, Config):
        config = what
    elif isinstance(what, str):
        config = default_config(what, env)
    else:
        rows = [r for r in SYSTEMS.values() if isinstance(what, type(r.algorithm))]
        if not rows:
            raise ConfigError(
                f"{type(what).__name__} is no algorithm of Shoal's",
                None,
                f"give a system's name ({', '.join(SYSTEMS)}), or one of their algorithms or a "
                "class derived from it",
            )
        line = type(what).__mro__  # a user's own class takes the row of what it derives from
        row = min(rows, key=lambda r: line.index(type(r.algorithm)))
        config = replace(default_config(row.name, env), algorithm=what)
    fields = dict(fields or {})
    config = _under_named(config, nested, fields)
    if use_tuned:
        config = merge(config, tuned(config.system, str(env)), "tuned.yaml")
    nested.pop("system", None)
    config = route(merge(config, nested, where), fields)
    if plan is not None:
        config = with_plan(config, plan)
    if final:
        refuse_impossible(config)
    return config


def _under_named(config: Config, nested: dict[str, Any], fields: dict[str, Any]) -> Config:
    """The configuration under the plan that the changes name, so that its options can be set."""
    if isinstance(nested.get("plan"), str):
        nested["plan"] = {"name": nested["plan"]}
    name = fields.pop("plan.name", None) or dict(nested.get("plan", {})).get("name")
    return config if name is None else with_plan(config, name)


def refuse_impossible(config: Config) -> None:
    """Raise ConfigError for settings that are each right but cannot be together."""
    reason = config.plan.refuses(type(config.algorithm))
    if reason is not None:
        raise ConfigError(
            f"{type(config.algorithm).__name__} does not run under {config.plan.name}: {reason}",
            None,
            "`shoal systems` shows what runs under what",
        )
    rollout, size = config.rollout, getattr(config.algorithm, "minibatch_size", 1)
    rows = rollout.fragment_length * rollout.envs_per_worker * max(rollout.workers, 1)
    if size > rows:
        raise ConfigError(
            f"algorithm.minibatch_size is {size}, but a batch has only {rows} rows "
            f"(rollout: {max(rollout.workers, 1)} workers x {rollout.envs_per_worker} "
            f"environments x {rollout.fragment_length} env steps)",
            None,
            f"use algorithm.minibatch_size <= {rows}, or longer fragments",
        )
    annealed = [
        f.name
        for f in dataclass_fields(config.algorithm)
        if isinstance(getattr(config.algorithm, f.name), Linear)
    ]
    if annealed and config.stop.env_steps is None:
        raise ConfigError(
            f"algorithm.{annealed[0]} is annealed over the run, but its length is not known",
            None,
            "set stop.env_steps, or make it a constant",
        )
    best = best_return(config.env, rollout.env_kwargs) if isinstance(config.env, str) else None
    wanted = config.stop.return_mean
    if best is not None and wanted is not None and wanted > best:
        raise ConfigError(
            f"stop.return_mean is {wanted:g}, but no episode of {config.env} can return more "
            f"than {best:g}",
            None,
            f"stop at {best:g} or less, or by env steps or seconds",
        )


def matrix() -> list[tuple[str, str, str, str]]:
    """What runs under what: (algorithm, plan, system or "", why not or "") for each pair."""
    named: dict[tuple[type, type], str] = {}
    for row in SYSTEMS.values():  # of systems that differ in switches only, the first
        named.setdefault((type(row.algorithm), type(row.plan)), row.name)
    rows: list[tuple[str, str, str, str]] = []
    for algorithm in dict.fromkeys(type(row.algorithm) for row in SYSTEMS.values()):
        for plan in PLANS:
            reason = plan().refuses(algorithm) or ""
            rows.append((algorithm.__name__, plan().name, named.get((algorithm, plan), ""), reason))
    return rows
