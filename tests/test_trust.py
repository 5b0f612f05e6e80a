"""Is code that a checkpoint or a configuration file names imported only if the user allows it?

Nothing in here starts another process: a module of the name ``bomb`` says whether it was imported.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import shoal
from shoal.app.cli import main
from shoal.config.settings import to_dict
from shoal.config.trust import find
from shoal.errors import ConfigError, EnvError, ShoalError
from shoal.systems.configure import configure
from shoal.trainer import Trainer
from tests.worlds import TINY
from tools.check import modules

BOMB = """
import gymnasium, pathlib
from tests.worlds import Script as Env
from tests.faults.broken import Halved as Algo, Patient as Plan
pathlib.Path("exploded").touch()
gymnasium.register("Bomb-v0", Env)
"""
SMALL: dict[str, Any] = {
    **{"learner": "torch", "network": TINY, "envs_per_worker": 1, "fragment_length": 8},
    "stop_steps": 8,
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run folder, to be forged."""
    folder = tmp_path_factory.mktemp("good")
    with Trainer("a2c", "CartPole-v1", **SMALL) as trainer:
        trainer.train()
        trainer.save(folder / "checkpoint")
        (folder / "config.json").write_text(json.dumps(to_dict(trainer.config)))
    return folder


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Whether the bomb in the working directory was imported, or a command was run."""
    ran: list[Any] = []
    (tmp_path / "bomb.py").write_text(BOMB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "system", ran.append)
    popen = subprocess.Popen

    def recorded(*args: Any, **kwargs: Any) -> Any:
        if "exploded" not in str((args, kwargs)):
            return popen(*args, **kwargs)
        return ran.append(args)

    monkeypatch.setattr(subprocess, "Popen", recorded)
    yield lambda: bool(ran) or "bomb" in sys.modules or Path("exploded").exists()
    sys.modules.pop("bomb", None)
    gymnasium.registry.pop("Bomb-v0", None)


def forged(good: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The run with another meta, under right checksums."""
    shutil.copytree(good, folder)
    path = next(folder.glob("checkpoint/*/manifest.json"))
    manifest = json.loads(path.read_bytes())
    del manifest["sha256"]
    change(manifest)
    text = json.dumps(manifest)[1:].encode()
    head = b'{"sha256": "%s",\n' % hashlib.sha256(text).hexdigest().encode()
    path.write_bytes(head + text)
    (folder / "config.json").write_text(json.dumps(manifest["config"]))
    return folder


def changes(*path: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    def change(meta: dict[str, Any]) -> None:
        for key in path:
            meta = meta[key]
        meta.update(values)

    return change


def system_too(meta: dict[str, Any]) -> None:
    meta["system"] = meta["config"]["system"] = "bomb:Algo"


def env(value: Any, **kwargs: Any) -> Callable[[dict[str, Any]], Any]:
    def change(meta: dict[str, Any]) -> None:
        meta["config"]["env"] = value
        meta["config"]["rollout"]["env_kwargs"] = kwargs

    return change


def code(meta: dict[str, Any], kind: str, name: str) -> None:
    meta["config"][kind]["class"] = name
    meta["config"]["plan"] |= {"name": "patient"} if kind == "plan" else {}
    meta["own_policy"] = True


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "command": env("os:system", command="touch exploded"),
    "process": env("subprocess:Popen", args=["touch", "exploded"]),
    "class": env("bomb:Env"),
    "file": env("./bomb.py:Env"),
    "id of a module": env("bomb:Bomb-v0"),
    "dict": env({"id": "bomb:Env", "kwargs": {}}),
    "dict with a command": env({"id": "os:system", "kwargs": {"command": "touch exploded"}}),
    "dict in a dict": env({"id": {"id": {"id": "bomb:Env"}}}),
    "module in an argument": env("GymV26Environment-v0", env_id="bomb:Bomb-v0"),
    "env by a dotted name": changes("config", **{"Env": "bomb:Env", "env_": "bomb:Env"}),
    "network": changes("config", "algorithm", network="bomb:Net"),
    "network by a dotted name": changes("config", **{"algorithm.network": "bomb:Net"}),
    "network by another spelling": changes("config", "algorithm", network_="bomb:Net"),
    "algorithm": lambda meta: code(meta, "algorithm", "bomb:Algo"),
    "algorithm that is a function": lambda meta: code(meta, "algorithm", "os:getcwd"),
    "algorithm that is none": lambda meta: code(meta, "algorithm", "bomb"),
    "algorithm by a dotted name": changes("config", **{"algorithm.class": "bomb:Algo"}),
    "plan": lambda meta: code(meta, "plan", "bomb:Plan"),
    "name of a plan": changes("config", "plan", name="bomb:Plan"),
    "system": system_too,
    "an object of the environment": env("CartPole-v1", x={"object": "bomb:Env"}),
    "an object within": env("CartPole-v1", x={"$tuple": [{"object": "bomb:Env"}]}),
    "an object that is the environment": env({"object": "bomb:Env"}),
    "a tag that does not exist": env("CartPole-v1", x={"$object": "bomb:Env"}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_way_to_load_a_checkpoint_imports_what_it_names(
    good: Path, tmp_path: Path, armed: Callable[[], bool], case: str
) -> None:
    folder = forged(good, tmp_path / "run", HOSTILE[case])
    with pytest.raises(ShoalError):
        Trainer.restore(folder)
    with suppress(ShoalError):
        shoal.load(folder)
    assert main(["resume", str(folder), "--stop-steps", "16"]) != 0
    main(["evaluate", str(folder), "--episodes", "1"])
    assert not armed()


@pytest.mark.parametrize("case", HOSTILE)
def test_no_configuration_file_imports_what_it_names(
    good: Path, tmp_path: Path, armed: Callable[[], bool], case: str
) -> None:
    config = forged(good, tmp_path / "run", HOSTILE[case]) / "config.json"
    with pytest.raises(ShoalError):
        Trainer(config=config)
    assert main(["train", "--config", str(config), "--out", str(tmp_path / "out")]) != 0
    assert not armed()


@pytest.mark.parametrize("case", ["class", "file", "dict", "id of a module", "algorithm", "plan"])
def test_what_is_trusted_is_imported_and_said(
    good: Path,
    tmp_path: Path,
    armed: Callable[[], bool],
    case: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else the tests above would pass for the wrong reason."""
    folder = forged(good, tmp_path / "run", HOSTILE[case])
    config = configure(None, None, folder / "config.json", trust=True)
    if "bomb" not in sys.modules:  # an environment is imported where it is made
        find("bomb:Env", "environment")
    assert armed() and config.system == "a2c"
    assert any(r.message.startswith("importing ") and "bomb" in r.message for r in caplog.records)
    sys.modules.pop("bomb")
    with suppress(ShoalError):  # Script's spaces are not CartPole's
        Trainer.restore(folder, trust=True, stop_steps=16).stop()
    assert "bomb" in sys.modules


def test_an_error_says_which_name_and_how_to_allow_it(good: Path, tmp_path: Path) -> None:
    folder = forged(good, tmp_path / "run", env("bomb:Env"))
    with pytest.raises(ConfigError) as caught:
        Trainer.restore(folder)
    assert "env is 'bomb:Env'" in caught.value.what and caught.value.where == str(folder)
    for way in ("--env bomb:Env", "env=...", "--trust", "trust=True"):
        assert way in str(caught.value.fix)


def test_a_cluster_is_joined_only_if_it_is_named(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[Any] = []

    def stand_in(config: Any, env: Any) -> Any:
        joined.append(config.cluster.joined)
        raise EnvError("far enough")

    def change(meta: dict[str, Any]) -> None:
        meta["config"]["cluster"]["address"] = "ray://stranger.example:10001"
        meta["config"]["rollout"]["workers"] = 2

    monkeypatch.setattr("shoal.trainer.create_fleet", stand_in)
    folder = forged(good, tmp_path / "run", change)
    for start in (Trainer.restore, lambda path: Trainer(config=path / "config.json")):
        with pytest.raises(ConfigError, match="a cluster is joined only if you name it"):
            start(folder)
    assert joined == []
    for address in ("own.example:6379", None):
        with pytest.raises(EnvError, match="far enough"):
            Trainer.restore(folder, address=address)
    assert joined == ["own.example:6379", None]


def test_drawing_a_hostile_run_imports_nothing(
    good: Path, tmp_path: Path, armed: Callable[[], bool]
) -> None:
    folder = forged(good, tmp_path / "run", env("bomb:Env"))
    report = {"env_steps": 8, "wall_s": 1.0, "return_mean": 2.0}
    (folder / "progress.jsonl").write_text(f"{json.dumps(report)}\n" * 2)
    assert main(["plot", str(folder), "-o", str(tmp_path / "a.png")]) == 0
    assert not armed()


# ------------------------------------------------------------------ the one importer

IMPORTERS = {"import_module", "__import__", "run_module", "run_path", "exec_module"}
BUILT_IN = {"eval", "exec", "compile"}  # a method of such a name is another thing
ALLOWED = {  # where a call may import what a text names, and whose text that is
    ("shoal.config.trust", "import_module"),
    ("shoal", "import_module"),  # names of Shoal's own table
    ("shoal.learners.choose", "import_module"),  # jax or torch
    ("shoal.envs.source", "load_env_creator"),  # an entry of Gymnasium's registry
}


def test_only_one_function_imports_by_a_name_that_it_was_given() -> None:
    found = set()
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", None) or getattr(node, "attr", None)
            built_in = getattr(node, "id", None) in BUILT_IN
            if name in IMPORTERS or built_in or name == "load_env_creator":
                found.add((module, name))
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        (":Maze", "not a full name", "module:Name"),
        ("mazes:", "not a full name", "module:Name"),
        ("Maze", "not a full name", "module:Name"),
        ("../mazes:Maze", "'../mazes' is no module", "../mazes.py:Maze"),
        ("..mazes:Maze", "'..mazes' is no module", "..mazes.py:Maze"),
        ("nowhere.py:Maze", "no file nowhere.py", "correct"),
        ("mazes.py:Labyrinth", "has no 'Labyrinth'", "behind the colon"),
        ("json.py:Maze", "another module is called 'json'", "another name"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str, fix: str
) -> None:
    for file in ("mazes.py", "json.py"):
        (tmp_path / file).write_text("Maze = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        with pytest.raises(ConfigError) as caught:
            find(name, "system")
    finally:
        sys.modules.pop("mazes", None)
    assert what in caught.value.what and fix in str(caught.value.fix)


def test_a_run_that_learned_nothing_is_begun_anew_by_the_command_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though its environment is code: the run was the user's own."""
    monkeypatch.chdir(tmp_path)
    config = configure("a2c", "tests.worlds:Script", {}, SMALL)
    for name, env in (("own", "tests.worlds:Script"), ("known", "CartPole-v1")):
        (tmp_path / name).mkdir()
        told = json.dumps({**to_dict(config), "env": env, "seed": 3})
        (tmp_path / name / "config.json").write_text(told)
        assert main(["resume", name]) == 2
        fix = capsys.readouterr().err.partition("begin it anew: shoal ")[2].split("\n")[0]
        assert ("--trust" in fix) == (name == "own")
        assert main([*shlex.split(fix), "--out", f"{name}-again"]) == 0
        assert json.loads((tmp_path / f"{name}-again" / "config.json").read_text())["seed"] == 3


@pytest.mark.parametrize("setting", ["env", "network"])
def test_a_path_is_made_absolute_at_once(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment may change the folder; on a cluster, nodes have the run's files elsewhere."""
    monkeypatch.chdir(tmp_path)
    name = "own/file.py:Name"
    env, fields = (name, {}) if setting == "env" else ("CartPole-v1", {"network": name})
    here = configure("ppo", env, {}, fields)
    there = configure("ppo", env, {}, {**fields, "workers": 1, "address": "10.0.0.1:6379"})
    found = [c.env if setting == "env" else c.algorithm.network for c in (here, there)]
    assert found == [f"{tmp_path}/{name}", name]


def test_a_file_is_loaded_with_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "own" / "sizes_of_mazes.py").write_text("SIZE = 7\n")
    (tmp_path / "own" / "my-mazes.py").write_text("from sizes_of_mazes import SIZE\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("../own/my-mazes.py:SIZE", f"{tmp_path}/own/my-mazes.py:SIZE", "my-mazes:SIZE"):
        assert find(name, "environment") == 7
    for name in ("my-mazes", "sizes_of_mazes"):
        del sys.modules[name]
