"""``shoal check-env``: whether an environment is ready to be trained on."""

from __future__ import annotations

from typing import Any

from shoal.app.commands import command
from shoal.app.options import Parser


def _options() -> Parser:
    parser = Parser(
        "shoal check-env",
        "ENV [options] [--NAME VALUE ...]",
        "Look at an environment before it is trained on: Gymnasium's checker, spaces, numbers, "
        "seeds, copies, ends, the time of a step, and scales. Other options are its arguments. "
        "Exit code 1 if something fails.",
    )
    parser.option("env", metavar="ENV", help="a Gymnasium id, module:Name or file.py:Name")
    parser.option("--steps", metavar="N", type=int, default=2000, help="env steps (default 2,000)")
    parser.option("--seed", metavar="N", type=int, default=0, help="of them (default 0)")
    about = "agents at once, if the environment does not name them"
    parser.option("--max-agents", metavar="N", type=int, help=about)
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    import yaml

    from shoal.examining import check_env

    args, pairs = parser.read(argv)
    command.silence_third_parties()
    kwargs: dict[str, Any] = {
        name.replace("-", "_"): True if value is None else yaml.safe_load(value)
        for name, value in pairs
    }
    own = {"steps": args.steps, "seed": args.seed, "max_agents": args.max_agents}
    found = check_env(args.env, kwargs, **own)
    print(found)
    return 0 if found.ok else 1


COMMAND = command.Command(
    "check-env", "say whether an environment is ready to be trained on", _options, _run
)
