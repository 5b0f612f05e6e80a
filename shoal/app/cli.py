"""The command line: ``shoal train``, ``resume``, ``evaluate``, ``plot`` and ``systems``.

argparse reads the few fixed options. Every other ``--group.name value`` is a setting of the run's
configuration, so that a new field of an algorithm is an option at once. Modules are imported only
when a command needs them.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal import __version__
from shoal.app.options import Pairs, Parser, flag, help_wanted, settings, settings_help, unknown
from shoal.errors import CheckpointError, ConfigError, ShoalError, nearest
from shoal.process import interrupts
from shoal.process.tracebacks import describe, reproducible

if TYPE_CHECKING:
    from shoal.app.console import Console
    from shoal.config.config import Config
    from shoal.trainer import Trainer

DEFAULT_STEPS = 1_000_000  # env steps of a run that was given no stop
_LASTING = (  # settings that cannot change when a run is resumed
    "seed",
    "learner",
    "algorithm.network",
    "rollout.envs_per_worker",
    "rollout.normalise_obs",
    "rollout.scale_reward",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors go to stderr, without a traceback.

    Without ``argv`` it is the command of this process, whose signals are noted up to its end.
    """
    if argv is not None:
        with interrupts.listening():
            return _main(list(argv))
    interrupts.listen()
    with interrupts.held():
        import numpy  # noqa: F401  (its threads are never to take a signal)
    try:
        return _main(sys.argv[1:])
    finally:
        interrupts.finish()


def _main(given: list[str]) -> int:
    try:
        try:
            with warnings.catch_warnings():
                return _dispatch(given)
        finally:  # what the interpreter flushes itself as it ends, it complains about itself
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        from shoal.app.console import silence

        silence()
        return 141  # as a program that SIGPIPE ended
    except ConfigError as error:
        error.where = error.where or shlex.join(["shoal", *given])
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ShoalError as error:
        text = describe(error)
        if error.where is None and "\nYour code" not in text:
            error.where = shlex.join(["shoal", *given])
            text = describe(error)
        print(f"error: {text.removeprefix(type(error).__name__ + ': ')}", file=sys.stderr)
        return error.exit_code
    except (Exception, SystemExit) as error:
        if interrupts.behind(error):
            return _interrupted()
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return interrupts.exit_code()


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if given else 2
    name, *rest = given
    if name in ("--version", "-V"):
        print(f"shoal {__version__}")
        return 0
    if name not in _COMMANDS:
        raise unknown(f"there is no command {name!r}", name, list(_COMMANDS), "shoal --help")
    parser, command, _ = _COMMANDS[name]
    return command(parser(), rest)


def _usage() -> str:
    lines = [f"  shoal {name:<9} {what}" for name, (_, _, what) in _COMMANDS.items()]
    return "\n".join(
        [
            "Distributed reinforcement learning: every system is an algorithm under a plan.",
            "",
            *lines,
            "",
            "`shoal COMMAND --help` explains each. A first run:",
            "  shoal train CartPole-v1 --system ppo --stop-return 475",
        ]
    )


# ------------------------------------------------------------------ train and resume


def _train_parser() -> Parser:
    parser = Parser(
        "shoal train",
        "ENV --system NAME [options] [--algorithm.lr 1e-3 ...]",
        "Train an agent. Its checkpoints, settings and reports go to a run folder.",
    )
    parser.option(
        "env", metavar="ENV", nargs="?", help="a Gymnasium id, module:Name or file.py:Name"
    )
    parser.option(
        "--system", metavar="NAME", help="training system; `shoal systems` lists them; module:Name"
    )
    parser.option("--algorithm", metavar="NAME", help="your own algorithm: module:Name")
    parser.option("--network", metavar="NAME", help="your own network: module:Name")
    parser.option(
        "--plan", metavar="NAME", help="execution plan (default: the system's own); or module:Name"
    )
    parser.option("--seed", metavar="N", help="seed of all random numbers (default 0)")
    _places(parser)
    parser.option(
        "--learner", metavar="jax|torch|auto", help="framework for the gradients (default auto)"
    )
    _stops(parser)
    parser.option("--out", metavar="DIR", help="run folder (default runs/SYSTEM-ENV-SEED-TIME)")
    _reports(parser)
    parser.option("--config", metavar="FILE", help="settings in YAML or JSON (or a config.json)")
    parser.option("--tuned", action="store_true", help="start from settings that do well on ENV")
    _trust(parser, "the --config file")
    return parser


def _own(parser: Parser) -> None:
    """What a checkpoint may name, and only its user can allow to be imported."""
    for option, what in (("env", "environment"), ("network",) * 2, ("algorithm",) * 2):
        about = f"the {what} again, if it is code (module:Name)"
        parser.option(f"--{option}", metavar="NAME", help=about)
    _trust(parser, "the checkpoint")


def _trust(parser: Parser, what: str) -> None:
    about = f"import the code that {what} names"
    parser.option("--trust", action="store_true", help=f"{about} (think who made it)")


def _places(parser: Parser) -> None:
    parser.option("--workers", metavar="N", help="worker processes; 0: sample in this process")
    parser.option(
        "--address", metavar="HOST:PORT", help="Ray cluster for the workers (or RAY_ADDRESS)"
    )


def _reports(parser: Parser) -> None:
    parser.option("--report-every", metavar="N", help="env steps in one report (default 2,000)")


def _stops(parser: Parser) -> None:
    parser.option("--stop-return", metavar="X", help="stop at this mean return over 100 episodes")
    parser.option("--stop-steps", metavar="N", help="stop after N env steps")
    parser.option("--stop-seconds", metavar="S", help="stop after S seconds")


def _train(parser: Parser, argv: list[str]) -> int:
    from shoal.app import folder as folders
    from shoal.app import loop
    from shoal.app.console import create_console
    from shoal.trainer import Trainer

    if help_wanted(parser, argv):
        words = " ".join(argv).replace("=", " ").split()
        given = [b for a, b in pairwise(words) if a == "--system"]
        print("\n" + settings_help(given[0] if given else "ppo"))
        return 0
    args, pairs = parser.read(argv)
    config, default_stop = _new_config(parser, args, pairs)
    _quiet()
    console = create_console()
    with (
        interrupts.deferred(),
        _reproducible("train", argv, config.rollout.workers, console),
        loop.warnings_on(console),
    ):
        out = _default_out(config)
        folder = folders.claim(Path(args.out)) if args.out else folders.claim_new(out)
        try:
            trainer = Trainer(config)
        except BaseException:
            with suppress(OSError):
                folder.rmdir()
            raise
        with trainer, folders.locked(folder):
            console.say(loop.header(trainer, folder, default_stop))
            return loop.train(trainer, folder, console)


def _new_config(parser: Parser, args: Any, pairs: Pairs) -> tuple[Config, bool]:
    """The configuration of a new run, and whether its stop is the default one.

    Later ones win: the system's defaults, tuned settings, --config, options.
    """
    from dataclasses import replace

    from shoal.config.config import Stop
    from shoal.config.files import load_file
    from shoal.config.names import OTHERS
    from shoal.systems.configure import configure, refuse_impossible

    nested = load_file(args.config) if args.config else {}
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
        where=args.config,
        use_tuned=args.tuned,
        final=False,
        trust=args.trust,
    )
    default_stop = config.stop == Stop()
    if default_stop:
        config = replace(config, stop=Stop(env_steps=DEFAULT_STEPS))
    refuse_impossible(config)
    return config, default_stop


def _default_out(config: Config) -> Path:
    from shoal.config.settings import to_dict

    env = config.env if isinstance(config.env, str) else to_dict(config.env).get("id", "env")
    if ".py:" in str(env):
        env = Path(str(env)).name
    plain = re.sub(r"[^\w.]+", "-", str(env))
    return Path("runs", f"{config.system}-{plain}-{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}")


def _resume_parser() -> Parser:
    parser = Parser(
        "shoal resume",
        "DIR [options] [--algorithm.lr 1e-4 ...]",
        "Continue a run from its newest checkpoint. Options change its settings; a new stop "
        "replaces the old ones.",
    )
    parser.option("folder", metavar="DIR", help="run folder, or one checkpoint in it")
    _own(parser)
    parser.option(
        "--plan", dest="own_plan", metavar="NAME", help="the plan again, if it is your own"
    )
    _places(parser)
    _stops(parser)
    _reports(parser)
    return parser


def _resume(parser: Parser, argv: list[str]) -> int:
    from shoal.app import folder as folders
    from shoal.app import loop
    from shoal.app.console import create_console
    from shoal.systems.saved import Saved
    from shoal.trainer import Trainer

    if help_wanted(parser, argv):
        return 0
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
    _quiet()
    console = create_console()
    with (
        interrupts.deferred(),
        _reproducible("resume", argv, fields.get("rollout.workers", workers), console),
        loop.warnings_on(console),
        folders.locked(folder),
        Trainer.restore(path, **own, trust=args.trust, **fields) as trainer,
    ):
        _refuse_met(trainer, folder)
        console.say(loop.header(trainer, folder))
        kept = folders.take_up(folder, path, trainer.run.counters.env_steps)
        return loop.train(trainer, folder, console, kept)


@contextmanager
def _reproducible(command: str, argv: list[str], workers: Any, console: Console) -> Iterator[None]:
    """Errors raised in here carry the command that reproduces them in one process.

    What ends this process at once (native code, ``os._exit``) at least reports its place.
    """
    import faulthandler

    from shoal.fleet.death import user_line
    from shoal.fleet.host import tell_of_exits

    words, left_out = list(argv), ("--out", "--address", "--cluster.address")
    for at in reversed(range(len(words))):
        if words[at] in left_out:
            del words[at : at + 2]
        elif words[at].startswith(tuple(f"{name}=" for name in left_out)):
            del words[at]
    if str(workers) != "0" and not any("in-process" in word for word in words):
        words += ["--cluster.in-process", "true"]
    again = shlex.join(["shoal", command, *words])

    def tell(status: int) -> None:
        place = user_line(traceback.format_stack())
        if place:
            console.end()
            what = f"os._exit({status}) was called, which ends this process at once"
            error = ShoalError(what, place, "raise an exception, or end the episode, instead")
            print(f"error: {describe(error, again)}", file=sys.stderr, flush=True)

    leave = os._exit
    if sys.stderr is sys.__stderr__:  # a real file
        faulthandler.enable(all_threads=False)
    tell_of_exits(tell)
    try:
        yield
    except (Exception, SystemExit) as error:
        if not isinstance(error, CheckpointError):
            reproducible(error, again)
        raise
    finally:
        os._exit = leave


def _refuse_met(trainer: Trainer, folder: Path) -> None:
    """Raise ConfigError if a stop condition already holds; the fix is a later stop."""
    from shoal.app.loop import command

    met, stop = trainer.stopped_by(), trainer.config.stop
    if met is None:
        return
    steps, seconds = trainer.run.counters.env_steps, trainer.recorder.wall_s
    what, later = {
        "return": (f"return {stop.return_mean}", ("--stop-steps", 2 * steps)),
        "steps": (f"{stop.env_steps} env steps", ("--stop-steps", 2 * steps)),
        "seconds": (f"{stop.seconds} seconds", ("--stop-seconds", 2 * math.ceil(seconds))),
    }[met]
    fix = f"stop later: {command(trainer.config, 'resume', str(folder), *map(str, later))}"
    raise ConfigError(f"the run has met its stop already: {what}", str(folder), fix)


# ------------------------------------------------------------------ evaluate, plot, systems


def _evaluate_parser() -> Parser:
    parser = Parser(
        "shoal evaluate",
        "DIR [options]",
        "Run whole episodes with the policy of a run. The result also goes to evaluation.json in "
        "the run folder.",
    )
    parser.option("folder", metavar="DIR", help="run folder, or one checkpoint in it")
    parser.option("--episodes", metavar="N", type=int, default=10, help="how many (default 10)")
    parser.option("--seed", metavar="N", type=int, help="episode i starts from seed N + i")
    parser.option("--explore", action="store_true", help="sample actions instead of the likeliest")
    parser.option("--video", metavar="FILE", type=Path, help="film the first: .mp4 or .gif")
    parser.option(
        "--video-episodes", metavar="N", type=int, default=3, help="how many to film (default 3)"
    )
    _own(parser)
    return parser


def _evaluate(parser: Parser, argv: list[str]) -> int:
    from shoal.app import folder as folders
    from shoal.app.console import progress
    from shoal.checkpoint.files import blame
    from shoal.evaluation import evaluate
    from shoal.policy import policy_of
    from shoal.systems.saved import Saved

    if help_wanted(parser, argv):
        return 0
    args, _ = parser.read(argv, settings=False)
    for name in ("episodes", "video_episodes"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{flag(name)} is {getattr(args, name)}", None, "run at least 1")
    if args.video is not None and args.video.suffix not in (".mp4", ".gif"):
        fix = f"--video {args.video.with_suffix('.mp4')}"
        raise ConfigError(f"--video is {args.video}, but is written as .mp4 or .gif", None, fix)
    path, folder, meta, state = folders.find(args.folder, parts=("learner",))
    saved = Saved(path, meta, args.trust)
    policy = policy_of(saved, state, network=args.network, algorithm=args.algorithm)
    env, env_kwargs = saved.env(args.env), saved.env_kwargs({})
    with blame(path):
        seed = meta["config"]["seed"] + 1_000_003 if args.seed is None else args.seed
    _quiet()
    result = evaluate(
        policy,
        env,
        args.episodes,
        seed=seed,
        env_kwargs=env_kwargs,
        explore=args.explore,
        video=args.video,
        video_episodes=args.video_episodes,
        progress=progress(args.episodes),
    )
    print(
        f"{meta['system']} on {env}, {args.episodes} episodes: "
        f"return {result['return_mean']:.1f} +- {result['return_std']:.1f} "
        f"(min {result['return_min']:.1f}, max {result['return_max']:.1f}), "
        f"length {result['length_mean']:.1f} env steps"
    )
    if args.video is not None:
        print(f"video: {args.video}, {result['frames']:,} frames, {result['video_s']:.0f} s")
    with blame(path):
        env_steps = meta["counters"]["env_steps"]
    about = {"seed": seed, "explore": args.explore, "env_steps": env_steps}
    if folder is not None:
        folders.write_json(folder / folders.EVALUATION, result | about)
    return 0


def _plot_parser() -> Parser:
    parser = Parser(
        "shoal plot",
        "DIR... -o FILE",
        "Draw the returns of runs against env steps and seconds. Runs that differ only in their "
        "seeds become one line: the mean and its 95 % confidence interval.",
    )
    parser.option("folders", metavar="DIR", nargs="+", type=Path, help="run folders")
    parser.option(
        "-o", "--out", metavar="FILE", type=Path, required=True, help="picture: .png, .pdf or .svg"
    )
    return parser


def _plot(parser: Parser, argv: list[str]) -> int:
    from shoal.app.plot import plot

    if help_wanted(parser, argv):
        return 0
    args, _ = parser.read(argv, settings=False)
    for line in plot(args.folders, args.out):
        print(line)
    print(f"drawn: {args.out}")
    return 0


def _systems_parser() -> Parser:
    return Parser("shoal systems", "", "List the systems, and what runs under which plan.")


def _systems(parser: Parser, argv: list[str]) -> int:
    from shoal.systems.table import SYSTEMS, matrix

    if help_wanted(parser, argv):
        return 0
    parser.read(argv, settings=False)
    rows = [
        (row.name, type(row.algorithm).__name__, row.plan.name, row.source)
        for row in SYSTEMS.values()
    ]
    print(_table(("system", "algorithm", "plan", "source"), rows))
    pairs = matrix()
    algorithms = list(dict.fromkeys(algorithm for algorithm, *_ in pairs))
    reasons = list(dict.fromkeys(reason for *_, reason in pairs if reason))
    cells: dict[str, list[str]] = {}
    for _, plan, name, reason in pairs:
        cell = f"no ({reasons.index(reason) + 1})" if reason else name or "yes"
        cells.setdefault(plan, []).append(cell)
    print("\n" + _table(("plan", *algorithms), [(plan, *row) for plan, row in cells.items()]))
    for number, reason in enumerate(reasons, 1):
        print(f"({number}) {reason}")
    return 0


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    ruled = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in ruled
    )


def _quiet() -> None:
    """Silence warnings of third parties that a user cannot act on."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import gymnasium  # noqa: F401  (it sets a filter of its own, which the next line overrules)

    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"gymnasium\.")
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", module=r"pygame\.")


_COMMANDS: dict[str, tuple[Callable[[], Parser], Callable[[Parser, list[str]], int], str]] = {
    "train": (_train_parser, _train, "train an agent on an environment"),
    "resume": (_resume_parser, _resume, "continue a run from its checkpoint"),
    "evaluate": (_evaluate_parser, _evaluate, "run episodes with a trained policy; film them"),
    "plot": (_plot_parser, _plot, "draw the returns of runs"),
    "systems": (_systems_parser, _systems, "list the systems, and what runs under which plan"),
}
