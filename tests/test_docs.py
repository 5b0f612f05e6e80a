"""Is what the documents show true?"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.systems.table import SYSTEMS
from tools import newcomer
from tools.blocks import blocks
from tools.pages import pages

ROOT = Path(__file__).resolve().parent.parent


def figure() -> Any:
    spec = importlib.util.spec_from_file_location("figure", ROOT / "docs" / "figure.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


FIGURE = figure()


@pytest.mark.parametrize(
    ("name", "box"), [(name, box) for name, x in FIGURE.FIGURES.items() for box in x.boxes]
)
def test_each_box_of_a_figure_is_code(name: str, box: str) -> None:
    module, _, inside = FIGURE.FIGURES[name].boxes[box].code.partition(":")
    found = importlib.import_module(module)
    for part in inside.split("."):
        found = getattr(found, part)


@pytest.mark.parametrize("name", FIGURE.FIGURES)
def test_a_figure_can_be_drawn(name: str, tmp_path: Path) -> None:
    FIGURE.draw(name, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("[a-z]*.md"))),
    ],
)
def test_links_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text()
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_pages_that_are_written_from_code_and_results_are_new() -> None:
    old = [str(path) for path, text in pages().items() if (ROOT / path).read_text() != text]
    assert not old, "python -m tools.pages"


def test_the_site_is_built_and_fetches_nothing(tmp_path: Path) -> None:
    """Strictly: a link that leads nowhere ends it. A page that is read needs no network."""
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r"<(?:script|img|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//")
    found = [page.name for page in tmp_path.rglob("*.html") if fetched.search(page.read_text())]
    styles = [
        x.name for x in tmp_path.rglob("*.css") if re.search("url\\(.?https?:", x.read_text())
    ]
    assert not found + styles and (tmp_path / "systems" / "ppo.html").exists()


def test_every_page_is_in_the_site() -> None:
    """And the site has every page."""
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]))
    found = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("[a-z]*.md")}
    assert listed == found


def test_a_newcomer_does_what_getting_started_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Files are written, commands run in their order, and the first that fails ends it."""
    page = tmp_path / "page.md"
    page.write_text(
        '```python title="a.py"\nx = "seen"\n```\n'
        "```python\nimport a\n\nprint(a.x)\n```\n"
        "<!-- test: skip, it must not run -->\n```console\n$ echo skipped\n```\n"
        "```console\n$ false  # fails\n$ echo later\n```\n"
    )
    with pytest.raises(SystemExit, match="exit status 1: false"):
        newcomer.follow(blocks(page), tmp_path, os.environ["PATH"])
    said = capfd.readouterr().out
    assert "seen" in said and "skipped" not in said and "later" not in said
    assert newcomer.extras(blocks(newcomer.PAGE)) == "[onnx]"


def test_metrics_to_watch_are_in_the_systems_reports() -> None:
    """As far as a run of the system is kept."""
    texts = yaml.safe_load((ROOT / "docs" / "systems" / "systems.yaml").read_text())
    curves = json.loads((ROOT / "results" / "curves.json").read_text())
    assert texts.keys() == SYSTEMS.keys()
    for name, entry in curves.items():
        told = set(re.findall(r"`(learn/\w+)`", texts[name]["watch"]))
        assert told <= set(entry["keys"]), name


def test_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|yaml))`", text):
        assert (ROOT / "shoal" / name).exists() or (ROOT / name).exists(), name


def test_files_in_the_list_of_folders_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## Where things are")[1]
    (listed,) = re.findall(r"```text\nshoal/\n(.*?)```", text, re.S)
    folder, gone, known = "", [], 0
    for line in listed.splitlines():
        head = re.match(r"  (\w+)(/|\.py) ", line)
        if head:
            folder = head[1] if head[2] == "/" else ""
        for name in re.findall(r"\b\w+\.(?:py|yaml)\b", line):
            known += 1
            if not (ROOT / "shoal" / folder / name).is_file():
                gone.append(f"{folder}/{name}")
    assert not gone and known > 100
