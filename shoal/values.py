"""One setting: how Python, YAML, JSON or a command line say it, and what its annotation accepts."""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, cast, get_args, get_origin

import numpy as np

from shoal.errors import ConfigError

_LINEAR = re.compile(r"linear\(([^,()]+)(?:,([^,()]+))?\)")
_BOOLS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLS |= {"false": False, "no": False, "off": False, "0": False}


def check(ok: bool, name: str, value: Any, accepted: str) -> None:
    """Raise ConfigError unless ``ok``: ``name`` is ``value``, but must be ``accepted``."""
    if not ok:
        raise ConfigError(f"{name} is {value!r}", None, f"make {name} {accepted}")


@dataclass(frozen=True)
class Linear:
    """A value annealed linearly over the run's env steps; as text "linear(1e-3, 0)"."""

    start: float
    end: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            check(is_number(value), f"linear's {name}", value, "a finite number")

    def at(self, progress: float) -> float:
        """The value when ``progress`` of the run is done, clipped to [0, 1]."""
        done = min(max(progress, 0.0), 1.0)
        return self.start * (1.0 - done) + self.end * done

    def __str__(self) -> str:
        return f"linear({self.start!r}, {self.end!r})"


Schedule: TypeAlias = float | Linear


def at(value: Schedule, progress: float) -> float:
    """A schedule's value when ``progress`` in [0, 1] of the run is done; a number is constant."""
    return value.at(progress) if isinstance(value, Linear) else value


def is_number(value: Any) -> bool:
    """A finite real number."""
    number = isinstance(value, int | float | np.integer | np.floating)
    return number and not isinstance(value, bool) and -math.inf < value < math.inf


def is_whole(value: Any, least: int) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(value >= least)


def load_file(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file, for ``merge``; an empty file has none.

    Raises ConfigError with file and line for what cannot be read, for a key that is given twice,
    and for anything that is not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a YAML or JSON file in UTF-8"
        raise ConfigError(f"cannot read the settings: {error}", str(path), fix) from error
    try:
        found = _parse_json(text) if path.suffix == ".json" and text.strip() else _parse_yaml(text)
    except _SyntaxError as error:
        where = str(path) if error.line is None else f"{path}:{error.line}"
        raise ConfigError(f"settings not understood: {error}", where, "correct the file") from error
    if not isinstance(found, dict | None):
        fix = "write lines of 'name: value'"
        raise ConfigError(f"the file holds {found!r}, not settings", str(path), fix)
    return found or {}


class _SyntaxError(ValueError):
    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


def _parse_json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _SyntaxError(f"{key!r} is given twice", None)
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise _SyntaxError(error.msg, error.lineno) from error
    except RecursionError as error:
        raise _SyntaxError("nested too deeply", None) from error


def _parse_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise _SyntaxError(f"{key.value!r} is given twice", key.start_mark.line + 1)
                seen |= {key.value} if isinstance(key.value, str) else set()
            return super().construct_mapping(node, deep=deep)

    # YAML 1.1, which PyYAML reads, takes 1e-3 for a text; YAML 1.2 takes it for the number it is.
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        raise _SyntaxError(message, mark.line + 1 if mark else None) from error
    except (ValueError, RecursionError) as error:  # 2024-13-45 is no date; lists a thousand deep
        raise _SyntaxError(str(error), getattr(error, "line", None)) from error


class Mismatch(Exception):
    """A value that an annotation does not accept."""


def accepted(annotation: Any) -> str:
    """What an annotation accepts, as text: "int", "float | linear(start, end) | none"."""
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(accepted(member) for member in args)
    if origin is Literal:
        return " | ".join(str(option) for option in args)
    if origin is tuple:
        return ",".join("..." if a is Ellipsis else accepted(a) for a in args) or "values"
    return _NAMES.get(origin) or str(getattr(origin, "__name__", origin))


def coerce(value: Any, annotation: Any) -> Any:
    """``value`` (Python's, YAML's or text) as the type that ``annotation`` states."""
    value = value.item() if isinstance(value, np.generic) else value
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if origin in _PARSERS:
        return _PARSERS[origin](value)
    if origin in (Union, types.UnionType):
        return union(value, args)
    if origin is tuple:
        return _tuple(value, args)
    if origin is Literal:
        options = [a for a in args if str(a) == value or (a == value and type(a) is type(value))]
        _expect(bool(options))
        return options[0]
    if origin not in (Any, object) and not getattr(origin, "_is_protocol", False):
        _expect(callable(value) if origin is Callable else isinstance(value, origin))
    return value


def _expect(ok: bool) -> None:
    if not ok:
        raise Mismatch


def union(value: Any, members: tuple[Any, ...]) -> Any:
    """The first member that accepts: the value's own type (3.0 is no int), None, ..., text last."""

    def rank(member: Any) -> int:
        if member is str or member in (Any, object):
            return 3
        if type(value) is member:
            return 0
        return 1 if member is types.NoneType or get_origin(member) is Literal else 2

    for member in sorted(members, key=rank):
        try:
            return coerce(value, member)
        except Mismatch:
            continue
    raise Mismatch


def _tuple(value: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of a list, of "64, 64" with or without brackets, or of one value that stands alone."""
    if isinstance(value, str):
        inner = value.strip()
        if inner[:1] + inner[-1:] in ("[]", "()"):
            inner = inner[1:-1]
        value = _inline(f"[{inner}]")
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not args:
        return items
    if args[-1] is Ellipsis:
        args = args[:1] * len(items)
    _expect(len(items) == len(args))
    return tuple(map(coerce, items, args))


def _mapping(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _inline(value)
    _expect(isinstance(value, Mapping))
    return value


def _inline(text: str) -> Any:
    try:
        return _parse_yaml(text)
    except _SyntaxError as error:
        raise Mismatch from error


def _float(value: Any) -> float:
    _expect(isinstance(value, int | float | str) and not isinstance(value, bool))
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise Mismatch from error
    _expect(not math.isnan(number))
    return number


def _int(value: Any) -> int:
    """A whole number, also as 1e6 or "1e6"; whole text stays exact, however long."""
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        value = _float(value)
        _expect(value.is_integer())
    return int(value)


def _bool(value: Any) -> bool:
    value = _BOOLS.get(value.strip().lower()) if isinstance(value, str) else value
    _expect(isinstance(value, bool))
    return cast(bool, value)


def _str(value: Any) -> str:
    _expect(isinstance(value, str))
    return str(value)


def _none(value: Any) -> None:
    _expect(value is None or (isinstance(value, str) and value.lower() in ("none", "null")))


def _linear(value: Any) -> Linear:
    if isinstance(value, Linear):
        return value
    found = _LINEAR.fullmatch("".join(value.split())) if isinstance(value, str) else None
    if found is None:
        raise Mismatch
    return Linear(_float(found[1]), _float(found[2] or 0.0))


_PARSERS: dict[Any, Callable[[Any], Any]] = {
    int: _int,
    float: _float,
    bool: _bool,
    str: _str,
    types.NoneType: _none,
    Linear: _linear,
    Mapping: _mapping,
    dict: _mapping,
}
_NAMES: dict[Any, str] = {
    Linear: "linear(start, end)",
    types.NoneType: "none",
    bool: "true | false",
    Any: "any value",
    object: "any value",
    Mapping: "mapping",
    Callable: "callable",
}
