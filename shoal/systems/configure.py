"""One configuration from a system's name or an algorithm, files, tuned settings and keywords."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass, replace
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from shoal.config.config import Config, Stop
from shoal.config.files import load_file
from shoal.config.schedule import Linear, at
from shoal.config.settings import arguments, find, merge, name_of, normal, route
from shoal.config.trust import absolute, admit, unasked
from shoal.envs import best_return
from shoal.errors import ConfigError
from shoal.plans.base import LACKS
from shoal.systems.table import (
    POLICIES,
    SYSTEMS,
    default_config,
    made,
    reads,
    row_of,
    unread,
    with_plan,
)

log = logging.getLogger("shoal.systems.configure")


def tuned(name: str, env: str, hidden: Sequence[int | str] = ()) -> dict[str, Any]:
    """Settings known to work well for a system on an environment (``tuned.yaml``).

    An entry's name may be a pattern ("ALE/*"); an exact name has priority, and before that one for
    what is ``hidden`` from the policy ("CartPole-v1, hide 1,3").

    Raises ConfigError, with the environments that have tuned settings, if this one has none.
    """
    known = load_file(Path(__file__).with_name("tuned.yaml")).get(name, {})
    if (masked := f"{env}, hide {','.join(map(str, hidden))}") in known:
        env = masked
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
    fields: Mapping[str, Any] | Callable[[Config], Mapping[str, Any]] | None = None,
    *,
    plan: Any = None,
    algorithm: Any = None,
    where: str | None = None,
    use_tuned: bool = False,
    final: bool = True,
    trust: bool = False,
) -> Config:
    """One configuration from a system's name, an algorithm or a whole ``Config``, and changes.

    Later ones win: the system's defaults, tuned settings, ``changes`` (a nested mapping, or a YAML
    or JSON file of one, a run's ``config.json`` too), then ``fields`` (names wherever they stand in
    the tree; or a function that gives them for the configuration that they change). ``where`` is
    the file that the changes come from. ``what``, ``plan`` and ``algorithm`` may be "module:Name".

    Code that a file names is imported, and a cluster joined, only with ``trust``; what the caller
    names himself needs none.

    Raises ConfigError for what is unknown, of the wrong type, or cannot be together; the last only
    if the configuration is ``final``, so that its caller adds nothing more.
    """
    _refuse_class(what)
    if isinstance(changes, str | Path):
        where, changes = str(changes), load_file(changes)
    nested = dict(changes or {})
    nested.pop("shoal", None)  # the version that wrote a config.json
    own_env, named = env is not None or isinstance(what, Config), nested.pop("system", None)
    if isinstance(what, str) and named not in (None, what):
        raise ConfigError(
            f"the system is {what!r}, but these settings are for {named!r}", where, "name one"
        )
    asked = _Asked(where, trust)
    if what is None and named is not None:
        asked.name("system", named)
        what = named
    what = algorithm if what is None else what
    if env is None:
        env = what.env if isinstance(what, Config) else nested.get("env")
    if what is None or env is None:
        missing = "system" if what is None else "env"
        raise ConfigError(f"no {missing} was given", where, f"name one: {missing}=...")
    config = what if isinstance(what, Config) else _defaults(what, env, nested, where)
    config = _of_class(config, nested, algorithm, asked)
    plan = (dict(fields).pop("plan.name", None) if isinstance(fields, Mapping) else None) or plan
    config = start = _under_plan(config, nested, plan, asked)

    def changed(config: Config) -> tuple[Config, dict[str, Any]]:
        """With all changes; and the fields, which are found by name wherever they stand."""
        config = merge(config, nested | {"env": env}, where)
        flat = dict(fields(config) if callable(fields) else fields or {})
        flat.pop("plan.name", None)
        return route(config, flat), flat

    if use_tuned:
        hidden = changed(config)[0].rollout.hide
        config = merge(config, tuned(config.system, str(env), hidden), "tuned.yaml")
    config, flat = changed(config)
    given = {find(config, name) for name in flat} | ({"env"} if own_env else set())
    before = unasked(start)
    found = unasked(config).items()
    asked.admit({k: x for k, x in found if k not in given and (k == "env" or before.get(k) != x)})
    _refuse_unread(config, start, where)
    if config.cluster.joined is None:  # elsewhere, a path from the run's folder leads there too
        network = getattr(config.algorithm, "network", None)
        if (found := absolute(network)) != network:
            config = replace(config, algorithm=replace(config.algorithm, network=found))
        config = replace(config, env=absolute(config.env))
        demos = config.replay.demos
        if demos is not None and Path(demos).is_dir():
            config = replace(
                config, replay=replace(config.replay, demos=str(Path(demos).resolve()))
            )
    if final:
        refuse_impossible(config)
    return config


def _refuse_class(what: Any) -> None:
    """Raise ConfigError for an algorithm that was not called: Trainer(shoal.PPO, ...)."""
    if isinstance(what, type):
        name = what.__name__
        raise ConfigError(f"{name} is a class", None, f"call it: Trainer({name}(), ...)")


def _defaults(what: Any, env: Any, nested: Mapping[str, Any], where: str | None) -> Config:
    """Of several policies, those of the plan that fits the policies of the changes.

    Nothing else of the changes is taken here.
    """
    config, own = default_config(what, env), nested.get("algorithm")
    if what != POLICIES.name or not isinstance(own, Mapping) or "class" in own:
        return config
    row = row_of(merge(config.algorithm, own, where))
    return replace(config, plan=row.plan, rollout=row.rollout)


class _Asked(NamedTuple):
    """The file that names code, if it is one, and whether its user trusts it."""

    where: str | None
    trust: bool

    def admit(self, names: Mapping[str, str]) -> None:
        """Raise ConfigError if the file may not ask for these."""
        if self.where is not None:
            admit(names, self.where, self.trust)

    def name(self, setting: str, name: Any) -> None:
        """The same for what is code only if it is written as "module:Name"."""
        if isinstance(name, str) and ":" in name:
            self.admit({setting: name})


def _of_class(config: Config, nested: dict[str, Any], algorithm: Any, asked: _Asked) -> Config:
    """With the algorithm that is given, or else of the class that the changes name."""
    settings = nested.get("algorithm")
    if isinstance(settings, Mapping) and "class" in settings:
        nested["algorithm"] = {k: x for k, x in settings.items() if k != "class"}
        own = settings["class"]
        if algorithm is None and own != name_of(config.algorithm):
            asked.admit({"algorithm": str(own)})
            algorithm = str(own)
    if algorithm is None:
        return config
    algorithm = made(algorithm, "algorithm")
    row_of(algorithm)  # it must be one
    return replace(config, algorithm=algorithm)


def _under_plan(config: Config, nested: dict[str, Any], plan: Any, asked: _Asked) -> Config:
    """Under the plan that is given, or else named by the changes, so that its options can be set.

    What is given as an object keeps the options that it has.
    """
    settings = nested.pop("plan", None)
    settings = {"name": settings} if isinstance(settings, str) else dict(settings or {})
    named = settings.pop("class", None) or settings.get("name")
    if plan is None and named is not None:
        asked.name("plan", named)
        plan = named
    elif plan is not None and normal(str(named)) != normal(str(plan)):
        settings = {}  # options of another plan, or of one that is given with its options
    if ":" in str(settings.get("name")):
        del settings["name"]
    if settings:
        nested["plan"] = settings
    return config if plan is None else with_plan(config, made(plan, "plan"))


def refuse_impossible(config: Config) -> None:
    """Raise ConfigError for valid settings that conflict."""
    _refuse_plan(config)
    conflict = config.plan.conflict(config)
    if conflict is not None:
        raise conflict
    if config.replay.demos is not None and "demonstrations" not in config.plan.offers:
        raise ConfigError(
            f"replay.demos is {config.replay.demos!r}, but {config.plan.name} draws no "
            "demonstrations",
            None,
            "leave it out",
        )
    if config.replay.demos is not None and config.rollout.scale_reward:
        raise ConfigError(
            "rewards of demonstrations cannot be scaled by the deviation of a run's own returns",
            None,
            "leave rollout.scale_reward or replay.demos out",
        )
    if config.system == "r2d3" and config.replay.demos is None:
        raise ConfigError(
            "r2d3 learns from demonstrations too, and replay.demos names none",
            None,
            "give what `shoal record` wrote (--demos FOLDER), or take r2d2",
        )
    rollout, size = config.rollout, getattr(config.algorithm, "minibatch_size", None) or 1
    rows = rollout.fragment_length * rollout.envs_per_worker * max(rollout.workers, 1)
    if size > rows:
        raise ConfigError(
            f"algorithm.minibatch_size is {size}, but a batch has only {rows} rows "
            f"(rollout: {max(rollout.workers, 1)} workers x {rollout.envs_per_worker} "
            f"environments x {rollout.fragment_length} env steps)",
            None,
            f"use algorithm.minibatch_size <= {rows}, or longer fragments",
        )
    chunk, length = getattr(config.algorithm, "chunk", None), rollout.fragment_length
    if chunk is not None and chunk > length and not config.algorithm.whole_episodes:
        raise ConfigError(
            f"algorithm.chunk is {chunk}, but a fragment has only {length} env steps",
            None,
            f"use algorithm.chunk <= {length}, or rollout.fragment_length >= {chunk}",
        )
    if config.stop.env_steps is None and (annealed := _annealed(config)):
        raise ConfigError(
            f"{next(iter(annealed))} is annealed over the run, but its length is not known",
            None,
            "set stop.env_steps (--stop-steps), or use a constant",
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


def _refuse_plan(config: Config) -> None:
    """Raise ConfigError for what this plan cannot run."""
    parts = config.algorithm.parts
    kinds = [type(part) for part in parts.values()] or [type(config.algorithm)]
    reason = next((why for kind in kinds if (why := config.plan.refuses(kind))), None)
    if reason is None and parts:
        lacking = config.algorithm.needs - config.plan.offers
        reason = next((why for need, why in LACKS.items() if need in lacking), None)
    if reason is not None:
        raise ConfigError(
            f"{type(config.algorithm).__name__} does not run under {config.plan.name}: {reason}",
            None,
            "`shoal systems` shows what runs under what",
        )
    if parts:
        _refuse_shared(config)
    if config.self_play.pool and (parts or "pool" not in config.plan.offers):
        raise ConfigError(
            f"self_play.pool is {config.self_play.pool}, but "
            + ("there are policies by agent" if parts else f"{config.plan.name} has no pool"),
            None,
            "self-play has one policy, under sync_samples or async_samples",
        )


def _refuse_shared(config: Config) -> None:
    """Raise ConfigError for settings that several policies cannot have in common."""
    rollout = config.rollout
    for name in ("hide", "previous"):
        if value := getattr(rollout, name):
            raise ConfigError(
                f"rollout.{name} is {value!r}, but there are several policies, which see different "
                "things",
                None,
                "leave it out",
            )


def change(config: Config, fields: Mapping[str, Any], env_steps: int) -> Config:
    """The configuration of a run that goes on after ``env_steps``, with some settings changed.

    If any stop is given, those that are not given no longer hold. Warns of schedules that jump
    because the length of the run changes.

    Raises ConfigError as ``configure`` does.
    """
    paths = {name: find(config, name) or name for name in fields}
    start = config
    if any(path.startswith("stop") for path in paths.values()):
        start = replace(config, stop=Stop())
    new = route(start, fields)
    _refuse_unread(new, config, None)
    for path, schedule in _annealed(new).items():
        then, now = (env_steps / (c.stop.env_steps or env_steps or 1) for c in (config, new))
        before, after = at(schedule, then), at(schedule, now)
        if _annealed(config).get(path) == schedule and before != after:
            log.warning(
                "%s is annealed over stop.env_steps, which was %s and is now %s: it jumps from "
                "%.3g to %.3g",
                *(path, config.stop.env_steps, new.stop.env_steps, before, after),
            )
    return new


def differences(old: Config, new: Config) -> dict[str, Any]:
    """The settings of ``new`` that are others than those of ``old``, by path."""
    before = {argument.name: argument.default for argument in arguments(old)}
    after = {argument.name: argument.default for argument in arguments(new)}
    return {k: x for k, x in after.items() if k not in before or before[k] != x}


def settable(config: Config, path: str) -> bool:
    """Whether a setting can change while a trainer runs: the plan asks for it anew each time."""
    group, _, name = path.rpartition(".")
    if group == "algorithm":
        return name in config.algorithm.hyper(0.0)
    return group in ("stop", "checkpointing") or path in ("replay.beta", "report_every", "seed")


def _annealed(config: Config) -> dict[str, Linear]:
    """The schedules that depend on the length of the run, by path."""
    groups = {"algorithm": config.algorithm, "replay": config.replay}
    return {
        f"{group}.{f.name}": value
        for group, settings in groups.items()
        if reads(config, group)
        for f in dataclass_fields(settings)
        if isinstance(value := getattr(settings, f.name), Linear)
    }


def _refuse_unread(config: Config, start: Config, where: str | None) -> None:
    """Raise ConfigError if a setting was changed that nothing reads."""
    for name, why in unread(config).items():
        new, old = (attrgetter(name)(each) for each in (config, start))
        names = [f.name for f in dataclass_fields(new)] if is_dataclass(new) else []
        changed = {
            f"{name}.{k}": getattr(new, k) for k in names if getattr(new, k) != getattr(old, k)
        }
        if not names and new != old:
            changed = {name: new}
        for path, value in changed.items():
            other = next(row.name for row in SYSTEMS.values() if reads(row, path))
            raise ConfigError(
                f"{path} is {value}, but nothing reads it: {why}",
                where,
                f"leave it out, or choose a system that reads it, for example {other}",
            )
