"""What a search is doing: kept in its folder while it runs, and shown from there.

::

    tune.json           the search, for `shoal tune --resume`
    status.json         resources, trials and the best so far; written anew as they change
    NAME/               of the experiment, with Ray Tune's own state
    NAME/lineage.jsonl  of a population: who copied whom, and what was perturbed
    NAME/00003/         of a trial: config.json, progress.jsonl and checkpoints, as of a run
    NAME/00003/error.json  what ended it, if it was an error
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.app.console import count, duration
from shoal.config.bounds import is_number
from shoal.errors import ShoalError, cut

STATUS = "status.json"
ORDER = ("running", "paused", "waiting", "error", "done")  # states, as the table has them
LIVE_ROWS = 20  # trials in a live table
Row = dict[str, Any]
Status = dict[str, Any]


def read_status(folder: Path) -> Status:
    """What a search last wrote. Raises ShoalError for a folder that holds none."""
    try:
        found = json.loads((folder / STATUS).read_text(encoding="utf-8"))
        if not {"trials", "metric", "mode"} <= found.keys():
            raise ValueError("it is no status of a search")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"this is no folder of a search: {STATUS} cannot be read ({reason})"
        raise ShoalError(what, str(folder), "give the folder of `shoal tune`") from error
    status: Status = found
    return status


def is_search(folder: Path) -> bool:
    """Whether `shoal tune` has written there."""
    return (folder / STATUS).is_file()


def best_of(trials: Sequence[Row], mode: str) -> Row | None:
    """The trial with the best value that it ever reported; None before there is one."""
    scored = [row for row in trials if is_number(row["best"])]
    sign = 1.0 if mode == "max" else -1.0
    return max(scored, key=lambda row: sign * row["best"], default=None)


def varying(trials: Sequence[Row]) -> list[str]:
    """The settings in which trials differ, in the order of the search."""
    names = list(dict.fromkeys(name for row in trials for name in row["settings"]))
    return [n for n in names if len({json.dumps(r["settings"].get(n)) for r in trials}) > 1]


def shown(value: Any) -> str:
    """A setting's value as a table has it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value))
    return "-" if value is None else str(value)


def short(name: str, names: Sequence[str]) -> str:
    """The last part of a setting's path, where no other one ends like it."""
    last = name.rpartition(".")[2]
    same = [other for other in names if other.rpartition(".")[2] == last]
    return (last if len(same) <= 1 else name).rstrip("_")


def settings_text(row: Row, names: Sequence[str]) -> str:
    """The varying settings of a trial on one line."""
    return " ".join(f"{short(n, names)}={shown(row['settings'].get(n))}" for n in names)


def headline(status: Status) -> list[str]:
    """What runs, on what, and where it is kept: two lines."""
    trials, total = status["trials"], status["total"]
    states = {state: sum(row["state"] == state for row in trials) for state in ORDER}
    states["waiting"] += max(total - len(trials), 0)
    told = ", ".join(f"{n} {state}" for state, n in states.items() if n)
    asked, there = status["cpus"]
    return [
        f"trials: {told or 'none yet'} of {total}  {duration(status['seconds'])}",
        f"resources: {asked:g} of {there:g} CPUs requested; folder {status['folder']}",
    ]


def columns(trials: Sequence[Row], metric: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of trials, by state and then by their best value."""
    names = varying(trials)
    head = ["trial", "state", *(short(n, names) for n in names)]
    head += ["process", "node", "time", "env steps", metric, "best"]
    rows = []
    for row in trials:
        settings = [shown(row["settings"].get(n)) for n in names]
        where = [str(row["pid"] or "-"), str(row["node"] or "-")]
        age = [duration(row["seconds"]), count(row["env_steps"])]
        scores = [_value(row["last"]), _value(row["best"])]
        rows.append([row["trial"], row["state"], *settings, *where, *age, *scores])
    return head, rows


def in_order(status: Status) -> list[Row]:
    """The trials by state, and the best first."""
    sign = -1.0 if status["mode"] == "max" else 1.0

    def key(row: Row) -> tuple[int, float, str]:
        best = sign * row["best"] if is_number(row["best"]) else math.inf
        return ORDER.index(row["state"]), best, row["trial"]

    return sorted(status["trials"], key=key)


def _value(number: Any) -> str:
    return f"{number:.1f}" if is_number(number) else "-"


def endings(status: Status) -> list[str]:
    """The best trial so far with the command that goes on with it, and the errors, one a line."""
    trials = status["trials"]
    names, best = varying(trials), best_of(trials, status["mode"])
    lines = []
    if best is not None:
        what = settings_text(best, names)
        lines.append(
            f"best: trial {best['trial']}, {status['metric']} {_value(best['best'])}"
            + (f" with {what}" if what else "")
        )
        lines.append(f"  its settings: {shlex.quote(str(Path(best['folder'], 'config.json')))}")
        made = sorted(Path(best["folder"]).glob("checkpoint_*"))
        if made:
            lines.append(f"  its policy: shoal evaluate {shlex.quote(str(made[-1]))}")
    failed = [row for row in trials if row["error"]]
    if failed:
        lines.append(f"errors of {len(failed)} trial{'s' * (len(failed) > 1)}:")
        lines += [f"  {r['trial']}: {cut(r['error'], 160)}  {r['error_file']}" for r in failed]
    return lines


def text(status: Status) -> str:
    """The whole status as plain lines."""
    head, rows = columns(in_order(status), status["metric"])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    table = [
        "  ".join(f"{x:<{w}}" for x, w in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join([*headline(status), *(table if rows else []), *endings(status)])


def renderable(status: Status, width: int) -> Any:
    """The status for a terminal: as `text`, with at most ``LIVE_ROWS`` trials."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    trials = in_order(status)
    head, rows = columns(trials[:LIVE_ROWS], status["metric"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, no_wrap=True, justify="left")
    colours = {"running": "cyan", "error": "red", "done": "green", "paused": "yellow"}
    for row in rows:
        table.add_row(*row, style=colours.get(row[1], ""))
    left = len(trials) - len(rows)
    more = [Text(f"... and {left} more")] if left > 0 else []
    lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in headline(status)]
    last = [Text(line, no_wrap=True, overflow="ellipsis") for line in endings(status)]
    return Group(*lines, table, *more, *last)


def row(found: Mapping[str, Any]) -> Row:
    """A trial's row, with what it lacks empty."""
    empty: Row = {
        "trial": "",
        "state": "waiting",
        "settings": {},
        "pid": None,
        "node": None,
        "seconds": 0.0,
        "env_steps": 0,
        "last": None,
        "best": None,
        "error": None,
        "error_file": None,
        "folder": "",
    }
    return empty | dict(found)
