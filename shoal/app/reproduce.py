"""Errors of a run, with the command that reproduces them."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shoal.errors import CheckpointError, ShoalError
from shoal.process.tracebacks import describe, reproducible

if TYPE_CHECKING:
    from shoal.app.console import Console


@contextmanager
def reproducible_errors(
    command: str, argv: list[str], workers: Any, console: Console
) -> Iterator[None]:
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
