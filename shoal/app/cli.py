"""The command line: runs one command; the commands themselves are in ``app/commands``.

argparse reads the few fixed options. Every other ``--group.name value`` is a setting of the run's
configuration, so that a new field of an algorithm is an option at once. Modules are imported only
when a command needs them.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence

from shoal import __version__
from shoal.app.commands import (
    card,
    check_env,
    doctor,
    evaluate,
    export,
    play,
    plot,
    record,
    report,
    resume,
    systems,
    train,
    tune,
)
from shoal.app.commands.command import Command
from shoal.app.options import unknown
from shoal.errors import ConfigError, ShoalError
from shoal.process import interrupts
from shoal.process.tracebacks import describe

_MODULES = (
    *(train, resume, tune, evaluate, record, play, export, card, plot, report),
    *(systems, check_env, doctor),
)
_COMMANDS: dict[str, Command] = {module.COMMAND.name: module.COMMAND for module in _MODULES}


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
        from shoal.app.terminal import silence

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
    command = _COMMANDS[name]
    parser = command.options()
    everything = "--help-all" in rest
    if everything or "-h" in rest or "--help" in rest:
        print(parser.help(everything, command.more_help is not None))
        if everything and command.more_help is not None:
            print("\n" + command.more_help(rest))
        return 0
    return command.run(parser, rest)


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  shoal {name:<{width}}  {command.about}" for name, command in _COMMANDS.items()]
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
