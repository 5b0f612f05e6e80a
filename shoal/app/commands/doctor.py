"""``shoal doctor``: what a report of a fault should say of the machine."""

from __future__ import annotations

import json

from shoal.app.commands import command
from shoal.app.options import Parser


def _options() -> Parser:
    parser = Parser(
        "shoal doctor",
        "[--json]",
        "What a bug report should say: machine, versions, extras that are missing, whether Ray "
        "starts here, devices and threads. Nothing personal: no name, no folder.",
    )
    parser.option("--json", action="store_true", help="the same as JSON")
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app.diagnosis import diagnose, text

    args, _ = parser.read(argv, settings=False)
    found = diagnose()
    print(json.dumps(found, indent=2) if args.json else text(found))
    return 0


COMMAND = command.Command(
    "doctor", "say what a bug report should: machine, versions, Ray", _options, _run
)
