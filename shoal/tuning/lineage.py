"""Who copied whom in a population, and the schedule of settings that led to a member."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.config.config import Config
from shoal.config.files import load_file
from shoal.errors import ConfigError

LINEAGE = "lineage.jsonl"
SCHEDULE = "schedule.json"
Entry = Mapping[str, Any]


def lineage(folder: Path) -> list[dict[str, Any]]:
    """The exploits of a population so far, in order; one that a kill cut off is not one."""
    try:
        lines = (folder / LINEAGE).read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return []
    return [json.loads(line) for line in lines]


def schedule(entries: Sequence[Entry], member: str) -> list[dict[str, Any]]:
    """The settings that led to a member as it is now: [{"env_steps": ..., "set": {...}}, ...].

    Followed back from its last exploit to its donor before that moment, and so on. Empty for a
    member that never copied.
    """
    found: list[dict[str, Any]] = []
    who, before = member, len(entries)
    first: Entry | None = None
    while True:
        own = [i for i in range(before) if entries[i]["recipient"] == who]
        if not own:
            break
        entry = entries[own[-1]]
        found.append({"env_steps": entry["time"], "set": dict(entry["new"])})
        who, before, first = entry["donor"], own[-1], entry["donor_had"]
    if first is not None:
        found.append({"env_steps": 0, "set": dict(first)})
    return found[::-1]


def ways(
    entries: Sequence[Entry], row: Mapping[str, Any], name: str
) -> Iterator[tuple[int, int, Any]]:
    """(from, to, value) of one setting of a member, in env steps, from copy to copy."""
    start, now = 0, row["settings"].get(name)
    for entry in entries:
        if entry["recipient"] == row["id"]:
            yield start, entry["recipient_time"], entry["old"][name]
            start, now = entry["time"], entry["new"][name]
    yield start, max(row["env_steps"], start), now


def read_schedule(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The configuration in a schedule's file, and its changes in the order of their env steps.

    Raises ConfigError for a file that is no schedule.
    """
    found = load_file(path)
    fix = f"give a {SCHEDULE} of a population's member"
    try:
        changes = [(int(x["env_steps"]), dict(x["set"])) for x in found["schedule"]]
        config = dict(found["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError("the file holds no schedule", str(path), fix) from error
    changes.sort(key=lambda change: change[0])
    return config, [{"env_steps": at, "set": fields} for at, fields in changes]


class Replayed:
    """The changes of a run folder's schedule, if it has one, as they fall due."""

    def __init__(self, folder: Path) -> None:
        path = folder / SCHEDULE
        self._changes = read_schedule(path)[1] if path.is_file() else []

    def apply(self, trainer: Any) -> None:
        """Set what is due at the env steps that the trainer has sampled."""
        now = trainer.run.counters.env_steps
        due = [change for change in self._changes if change["env_steps"] <= now]
        if due:  # each holds all settings that ever change
            trainer.set(**due[-1]["set"])
            self._changes = self._changes[len(due) :]


def refuse_lasting(config: Config, changes: Sequence[Entry], where: str) -> None:
    """Raise ConfigError for a schedule of settings that cannot change while a trainer runs."""
    from shoal.config.settings import find
    from shoal.systems.configure import settable

    for change in changes:
        for name in change["set"]:
            path = find(config, name, where)
            if path is None or not settable(config, path):
                what = f"{name} changes in this schedule, but cannot change while a trainer runs"
                raise ConfigError(what, where, "go on with the member's own checkpoint")
