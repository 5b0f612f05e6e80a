"""The size table: numbers by which one compares codebases. A mirror, not a limit: it never fails.

``python -m tools.check`` prints it. The reader of imports below also serves tests/test_imports.py.
"""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from inspect import CO_NEWLOCALS
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "shoal"
PPO = ("shoal.algorithms.ppo", "shoal.plans.sync_samples")
# Lines a reader of PPO can be led through in other libraries, counted in the same way.
OTHERS = (
    ("CleanRL", 312, "one file, not distributed"),
    ("MonoBeast", 1_501, "one machine"),
    ("Acme", 4_148, "besides Reverb and Launchpad"),
    ("Stable-Baselines3", 8_708, "not distributed"),
    ("RLlib", 91_022, "distributed"),
)
T = TypeVar("T")


class Import(NamedTuple):
    """One imported module, by its absolute name."""

    module: str  # "numpy.linalg"; "shoal.ops.returns", also where it is a name from "shoal.ops"
    line: int
    deferred: bool  # inside a function, or for type checkers only: loading the file leaves it


class Span(NamedTuple):
    """Something with a length, and where it stands."""

    size: int
    where: str


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package by its dotted name; a folder's ``__init__`` by the folder's."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(
    source: str, module: str, known: Iterable[str], *, folder: bool = False
) -> list[Import]:
    """All imports in the source of ``module``, those with a literal name at run time included.

    ``known``: dotted names that are modules, so that ``from shoal.ops import returns`` is one of
    shoal.ops.returns. ``folder``: the source is an ``__init__``, which counts for relative imports.
    """
    home = module.split(".") if folder else module.split(".")[:-1]
    names = set(known)
    found = []
    for node, deferred in _walk(ast.parse(source), False):
        for name in _imported(node, home, names):
            found.append(Import(name, node.lineno, deferred))
    return found


def _walk(node: ast.AST, deferred: bool) -> Iterator[tuple[ast.stmt | ast.expr, bool]]:
    """Every statement and expression below, and whether loading the file does not run it."""
    for child in ast.iter_child_nodes(node):
        later = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            later = later or child in node.body
        if isinstance(child, ast.stmt | ast.expr):
            yield child, later
        yield from _walk(child, later)


def _imported(node: ast.AST, home: list[str], known: set[str]) -> list[str]:
    """The modules that this one node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = home[: len(home) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        inner = [f"{base}.{alias.name}" for alias in node.names]
        return list(dict.fromkeys(name if name in known else base for name in inner))
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called, name = ast.unparse(node.func).rpartition(".")[2], node.args[0].value
        if called in ("import_module", "__import__") and isinstance(name, str):
            return [name]
    return []


def closure(start: Iterable[str], paths: dict[str, Path]) -> set[str]:
    """The modules of the package that a reader of ``start`` is led to, itself included.

    Every import counts: those inside functions, those for type checkers only, and those of the
    ``__init__`` files of folders on the way.
    """
    seen = {PACKAGE}  # whose __init__ is the front door: it names everything, and is lazy
    ahead = list(start)
    while ahead:
        name = ahead.pop()
        if name in seen or name not in paths:
            continue
        seen.add(name)
        folder = paths[name].name == "__init__.py"
        ahead += [i.module for i in imports(paths[name].read_text(), name, paths, folder=folder)]
        ahead.append(name.rpartition(".")[0])  # loading a module runs the __init__ above it
    return seen - {PACKAGE}


def executed(root: Path = ROOT) -> dict[str, set[int]]:
    """Lines that run while PPO trains on CartPole in one process: {module: line numbers}.

    Lines that only loading a module runs (imports, ``def``, fields) do not count.
    """
    script = (
        "import json, sys\n"
        "from tools.check import trace_ppo\n"
        "print('\\n' + json.dumps(trace_ppo()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    found: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return {name: set(numbers) for name, numbers in found.items()}


def trace_ppo() -> dict[str, list[int]]:
    """Train PPO on CartPole for one update, and record the lines that run in function bodies."""
    names = {str(path): name for name, path in modules().items()}
    ran: dict[str, set[int]] = {}

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        name = names.get(code.co_filename)
        # Bodies of modules and classes run when they are loaded, not when PPO trains.
        if name is None or code.co_name == "<module>" or not code.co_flags & CO_NEWLOCALS:
            return None
        ran.setdefault(name, set()).add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    threading.settrace(trace)
    try:
        trainer_of = importlib.import_module("shoal.trainer").Trainer
        with trainer_of("ppo", env="CartPole-v1", learner="jax") as trainer:
            trainer.train()
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return {name: sorted(numbers) for name, numbers in sorted(ran.items())}


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def longest_file(paths: Iterable[Path]) -> Span:
    return max(Span(lines([path]), str(path.relative_to(ROOT))) for path in paths)


def longest_function(paths: Iterable[Path]) -> Span:
    """Decorators not counted, the docstring is."""
    spans = [Span(0, "none")]
    for path, node in _nodes(paths, ast.FunctionDef):
        size = (node.end_lineno or node.lineno) - node.lineno + 1
        spans.append(Span(size, f"{path.relative_to(ROOT)}: {node.name}"))
    return max(spans)


def most_fields(paths: Iterable[Path]) -> Span:
    """Annotated attributes of a class that a decorator makes a dataclass."""
    spans = [Span(0, "none")]
    for path, node in _nodes(paths, ast.ClassDef):
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            fields = [n for n in fields if "ClassVar" not in ast.unparse(n.annotation)]
            spans.append(Span(len(fields), f"{path.relative_to(ROOT)}: {node.name}"))
    return max(spans)


def _nodes(paths: Iterable[Path], kind: type[T]) -> Iterator[tuple[Path, T]]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield path, node


def main() -> None:
    paths = modules()
    package, tests = list(paths.values()), sorted((ROOT / "tests").rglob("*.py"))
    radius, ran = closure(PPO, paths), executed()
    file, function, fields = longest_file(package), longest_function(package), most_fields(package)
    rows = [
        ("package", f"{lines(package):,} lines", f"{len(package)} files"),
        ("tests", f"{lines(tests):,} lines", f"{len(tests)} files"),
        ("longest file", f"{file.size:,} lines", file.where),
        ("longest function", f"{function.size:,} lines", function.where),
        ("largest dataclass", f"{fields.size:,} fields", fields.where),
        ("", "", ""),
        ("reading radius of PPO", _radius(radius, paths), f"{len(radius)} files, distributed"),
        *((f"  {house}", f"{size:,} lines", note) for house, size, note in OTHERS),
    ]
    of_files = _radius(set(ran), paths)
    rows += [
        ("", "", ""),
        ("PPO on CartPole runs", f"{sum(map(len, ran.values())):,} lines", f"of {len(ran)} files"),
        ("  which are in all", of_files, "longest: " + _longest(ran, paths)),
    ]
    for left, number, right in rows:
        print(f"{left:<24}{number:>14}   {right}".rstrip())
    print(
        "\nReading radius: lines of the files of the package that a reader of"
        f"\n{' and '.join(PPO)} is led to. All imports are\nfollowed: of __init__ files, inside"
        " functions, and for type checkers."
    )


def _longest(names: Iterable[str], paths: dict[str, Path]) -> str:
    """The three longest of these files."""
    sizes = sorted(((lines([paths[name]]), name) for name in names), reverse=True)
    return ", ".join(f"{name.removeprefix(PACKAGE + '.')} {size}" for size, name in sizes[:3])


def _radius(names: set[str], paths: dict[str, Path]) -> str:
    return f"{lines(paths[name] for name in names):,} lines"


if __name__ == "__main__":
    main()
