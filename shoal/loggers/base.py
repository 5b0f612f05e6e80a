"""What a logger is: four calls that a run makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Begun:
    """A run that is about to train."""

    folder: Path  # the run folder, absolute
    config: Mapping[str, Any]  # all its settings, as config.json has them
    env_steps: int | None = None  # a run that goes on: what it has sampled already

    @property
    def name(self) -> str:
        """Of the run: that of its folder."""
        return self.folder.name


@runtime_checkable
class Logger(Protocol):
    """Takes what a run reports: pass an object with these methods as ``log``.

    All are called in the main thread, between two updates. A run goes on without a logger whose
    method raises; that is said once, and stands in the run's summary.json.
    """

    def begin(self, run: Begun) -> None:
        """Before training. What is raised here ends the run before it begins."""

    def report(self, env_steps: int, report: Report) -> None:
        """A report: flat, numbers by name, the same as in progress.jsonl (None if unknown)."""

    def video(self, env_steps: int, path: Path) -> None:
        """A film of an episode, MP4, of the policy at ``env_steps``."""

    def end(self, summary: Report) -> None:
        """After training, whatever ended it: what summary.json says."""
