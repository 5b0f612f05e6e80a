"""``shoal card``: a trained policy as a folder for the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from shoal.app.commands.command import Command
from shoal.app.options import Parser


def _options() -> Parser:
    parser = Parser(
        "shoal card",
        "DIR [-o FOLDER] [--push NAME/REPOSITORY]",
        "Write a folder with the policy of a run and its model card: results, settings, curve, "
        "video and how to load it, as the Hugging Face hub shows them.",
    )
    parser.option("folder", metavar="DIR", help="run folder, or one checkpoint in it")
    parser.option("-o", metavar="FOLDER", type=Path, help="the folder (default DIR/hub)")
    parser.option(
        "--newest", action="store_true", help="the newest checkpoint, though the best is kept"
    )
    parser.option("--push", metavar="NAME/REPO", help="upload it to this repository of the hub")
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app.card import push, write_card

    args, _ = parser.read(argv, settings=False)
    folder = write_card(args.folder, args.o, args.newest)
    print(f"written: {folder} ({', '.join(sorted(p.name for p in folder.iterdir()))})")
    if args.push is not None:
        print(f"pushed: {push(folder, args.push)}")
    return 0


COMMAND = Command("card", "write a model card for the Hugging Face hub", _options, _run)
