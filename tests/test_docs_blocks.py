"""Does every block of the documents run?

As it is printed, but for how long: stops, episodes and games are made small, and workers are in
one process. Each page has a folder of its own, and its blocks run in their order.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.app.cli import main
from shoal.app.options import flag
from shoal.config.settings import arguments
from shoal.systems.table import SYSTEMS, default_config, reads
from tools.blocks import ROOT, Block, blocks, pages

LANGUAGES = {"console", "python", "yaml", "bash", "text"}
FEW = {"episodes": 2, "games": 4, "workers": 2, "generations": 3, "evaluate_episodes": 2}
LONG = (
    "stop_steps",
    "evaluate_every",
    "video_every",
    "every",
    "offline_steps",
)  # a hundredth, at most 2 * SHORT
BEGINS = ("shoal.run", "shoal.Trainer")  # in Python, what begins a run
SHORT = 300  # env steps of a run that is given no number of them
SMALL = {"rollout.envs_per_worker": 4, "rollout.fragment_length": 16, "algorithm.simulations": 4}
SMALL |= {"replay.batch_size": 8, "replay.warmup": 64, "replay.replay_ratio": 2}
TRIALS = r"(samples|env_steps): [\d_]+", r"\1: 2"  # of a search
SMALL_IN_PYTHON = {"envs_per_worker": 4, "fragment_length": 16}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


RUN = {named(page): [x for x in blocks(page) if not x.skip] for page in pages()}
NO_RAY = [name for name, found in RUN.items() if found and name != "docs/tuning.md"]


def smaller(name: str, value: int) -> int:
    """The number that takes the place of ``value``; the same if the name says nothing of length."""
    if name in LONG:
        return min(max(value // 100, 1), 2 * SHORT)
    return min(value, FEW.get(name, value))


# ------------------------------------------------------------------ in a terminal


def short(words: list[str]) -> list[str]:
    """A command of Shoal's, without "shoal", that takes a moment."""
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name = word.removeprefix("--").replace("-", "_")
        if word == "--stop-return":
            rest.pop(0)
        elif word.startswith("--") and rest and rest[0].isdigit():
            found += [word, str(smaller(name, int(rest.pop(0))))]
        else:
            found.append(word)
    if words[0] == "train" and "--config" not in words:
        more: dict[str, Any] = {"cluster.in_process": "true"} | small(words)
        if "--stop-steps" not in words:
            more["stop_steps"] = SHORT
        for name, value in more.items():
            found += [f"--{flag(name)}", str(value)]
    return found


def small(words: list[str]) -> dict[str, int]:
    """Settings by which a first update needs few env steps, as far as the system reads them."""
    system = words[words.index("--system") + 1]
    config = default_config(system if system in SYSTEMS else "a2c", "")
    known = {x.name for x in arguments(config) if reads(config, x.name)}
    return {name: value for name, value in SMALL.items() if name in known}


def run_console(block: Block) -> None:
    for words in block.commands():
        if words[:3] == ["python", "-m", "tools.qt_opt"]:
            from tools import qt_opt

            qt_opt.log(words[4], 20, 0)
        else:
            assert words[0] == "shoal", "skip it, with the reason"
            assert main(short(words[1:])) == 0, words


# ------------------------------------------------------------------ in Python


class Shorter(ast.NodeTransformer):
    """Numbers of calls that say how long become small."""

    def visit_Dict(self, node: ast.Dict) -> Any:
        self.generic_visit(node)
        for i, key in enumerate(node.keys):
            if ast.unparse(key or node) == "'episode_reward_mean'":
                node.values[i] = ast.Constant(10)  # what anybody reaches
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        called = ast.unparse(node.func)
        given = {x.arg: x for x in node.keywords if x.arg is not None}
        for name, keyword in given.items():
            if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, int):
                keyword.value.value = smaller(name, keyword.value.value)
        if called in BEGINS:
            node.keywords = [x for x in node.keywords if x.arg != "stop_return"]
            more: dict[str, Any] = {"in_process": True}
            more |= {k: x for k, x in SMALL_IN_PYTHON.items() if k not in given}
            if "stop_steps" not in given:
                more["stop_steps"] = SHORT
            node.keywords += [ast.keyword(k, ast.Constant(x)) for k, x in more.items()]
        if called == "shoal.evolve":
            node.keywords.append(ast.keyword("generations", ast.Constant(3)))
            node.keywords = [x for x in node.keywords if x.arg != "workers"]  # they need Ray
        return node


def run_python(block: Block, names: dict[str, Any], page: str) -> None:
    tree = ast.fix_missing_locations(Shorter().visit(ast.parse(block.text)))
    ast.increment_lineno(tree, block.line)
    exec(compile(tree, str(ROOT / page), "exec"), names)


# ------------------------------------------------------------------ the tests


def run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in a folder, which has the examples too."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    shutil.copytree(ROOT / "examples", folder / "examples")
    for path in (ROOT / "examples").glob("*.py"):  # another test may have imported them
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        for block in RUN[page]:
            if block.title:
                Path(block.title).write_text(re.sub(*TRIALS, block.text))
            elif block.language == "console":
                run_console(block)
            elif block.language == "python":
                run_python(block, names, page)
            elif block.language == "yaml":
                assert yaml.safe_load(block.text)
    finally:
        for name, module in list(sys.modules.items()):  # another page has files of these names
            if str(getattr(module, "__file__", "")).startswith(str(folder)):
                del sys.modules[name]


@pytest.mark.parametrize("page", NO_RAY)
def test_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(page, tmp_path, monkeypatch)


def test_every_block_says_what_it_is() -> None:
    """So that none is left out unseen; and what is text holds no command."""
    for page in pages():
        for block in blocks(page):
            where = f"{named(page)}:{block.line}"
            assert block.language in LANGUAGES, where
            if block.language == "text":
                assert not any(x.startswith(("$ ", "shoal ")) for x in block.text.splitlines()), (
                    where
                )
            if block.language == "console":
                assert all(x.startswith("$ ") for x in block.text.replace("\\\n", "").splitlines())


@pytest.mark.parametrize("page", [named(page) for page in pages()])
def test_blocks_that_do_not_run_are_well_formed(page: str) -> None:
    """Programs for another library, a cluster or a scheduler: their syntax at least."""
    for block in blocks(ROOT / page):
        if block.skip and block.language == "python":
            ast.parse(block.text)
        elif block.skip and block.language == "yaml":
            assert yaml.safe_load(block.text)
        elif block.language == "bash":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
