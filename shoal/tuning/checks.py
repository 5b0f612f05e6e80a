"""What is refused before a search starts: settings that cannot be, trials that cannot start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from shoal.config.config import Config
from shoal.config.trust import admit
from shoal.envs.source import find
from shoal.errors import ConfigError
from shoal.process.machine import cpus
from shoal.tuning.search import Asha, HyperBand, Population, Search, domains

CHECKED = 1000  # trials whose settings are checked before the first one starts


def check_same(searches: Sequence[Search]) -> None:
    first, where = searches[0], searches[0].where
    if any(each.tune != first.tune for each in searches):
        raise ConfigError("experiments of one search differ in tune", where, "run them apart")
    several = isinstance(first.tune.scheduler, Population) or first.tune.searcher == "optuna"
    if several and len(searches) > 1:
        what = "a population, and a searcher, is of one experiment"
        raise ConfigError(what, where, "run them apart")
    if first.tune.searcher == "optuna" and first.grid > 1:
        raise ConfigError("optuna takes no grid", where, "use choice, or leave tune.searcher out")
    if len({each.name for each in searches}) < len(searches):
        raise ConfigError("two experiments have one name", where, "name them apart")


def numbered(searches: Sequence[Search]) -> list[Search]:
    """Each with the number of its first trial: they are counted through."""
    starts = [0, *accumulate(each.tune.samples * each.grid for each in searches)]
    return [replace(each, first=start) for each, start in zip(searches, starts, strict=False)]


def check_trials(searches: Sequence[Search], address: str | None) -> Config:
    """The settings of the trials to come, checked; the first one's.

    Raises ConfigError for the first that cannot be, and for one that asks for too many CPUs.
    """
    from ray.tune.search.basic_variant import BasicVariantGenerator

    from shoal.tuning.trial import bundles

    first, most, who = None, 0.0, None
    envs: set[str] = set()
    rng = BasicVariantGenerator(random_state=searches[0].tune.seed)._random_state
    for search in searches:
        _scheduler_length(search)
        for number, chosen in variants(search, rng):
            try:
                config = search.config(chosen, number)
            except ConfigError as error:
                drawn = ", ".join(f"{k}={x}" for k, x in search.given(chosen).items())
                error.locate(f"a trial with {drawn}" if drawn else None)
                raise
            first = first or config
            if isinstance(config.env, str) and config.env not in envs:
                envs.add(config.env)
                find(config.env, config.rollout.env_kwargs)  # raises EnvError if there is none
            asked = sum(each["CPU"] for each in bundles(config))
            if asked > most:
                most, who = asked, config
    assert first is not None and who is not None
    where, trust, joined = searches[0].where, searches[0].trust, first.cluster.address
    if joined is not None and address is None and where is not None:
        admit(
            {"cluster.address": joined}, where, trust
        )  # trials run there, with workers or without
    if (address or first.cluster.joined) is None:
        refuse_too_many(who, most, float(cpus()), "this machine")
    return first


def _scheduler_length(search: Search) -> None:
    chosen = search.tune.scheduler
    if isinstance(chosen, Asha | HyperBand) and chosen.longest is None:
        longest(search, chosen.name)


def variants(search: Search, rng: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and settings of the trials that draws and grids will make; ``CHECKED`` at most."""
    from ray.tune.search.variant_generator import generate_variants

    spec = {"config": dict(domains(search))}
    number = search.first
    for _ in range(search.tune.samples):
        for _, resolved in generate_variants(spec, random_state=rng):
            if number - search.first >= CHECKED:
                return
            yield number, dict(resolved["config"])
            number += 1


def refuse_too_many(config: Config, asked: float, there: float, where: str) -> None:
    """Raise ConfigError if a trial can never start."""
    if asked <= there + 1e-6:
        return
    workers = config.rollout.workers
    share = int(100 * (there - 1) / max(workers, 1)) / 100
    fits = int(there - 1)
    ways = [f"use rollout.workers={fits}"] if fits >= 0 else []
    ways += [f"let them share: cluster.cpus_per_worker={share:g}"] if share > 0 else []
    raise ConfigError(
        f"a trial asks for {asked:g} CPUs (1 for its trainer, {asked - 1:g} for its {workers} "
        f"workers), but {where} has {there:g}",
        None,
        ", or ".join(ways),
    )


def longest(search: Search, name: str) -> int:
    stop: Any = search.fixed.get("stop") or {}
    steps = stop.get("env_steps") if isinstance(stop, Mapping) else None
    steps = search.fixed.get("stop.env_steps", search.fixed.get("stop_steps", steps))
    if not isinstance(steps, int):
        what = f"{name} must know how long the longest trial is"
        fix = "set stop.env_steps, or tune.scheduler.longest"
        raise ConfigError(what, search.where, fix)
    return steps
