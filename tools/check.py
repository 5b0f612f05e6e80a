"""The size table: numbers by which one compares codebases. A mirror, not a limit: it never fails.

``python -m tools.check`` prints it. The reader of imports below also serves tests/test_imports.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

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


def closure(start: Iterable[str], paths: dict[str, Path], *, through_init: bool) -> set[str]:
    """The modules of the package that loading ``start`` leads to, itself included."""
    seen: set[str] = set()
    ahead = list(start)
    while ahead:
        name = ahead.pop()
        folder = name in paths and paths[name].name == "__init__.py"
        if name in seen or name not in paths or (folder and not through_init):
            continue
        seen.add(name)
        found = imports(paths[name].read_text(), name, paths, folder=folder)
        ahead += [item.module for item in found if not item.deferred]
    return seen


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
    strict = closure(PPO, paths, through_init=False)
    file, function, fields = longest_file(package), longest_function(package), most_fields(package)
    rows = [
        ("package", f"{lines(package):,} lines", f"{len(package)} files"),
        ("tests", f"{lines(tests):,} lines", f"{len(tests)} files"),
        ("longest file", f"{file.size:,} lines", file.where),
        ("longest function", f"{function.size:,} lines", function.where),
        ("largest dataclass", f"{fields.size:,} fields", fields.where),
        ("", "", ""),
        ("reading radius of PPO", _radius(strict, paths), f"{len(strict)} files, distributed"),
        *((f"  {house}", f"{size:,} lines", note) for house, size, note in OTHERS),
    ]
    every = closure(PPO, paths, through_init=True)
    rows.append(("  ours, through __init__", _radius(every, paths), f"{len(every)} files"))
    for left, number, right in rows:
        print(f"{left:<24}{number:>14}   {right}".rstrip())
    print(
        "\nReading radius: lines of the files of the package that importing"
        f"\n{' and '.join(PPO)} leads to. As for the other\nlibraries, __init__ files are not"
        " followed; nor are imports inside functions\nor for type checkers, which are read when"
        " their turn comes."
    )


def _radius(names: set[str], paths: dict[str, Path]) -> str:
    return f"{lines(paths[name] for name in names):,} lines"


if __name__ == "__main__":
    main()
