"""``shoal resume``: continue a run in its folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.app.commands import command
from shoal.app.options import Parser, flag, settings
from shoal.app.reproduce import reproducible_errors
from shoal.errors import ConfigError
from shoal.process import interrupts

if TYPE_CHECKING:
    from shoal.trainer import Trainer

_LASTING = (  # settings that cannot change when a run is resumed
    "seed",
    "learner",
    "algorithm.network",
    "rollout.envs_per_worker",
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
    command.reports(parser)
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app import folder as folders
    from shoal.app import loop
    from shoal.app.console import create_console
    from shoal.systems.saved import Saved
    from shoal.trainer import Trainer

    args, pairs = parser.read(argv)
    path, folder, meta, _ = folders.find(args.folder, parts=())
    if folder is None:
        fix = f'go on in Python: shoal.Trainer.restore("{path}")'
        raise ConfigError("this checkpoint is in no run folder", str(path), fix)
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
    with (
        interrupts.deferred(),
        reproducible_errors("resume", argv, fields.get("rollout.workers", workers), console),
        loop.warnings_on(console),
        folders.locked(folder),
        Trainer.restore(path, **own, trust=args.trust, **fields) as trainer,
    ):
        _refuse_met(trainer, folder)
        console.say(loop.header(trainer, folder))
        kept = folders.take_up(folder, path, trainer.run.counters.env_steps)
        return loop.train(trainer, folder, console, kept)


def _refuse_met(trainer: Trainer, folder: Path) -> None:
    """Raise ConfigError if a stop condition already holds; the fix is a later stop."""
    from shoal.app import loop

    met, stop = trainer.stopped_by(), trainer.config.stop
    if met is None:
        return
    steps, seconds = trainer.run.counters.env_steps, trainer.recorder.wall_s
    what, later = {
        "return": (f"return {stop.return_mean}", ("--stop-steps", 2 * steps)),
        "steps": (f"{stop.env_steps} env steps", ("--stop-steps", 2 * steps)),
        "seconds": (f"{stop.seconds} seconds", ("--stop-seconds", 2 * math.ceil(seconds))),
    }[met]
    fix = f"stop later: {loop.command(trainer.config, 'resume', str(folder), *map(str, later))}"
    raise ConfigError(f"the run has met its stop already: {what}", str(folder), fix)


COMMAND = command.Command("resume", "continue a run from its checkpoint", _options, _run)
