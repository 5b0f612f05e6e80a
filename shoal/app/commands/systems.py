"""``shoal systems``: the table of systems, and the matrix of algorithms and plans."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.app.commands.command import Command
from shoal.app.options import Parser


def _options() -> Parser:
    return Parser("shoal systems", "", "List the systems, and what runs under which plan.")


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.systems.table import SYSTEMS

    parser.read(argv, settings=False)
    rows = [
        (row.name, type(row.algorithm).__name__, row.plan.name, row.source)
        for row in SYSTEMS.values()
    ]
    print(_table(("system", "algorithm", "plan", "source"), rows))
    print("\n" + plans())
    return 0


def plans() -> str:
    """The table of plans and algorithms, and the reasons of what is refused."""
    from shoal.systems.table import matrix

    pairs = matrix()
    algorithms = list(dict.fromkeys(algorithm for algorithm, *_ in pairs))
    reasons = list(dict.fromkeys(reason for *_, reason in pairs if reason))
    cells: dict[str, list[str]] = {}
    for _, plan, name, reason in pairs:
        cell = f"({reasons.index(reason) + 1})" if reason else name or "yes"
        cells.setdefault(plan, []).append(cell)
    table = [(plan, *row) for plan, row in cells.items()]
    lines = [_table(("plan", *algorithms), table, gap=" ")]  # so that it fits a terminal
    return "\n".join(lines + [f"({number}) {reason}" for number, reason in enumerate(reasons, 1)])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], gap: str = "  ") -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    ruled = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in ruled
    )


COMMAND = Command("systems", "list the systems, and what runs under which plan", _options, _run)
