"""``shoal export``: a trained policy as an ONNX file."""

from __future__ import annotations

from pathlib import Path

from shoal.app.commands import command
from shoal.app.options import Parser


def _options() -> Parser:
    parser = Parser(
        "shoal export",
        "DIR [-o policy.onnx] [options]",
        "Write the policy of a run as an ONNX file: normalisation, masks, memory and rescaled "
        "actions inside, checked against the policy on 1,000 random observations.",
    )
    parser.option("folder", metavar="DIR", help="run folder, or one checkpoint in it")
    parser.option("-o", metavar="FILE", type=Path, help="the file (default DIR/policy.onnx)")
    parser.option(
        "--explore",
        action="store_true",
        help="sample actions, with the noise as an input, instead of the likeliest",
    )
    parser.option("--policy", metavar="NAME", help="which one, of policies by agent")
    command.code(parser, "network", "algorithm")
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.exporting import export

    args, _ = parser.read(argv, settings=False)
    command.silence_third_parties()
    own = {"network": args.network, "algorithm": args.algorithm, "trust": args.trust}
    out = Path(args.folder) / "policy.onnx" if args.o is None else args.o
    print(export(args.folder, out, deterministic=not args.explore, name=args.policy, **own))
    return 0


COMMAND = command.Command("export", "write a trained policy as an ONNX file", _options, _run)
