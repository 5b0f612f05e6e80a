"""``shoal train``: train an agent, in a run folder of its own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.app.commands import command
from shoal.app.options import Pairs, Parser, settings, settings_help, unknown
from shoal.app.reproduce import reproducible_errors
from shoal.errors import ConfigError, nearest
from shoal.process import interrupts

if TYPE_CHECKING:
    from shoal.config.config import Config


def options() -> Parser:
    parser = Parser(
        "shoal train",
        "ENV --system NAME [options] [--algorithm.lr 1e-3 ...]",
        "Train an agent. Its checkpoints, settings and reports go to a run folder.",
    )
    what: dict[str, Any] = {"group": command.WHAT}
    own: dict[str, Any] = {"group": command.CODE, "rare": True}
    about = "a Gymnasium id, module:Name or file.py:Name"
    parser.option("env", metavar="ENV", nargs="?", help=about, **what)
    about = "training system; `shoal systems` lists them; or module:Name"
    parser.option("--system", metavar="NAME", help=about, **what)
    about = "start from settings that do well on ENV"
    parser.option("--tuned", action="store_true", help=about, **what)
    about = "settings in YAML or JSON (or a run's config.json)"
    parser.option("--config", metavar="FILE", help=about, **what)
    about = "execution plan (default: the system's own); or module:Name"
    parser.option("--plan", metavar="NAME", help=about, **what)
    parser.option("--seed", metavar="N", help="seed of all random numbers (default 0)", **what)
    about = "replay a population member's settings: its schedule.json"
    parser.option("--schedule", metavar="FILE", help=about, rare=True, **what)
    command.stops(parser)
    about = "run folder (default runs/SYSTEM-ENV-SEED-TIME)"
    parser.option("--out", metavar="DIR", help=about, group=command.WATCHED)
    command.evaluations(parser)
    command.reports(parser)
    command.loggers(parser, "tensorboard")
    command.places(parser)
    about = "jax or torch, for the gradients (default: what suits the network)"
    parser.option("--learner", metavar="NAME", help=about, group=command.WHERE)
    about = "of the learner: cpu, cuda, cuda:N (default: a GPU if it gains from one)"
    parser.option("--device", metavar="NAME", help=about, group=command.WHERE)
    parser.option("--algorithm", metavar="NAME", help="your own algorithm: module:Name", **own)
    parser.option("--network", metavar="NAME", help="your own network: module:Name", **own)
    command.trust(parser, "the --config file")
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app.console import create_console
    from shoal.app.run import start
    from shoal.loggers.several import chosen
    from shoal.tuning.lineage import read_schedule, refuse_lasting

    args, pairs = parser.read(argv)
    config, default_stop = new_config(parser, args, pairs)
    changes = read_schedule(Path(args.schedule))[1] if args.schedule else None
    refuse_lasting(config, changes or [], args.schedule)
    log = chosen("tensorboard" if args.log is None else args.log)
    command.silence_third_parties()
    console = create_console()
    out = Path(args.out) if args.out else None
    with (
        interrupts.deferred(),
        reproducible_errors("train", argv, config.rollout.workers, console),
    ):
        code, _ = start(config, None, out, log, console, default_stop, changes)
        return code


def new_config(parser: Parser, args: Any, pairs: Pairs) -> tuple[Config, bool]:
    """The configuration of a new run, and whether its stop is the default one.

    Later ones win: the system's defaults, tuned settings, --config, options.
    """
    from shoal.app.run import with_stop
    from shoal.config.files import load_file
    from shoal.config.names import OTHERS
    from shoal.systems.configure import configure, refuse_impossible
    from shoal.tuning.lineage import read_schedule

    nested = load_file(args.config) if args.config else {}
    if args.schedule:
        nested = read_schedule(Path(args.schedule))[0] | nested
    system = args.system or args.algorithm
    if system is not None:
        nested.pop("system", None)
    elif nested.get("system") is None:
        for name, _ in pairs:  # --sytem ppo, --algo ppo
            if "system" in OTHERS.get(name, ()) or nearest(name, ["system"]):
                what = f"there is no option --{name}"
                raise unknown(what, "system", ["system"], "shoal train --help", "--")
        fix = "name one, for example --system ppo (`shoal systems` lists them)"
        raise ConfigError("no system was given", args.config, fix)
    if args.env is None and nested.get("env") is None:
        fix = "name one, for example: shoal train CartPole-v1 --system ppo"
        raise ConfigError("no environment was given", args.config, fix)
    network = {} if args.network is None else {"algorithm.network": args.network}
    config = configure(
        system,
        args.env,
        nested,
        lambda known: {**settings(parser, args, pairs, known), **network},
        plan=args.plan,
        algorithm=args.algorithm,
        where=args.config or args.schedule,
        use_tuned=args.tuned,
        final=False,
        trust=args.trust,
    )
    config, default_stop = with_stop(config)
    refuse_impossible(config)
    return config, default_stop


def _settings_help(argv: list[str]) -> str:
    words = " ".join(argv).replace("=", " ").split()
    given = [b for a, b in pairwise(words) if a == "--system"]
    return settings_help(given[0] if given else "ppo")


COMMAND = command.Command(
    "train", "train an agent on an environment", options, _run, _settings_help
)
