"""Population based training: who copies whom, what is perturbed, and the record of both.

Jaderberg et al. 2017 (arXiv:1711.09846). Ray Tune's scheduler does what is around it: when a member
is ready, checkpoints, pauses, and members that take turns.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ray.tune.schedulers import PopulationBasedTraining

from shoal.app.folder import write_json
from shoal.config.settings import to_dict
from shoal.errors import ConfigError
from shoal.tuning.lineage import LINEAGE, SCHEDULE, lineage, schedule
from shoal.tuning.search import TIME, Population, Search, domains
from shoal.tuning.trial import SEARCH, number

KEPT = 3  # copies of donors' checkpoints that a member keeps


class Member(NamedTuple):
    """What an exploit decides by."""

    score: float  # higher is better
    returns: Sequence[float]  # of the newest episodes, for the t-test


def truncation(members: Sequence[Member], fraction: float) -> tuple[list[int], list[int]]:
    """Indices of the lowest and of the highest ``fraction`` of a population, at least one each.

    Members of equal scores are in neither part where the border falls among them and nothing is
    above or below: a population of equals copies nothing.
    """
    order = sorted(range(len(members)), key=lambda i: members[i].score)
    size = min(max(math.ceil(len(members) * fraction - 1e-9), 1), len(members) // 2)
    if not size:
        return [], []
    low, high = order[:size], order[len(order) - size :]
    if members[low[0]].score == members[high[-1]].score:
        return [], []
    return low, high


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Welch's t-test of unequal means: (t, degrees of freedom, two-sided p); t > 0 if b is higher.

    Without spread in both it is certain: p is 0 for different means, and 1 for equal ones.
    """
    na, nb = len(a), len(b)
    if na < 2 or nb < 2:
        return 0.0, 0.0, 1.0
    va, vb = np.var(a, ddof=1) / na, np.var(b, ddof=1) / nb
    difference = float(np.mean(b) - np.mean(a))
    if va + vb == 0.0:
        return (
            math.copysign(math.inf, difference) if difference else 0.0,
            0.0,
            float(not difference),
        )
    t = difference / math.sqrt(va + vb)
    df = float((va + vb) ** 2 / (va**2 / (na - 1) + vb**2 / (nb - 1)))
    return t, df, student(t, df)


def student(t: float, df: float) -> float:
    """Two-sided p of Student's t: the incomplete beta function I_x(df / 2, 1 / 2)."""
    return _beta(df / (df + t * t), df / 2.0, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz's method)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta(1.0 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d, value = 1.0, 1.0 - (a + b) * x / (a + 1.0), 1.0
    d = 1.0 / (d or 1e-300)
    value = d
    for m in range(1, 500):
        for top in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / ((1.0 + top * d) or 1e-300)
            c = (1.0 + top / c) or 1e-300
            value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return front * value / a


def donor(
    population: Population, own: int, members: Sequence[Member], rng: np.random.Generator
) -> int | None:
    """The member that ``own`` copies now; None to go on as it is (section 4.1.1 of the paper).

    Members whose score is not a number are neither asked nor copied. In a tournament of equals a
    coin decides: if equals never copied each other, a population of equals would never explore.
    """
    known = [i for i, member in enumerate(members) if math.isfinite(member.score)]
    if own not in known or len(known) < 2:
        return None
    if population.select == "truncation":
        low, high = truncation([members[i] for i in known], population.fraction)
        return known[int(rng.choice(high))] if known.index(own) in low else None
    other = int(rng.choice([i for i in known if i != own]))
    me, them = members[own], members[other]
    if population.select == "tournament":
        wins = them.score > me.score or (them.score == me.score and rng.random() < 0.5)
        return other if wins else None
    t, _, p = welch(me.returns, them.returns)
    return other if t > 0 and p < population.significance else None


def explore(
    value: Any, prior: Any, population: Population, rng: np.random.Generator
) -> tuple[Any, str]:
    """A new value of one setting, and how it came about: "* 1.2", "resampled", "next", ...

    A whole number moves by one at least, and stays whole; a choice moves to its neighbour; 0, which
    no factor changes, is drawn anew.
    """
    choices = getattr(prior, "categories", None)
    multiplies = choices is None and isinstance(value, int | float | np.number)
    if rng.random() < population.resample or (multiplies and value == 0):
        drawn = prior.sample(random_state=rng)
        return (drawn.item() if isinstance(drawn, np.generic) else drawn), "resampled"
    if choices is not None:
        at = list(choices).index(value) + (1 if rng.random() < 0.5 else -1)
        at = min(max(at, 0), len(choices) - 1)
        return choices[at], "next" if choices[at] != value else "stays"
    factor = float(rng.choice(population.factors))
    if isinstance(value, int | np.integer):
        new = round(value * factor)
        new = new if new != value else int(value) + (1 if factor > 1 else -1)
        return new, f"* {factor:g}"
    return float(value) * factor, f"* {factor:g}"


class Scheduler(PopulationBasedTraining):
    """Ray Tune's population based training with this project's selection and exploration.

    Args:
        search: the experiment, which says what is perturbed and by whom what is copied.
        folder: of the experiment; the lineage is kept there.
    """

    def __init__(self, search: Search, population: Population, folder: Path) -> None:
        only = set(population.only) or set(search.drawn)
        self._priors = {name: x for name, x in domains(search) if name in only}
        super().__init__(
            time_attr=TIME,
            perturbation_interval=population.every,
            burn_in_period=population.start,
            hyperparam_mutations=dict(self._priors),
            quantile_fraction=0.5,  # every member keeps a checkpoint that others may copy
            log_config=False,
            require_attrs=False,
            synch=population.synchronous,
        )
        self._population, self._search, self._folder = population, search, folder
        self._rng = np.random.default_rng([search.tune.seed, len(lineage(folder))])

    # ------------------------------------------------------------ selection

    def _quantiles(self) -> tuple[list[Any], list[Any]]:
        """All members may be copied; which of them copies is decided for each (``_chosen``)."""
        ready = [t for t in self._trial_state if self._member(t) is not None]
        return [], ready

    def _member(self, trial: Any) -> Member | None:
        state = self._trial_state[trial]
        if state.last_score is None or trial.is_finished():
            return None
        returns: Any = (state.last_result or {}).get("last_returns", [])
        sign = self._metric_op or 1.0
        return Member(float(state.last_score), [sign * x for x in returns])

    def _save_trial_state(self, state: Any, time: int, result: dict[str, Any], trial: Any) -> Any:
        score = super()._save_trial_state(state, time, result, trial)
        state.last_result = dict(result)
        return score

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, upper_quantile: list[Any], lower_quantile: list[Any]
    ) -> None:
        """Copy another member, or else keep a checkpoint that others may copy."""
        ready = upper_quantile
        if trial in ready:
            members = [self._member(each) or Member(math.nan, []) for each in ready]
            chosen = donor(self._population, ready.index(trial), members, self._rng)
            if chosen is not None and self._is_there(ready[chosen]):
                self._trial_state[trial].last_checkpoint = None
                self._exploit(tune_controller, trial, ready[chosen])
                return
        super()._checkpoint_or_exploit(trial, tune_controller, ready, [])

    def _is_there(self, trial: Any) -> bool:
        """Whether the member has a checkpoint of what its score is of; waits for one in writing."""
        state = self._trial_state[trial]
        saving: Any = state.last_checkpoint
        if saving is not None and hasattr(saving, "resolve"):
            done = saving.resolve()
            state.last_checkpoint = done.checkpoint if done else None
        found: Any = state.last_checkpoint
        return found is not None and Path(found.path).is_dir()

    # ------------------------------------------------------------ exploration

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], Any]:
        """The donor's settings, perturbed; a draw that the resolver refuses is drawn again."""
        for _ in range(20):
            new, how = dict(trial_to_clone.config), {}
            for name, prior in self._priors.items():
                new[name], how[name] = explore(new[name], prior, self._population, self._rng)
            chosen = {name: x for name, x in new.items() if name != SEARCH}
            try:
                self._search.config(chosen, number(trial.trial_id))
            except ConfigError:
                continue
            return new, how
        return dict(trial_to_clone.config), dict.fromkeys(self._priors, "stays")

    def _exploit(self, tune_controller: Any, trial: Any, trial_to_clone: Any) -> None:
        """As Tune does it; the copy is the member's own, and its process goes on."""
        old = {name: trial.config[name] for name in self._priors}
        theirs = {name: trial_to_clone.config[name] for name in self._priors}
        pair = [self._member(each) for each in (trial, trial_to_clone)]
        scores = [member.score if member else math.nan for member in pair]
        time = int(self._trial_state[trial_to_clone].last_train_time)
        own_time = int(self._trial_state[trial].last_train_time)
        if not tune_controller._staged_trials and trial.status != trial.PAUSED:
            # Without this, Tune would end the process, as no other trial is waiting for it.
            tune_controller._staged_trials.add(trial)
            tune_controller._actor_cache.increase_max(trial.placement_group_factory)
        super()._exploit(tune_controller, trial, trial_to_clone)
        copied = self._copied(trial, time)
        sign = self._metric_op or 1.0
        entry = {
            "time": time,
            "recipient_time": own_time,
            "recipient": trial.trial_id,
            "donor": trial_to_clone.trial_id,
            "recipient_score": sign * scores[0],
            "donor_score": sign * scores[1],
            "old": old,
            "donor_had": theirs,
            "new": {name: trial.config[name] for name in self._priors},
            "checkpoint": str(copied.relative_to(self._folder)),
        }
        with (self._folder / LINEAGE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, default=_plain) + "\n")
        self._write_schedule(trial)
        tune_controller.checkpoint(force=True, wait=True)  # a kill from now on finds it

    def _write_schedule(self, trial: Any) -> None:
        """What `shoal train --schedule` replays: the settings that led to the member."""
        chosen = {name: x for name, x in trial.config.items() if name != SEARCH}
        config = to_dict(self._search.config(chosen, number(trial.trial_id)))
        changes = schedule(lineage(self._folder), trial.trial_id)
        write_json(
            Path(trial.storage.trial_fs_path) / SCHEDULE, {"config": config, "schedule": changes}
        )

    def _copied(self, trial: Any, time: int) -> Path:
        """The donor's checkpoint as the member's own: the donor may delete its when it goes on."""
        result = trial.run_metadata.checkpoint_manager._latest_checkpoint_result
        own = Path(trial.storage.trial_fs_path)
        made = sorted(own.glob("copied_*"), key=lambda p: int(p.name.split("_")[1]))
        count = int(made[-1].name.split("_")[1]) + 1 if made else 0
        target = own / f"copied_{count}_{time}"
        own.mkdir(parents=True, exist_ok=True)
        shutil.copytree(result.checkpoint.path, target, copy_function=_link)
        result.checkpoint.path = str(target)
        for old in made[: -(KEPT - 1)]:
            shutil.rmtree(old)
        return target

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        trial = super().choose_trial_to_run(tune_controller)
        if trial is not None and trial in tune_controller._staged_trials:
            group = trial.placement_group_factory
            waits = trial not in tune_controller._trial_to_actor
            if waits and not tune_controller._actor_cache.has_cached_object(group):
                tune_controller._staged_trials.discard(
                    trial
                )  # another took the process kept for it
                tune_controller._actor_cache.decrease_max(group)
        return trial

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A member that is resumed is not ready at once: its last exploit or save counts."""
        super().on_trial_add(tune_controller, trial)
        result = trial.latest_checkpoint_result
        if result is not None:
            state = self._trial_state[trial]
            state.last_perturbation_time = int((result.metrics or {}).get(TIME, 0))
            state.last_train_time = state.last_perturbation_time


def _link(source: str, target: str) -> None:
    """A second name for a file that nobody writes to any more; a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
