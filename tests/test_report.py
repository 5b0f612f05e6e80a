"""Does a report show what is in its runs, and nothing that could run?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.app import report as reports
from shoal.app.cli import main
from shoal.app.report import report
from shoal.app.statistics import interval, iqm
from shoal.errors import ConfigError, ShoalError

pytest.importorskip("plotly")


def run(
    folder: Path, final: float, seed: int = 0, env: str = "CartPole-v1", **settings: Any
) -> Path:
    """A run folder whose return rises to ``final``."""
    folder.mkdir(parents=True)
    config = {"shoal": "1", "system": "ppo", "env": env, "seed": seed, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    made = [
        {"env_steps": 100 * i, "wall_s": float(i), "return_mean": final * i / 5, "concurrency": 0}
        | {"time/env": 0.25, "time/learn": 0.5}
        for i in range(1, 6)
    ]
    (folder / "progress.jsonl").write_text("".join(json.dumps(r) + "\n" for r in made))
    return folder


def written(folders: list[Path], tmp_path: Path) -> str:
    """The page without plotly itself."""
    text = report(folders, tmp_path / "report.html").read_text()
    return re.sub(r"<script>/\*\*.*?</script>", "", text, flags=re.S)


# ------------------------------------------------------------------ statistics


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 30])
def test_the_interquartile_mean_is_scipys(n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(n).normal(size=n)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25))


def test_the_interquartile_mean_ignores_the_outer_quarters() -> None:
    assert iqm(np.array([-1e9, 1.0, 3.0, 1e9])) == 2.0


def test_the_interval_resamples_runs_within_each_task() -> None:
    """Tasks of other scales do not mix: with equal runs on each there is no spread."""
    tasks = [np.full(3, 1.0), np.full(5, 100.0)]
    low, high = interval(tasks, lambda x: float(x.mean()))
    assert low == pytest.approx(high) == pytest.approx((3 * 1 + 5 * 100) / 8)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for i in range(60):
        low, high = interval([rng.normal(size=30)], lambda x: float(x.mean()), seed=i)
        covered += low <= 0.0 <= high
    assert 50 <= covered <= 60


# ------------------------------------------------------------------ the page


def test_final_returns_of_seeds_are_one_row(tmp_path: Path) -> None:
    folders = [run(tmp_path / str(i), x, i) for i, x in enumerate((100.0, 200.0, 900.0))]
    text = written(folders, tmp_path)
    (row,) = re.findall(r"<tr><td>ppo, 3 seeds</td>(.*?)</tr>", text)
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells[0] == "3" and cells[1] == "400"  # of three none is cut off
    assert cells[3:] == ["400", "200", "100", "900", "training"]


def test_evaluations_count_if_all_runs_have_one(tmp_path: Path) -> None:
    folders = [run(tmp_path / str(i), 100.0, i) for i in range(2)]
    (folders[0] / "evaluation.json").write_text(json.dumps({"return_mean": 500.0}))
    assert "<td>training</td>" in written(folders, tmp_path)
    (folders[1] / "evaluation.json").write_text(json.dumps({"return_mean": 400.0}))
    text = written(folders, tmp_path)
    assert "<td>evaluation</td>" in text and "<td>450</td>" in text


def test_settings_that_differ_are_told_and_no_others(tmp_path: Path) -> None:
    one = run(tmp_path / "a", 1.0, algorithm={"lr": 0.1, "gamma": 0.9})
    other = run(tmp_path / "b", 1.0, algorithm={"lr": 0.2, "gamma": 0.9})
    text = written([one, other], tmp_path)
    assert "<td>algorithm.lr</td><td>0.1</td><td>0.2</td>" in text
    assert "algorithm.gamma" not in text


def test_how_runs_ended_is_told(tmp_path: Path) -> None:
    folders = [run(tmp_path / name, 1.0, i) for i, name in enumerate(("done", "fell", "killed"))]
    (folders[0] / "summary.json").write_text(json.dumps({"stopped_by": "return"}))
    told = {"stopped_by": "error", "error": "ValueError: <b>no</b>"}
    (folders[1] / "summary.json").write_text(json.dumps(told))
    text = written(folders, tmp_path)
    assert "<td>return</td>" in text and "is running, or was killed" in text
    assert "ValueError: &lt;b&gt;no&lt;/b&gt;" in text


def test_time_is_told_by_parts(tmp_path: Path) -> None:
    text = written([run(tmp_path / "a", 1.0)], tmp_path)
    for part, share in (("env", 25), ("learn", 50), ("other", 25)):
        assert f'title="{part} {share} %"' in text


def test_names_are_no_html(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    folder = run(tmp_path / "a", 1.0, env=bad, system=f"x{bad}")
    text = report([folder], tmp_path / "report.html").read_text()
    assert bad not in text


def test_films_are_in_the_page_if_they_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [run(tmp_path / str(i), 1.0, i) for i in range(2)]
    (folders[0] / "videos").mkdir()
    (folders[0] / "videos" / "100.mp4").write_bytes(b"small")
    (folders[1] / "long.mp4").write_bytes(b"0" * 1000)
    monkeypatch.setattr(reports, "FILM", 100)
    text = written(folders, tmp_path)
    assert "data:video/mp4;base64,c21hbGw=" in text and "1 larger ones are left out" in text


def test_several_environments_have_a_part_each_and_one_together(tmp_path: Path) -> None:
    folders = []
    for env, scale in (("A-v0", 1.0), ("B-v0", 1000.0)):
        for system, x in (("ppo", 1.0), ("a2c", 0.5)):
            name = f"{env}-{system}"
            folders += [
                run(tmp_path / name / str(i), scale * (x - 0.1 * i), i, env, system=system)
                for i in range(2)
            ]
    text = written(folders, tmp_path)
    assert "<h2>A-v0</h2>" in text and "<h2>B-v0</h2>" in text
    together = text.split("All environments together")[1]
    ppo, a2c = (
        float(re.findall(rf"<td>{name}</td><td>([\d.]+)</td>", together)[0])
        for name in ("ppo", "a2c")
    )
    assert ppo == pytest.approx(0.92, abs=0.01) and a2c == pytest.approx(0.08, abs=0.01)


def test_nothing_is_fetched(tmp_path: Path) -> None:
    text = written([run(tmp_path / "a", 1.0)], tmp_path)
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]+"', text)


def test_what_cannot_be_reported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = run(tmp_path / "a", 1.0), tmp_path / "r.html"
    with pytest.raises(ConfigError, match=r"a report ends in \.html"):
        report([folder], tmp_path / "r.pdf")
    with pytest.raises(ShoalError, match="no run folder"):
        report([tmp_path / "nothing"], out)
    monkeypatch.setattr(reports, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "shoal\[report\]"'):
        report([folder], out)
    assert not out.exists()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_browser_draws_the_page_within_a_phone(tmp_path: Path) -> None:
    folders = [run(tmp_path / str(i), 100.0, i) for i in range(2)]
    out = tmp_path / "report.html"
    assert main(["report", *map(str, folders), "-o", str(out)]) == 0
    measure = (
        "<script>setTimeout(()=>document.title='wide '+document.body.scrollWidth,1500)</script>"
    )
    out.write_text(out.read_text().replace("</body>", measure + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    command = [str(CHROMIUM), *options, "--dump-dom", out.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.count('class="main-svg"') >= 2
    assert int(re.findall(r"<title>wide (\d+)</title>", done.stdout)[0]) <= 500
