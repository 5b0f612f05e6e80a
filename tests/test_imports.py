"""Do imports go downward only, and does nothing heavy come along unasked?"""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tools.check import ROOT, Import, closure, imports, modules

PATHS = modules()
IMPORTS = {
    name: imports(path.read_text(), name, PATHS, folder=path.name == "__init__.py")
    for name, path in PATHS.items()
}

# A room is a folder or a file at the top of the package. What each may import, lowest first.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "process": {"errors"},
    "ops": {"errors"},
    "checkpoint": {"errors", "__init__"},  # of the front door only the version number
    "config": {"checkpoint", "process", "errors"},
    "spaces": {"ops", "errors"},
    "trajectory": {"ops", "errors"},
    "games": {"config", "ops", "spaces", "errors"},
    "envs": {"games", "config", "spaces", "process", "errors"},
    "nets": {"config", "ops", "spaces", "process", "errors"},
    "algorithms": {"games", "nets", "ops", "config", "spaces", "trajectory", "errors"},
    "learners": {"algorithms", "nets", "ops", "config", "trajectory", "process", "errors"},
    "replay": {"config", "spaces", "trajectory", "errors"},
    "fleet": {
        *("replay", "learners", "algorithms", "envs", "nets", "ops", "config", "spaces"),
        *("trajectory", "process", "errors"),
    },
    "plans": {
        *("replay", "fleet", "learners", "algorithms", "ops"),
        *("config", "spaces", "trajectory", "process", "errors"),
    },
    "systems": {"plans", "algorithms", "nets", "envs", "checkpoint", "config", "errors"},
    "loggers": {"process", "errors"},
    "metrics": {"plans", "fleet", "config"},
    "policy": {
        *("systems", "checkpoint", "algorithms", "games", "nets", "spaces", "trajectory", "errors"),
    },
    "evaluation": {"policy", "algorithms", "envs", "config", "process", "errors"},
    "evaluating": {
        *(
            "versus",
            "evaluation",
            "policy",
            "algorithms",
            "plans",
            "fleet",
            "envs",
            "config",
            "spaces",
            "trajectory",
        ),
        *("process", "errors"),
    },
    "versus": {"evaluation", "policy", "algorithms", "envs", "config", "errors"},
    "examining": {"fleet", "envs", "spaces", "process", "errors"},
    "exporting": {"policy", "algorithms", "spaces", "trajectory", "errors", "__init__"},
    "recording": {
        *("evaluation", "policy", "replay", "envs", "config", "spaces", "process", "errors"),
        "__init__",  # the version number
    },
}
FRONT = {
    "trainer",
    "evolution",
    "tuning",
    "tune",
    "app",
    "__init__",
    "__main__",
}  # the only rooms that know all the others

FRAMEWORK_FILES = {
    "shoal.learners.bfloat16",
    "shoal.learners.device",
    "shoal.learners.jax",
    "shoal.learners.torch",
    "shoal.exporting",  # ONNX files are traced in PyTorch
    "shoal.fleet.collective",  # torch.distributed's Gloo
    "shoal.ops.convolution",
    "shoal.ops.kernels",
    "shoal.nets.factory",
    "shoal.nets.flax",
    "shoal.nets.torch",
}
LEARNERS = {f"shoal.learners.{name}" for name in ("bfloat16", "device", "jax", "torch")}
ACTING = FRAMEWORK_FILES - LEARNERS  # loaded by workers
FRAMEWORKS = {"jax", "jaxlib", "flax", "optax", "torch"}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
HEAVY = {"ray", "matplotlib", "rich", "tensorboard", "imageio", *FRAMEWORKS}


def room(module: str) -> str:
    """ "ops" of shoal.ops.returns, "config" of shoal.config.bounds, "__init__" of shoal itself."""
    return [*module.split("."), "__init__"][1]


def library(found: Import) -> str:
    return found.module.split(".")[0]


def where(module: str, found: Import) -> str:
    return f"{PATHS[module].relative_to(ROOT)}:{found.line} imports {found.module}"


def offenders(wrong: set[str], allowed: set[str]) -> list[str]:
    """Imports of ``wrong`` libraries in files that are not ``allowed`` them."""
    return [
        where(module, found)
        for module, all_found in IMPORTS.items()
        for found in all_found
        if library(found) in wrong and module not in allowed
    ]


def test_the_reader_misses_no_way_to_import() -> None:
    source = """
import a.b, c as d
from shoal.ops import returns, kernels as k
from . import sibling
from ..nets import Net
if TYPE_CHECKING:
    import t
else:
    import e
def f():
    import g
    h = importlib.import_module("i")
class C:
    j = __import__("k")
try:
    import m
except ImportError:
    import n
"""
    known = ["shoal.ops.returns", "shoal.ops.kernels", "shoal.plans.sibling", "shoal.nets"]
    found = imports(source, "shoal.plans.x", known)
    assert {i.module for i in found if not i.deferred} == {
        *("a.b", "c", "shoal.ops.returns", "shoal.ops.kernels", "shoal.plans.sibling"),
        *("shoal.nets", "e", "k", "m", "n"),
    }
    assert {i.module for i in found if i.deferred} == {"t", "g", "i"}
    inside = imports("from .network import Net", "shoal.nets", ["shoal.nets.network"], folder=True)
    assert [i.module for i in inside] == ["shoal.nets.network"]


def test_closure_follows_deferred_imports_and_init_files(tmp_path: Path) -> None:
    files = {
        "shoal.a": "def f():\n    from shoal.b import g",
        "shoal.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shoal.c.d",
        "shoal.c": "from . import e",
        "shoal.c.d": "",
        "shoal.c.e": "",
        "shoal.f": "",
    }
    paths = {}
    for name, source in files.items():
        folder = name == "shoal.c"
        paths[name] = tmp_path / name / ("__init__.py" if folder else "x.py")
        paths[name].parent.mkdir()
        paths[name].write_text(source)
    assert closure(["shoal.a"], paths) == set(files) - {"shoal.f"}


def test_arrows_go_downward() -> None:
    order = list(TopologicalSorter(ARROWS).static_order())  # raises CycleError on a way back up
    assert set(order) <= set(ARROWS) | FRONT


def test_every_room_has_its_arrows() -> None:
    assert {room(module) for module in PATHS} == set(ARROWS) | FRONT


@pytest.mark.parametrize("name", ARROWS)
def test_room_imports_only_what_is_below_it(name: str) -> None:
    allowed = ARROWS[name] | {name}
    wrong = [
        where(module, found)
        for module, all_found in IMPORTS.items()
        for found in all_found
        if room(module) == name and library(found) == "shoal" and room(found.module) not in allowed
    ]
    assert wrong == []


def test_only_learners_and_kernels_import_a_framework() -> None:
    assert offenders(FRAMEWORKS, FRAMEWORK_FILES) == []


def test_files_that_workers_load_import_frameworks_when_first_needed() -> None:
    wrong = [
        where(module, found)
        for module in ACTING & set(PATHS)
        for found in IMPORTS[module]
        if library(found) in FRAMEWORKS and not found.deferred
    ]
    assert wrong == []


def test_only_the_fleet_imports_ray() -> None:
    fleet = {module for module in PATHS if room(module) in ("fleet", "tuning", "tune")}
    assert offenders({"ray"}, fleet) == []


def test_nothing_imports_pickle() -> None:
    assert offenders(PICKLES, set()) == []


def test_a_reader_of_ppo_is_led_to_contracts_and_not_to_what_implements_them() -> None:
    found = closure(["shoal.algorithms.ppo", "shoal.plans.sync_samples"], PATHS)
    rooms = {"app", "envs", "learners", "fleet", "systems", "trainer", "policy", "evaluation"}
    rooms |= {"replay", "spaces"}
    contracts = {"__init__", "base", "sample", "counts"}
    wrong = {name for name in found if room(name) in rooms and "." in name.removeprefix("shoal.")}
    assert {name for name in wrong if name.split(".")[-1] not in contracts} == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import shoal",
        "from shoal import A2C, PG, PPO, Config, Network, Trainer, evaluate, load",
        "import shoal.fleet.worker, shoal.envs",
        "import shoal.app.cli",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    script = f"import sys; {statement}; print(*(m for m in sys.modules if '.' not in m))"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert HEAVY & set(run.stdout.split()) == set()
