"""Does it find the maximum of a user's function, the same with any number of workers?"""

from __future__ import annotations

import sys

import numpy as np
import pytest

import shoal
from shoal.config.config import Cluster
from shoal.errors import ConfigError, ShoalError

TARGET = np.random.default_rng(0).normal(size=50)


def bowl(x: np.ndarray) -> float:
    return -float(((x.reshape(-1) - TARGET) ** 2).sum())


@pytest.mark.parametrize("seed", range(3))
def test_a_bowl_of_fifty_dimensions(seed: int) -> None:
    """From an error of 42, as the specification's own runs do; 50 pairs, sigma .1, Adam .05."""
    found = shoal.evolve(bowl, np.zeros((5, 10)), seed=seed)
    assert found.history[0] == pytest.approx(bowl(np.zeros(50)))
    assert found.value == pytest.approx(bowl(found.theta), rel=1e-5)
    assert found.theta.shape == (5, 10)
    assert found.value > -6e-3
    assert found.best_value == max(found.history) >= -2e-3
    assert (found.generations, found.stopped_by) == (300, "generations")
    assert found.evaluations == 300 * 101 + 1
    assert "300 generations" in str(found)


def test_a_tree_of_workers_finds_the_same() -> None:
    alone = shoal.evolve(bowl, np.zeros(50), generations=5)
    many = shoal.evolve(
        bowl, np.zeros(50), generations=5, workers=3, cluster=Cluster(in_process=True)
    )
    np.testing.assert_array_equal(alone.theta, many.theta)
    assert alone.history == many.history


def test_a_terminal_is_left_with_the_last_generation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    found = shoal.evolve(bowl, np.zeros(50), generations=3)
    *_, last, end = capsys.readouterr().err.split("\r")[-1].split("\n")
    assert last.startswith(f"generation 3  value {found.value:.6g}") and not end


def test_a_target_is_met_by_what_is_returned() -> None:
    ars = shoal.ARS(lr=0.05, sigma=0.05, directions=20)
    found = shoal.evolve(bowl, np.zeros(50), algorithm=ars, target=-1.0)
    assert found.stopped_by == "target"
    assert found.value >= -1.0
    assert found.value == pytest.approx(bowl(found.theta), rel=1e-5)
    assert found.generations < 300


def test_lqr_comes_near_its_optimum() -> None:
    """A double integrator, 100 steps from each of 4 unit starts: the optimum is -9.394."""
    a, b = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([0.0, 0.1])

    def control(gain: np.ndarray) -> float:
        x = np.concatenate([np.eye(2), -np.eye(2)])
        total = 0.0
        for _ in range(100):
            u = x @ gain
            total += float((x * x).sum() + 0.1 * (u * u).sum())
            x = x @ a.T + u[:, None] * b
            if total > 1e9:
                return -1e9
        return -total / 4

    assert control(np.zeros(2)) == pytest.approx(-1741.7, abs=0.1)
    ars = shoal.ARS(lr=0.05, sigma=0.05, directions=8, top=4)
    for seed in range(3):
        found = shoal.evolve(control, np.zeros(2), algorithm=ars, generations=150, seed=seed)
        assert found.value > -9.594


def test_no_number_is_named_with_seed_and_index() -> None:
    with pytest.raises(ShoalError, match="returned nan") as caught:
        shoal.evolve(lambda x: np.nan if x[0] > 0.1 else 0.0, [0.0, 0.0], seed=7)
    assert "generation 0 of seed 7, direction " in str(caught.value)
    assert "of the noise table" in str(caught.value)


def test_an_error_of_the_function_is_its_own() -> None:
    def fails(x: np.ndarray) -> float:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        shoal.evolve(fails, [0.0])
    assert "generation 0 of seed 0, direction 0, +" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"sigmma": 1.0}, "no setting 'sigmma' of ES"),
        ({"sigma": 0.0}, "sigma is 0"),
        ({"generations": 0}, "generations is 0"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        shoal.evolve(bowl, np.zeros(50), **fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="theta0"):
        shoal.evolve(bowl, [np.nan])
