"""Does a population copy and perturb as its paper says?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from shoal.tuning.lineage import SCHEDULE, Replayed, schedule
from shoal.tuning.population import Member, donor, explore, truncation, welch
from shoal.tuning.search import Population


def members(scores: Any) -> list[Member]:
    return [Member(float(x), []) for x in scores]


def test_truncation_copies_the_highest_fifth_to_the_lowest() -> None:
    low, high = truncation(members(range(1, 11)), 0.2)
    assert sorted(low) == [0, 1] and sorted(high) == [8, 9]  # scores 1 and 2; 9 and 10
    assert truncation(members([3, 1, 2, 0]), 0.25) == ([3], [0])


def test_equals_do_not_truncate_each_other() -> None:
    assert truncation(members([5, 5, 5, 5]), 0.25) == ([], [])
    assert truncation(members([5]), 0.5) == ([], [])


def test_welch_golden_values() -> None:
    a = np.arange(1.0, 11.0)
    t, df, p = welch(a, a + 3)
    assert (round(t, 4), round(df, 6), round(p, 4)) == (2.2156, 18.0, 0.0398)
    assert welch(a + 3, a)[0] == -t


def test_welch_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.normal(0, 1, rng.integers(2, 20)), rng.normal(0.5, 3, rng.integers(2, 20))
        t, df, p = welch(a, b)
        found = scipy.stats.ttest_ind(b, a, equal_var=False)
        np.testing.assert_allclose((t, df, p), (found.statistic, found.df, found.pvalue), 1e-9)


def test_without_spread_a_difference_is_certain() -> None:
    assert welch([1, 1], [2, 2])[2] == 0.0 and welch([1, 1], [1, 1])[2] == 1.0
    assert welch([1.0], [2.0, 3.0])[2] == 1.0  # one episode says nothing


@pytest.mark.parametrize("significance, copies", [(0.05, True), (0.01, False)])
def test_the_t_test_copies_what_is_significantly_better(significance: float, copies: bool) -> None:
    a = np.arange(1.0, 11.0)
    two = [Member(5.5, list(a)), Member(8.5, list(a + 3))]
    population = Population(select="t-test", significance=significance)
    rng = np.random.default_rng(0)
    assert donor(population, 0, two, rng) == (1 if copies else None)
    assert donor(population, 1, two, rng) is None  # the worse one is never copied


def test_a_tournament_copies_the_better_of_two() -> None:
    population, rng = Population(select="tournament"), np.random.default_rng(0)
    found = [donor(population, 0, members([1, 2, 3]), rng) for _ in range(100)]
    assert set(found) == {1, 2} and 30 < found.count(1) < 70
    assert {donor(population, 2, members([1, 2, 3]), rng) for _ in range(50)} == {None}


@pytest.mark.parametrize("select", ["truncation", "tournament", "t-test"])
def test_who_has_no_score_neither_copies_nor_is_copied(select: Any) -> None:
    population, rng = Population(select=select, fraction=0.5), np.random.default_rng(0)
    scores = members([math.nan, 1, 2])
    assert donor(population, 0, scores, rng) is None
    assert {donor(population, 1, scores, rng) for _ in range(50)} <= {None, 2}
    assert donor(population, 0, members([1]), rng) is None


class Prior:
    def __init__(self, categories: Any = None) -> None:
        self.categories = categories

    def sample(self, random_state: np.random.Generator) -> float:
        return 77.0


def test_perturbing_multiplies_by_a_factor() -> None:
    population, rng = Population(resample=0.0), np.random.default_rng(0)
    found = [explore(0.5, Prior(), population, rng) for _ in range(50)]
    assert set(found) == {(0.4, "* 0.8"), (0.6, "* 1.2")}


def test_whole_numbers_stay_whole_and_move() -> None:
    population, rng = Population(resample=0.0), np.random.default_rng(0)
    assert {explore(1, Prior(), population, rng)[0] for _ in range(50)} == {0, 2}
    found = {explore(10, Prior(), population, rng)[0] for _ in range(50)}
    assert found == {8, 12} and all(type(x) is int for x in found)


def test_zero_is_drawn_anew() -> None:
    population, rng = Population(resample=0.0), np.random.default_rng(0)
    assert explore(0.0, Prior(), population, rng) == (77.0, "resampled")


def test_choices_move_to_a_neighbour() -> None:
    population, rng = Population(resample=0.0), np.random.default_rng(0)
    prior = Prior(["a", "b", "c"])
    assert {explore("b", prior, population, rng)[0] for _ in range(50)} == {"a", "c"}
    assert {explore("a", prior, population, rng) for _ in range(50)} == {
        ("a", "stays"),
        ("b", "next"),
    }


def test_resampling_draws_from_the_prior() -> None:
    population, rng = Population(resample=0.25), np.random.default_rng(0)
    found = [explore(1.0, Prior(), population, rng)[1] for _ in range(2000)]
    assert 430 < found.count("resampled") < 570


def toy(noise: float, select: Any, seed: int, exploit: bool = True) -> float:
    """The paper's toy problem (figure 2): best Q after 400 steps of two members.

    Q = 1.2 - x^2 - y^2; each ascends 1.2 - h0 x^2 - h1 y^2 with h = (1, 0) or (0, 1), and so only
    copying reaches the top.
    """
    rng = np.random.default_rng(seed)
    population = Population(select=select, fraction=0.5, resample=0.0)
    theta = 0.9 + noise * rng.uniform(-1, 1, (2, 2))
    h = np.array([[1.0, 0.0], [0.0, 1.0]])
    for step in range(1, 401):
        theta -= 0.02 * 2 * h * theta
        if exploit and step % 10 == 0:
            for i in range(2):
                scores = members(1.2 - (theta**2).sum(1))
                chosen = donor(population, i, scores, rng)
                if chosen is not None:
                    theta[i] = theta[chosen]  # the weights alone: h is each member's own
    return float((1.2 - (theta**2).sum(1)).max())


@pytest.mark.parametrize("select", ["truncation", "tournament"])
def test_the_papers_toy_problem_is_solved_by_copying_alone(select: Any) -> None:
    assert [round(toy(0.02, select, seed), 2) for seed in range(20)] == [1.2] * 20
    assert max(toy(0.02, select, seed, exploit=False) for seed in range(20)) <= 0.5


def test_equals_copy_each_other_in_a_tournament() -> None:
    population, rng = Population(select="tournament"), np.random.default_rng(0)
    found = [donor(population, 0, members([1, 1]), rng) for _ in range(100)]
    assert 30 < found.count(1) < 70 and set(found) == {1, None}
    assert toy(0.0, "tournament", 0) == pytest.approx(1.2, abs=0.01)
    assert toy(0.0, "tournament", 0, exploit=False) == pytest.approx(0.39, abs=0.005)


def test_a_schedule_sets_what_was_due_last(tmp_path: Path) -> None:
    changes = [{"env_steps": at, "set": {"lr": lr}} for at, lr in ((0, 1.0), (90, 2.0), (200, 3.0))]
    text = json.dumps({"config": {}, "schedule": changes})
    (tmp_path / SCHEDULE).write_text(text, encoding="utf-8")
    found: list[tuple[int, float]] = []
    counters = SimpleNamespace(env_steps=0)
    trainer = SimpleNamespace(
        run=SimpleNamespace(counters=counters),
        set=lambda lr: found.append((counters.env_steps, lr)),
    )
    replayed = Replayed(tmp_path)
    for counters.env_steps in (100, 150, 200, 250):
        replayed.apply(trainer)
    assert found == [(100, 2.0), (200, 3.0)]


def test_a_schedule_follows_a_member_back_to_its_donors() -> None:
    def entry(time: int, recipient: str, donor: str, had: float, new: float) -> dict[str, Any]:
        lr = "algorithm.lr"
        return {
            "time": time,
            "recipient": recipient,
            "donor": donor,
            "donor_had": {lr: had},
            "new": {lr: new},
        }

    entries = [
        entry(100, "b", "a", 1.0, 1.2),
        entry(200, "c", "b", 1.2, 1.44),
        entry(250, "b", "d", 9.0, 10.8),  # b goes another way afterwards
        entry(300, "a", "c", 1.44, 1.7),
    ]
    rates = [(x["env_steps"], x["set"]["algorithm.lr"]) for x in schedule(entries, "a")]
    assert rates == [(0, 1.0), (100, 1.2), (200, 1.44), (300, 1.7)]
    assert [x["env_steps"] for x in schedule(entries, "b")] == [0, 250]
    assert schedule(entries, "c") == schedule(entries, "a")[:3]
    assert schedule(entries, "d") == []
