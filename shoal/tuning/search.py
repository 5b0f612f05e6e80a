"""What a search tries: settings with ranges in the place of values, and how trials are chosen.

A file for ``shoal tune`` is a configuration as ``shoal train --config`` takes it, in which any
value may be a range, and a group ``tune`` beside it::

    system: ppo
    env: CartPole-v1
    algorithm:
      lr: {loguniform: [1e-4, 1e-2]}
      epochs: {choice: [4, 10]}
      target_kl: {uniform: [0.01, 0.1], when: {algorithm.epochs: 10}}
    stop: {return_mean: 475, env_steps: 100_000}
    tune: {samples: 20, scheduler: asha}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from shoal.config.bounds import check_bounds, require, setting
from shoal.config.config import Config, Stop
from shoal.config.settings import merge, normal
from shoal.errors import ConfigError, did_you_mean
from shoal.systems.configure import configure, refuse_impossible

RANGES = {  # names of Ray Tune's own, and the number of their arguments
    "grid_search": None,
    "choice": None,
    "uniform": 2,
    "loguniform": 2,
    "quniform": 3,
    "qloguniform": 3,
    "randint": 2,
    "lograndint": 2,
    "randn": 2,
}
TIME = "env_steps"  # what schedulers measure a trial's age by


@dataclass(frozen=True)
class Fifo:
    """Every trial trains to its own stop."""

    name: Literal["fifo"] = "fifo"  # name of the scheduler
    takes_searcher: ClassVar[bool] = True


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2018, arXiv:1810.05934): the worst stop early."""

    name: Literal["asha"] = "asha"  # name of the scheduler
    grace: int = setting(10_000, least=1)  # env steps of the first rung: no trial stops earlier
    longest: int | None = setting(None, least=1)  # of the last one; none: stop.env_steps
    factor: float = setting(4.0, above=1)  # one of this many trials goes on to the next rung
    takes_searcher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_bounds(self, "tune.scheduler.")


@dataclass(frozen=True)
class HyperBand:
    """HyperBand (Li et al. 2016, arXiv:1603.06560): brackets of different first rungs.

    Its unit is a report, and it needs many trials: where the longest makes 50 reports, the first
    bracket takes 5 trials and stops none early, the second takes 8, the third 15.
    """

    name: Literal["hyperband"] = "hyperband"  # name of the scheduler
    longest: int | None = setting(None, least=1)  # env steps of one trial; none: stop.env_steps
    factor: float = setting(3.0, above=1)  # one of this many trials goes on to the next rung
    takes_searcher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_bounds(self, "tune.scheduler.")


@dataclass(frozen=True)
class Population:
    """Population based training (Jaderberg et al. 2017, arXiv:1711.09846).

    Members are the samples; what is perturbed are the settings with a range, which is also what
    they are resampled from.
    """

    name: Literal["pbt"] = "pbt"  # name of the scheduler
    every: int = setting(20_000, least=1)  # env steps of a member between two exploits
    start: int = setting(0, least=0)  # env steps before the first
    select: Literal["truncation", "tournament", "t-test"] = "truncation"  # who copies whom
    fraction: float = setting(0.2, above=0, most=0.5)  # truncation: the lowest copy the highest
    significance: float = setting(0.05, above=0, below=1)  # of Welch's test, two-sided
    resample: float = setting(0.25, least=0, most=1)  # probability of drawing a setting anew
    factors: tuple[float, ...] = (0.8, 1.2)  # a perturbation multiplies by one of them
    only: tuple[str, ...] = ()  # settings to perturb; none: all that have a range
    synchronous: bool = False  # all members wait for each other before an exploit
    takes_searcher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_bounds(self, "tune.scheduler.")
        known = ("truncation", "tournament", "t-test")
        require(self.select in known, "tune.scheduler.select", self.select, f"one of {known}")
        ok = bool(self.factors) and all(0 < x < math.inf and x != 1 for x in self.factors)
        require(ok, "tune.scheduler.factors", self.factors, "positive numbers other than 1")


SCHEDULERS = {each.name: each for each in (Fifo(), Asha(), HyperBand(), Population())}


@dataclass(frozen=True)
class Tune:
    """How trials are chosen, and how many there are; the group ``tune`` of a file."""

    samples: int = setting(1, least=1)  # draws of the ranges; each runs the whole grid
    seed: int = setting(0, least=0)  # of what is drawn
    searcher: Literal["random", "optuna"] = "random"  # optuna: a tree-structured Parzen estimator
    scheduler: Any = Fifo()  # fifo, asha, hyperband, pbt, or {name: ..., its settings}
    metric: str = "return_mean"  # of the reports: what a trial is judged by
    mode: Literal["max", "min"] = "max"
    parallel: int | None = setting(None, least=1)  # trials at once; none: as many as CPUs allow
    failures: int = setting(3, least=0)  # deaths of its process that a trial survives
    keep: int = setting(2, least=1)  # checkpoints of each trial

    def __post_init__(self) -> None:
        check_bounds(self, "tune.")
        require(
            self.searcher in ("random", "optuna"),
            "tune.searcher",
            self.searcher,
            "random or optuna",
        )
        require(self.mode in ("max", "min"), "tune.mode", self.mode, "max or min")


@dataclass(frozen=True)
class Search:
    """One experiment: what every trial has, what varies, and how trials are chosen.

    ``fixed`` is a nested configuration, ``where`` the file it comes from (None: given in Python,
    where short names of settings do). A range is {"loguniform": [1e-4, 1e-2]}.
    """

    name: str
    fixed: Mapping[str, Any]
    ranges: Mapping[str, Mapping[str, Any]]
    tune: Tune = field(default_factory=Tune)
    where: str | None = None
    trust: bool = False
    paths: tuple[str, ...] = ()  # of modules, where trials look besides
    first: int = 0  # number of its first trial

    @property
    def grid(self) -> int:
        """Trials of one sample."""
        sizes = [len(x["grid_search"]) for x in self.ranges.values() if "grid_search" in x]
        return math.prod(sizes)

    @property
    def drawn(self) -> list[str]:
        """Settings that are drawn, and so can be perturbed."""
        return [name for name, x in self.ranges.items() if "grid_search" not in x]

    def config(self, chosen: Mapping[str, Any], number: int | None = None) -> Config:
        """The configuration of the trial that has these settings; checked as any other.

        Samples without a ``seed`` of their own get consecutive ones, by the ``number`` of the
        trial. Raises ConfigError for what is unknown, of the wrong type, or cannot be together.
        """
        settings = {**self.fixed, **self.given(chosen)}
        tuned = bool(settings.pop("tuned", False))
        shared: dict[str, Any] = {"use_tuned": tuned, "trust": self.trust, "final": False}
        if self.where is not None:  # names of code in a file are the file's
            config = configure(None, None, settings, where=self.where, **shared)
        else:
            system, env, plan = (settings.pop(k, None) for k in ("system", "env", "plan"))
            config = configure(system, env, None, settings, plan=plan, **shared)
        if config.stop == Stop():
            fix = "add one, for example stop: {env_steps: 100_000}"
            raise ConfigError("the trials have no stop", self.where, fix)
        if self.tune.samples > 1 and "seed" not in self.ranges and number is not None:
            config = replace(config, seed=config.seed + (number - self.first) // max(self.grid, 1))
        refuse_impossible(config)
        return config

    def given(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the settings whose condition (``when``) holds."""
        found = {}
        for name, value in chosen.items():
            when = self.ranges[name].get("when", {}) if name in self.ranges else {}
            if all(_is(chosen.get(other), wanted) for other, wanted in when.items()):
                found[name] = value
        return found


def _is(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple) else value == wanted


def read(
    found: Mapping[str, Any], name: str, where: str | None = None, trust: bool = False
) -> Search:
    """A search from a configuration with ranges and its group ``tune``.

    Raises ConfigError for a range that cannot be, and for a key of ``tune`` that does not exist.
    """
    nested = dict(found)
    tune = _tune(nested.pop("tune", None) or {}, where)
    fixed, ranges = _split(nested, where)
    for path, each in ranges.items():
        when = {normal(str(k)): x for k, x in each.get("when", {}).items()}
        strange = [other for other in when if other not in ranges]
        if strange:
            hint = did_you_mean(strange[0], ranges)
            what = f"{path} depends on {strange[0]}, which has no range of its own"
            raise ConfigError(what, where, f"{hint}`when` names another setting that varies")
        if when and "grid_search" in each:
            what = f"{path} is searched on a grid, and cannot depend on another setting"
            raise ConfigError(what, where, "use choice")
        if when:
            ranges[path] = {**each, "when": when}
    search = Search(name, fixed, ranges, tune, where, trust)
    scheduler = tune.scheduler
    if tune.searcher != "random" and not scheduler.takes_searcher:
        what = f"{scheduler.name} perturbs what members have, and takes no searcher"
        raise ConfigError(what, where, "leave tune.searcher out")
    if tune.parallel is not None and isinstance(scheduler, HyperBand | Population):
        what = (
            f"{scheduler.name} compares trials that take turns, so tune.parallel cannot limit them"
        )
        raise ConfigError(what, where, "leave tune.parallel out: CPUs limit how many run at once")
    if isinstance(scheduler, Population):
        _check_population(search, scheduler)
    return search


def _check_population(search: Search, population: Population) -> None:
    only = {normal(name) for name in population.only}
    strange = sorted(only - set(search.drawn))
    if strange:
        hint = did_you_mean(strange[0], search.drawn)
        what = f"tune.scheduler.only names {strange[0]}, which has no range to be drawn from"
        raise ConfigError(what, search.where, f"{hint}give it one: uniform, loguniform or choice")
    if not search.drawn:
        fix = "give one or more settings a range, for example lr: {loguniform: [1e-4, 1e-2]}"
        raise ConfigError("a population has nothing to perturb", search.where, fix)
    if search.tune.samples * search.grid < 2:
        fix = "set tune.samples to its size, 4 or more"
        raise ConfigError("a population of one has nobody to copy", search.where, fix)


def _tune(given: Any, where: str | None) -> Tune:
    if not isinstance(given, Mapping):
        raise ConfigError(f"tune is {given!r}", where, "write tune: {samples: ..., ...}")
    given = dict(given)
    wanted = given.pop("scheduler", "fifo")
    if type(wanted) not in {type(each) for each in SCHEDULERS.values()}:
        options = dict(wanted) if isinstance(wanted, Mapping) else {"name": wanted}
        name = str(options.get("name", "")).lower()
        if name not in SCHEDULERS:
            hint = did_you_mean(name, SCHEDULERS)
            known = ", ".join(SCHEDULERS)
            raise ConfigError(f"there is no scheduler {name!r}", where, f"{hint}there are: {known}")
        wanted = _known(SCHEDULERS[name], options, "tune.scheduler.", where)
    found: Tune = _known(Tune(), given, "tune.", where)
    return replace(found, scheduler=wanted)


def _known(group: Any, changes: Mapping[str, Any], prefix: str, where: str | None) -> Any:
    """``merge``, but an unknown key is answered with the keys of this group."""
    names = [f.name for f in fields(group)]
    for key in changes:
        if normal(str(key)) not in names:
            hint = did_you_mean(str(key), names, prefix)
            what = f"there is no setting {prefix}{key}"
            raise ConfigError(what, where, f"{hint}there are: {', '.join(names)}")
    return merge(group, changes, where)


def _split(
    nested: Mapping[str, Any], where: str | None
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings without their ranges, and the ranges by the path of their setting."""
    ranges: dict[str, dict[str, Any]] = {}

    def without(group: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in group.items():
            path = prefix + normal(str(key))
            found = _range(value, path, where)
            if found is not None:
                ranges[path] = found
            elif isinstance(value, Mapping) and type(value) is dict:
                below = without(value, f"{path}.")
                if below or not value:
                    kept[key] = below
            else:
                kept[key] = value
        return kept

    return without(nested, ""), ranges


def _range(value: Any, path: str, where: str | None) -> dict[str, Any] | None:
    """A range as {name: arguments, "when": {...}}; None for what is none."""
    if type(value) is not dict:
        return _of_tune(value)
    names = [key for key in value if key in RANGES]
    if len(names) != 1 or set(value) - {names[0], "when"}:
        close = [key for key in value if get_close_matches(str(key), RANGES, cutoff=0.75)]
        if not names and len(value) == 1 and close and isinstance(value[close[0]], list):
            hint = did_you_mean(str(close[0]), RANGES)
            what = f"{path}: there is no range {close[0]!r}"
            raise ConfigError(what, where, f"{hint}there are: {', '.join(RANGES)}")
        return None
    name, arguments, number = names[0], value[names[0]], RANGES[names[0]]
    if not isinstance(arguments, list | tuple) or not arguments:
        raise ConfigError(f"{path}: {name} is {arguments!r}", where, f"write {name}: [...]")
    when = value.get("when") or {}
    if not isinstance(when, Mapping):
        raise ConfigError(f"{path}: when is {when!r}", where, "write when: {setting: value}")
    if number is not None:
        numeric = all(isinstance(x, int | float) and math.isfinite(x) for x in arguments)
        low, high = (*arguments, 0, 0)[:2]
        ordered = name == "randn" or low < high
        positive = "log" not in name or low > 0
        if len(arguments) != number or not (numeric and ordered and positive):
            form = {2: "[low, high]", 3: "[low, high, step]"}[number]
            form = "[mean, deviation]" if name == "randn" else form
            also = " with 0 < low" if "log" in name else ""
            raise ConfigError(
                f"{path}: {name} is {arguments}", where, f"write {name}: {form}{also}"
            )
    return {name: list(arguments)} | ({"when": dict(when)} if when else {})


def _of_tune(value: Any) -> dict[str, Any] | None:
    """A range that was made by Ray Tune's own function, which goes through as it is."""
    made = type(value).__module__.startswith("ray.tune.search.sample")
    return {"domain": value} if made else None


def experiments(
    found: Mapping[str, Any], name: str, where: str | None = None, trust: bool = False
) -> list[Search]:
    """The searches of a file: one, or those below ``experiments``, each with a name."""
    several = found.get("experiments")
    if several is None:
        return [read(found, name, where, trust)]
    if not isinstance(several, Mapping) or not several:
        raise ConfigError("experiments is no mapping", where, "write experiments: {name: {...}}")
    shared = {k: x for k, x in found.items() if k != "experiments"}
    return [
        read(shared | dict(own or {}), str(each), where, trust) for each, own in several.items()
    ]


def domains(search: Search) -> Iterator[tuple[str, Any]]:
    """The ranges in Ray Tune's form."""
    from ray import tune

    for name, each in search.ranges.items():
        if "domain" in each:
            yield name, each["domain"]
            continue
        kind = next(key for key in each if key in RANGES)
        listed = RANGES[kind] is None
        yield name, getattr(tune, kind)(*([each[kind]] if listed else each[kind]))
