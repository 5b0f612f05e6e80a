"""``shoal plot``: the returns of runs as a picture."""

from __future__ import annotations

from pathlib import Path

from shoal.app.commands.command import Command
from shoal.app.options import Parser


def _options() -> Parser:
    parser = Parser(
        "shoal plot",
        "DIR... -o FILE",
        "Draw the returns of runs against env steps and seconds. Runs that differ only in their "
        "seeds become one line: the mean and its 95 % confidence interval.",
    )
    parser.option("folders", metavar="DIR", nargs="+", type=Path, help="run folders")
    parser.option(
        "-o", "--out", metavar="FILE", type=Path, required=True, help="picture: .png, .pdf or .svg"
    )
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app.plot import plot

    args, _ = parser.read(argv, settings=False)
    for line in plot(args.folders, args.out):
        print(line)
    print(f"drawn: {args.out}")
    return 0


COMMAND = Command("plot", "draw the returns of runs", _options, _run)
