"""What a command is, and the options that several of them share."""

from __future__ import annotations

import os
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shoal.app.options import Pairs, Parser
from shoal.errors import ConfigError

# Titles of groups of options.
WHAT, UNTIL, WHERE = "What is trained", "Until when", "Where it runs"
WATCHED, CODE = "What is watched and kept", "Code of your own"


@dataclass(frozen=True)
class Command:
    """One command of ``shoal``: its options, what it does, and its help."""

    name: str
    about: str  # one line in `shoal --help`
    options: Callable[[], Parser]
    run: Callable[[Parser, list[str]], int]  # (parser, arguments) -> exit code
    more_help: Callable[[list[str]], str] | None = None  # arguments -> what follows the options


def own_code(parser: Parser) -> None:
    """Options for code that a checkpoint names, and that only its user can allow to be imported."""
    code(parser, "env", "network", "algorithm")


def code(parser: Parser, *options: str) -> None:
    """Those of these names."""
    for option in options:
        what = "environment" if option == "env" else option
        about = f"the {what} again, if it is code (module:Name)"
        parser.option(f"--{option}", metavar="NAME", help=about, group=CODE, rare=True)
    trust(parser, "the checkpoint")


def trust(parser: Parser, what: str) -> None:
    """The option that allows importing the code named in a file."""
    about = f"import the code that {what} names (only if you trust whoever made it)"
    parser.option("--trust", action="store_true", help=about, group=CODE, rare=True)


def places(parser: Parser) -> None:
    """Options for where workers run."""
    about = "worker processes; 0: sample in this process"
    parser.option("--workers", metavar="N", help=about, group=WHERE)
    about = "Ray cluster for the workers (or RAY_ADDRESS)"
    parser.option("--address", metavar="HOST:PORT", help=about, group=WHERE)


def reports(parser: Parser) -> None:
    """The option for how often to report."""
    about = "env steps per report (default 2,000)"
    parser.option("--report-every", metavar="N", help=about, group=WATCHED, rare=True)


def loggers(parser: Parser, default: str) -> None:
    """The option for where reports go besides the run folder."""
    about = f"tensorboard, wandb, mlflow (several: a,b), or none (default: {default})"
    parser.option("--log", metavar="NAMES", help=about, group=WATCHED)


def stops(parser: Parser) -> None:
    """Options for when to stop."""
    about = "stop at this mean return of an evaluation, or else of 100 training episodes"
    parser.option("--stop-return", metavar="X", help=about, group=UNTIL)
    parser.option("--stop-steps", metavar="N", help="stop after N env steps", group=UNTIL)
    parser.option("--stop-seconds", metavar="S", help="stop after S seconds", group=UNTIL)


def evaluations(parser: Parser) -> None:
    """Options for evaluation while training."""
    about = "evaluate every N env steps; keep the best policy"
    parser.option("--evaluate-every", metavar="N", help=about, group=WATCHED)
    about = "episodes of one evaluation (default 10)"
    parser.option("--evaluate-episodes", metavar="N", help=about, group=WATCHED, rare=True)
    about = "film an episode every N env steps"
    parser.option("--video-every", metavar="N", help=about, group=WATCHED)
    about = "stop or continue, if an evaluation fails (default stop)"
    parser.option("--on-evaluation-error", metavar="DO", help=about, group=WATCHED, rare=True)


def best(parser: Parser) -> None:
    """The option that takes the policy of the best evaluation."""
    about = "the policy of the best evaluation while training, not the newest"
    parser.option("--best", action="store_true", help=about)


def acting(parser: Parser, args: Namespace, pairs: Pairs) -> dict[str, Any]:
    """Options that are settings of how a policy acts, by their names.

    Raises ConfigError for any other, unless a class of the user's own may know it, and for one that
    has no value.
    """
    from shoal.config.settings import normal
    from shoal.systems.table import SYSTEMS

    known = {name for each in SYSTEMS.values() for name in each.algorithm.acting}
    for name, value in pairs:
        if normal(name) not in known and args.algorithm is None and not args.trust:
            raise parser.unknown(name, also=sorted(known))
        if value is None:
            raise ConfigError(f"--{name} needs a value", None, f"--{name} VALUE")
    return {normal(name): str(value) for name, value in pairs}


class Trained(NamedTuple):
    """A trained policy that a command plays."""

    title: str  # what is played, for the line that tells the result
    folder: Path | None  # of its run
    about: dict[str, Any]  # what belongs to the result: seed, explore, env steps of the run
    arguments: dict[str, Any]  # of ``evaluate`` and ``record``
    max_agents: int | None  # of ``evaluate`` alone


def trained(parser: Parser, args: Namespace, pairs: Pairs, apart: int) -> Trained:
    """The policy that ``args`` name, with settings of how it acts.

    Episodes begin at its seed + ``apart`` unless --seed says.
    """
    from shoal.app import folder as folders
    from shoal.app.console import progress
    from shoal.checkpoint.files import best_of, blame
    from shoal.policy import policy_of
    from shoal.systems.saved import Saved

    changes = acting(parser, args, pairs)
    given = best_of(Path(args.folder)) if args.best else args.folder
    path, folder, meta, state = folders.find(str(given), parts=("learner",))
    saved = Saved(path, meta, args.trust)
    given = {"env": args.env, "network": args.network, "algorithm": args.algorithm}
    policy = policy_of(saved, state, **given, acting=changes)
    env = saved.env(args.env)
    with blame(path):
        seed = meta["config"]["seed"] + apart if args.seed is None else args.seed
        env_steps = meta["counters"]["env_steps"]
        max_agents = meta["config"]["rollout"].get("max_agents")
    silence_third_parties()
    arguments = {
        "policy": policy,
        "env": env,
        "env_kwargs": saved.env_kwargs({}),
        "episodes": args.episodes,
        "seed": seed,
        "explore": args.explore,
        "progress": progress(args.episodes),
    }
    about = {"seed": seed, "explore": args.explore, "env_steps": env_steps}
    about |= {"acting": changes} if changes else {}
    about |= {"best": True} if "best" in meta else {}
    title = f"{meta['system']} on {env}, {args.episodes} episodes"
    title += "".join(f", {name} {value}" for name, value in changes.items())
    return Trained(title, folder, about, arguments, max_agents)


def silence_third_parties() -> None:
    """Silence warnings of other libraries that a user cannot act on."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import gymnasium  # noqa: F401  (it sets a filter of its own, which the next line overrules)

    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"gymnasium\.")
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", module=r"pygame\.")
