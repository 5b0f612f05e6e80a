"""``shoal report``: one page on several runs, to look at and to send."""

from __future__ import annotations

from pathlib import Path

from shoal.app.commands.command import Command
from shoal.app.options import Parser


def _options() -> Parser:
    parser = Parser(
        "shoal report",
        "DIR... [-o report.html]",
        "Write one HTML page on runs, which holds everything it shows: curves with intervals over "
        "seeds, final returns, settings that differ, where the time went, films.",
    )
    parser.option("folders", metavar="DIR", nargs="+", type=Path, help="run folders")
    about = "the page (default report.html)"
    parser.option("-o", "--out", metavar="FILE", type=Path, default=Path("report.html"), help=about)
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app.report import report

    args, _ = parser.read(argv, settings=False)
    path = report(args.folders, args.out)
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


COMMAND = Command("report", "write one page on several runs", _options, _run)
