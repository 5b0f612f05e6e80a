"""Shoal's own errors: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


class ShoalError(Exception):
    """An error that Shoal itself raises; `str()` is up to three lines.

    Args:
        what: what is wrong, in one sentence with the numbers.
        where: the user's file and line, the config key, the file on disk.
        fix: what to do about it; a command where there is one.
    """

    exit_code = 1

    def __init__(self, what: str, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)  # as `args`, so that the error survives a process border
        self.what, self.where, self.fix = what, where, fix

    def locate(self, where: str | None) -> None:
        """Add the file and line, which are known further out than the fault."""
        if where is not None:
            self.where = where if self.where is None else f"{self.where} ({where})"
            self.args = (self.what, self.where, self.fix)

    def __str__(self) -> str:
        lines = [cut(self.what)]
        if self.where is not None:
            lines.append(f"  where: {cut(self.where)}")
        if self.fix is not None:
            lines.append(f"  to do: {cut(self.fix)}")
        return "\n".join(lines)


class ConfigError(ShoalError):
    """A setting that is unknown, of the wrong type or impossible; found before anything starts."""

    exit_code = 2


class SpaceError(ShoalError):
    """An observation or action space that Shoal does not support, or that does not fit."""


class EnvError(ShoalError):
    """An environment that cannot be made, or that breaks Gymnasium's contract."""


class NetworkError(ShoalError):
    """A network that cannot be built for these spaces, or whose output does not fit."""


class DemoError(ShoalError):
    """Demonstrations that cannot be read, or that do not fit the environment."""


class CheckpointError(ShoalError):
    """A checkpoint that is damaged, hostile, of another version or of another environment."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` (which may be dotted) that ``name`` most likely stands for, if any.

    The last part of a path counts most, so that a setting is found in another group too.
    """

    def score(other: str) -> tuple[float, float]:
        last = SequenceMatcher(None, name.rpartition(".")[2], other.rpartition(".")[2]).ratio()
        return last, SequenceMatcher(None, name, other).ratio()

    best = max(names, key=score, default=None)
    return best if best is not None and score(best)[0] >= 0.5 else None


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """ "did you mean NAME? ", with a space behind it; empty if no name is near."""
    close = nearest(name, names)
    return f"did you mean {prefix}{close}? " if close else ""


def cut(text: str, limit: int = 400) -> str:
    """`text` on one line, with what exceeds `limit` characters counted instead of shown."""
    text = " ".join(text[: 20 * limit].split()) + (" ..." if len(text) > 20 * limit else "")
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text) - limit}+ more)"
