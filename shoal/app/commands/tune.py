"""``shoal tune``: search over settings, or train a population."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from shoal.app.commands import command
from shoal.app.options import Parser
from shoal.errors import ConfigError, ShoalError
from shoal.process import interrupts


def _options() -> Parser:
    parser = Parser(
        "shoal tune",
        "FILE | --resume DIR | --status DIR  [options]",
        "Search over settings, or train a population. FILE is a configuration with ranges in the "
        "place of values, for example lr: {loguniform: [1e-4, 1e-2]}, and a group tune: {samples: "
        "..., scheduler: fifo | asha | hyperband | pbt, searcher: random | optuna}.",
    )
    parser.option("file", metavar="FILE", nargs="?", help="the search, in YAML or JSON")
    parser.option("--out", metavar="DIR", help="folder of the search (default runs/tune-FILE-TIME)")
    parser.option("--resume", metavar="DIR", help="go on with a search that was interrupted")
    parser.option("--status", metavar="DIR", help="show the trials of a search")
    parser.option("--address", metavar="HOST:PORT", help="Ray cluster (or RAY_ADDRESS)")
    command.trust(parser, "the search's file")
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    args, _ = parser.read(argv, settings=False)
    given = [x for x in (args.file, args.resume, args.status) if x is not None]
    if len(given) != 1:
        fix = "`shoal tune --help` shows what it takes"
        raise ConfigError("one of FILE, --resume DIR and --status DIR is needed", None, fix)
    if args.status is not None:
        from shoal.tuning.board import read_status, text

        print(text(read_status(Path(args.status))))
        return 0
    return _search(args)


def _search(args: Any) -> int:
    from shoal.app.display import create_display
    from shoal.config.files import load_file
    from shoal.tuning.run import read_back, run
    from shoal.tuning.search import experiments

    command.silence_third_parties()
    if args.resume is not None:
        folder = Path(args.resume).absolute()
        searches = read_back(folder, trust=args.trust)
    else:
        name = Path(args.file).stem
        searches = experiments(load_file(args.file), name, args.file, args.trust)
        folder = _folder(args.out, name)
    with interrupts.deferred(), create_display() as display:
        outcome = run(searches, folder, display, args.address)
        if outcome.interrupted:
            again = shlex.join(["shoal", "tune", "--resume", str(folder)])
            display.say(f"interrupted; go on with: {again}")
            return interrupts.exit_code()
    failed = [row for row in outcome.trials if row["error"]]
    if len(failed) == len(outcome.trials):
        raise ShoalError("every trial ended in an error", str(folder), "see the errors above")
    return 0


def _folder(given: str | None, name: str) -> Path:
    from shoal.app import folder as folders

    if given is not None:
        folder = Path(given).absolute()
        if folder.exists() and any(folder.iterdir()):
            again = shlex.join(["shoal", "tune", "--resume", str(folder)])
            fix = f"give another --out, or go on with what is there: {again}"
            raise ConfigError("the output folder is not empty", str(folder), fix)
        return folder
    return folders.claim_new(Path("runs", f"tune-{name}-{time.strftime('%Y%m%d-%H%M%S')}"))


COMMAND = command.Command("tune", "search over settings, or train a population", _options, _run)
