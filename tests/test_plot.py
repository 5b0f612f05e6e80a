"""Does the picture of some runs show what happened in them?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.app.cli import main
from shoal.app.plot import Line, _figure, _student, gather, plot
from shoal.errors import ShoalError

Points = list[tuple[float, float, float | None]]  # env steps, seconds, return


def run(folder: Path, points: Points, seed: int = 0, system: str = "ppo", **settings: Any) -> Path:
    """A run folder with these reports."""
    folder.mkdir()
    config = {"shoal": "1", "system": system, "env": "CartPole-v1", "seed": seed, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    reports = [{"env_steps": x, "wall_s": s, "return_mean": y} for x, s, y in points]
    (folder / "progress.jsonl").write_text("".join(json.dumps(r) + "\n" for r in reports))
    return folder


def test_a_single_run_is_drawn_as_it_is(tmp_path: Path) -> None:
    points: Points = [(100, 0.5, None), (200, 1.5, 10.0), (300, 1.75, 30.0), (400, 4.0, 20.0)]
    (curve,) = gather([run(tmp_path / "a", points, seed=7)])
    assert curve.label == "ppo on CartPole-v1, seed 7"
    assert curve.steps.x.tolist() == [200, 300, 400]
    assert curve.seconds.x.tolist() == [1.5, 1.75, 4.0]
    assert curve.steps.mean.tolist() == curve.seconds.mean.tolist() == [10.0, 30.0, 20.0]
    assert curve.steps.low is None and curve.steps.high is None


def test_seeds_are_one_line_with_students_interval(tmp_path: Path) -> None:
    # Straight lines y = a x, reported at different steps: the mean at x is mean(a) x.
    slopes, steps = (1.0, 2.0, 6.0), ([100, 400, 900], [50, 800], [200, 300, 1000])
    folders = [
        run(tmp_path / str(i), [(x, x / 10 + i, a * x) for x in xs], seed=i)
        for i, (a, xs) in enumerate(zip(slopes, steps, strict=True))
    ]
    (curve,) = gather(folders)
    assert curve.label == "ppo on CartPole-v1, 3 seeds"
    line = curve.steps
    assert line.x[0] == 200 and line.x[-1] == 800  # where all of them have something to say
    np.testing.assert_allclose(line.mean, 3.0 * line.x)
    half = 4.303 * np.sqrt(7.0 / 3.0) * line.x  # t at 2 degrees, of the slopes' variance 7
    assert line.low is not None and line.high is not None
    np.testing.assert_allclose(line.high - line.mean, half)
    np.testing.assert_allclose(line.mean - line.low, half)
    assert curve.seconds.x[0] == pytest.approx(22.0) and curve.seconds.x[-1] == pytest.approx(81.0)


def test_what_differs_apart_from_the_seed_is_drawn_apart(tmp_path: Path) -> None:
    points: Points = [(1, 1, 1.0), (2, 2, 2.0)]
    stops = [{"env_steps": 10}, {"env_steps": 20}]
    folders = [
        run(tmp_path / "a", points, 0, algorithm={"lr": 1e-3, "gamma": 0.9}, stop=stops[0]),
        run(tmp_path / "b", points, 1, algorithm={"lr": 1e-3, "gamma": 0.9}, stop=stops[1]),
        run(tmp_path / "c", points, 0, algorithm={"lr": 1e-4, "gamma": 0.9}),
        run(tmp_path / "d", points, 0, system="a2c", algorithm={"lr": 1e-3}),
        run(tmp_path / "e", points, 0, system="a2c", algorithm={"lr": 1e-3}),
    ]
    assert [curve.label for curve in gather(folders)] == [
        "ppo on CartPole-v1, algorithm.lr=0.001, 2 seeds",
        "ppo on CartPole-v1, algorithm.lr=0.0001, seed 0",
        "a2c on CartPole-v1, 2 runs",  # of one seed: not two seeds
    ]


@pytest.mark.parametrize("name", [r"\frac", r"$\frac$", "a_b^c", "$x$ {", r"\$", "%d #&~"])
def test_a_name_is_no_formula(tmp_path: Path, name: str) -> None:
    folder = run(tmp_path / "a", [(1, 1, 1.0), (2, 2, 2.0)], system=name)
    assert plot([folder], tmp_path / "out.svg")[0].startswith(f"{name} on CartPole-v1")
    (legend,) = _figure(gather([folder])).legends
    legend.figure.canvas.draw()  # raises where matplotlib takes a label for a formula


def test_a_folder_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", [(1, 1, 1.0), (2, 2, 2.0)])
    (curve,) = gather([folder, folder])
    assert curve.steps.low is None


@pytest.mark.parametrize("df", [1, 2, 5, 10, 11, 29, 100])
def test_student_agrees_with_scipy(df: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert _student(df) == pytest.approx(stats.t.ppf(0.975, df), rel=3e-4)


def test_figure_has_every_line_in_both_panels(tmp_path: Path) -> None:
    rising: Points = [(x, x / 100, float(x)) for x in range(100, 1100, 100)]
    falling: Points = [(x, x / 50, -float(x)) for x in range(100, 1100, 100)]
    folders = [run(tmp_path / f"a{i}", rising, i) for i in range(2)]
    curves = gather([*folders, run(tmp_path / "b", falling, system="a2c")])
    figure = _figure(curves)
    left, right = figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("env steps", "seconds")
    assert "return" in left.get_ylabel()
    for axes, lines in ((left, [c.steps for c in curves]), (right, [c.seconds for c in curves])):
        for drawn, line in zip(axes.lines, lines, strict=True):
            np.testing.assert_array_equal(drawn.get_xydata(), np.stack([line.x, line.mean], 1))
        assert len(axes.collections) == 1  # the interval of the one that has several seeds
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [c.label for c in curves]


def test_runs_of_other_speeds_are_one_line_all_the_same(tmp_path: Path) -> None:
    """One had ended before the other began to report."""
    folders = [
        run(tmp_path / "a", [(10, 1, 1.0), (20, 2, 2.0)], 0),
        run(tmp_path / "b", [(10, 11, 3.0), (20, 12, 4.0)], 1),
    ]
    (curve,) = gather(folders)
    assert curve.seconds.x[[0, -1]].tolist() == [6.0, 7.0]
    assert curve.seconds.mean[[0, -1]].tolist() == [2.0, 3.0]


def test_each_environment_has_a_row_of_its_own(tmp_path: Path) -> None:
    low: Points = [(100, 1, 0.0), (200, 2, 1.0)]
    high: Points = [(100, 1, -400.0), (200, 2, -80.0)]
    folders = [
        run(tmp_path / "a", low, env="FrozenLake-v1"),
        run(tmp_path / "b", high, env="Acrobot-v1"),
        run(tmp_path / "c", high, env="Acrobot-v1", system="dqn"),
    ]
    figure = _figure(gather(folders))
    top, _, bottom, _ = figure.axes
    assert (top.get_title(loc="left"), bottom.get_title(loc="left")) == (
        "FrozenLake-v1",
        "Acrobot-v1",
    )
    assert (len(top.lines), len(bottom.lines)) == (1, 2)
    assert top.get_ylim()[0] > -1 and bottom.get_ylim()[1] < 0
    labels = [text.get_text() for text in bottom.get_legend().get_texts()]
    assert labels == ["ppo, seed 0", "dqn, seed 0"]


def test_evaluations_are_drawn_beside_the_training(tmp_path: Path) -> None:
    """At the env steps of the policies that were evaluated, each once."""
    folder = run(tmp_path / "a", [(100, 1, 1.0), (200, 2, 2.0), (300, 3, 3.0)])
    lines = (folder / "progress.jsonl").read_text().splitlines()
    found = [{}, {"at": 90, "y": 7.0}, {"at": 90, "y": 7.0}]
    reports = [
        json.loads(line)
        | ({"evaluation/env_steps": x["at"], "evaluation/return_mean": x["y"]} if x else {})
        for line, x in zip(lines, found, strict=True)
    ]
    reports.append({"env_steps": 400, "wall_s": 4, "return_mean": 4.0})
    reports[-1] |= {"evaluation/env_steps": 390, "evaluation/return_mean": 9.0}
    (folder / "progress.jsonl").write_text("".join(json.dumps(r) + "\n" for r in reports))
    (curve,) = gather([folder])
    assert curve.evaluation is not None and curve.evaluation_s is not None
    assert curve.evaluation.x.tolist() == [90, 390]
    assert curve.evaluation.mean.tolist() == [7.0, 9.0]
    assert curve.evaluation_s.x.tolist() == [2, 4]  # when they were known
    assert len(_figure([curve]).axes[0].lines) == 2


def test_picture_is_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "a", [(1000, 1, 1.0), (2000, 2, 5.0)])
    out = tmp_path / "pictures" / "returns.png"
    assert main(["plot", str(folder), "-o", str(out)]) == 0
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "ppo on CartPole-v1, seed 0: return 5.0 at 2,000 env steps" in capsys.readouterr().out


def test_runs_without_a_common_stretch_are_refused(tmp_path: Path) -> None:
    folders = [
        run(tmp_path / "a", [(1, 1, 1.0), (2, 2, 2.0)], 0),
        run(tmp_path / "b", [(5, 5, 1.0), (6, 6, 2.0)], 1),
    ]
    with pytest.raises(ShoalError, match="no stretch in common"):
        gather(folders)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("folder", "no run folder"),
        ("config", "config.json cannot be read"),
        ("list", "config.json cannot be read"),
        ("empty", "no returns to draw"),
        ("none", "no returns to draw"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, spoil: str, told: str) -> None:
    folder = tmp_path / "a"
    if spoil != "folder":
        run(folder, {"empty": [], "none": [(1, 1, None)]}.get(spoil, [(1, 1, 1.0)]))
    if spoil in ("config", "list"):
        (folder / "config.json").write_text({"config": "{", "list": "[]"}[spoil])
    with pytest.raises(ShoalError, match=told) as caught:
        plot([folder], tmp_path / "out.png")
    assert str(folder) in str(caught.value.where)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("out", ["out.jpg", "out", "file/out.png"])
def test_a_picture_that_cannot_be_written_is_refused(tmp_path: Path, out: str) -> None:
    folder = run(tmp_path / "a", [(1, 1, 1.0), (2, 2, 2.0)])
    (tmp_path / "file").touch()
    with pytest.raises(ShoalError) as caught:
        plot([folder], tmp_path / out)
    assert caught.value.where == str(tmp_path / out) and caught.value.fix
    assert not (tmp_path / out).exists()


def test_a_line_of_one_run_has_no_interval() -> None:
    assert Line(np.zeros(1), np.zeros(1)).low is None
