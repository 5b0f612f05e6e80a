"""One value: how Python, YAML, JSON or a command line write it, and what its annotation accepts."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, Union, cast, get_args, get_origin

import numpy as np

from shoal.config.files import FileSyntaxError, parse_yaml
from shoal.config.schedule import Linear

_LINEAR = re.compile(r"linear\(([^,()]+)(?:,([^,()]+))?\)")
_BOOLS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLS |= {"false": False, "no": False, "off": False, "0": False}


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
    """Items of a list, of "64, 64" with or without brackets, or of one value alone."""
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
        return parse_yaml(text)
    except FileSyntaxError as error:
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
