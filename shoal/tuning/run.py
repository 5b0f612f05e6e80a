"""Runs searches with Ray Tune: on Ray of this machine or a cluster, in a folder of their own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shoal.app.folder import locked, write_json
from shoal.config.config import Cluster, Config
from shoal.errors import ConfigError, ShoalError
from shoal.process import interrupts
from shoal.process.machine import cpus
from shoal.trainer import REPORT_STEPS
from shoal.tuning.board import STATUS, Row, best_of, read_status
from shoal.tuning.checks import check_same, check_trials, longest, numbered, refuse_too_many
from shoal.tuning.search import Asha, HyperBand, Population, Search, domains, read

TUNE = "tune.json"
MEMBERS_KEEP = 4  # checkpoints of a member of a population, at least: others may copy the newest
_ENVIRONMENT = {  # read by Ray Tune; also in the processes of trials, which inherit it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


@dataclass(frozen=True)
class Outcome:
    """How a search ended: its trials as `status.json` has them, and whether it was interrupted."""

    folder: Path
    trials: list[Row]
    mode: str
    interrupted: bool

    @property
    def best(self) -> Row | None:
        """The trial with the best value that it ever reported."""
        return best_of(self.trials, self.mode)


class Silent:
    """A display that shows nothing."""

    def say(self, line: str) -> None:
        """Take one line."""

    def show(self, status: Mapping[str, Any]) -> None:
        """Take the newest status."""


def run(
    searches: Sequence[Search], folder: Path, display: Any = None, address: str | None = None
) -> Outcome:
    """Run a search from its beginning, or go on with the one that the folder holds.

    Args:
        searches: experiments that share the machine, and how their trials are chosen.
        folder: an empty one, or that of a search that was interrupted.
        display: is told what happens: ``say(line)`` and ``show(status)``.
        address: of a Ray cluster; its nodes must share the folder.

    Raises ConfigError, before anything starts, for settings that cannot be, and for trials that ask
    for more than there is.
    """
    check_same(searches)
    _import_tune()
    going_on = (folder / STATUS).is_file()
    searches = numbered(searches)
    first = check_trials(searches, address)
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), interrupts.deferred(), _environment(), _ray(searches, address, first):
        if not going_on:
            _write_down(searches, folder)
        return _fit(searches, folder, display or Silent(), going_on)


def _fit(searches: Sequence[Search], folder: Path, display: Any, going_on: bool) -> Outcome:
    import ray
    from ray import tune as ray_tune
    from ray.tune import CheckpointConfig
    from ray.tune.experiment import Experiment

    from shoal.tuning.trial import SEARCH, ShoalTrial
    from shoal.tuning.watch import Watch, trial_name

    tune = searches[0].tune
    before: dict[str, Any] = {"trials": [], "seconds": 0.0}
    before = read_status(folder) if going_on else before
    total = ray.cluster_resources().get("CPU", 0.0)
    watch = Watch(searches, folder, display, total, before["trials"], before["seconds"])
    adaptive = tune.searcher == "optuna"
    keep = max(tune.keep, MEMBERS_KEEP) if isinstance(tune.scheduler, Population) else tune.keep
    experiments: Any = [
        Experiment(
            each.name,
            ShoalTrial,
            config=({} if adaptive else dict(domains(each))) | {SEARCH: each},
            num_samples=each.tune.samples,
            storage_path=str(folder),
            checkpoint_config=CheckpointConfig(num_to_keep=keep, checkpoint_at_end=True),
            max_failures=tune.failures,
            trial_dirname_creator=trial_name,
        )
        for each in searches
    ]
    resume = going_on and any((folder / searches[0].name).glob("experiment_state-*.json"))
    found = ray_tune.run(
        experiments,
        metric=tune.metric,
        mode=tune.mode,
        search_alg=_searcher(searches),
        scheduler=_scheduler(searches[0], folder / searches[0].name),
        callbacks=[watch],
        reuse_actors=True,
        raise_on_failed_trial=False,
        verbose=0,
        resume=resume or None,
        max_concurrent_trials=tune.parallel if adaptive else None,
    )
    watch.trials = found.trials
    watch.close()
    status = watch.status(found.trials)
    return Outcome(folder, status["trials"], tune.mode, watch.interrupted)


def _searcher(searches: Sequence[Search]) -> Any:
    tune = searches[0].tune
    if tune.searcher == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(max_concurrent=tune.parallel or 0, random_state=tune.seed)
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        fix = 'pip install "shoal[optuna]"'
        raise ConfigError("tune.searcher is optuna, which is not installed", None, fix) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = OptunaSearch.convert_search_space(dict(domains(searches[0])))
    return OptunaSearch(space, metric=tune.metric, mode=tune.mode, seed=tune.seed)


def _scheduler(search: Search, folder: Path) -> Any:
    from ray.tune import schedulers

    from shoal.tuning.search import TIME

    chosen = search.tune.scheduler
    if isinstance(chosen, Asha):
        most = chosen.longest or longest(search, "asha")
        return schedulers.AsyncHyperBandScheduler(
            TIME,
            max_t=most,
            grace_period=min(chosen.grace, most),
            reduction_factor=chosen.factor,
        )
    if isinstance(chosen, HyperBand):
        most = chosen.longest or longest(search, "hyperband")
        reports = max(most // (search.fixed.get("report_every") or REPORT_STEPS), 1)
        return schedulers.HyperBandScheduler(max_t=reports, reduction_factor=chosen.factor)
    if isinstance(chosen, Population):
        from shoal.tuning.population import Scheduler

        folder.mkdir(parents=True, exist_ok=True)
        return Scheduler(search, chosen, folder)
    return schedulers.FIFOScheduler()


# ------------------------------------------------------------------ around Tune


def _import_tune() -> None:
    """Raise ConfigError if what Ray Tune needs is not installed."""
    os.environ.update({k: os.environ.get(k, x) for k, x in _ENVIRONMENT.items()})
    try:
        with _quiet():
            import ray.tune  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"tuning needs Ray Tune, which cannot be imported: {error}",
            None,
            'pip install "shoal[tune]"',
        ) from error


@contextmanager
def _environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune's log; what it would tell is in the status."""
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _ray(searches: Sequence[Search], address: str | None, first: Config) -> Iterator[None]:
    """Ray of this machine, or the cluster; trials are its actors."""
    import ray

    from shoal.fleet.cluster import connect
    from shoal.tuning.trial import bundles

    most = max(int(cpus() // sum(x["CPU"] for x in bundles(first))), 1)
    count = sum(each.tune.samples * each.grid for each in searches)
    cluster = Cluster(address=address or first.cluster.address, cpus_per_worker=0.0)
    joined = cluster.joined is not None
    connection = connect(cluster, min(most, count), learns=True, own_code=False)
    try:
        there = ray.cluster_resources().get("CPU", 0.0)
        refuse_too_many(first, sum(x["CPU"] for x in bundles(first)), there, "the Ray cluster")
        with _quiet(), suppress_environments(not joined):
            yield
    finally:
        connection.close()


@contextmanager
def suppress_environments(here: bool) -> Iterator[None]:
    """On Ray of this machine, which has no agent for them, trials have no environment of their own.

    They inherit this process's, and begin in processes that are there already.
    """
    import ray
    from ray.tune.execution import class_cache

    theirs = class_cache._ActorClassCache.get

    def get(self: Any, trainable: Any) -> Any:
        if trainable not in self._cache:
            self._cache[trainable] = ray.remote(trainable)
        return self._cache[trainable]

    if here:
        class_cache._ActorClassCache.get = get  # type: ignore[method-assign]
    try:
        yield
    finally:
        class_cache._ActorClassCache.get = theirs  # type: ignore[method-assign]


# ------------------------------------------------------------------ to go on later


def _write_down(searches: Sequence[Search], folder: Path) -> None:
    """Write what a search was asked for; one with objects of Python goes on in Python only."""
    written: list[Any] = []
    for each in searches:
        tune = {**asdict(each.tune), "scheduler": asdict(each.tune.scheduler)}
        entry = {"name": each.name, "fixed": each.fixed, "ranges": each.ranges, "tune": tune}
        written.append({**entry, "where": each.where, "trust": each.trust})
    try:
        text = json.dumps(written)
    except TypeError:
        text = "null"
    write_json(folder / TUNE, json.loads(text))


def read_back(folder: Path, trust: bool = False) -> list[Search]:
    """The searches of a folder. Raises ShoalError where it holds none, or only Python can say.

    Going on also reads Ray Tune's own state of the trials there, which can hold code: go on only
    with searches of your own.
    """
    try:
        found = json.loads((folder / TUNE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"this is no folder of a search: {TUNE} cannot be read ({reason})"
        raise ShoalError(what, str(folder), "give the folder of `shoal tune`") from error
    if found is None:
        what = "this search has objects of Python in it, which no file holds"
        fix = "go on in Python: shoal.tune.run_experiments(the same, out=DIR)"
        raise ShoalError(what, str(folder), fix)
    searches = []
    with suppress(KeyError, TypeError):
        for each in found:
            nested = {**each["fixed"], **each["ranges"], "tune": each["tune"]}
            searches.append(read(nested, each["name"], each["where"], trust or bool(each["trust"])))
        return searches
    raise ShoalError(f"{TUNE} holds no search", str(folder), "give the folder of `shoal tune`")
