"""``shoal record``: write demonstrations of a trained policy."""

from __future__ import annotations

from pathlib import Path

from shoal.app.commands import command
from shoal.app.options import Parser
from shoal.errors import ConfigError


def _options() -> Parser:
    parser = Parser(
        "shoal record",
        "DIR --out FOLDER [options]",
        "Write whole episodes of a run's policy as a Minari data set, which --demos reads. "
        "Settings of how it acts are options: --simulations 0 of alphazero.",
    )
    parser.option("folder", metavar="DIR", help="run folder, or one checkpoint in it")
    command.best(parser)
    parser.option("--out", metavar="FOLDER", type=Path, help="the data set's folder: a new one")
    parser.option("--episodes", metavar="N", type=int, default=10, help="how many (default 10)")
    parser.option("--seed", metavar="N", type=int, help="episode i starts from seed N + i")
    parser.option("--explore", action="store_true", help="sample actions instead of the likeliest")
    command.own_code(parser)
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.recording import record

    args, pairs = parser.read(argv)
    if args.episodes < 1:
        raise ConfigError(f"--episodes is {args.episodes}", None, "record at least 1")
    if args.out is None:
        raise ConfigError("no folder for the data set was given", None, "name one: --out demos")
    found = command.trained(parser, args, pairs, 2_000_003)
    result = record(**found.arguments, out=args.out)
    print(
        f"{found.title}, {result['env_steps']:,} env steps: "
        f"return {result['return_mean']:.1f} +- {result['return_std']:.1f} "
        f"(min {result['return_min']:.1f}, max {result['return_max']:.1f})"
    )
    print(f"Minari data set {result['dataset_id']}: {result['path']}")
    return 0


COMMAND = command.Command("record", "write demonstrations of a trained policy", _options, _run)
