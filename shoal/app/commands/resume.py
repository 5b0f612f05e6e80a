"""``shoal resume``: continue a run in its folder."""

from __future__ import annotations

from typing import Any

from shoal.app.commands import command
from shoal.app.options import Parser, flag, settings
from shoal.app.reproduce import reproducible_errors
from shoal.errors import ConfigError
from shoal.process import interrupts

_LASTING = (  # settings that cannot change when a run is resumed
    "seed",
    "learner",
    "algorithm.network",
    "rollout.envs_per_worker",
    "rollout.max_agents",
    "rollout.normalise_obs",
    "rollout.scale_reward",
    "rollout.hide",
    "rollout.previous",
)


def _options() -> Parser:
    parser = Parser(
        "shoal resume",
        "DIR [options] [--algorithm.lr 1e-4 ...]",
        "Continue a run from its newest checkpoint. Options change its settings; a new stop "
        "replaces the old ones.",
    )
    parser.option("folder", metavar="DIR", help="run folder, or one checkpoint in it")
    command.own_code(parser)
    parser.option(
        "--plan", dest="own_plan", metavar="NAME", help="the plan again, if it is your own"
    )
    command.places(parser)
    command.stops(parser)
    command.evaluations(parser)
    command.reports(parser)
    command.loggers(parser, "those that it began with")
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app import folder as folders
    from shoal.app.console import create_console
    from shoal.app.run import go_on
    from shoal.systems.saved import Saved

    args, pairs = parser.read(argv)
    path, folder, meta, _ = folders.find(args.folder, parts=())
    own = {"env": args.env, "network": args.network, "algorithm": args.algorithm}
    own |= {"plan": args.own_plan}
    saved = Saved(path, meta, args.trust).config(**own)
    workers = saved.rollout.workers
    fields: dict[str, Any] = dict(settings(parser, args, pairs, saved))
    for name in fields:
        if name.startswith(_LASTING):
            fix = "start a new run with it: shoal train"
            raise ConfigError(f"--{flag(name)} cannot change when a run goes on", None, fix)
    command.silence_third_parties()
    console = create_console()
    log = ... if args.log is None else args.log
    with (
        interrupts.deferred(),
        reproducible_errors("resume", argv, fields.get("rollout.workers", workers), console),
    ):
        return go_on(path, folder, own, args.trust, fields, log, console)


COMMAND = command.Command("resume", "continue a run from its checkpoint", _options, _run)
