"""The numbers that a setting accepts: part of its field, checked when its dataclass is built.

::

    lr: Schedule = setting(3e-4, above=0)  # Adam's step size
"""

from __future__ import annotations

import math
import types
from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from shoal.errors import ConfigError

T = TypeVar("T")
BOUNDS = "bounds"  # key of a field's metadata


@dataclass(frozen=True)
class Bounds:
    """An interval of numbers."""

    above: float | None = None  # exclusive
    least: float | None = None  # inclusive
    below: float | None = None
    most: float | None = None
    infinite: bool = False  # whether infinity counts as a number

    def hold(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

    def closed(self) -> Bounds:
        """The same interval with its ends: a schedule may begin or end there."""
        least = self.above if self.least is None else self.least
        most = self.below if self.most is None else self.most
        return Bounds(least=least, most=most, infinite=self.infinite)

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least:g} to {self.most:g}"
        ends = (">", self.above), (">=", self.least), ("<", self.below), ("<=", self.most)
        return ", ".join(f"{sign} {end:g}" for sign, end in ends if end is not None)


def setting(
    default: T,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    infinite: bool = False,
    help: str | None = None,
) -> T:
    """A dataclass field with bounds; without any, it must still be a finite number.

    ``help`` takes the place of the comment behind the field.
    """
    metadata = {BOUNDS: Bounds(above, least, below, most, infinite)}
    made: Any = field(default=default, metadata=metadata | ({"help": help} if help else {}))
    return cast(T, made)


def check_bounds(settings: Any, prefix: str = "") -> None:
    """Check every field of a dataclass that was made by ``setting``; for its ``__post_init__``.

    Raises ConfigError with the field's name behind ``prefix``.
    """
    for name, bounds, kinds in _bounded(cast(Hashable, type(settings))):
        value = getattr(settings, name)
        if not _accepts(bounds, kinds, value):
            raise ConfigError(
                f"{prefix}{name} is {_text(value)}",
                None,
                f"make {prefix}{name} {_told(bounds, kinds)}",
            )


def bounds_of(cls: type, name: str) -> Bounds | None:
    """The bounds of a dataclass field, if it has any."""
    found = next(f for f in fields(cls) if f.name == name).metadata.get(BOUNDS)
    return cast("Bounds | None", found)


@cache
def _bounded(cls: Any) -> tuple[tuple[str, Bounds, tuple[Any, ...]], ...]:
    """(name, bounds, members of the annotation) of each field that has bounds."""
    hints = get_type_hints(cls)
    found = ((f.name, f.metadata.get(BOUNDS), hints[f.name]) for f in fields(cls))
    return tuple((name, bounds, _members(hint)) for name, bounds, hint in found if bounds)


def _members(hint: Any) -> tuple[Any, ...]:
    union = get_origin(hint) in (Union, types.UnionType)
    return get_args(hint) if union else (hint,)


def _accepts(bounds: Bounds, kinds: tuple[Any, ...], value: Any) -> bool:
    if value is None:
        return type(None) in kinds
    if isinstance(value, str):
        return any(value in get_args(kind) for kind in kinds if get_origin(kind) is Literal)
    if type(value) in kinds and hasattr(value, "start"):  # a Linear
        ends = value.start, value.end
        return all(map(bounds.closed().hold, ends)) and any(map(bounds.hold, ends))
    if float not in kinds:
        return is_whole(value) and bounds.hold(value)
    number = is_number(value) or (bounds.infinite and value in (math.inf, -math.inf))
    return number and bounds.hold(value)


def _told(bounds: Bounds, kinds: tuple[Any, ...]) -> str:
    number = "a number" if bounds.infinite else "a finite number"
    words = [f"{number if float in kinds else 'a whole number'} {bounds}".strip()]
    for kind in kinds:
        if get_origin(kind) is Literal:
            words += [repr(word) for word in get_args(kind)]
        elif kind is type(None):
            words.append("none")
        elif kind not in (int, float):
            words.append(f"a {kind.__name__.lower()} schedule of such numbers")
    return ", or ".join(words)


def _text(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    return repr(value) if isinstance(value, str) else str(value)


def require(ok: bool, name: str, value: Any, accepted: str) -> None:
    """Raise ConfigError unless ``ok``: ``name`` is ``value``, but must be ``accepted``."""
    if not ok:
        raise ConfigError(f"{name} is {value!r}", None, f"make {name} {accepted}")


def is_number(value: Any) -> bool:
    """A finite real number."""
    number = isinstance(value, int | float | np.integer | np.floating)
    return number and not isinstance(value, bool) and -math.inf < value < math.inf


def is_whole(value: Any, least: float = -math.inf) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(value >= least)
