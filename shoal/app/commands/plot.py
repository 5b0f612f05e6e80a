"""``shoal plot``: the returns of runs, or the trials of a search, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shoal.app.commands.command import Command
from shoal.app.options import Parser
from shoal.errors import ConfigError


def _options() -> Parser:
    parser = Parser(
        "shoal plot",
        "DIR... -o FILE",
        "Draw the returns of runs against env steps and seconds. Runs that differ only in their "
        "seeds become one line: the mean and its 95 % confidence interval. A search of "
        "`shoal tune` is drawn as all its trials, and what the best had in common.",
    )
    parser.option("folders", metavar="DIR", nargs="+", type=Path, help="run folders, or one search")
    parser.option(
        "-o", "--out", metavar="FILE", type=Path, required=True, help="picture: .png, .pdf or .svg"
    )
    parser.option("--lineage", action="store_true", help="of a population: who copied whom")
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app.plot import plot

    args, _ = parser.read(argv, settings=False)
    for line in _search(args) if _is_search(args) else plot(args.folders, args.out):
        print(line)
    print(f"drawn: {args.out}")
    return 0


def _is_search(args: Any) -> bool:
    from shoal.tuning.board import is_search

    searches = [folder for folder in args.folders if is_search(folder)]
    if len(searches) == 1 == len(args.folders):
        return True
    if searches or args.lineage:
        what = "--lineage is of one search" if args.lineage else "a search is drawn alone"
        raise ConfigError(what, str((searches or args.folders)[0]), "give one folder of shoal tune")
    return False


def _search(args: Any) -> list[str]:
    from shoal.app.plot import check_picture, write_picture
    from shoal.app.plot_search import draw

    check_picture(args.out)
    figure, lines = draw(args.folders[0], args.lineage)
    write_picture(figure, args.out)
    return lines


COMMAND = Command("plot", "draw the returns of runs", _options, _run)
