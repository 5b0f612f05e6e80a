"""Does a model card say what its policy is and reaches, and load as the policy?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import shoal
from shoal.app import card
from shoal.app.cli import main
from shoal.errors import ConfigError, ShoalError
from tests.worlds import difference

FIELDS: dict[str, Any] = {"learner": "torch", "envs_per_worker": 2, "fragment_length": 50}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated and filmed while it trained."""
    folder = tmp_path_factory.mktemp("card") / "run"
    more = {"evaluate_every": 1000, "evaluate_episodes": 2, "report_every": 1000}
    shoal.run("a2c", "CartPole-v1", out=folder, stop_steps=3400, quiet=True, **FIELDS, **more)
    (folder / "film.mp4").write_bytes(b"a film")
    return folder


def front(folder: Path) -> dict[str, Any]:
    """What the hub reads."""
    _, text, _ = (folder / "README.md").read_text().split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_the_folder_loads_as_the_best_policy(run: Path, tmp_path: Path) -> None:
    folder = card.write_card(str(run), tmp_path / "hub")
    one, other = shoal.load(folder), shoal.load(run, best=True)
    assert difference(one.weights, other.weights) == ""
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(one.act(obs), other.act(obs))
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 0
    newest = shoal.load(card.write_card(str(run), tmp_path / "newest", newest=True))
    assert difference(newest.weights, shoal.load(run).weights) == ""


def test_the_card_tells_the_result_of_the_policy_that_it_holds(run: Path, tmp_path: Path) -> None:
    best = shoal.checkpoint.files.best_result(run / "checkpoint")  # type: ignore[attr-defined]
    (result,) = front(card.write_card(str(run), tmp_path / "a"))["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == f"{best[0]:.2f}"
    assert result["dataset"]["name"] == "CartPole-v1"
    assert main(["evaluate", str(run), "--best", "--episodes", "3"]) == 0
    (result,) = front(card.write_card(str(run), tmp_path / "b"))["model-index"][0]["results"]
    assert " +/- " in result["metrics"][0]["value"]
    text = (tmp_path / "b" / "README.md").read_text()
    assert "over 3 episodes without exploration" in text
    card.write_card(str(run), tmp_path / "c", newest=True)  # of which that is no result
    assert "over the last 100 episodes of training" in (tmp_path / "c" / "README.md").read_text()


def test_the_card_is_valid_for_the_hub(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = card.write_card(str(run), tmp_path / "hub")
    made = hub.ModelCard.load(folder / "README.md")
    assert made.data.library_name == "shoal" and "reinforcement-learning" in made.data.tags
    (result,) = made.data.eval_results
    assert result.metric_type == "mean_reward" and result.dataset_name == "CartPole-v1"


def test_curve_and_film_are_in_the_folder(run: Path, tmp_path: Path) -> None:
    folder = card.write_card(str(run), tmp_path / "hub")
    assert (folder / "returns.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "replay.mp4").read_bytes() == b"a film"
    text = (folder / "README.md").read_text()
    assert "(returns.png)" in text and "replay.mp4" in text
    assert str(run.parent) not in text


def test_no_folder_of_this_machine_is_told(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text("import gymnasium\ndef Env():\n    return gymnasium.make('CartPole-v1')\n")
    folder = tmp_path / "run"
    shoal.run("a2c", f"{own}:Env", out=folder, stop_steps=200, quiet=True, **FIELDS)
    hub = card.write_card(str(folder))
    told = [p.read_bytes() for p in hub.iterdir()]
    assert not any(str(tmp_path).encode() in text for text in told)
    assert b"mine.py:Env" in (hub / "README.md").read_bytes()


def test_pushing_makes_the_repository_and_uploads_the_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls: list[Any] = []

    class Api:
        def create_repo(self, name: str, exist_ok: bool) -> str:
            calls.append(name)
            return f"hub/{name}"

        def upload_folder(self, repo_id: str, folder_path: str) -> None:
            calls.append(sorted(p.name for p in Path(folder_path).iterdir()))

    monkeypatch.setattr(hub, "HfApi", Api)
    assert main(["card", str(run), "-o", str(tmp_path / "hub"), "--push", "me/cart"]) == 0
    assert "pushed: hub/me/cart" in capsys.readouterr().out
    files = ["README.md", "learner.safetensors", "manifest.json", "replay.mp4", "returns.png"]
    assert calls == ["me/cart", files]

    class Away(Api):
        def create_repo(self, name: str, exist_ok: bool) -> str:
            raise OSError("no network")

    monkeypatch.setattr(hub, "HfApi", Away)
    with pytest.raises(ShoalError, match=r"did not take it: OSError: no network"):
        card.push(tmp_path / "hub", "me/cart")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r'pip install "shoal\[hub\]"'):
        card.push(tmp_path / "hub", "me/cart")
