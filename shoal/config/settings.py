"""The one resolver of settings: names, values and texts into a tree of frozen dataclasses.

A field whose value is a frozen dataclass is a *group*; everything else is a leaf, and its
annotation says what it accepts. The names are the same in Python, on the command line, in YAML and
in JSON. This file knows the shape of such a tree, not what any algorithm or plan puts into it.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from functools import cache
from typing import (
    Any,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from shoal.checkpoint.tree import Damage, decode, encode
from shoal.config.bounds import bounds_of
from shoal.config.names import OTHERS, SHORT
from shoal.config.schedule import Linear
from shoal.config.values import Mismatch, accepted, union
from shoal.errors import ConfigError, nearest

T = TypeVar("T")
GROUPS = "groups"  # key of a field's metadata: whether its mapping holds groups
_OBJECT = re.compile(r"[\w.]+:[\w.<>]+")  # what to_dict writes: "module:QualName"


# ------------------------------------------------------------------ out: a tree as plain values


def to_dict(value: Any) -> Any:
    """A configuration, or any part of it, as plain JSON values; ``merge`` takes them back.

    What has no JSON form (a module, a callable) becomes {"object": "module:QualName"}. A setting
    that JSON cannot spell becomes its text ("inf"), and a tuple a list; inside of a mapping
    (``env_kwargs``), where no annotation says what it was, {"$tuple": [...]} and the like stand for
    tuples, numbers, paths, bytes, sets and arrays of up to 1 MiB (``shoal.checkpoint.tree``). A
    group of a class that is not Shoal's begins with its "class".
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Linear):
        return str(value)
    if _is_group(value):
        own = {} if is_ours(type(value)) else {"class": name_of(value)}
        return own | {f.name: _field(value, f) for f in fields(value) if f.init}
    if isinstance(value, Mapping):
        return encode(dict(value), (), None, _object)
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    return _object(value)


def _field(group: Any, f: Field[Any]) -> Any:
    """What ``to_dict`` makes of a field. Only a mapping declared to hold GROUPS has them as such:
    in another one a dataclass is an object of the user's, which settings could not make again."""
    value = getattr(group, f.name)
    if f.metadata.get(GROUPS):
        return encode(dict(value), (), None, _entry)
    return to_dict(value)


def _entry(value: Any) -> Any:
    """An entry of a mapping of GROUPS: a group with its class, or an object."""
    return {"class": name_of(value), **to_dict(value)} if _is_group(value) else _object(value)


def _object(value: Any) -> dict[str, str]:
    return {"object": name_of(value)}


def name_of(value: Any) -> str:
    """ "module:QualName" of a class or function, or of an object's class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def is_ours(cls: type) -> bool:
    """Whether a class is Shoal's, so that its name need not be saved."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def named(env: Any) -> str:
    """The name of an environment, however its configuration says it."""
    env = to_dict(env)
    return str(env.get("id", env.get("object", env)) if isinstance(env, dict) else env)


class Argument(NamedTuple):
    """One leaf of a configuration, as a command line or a table of options shows it."""

    name: str  # "rollout.envs_per_worker"
    annotation: str  # what it accepts: "int >= 1", "float > 0 | linear(start, end) | none"
    default: Any
    help: str  # the field's metadata "help", else the comment beside it in the source


def arguments(config: Any) -> list[Argument]:
    """Every leaf of a configuration, in the order of its fields."""
    found = []
    for path, owner, name in _walk(config, ""):
        value = getattr(owner, name)
        if not _is_group(value):
            annotation = accepted(_annotations(type(owner))[name])
            if bounds := str(bounds_of(type(owner), name) or ""):
                annotation = re.sub(r"\b(int|float)\b", rf"\1 {bounds}", annotation, count=1)
            found.append(Argument(path, annotation, value, _help(type(owner), name)))
    return found


def _walk(group: Any, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """(dotted path, group, field name) of every field below a group, groups themselves included."""
    for f in fields(group):
        if f.init:
            yield prefix + f.name, group, f.name
            value = getattr(group, f.name)
            if _is_group(value):
                yield from _walk(value, f"{prefix}{f.name}.")


def _help(cls: type, name: str) -> str:
    stated = next(f for f in fields(cls) if f.name == name).metadata.get("help")
    if stated is not None:
        return str(stated)
    return next((c[name] for c in map(_comments, cls.__mro__[:-1]) if name in c), "")


@cache
def _comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's line; empty if the source is not available."""
    import ast
    import inspect
    import io
    import textwrap
    import tokenize

    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # a class made at a prompt or by a program has no source
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    notes = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    body = cast(ast.ClassDef, ast.parse(source).body[0]).body
    return {
        node.target.id: notes[node.end_lineno]
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if node.end_lineno in notes
    }


# ------------------------------------------------------------------ in: plain values into a tree


def merge(config: T, changes: Mapping[str, Any], where: str | None = None) -> T:
    """``config`` with nested ``changes``, each value brought to its field's type.

    Values are those of Python, YAML or JSON, or text as on a command line ("1e-3", "true", "64,64",
    "none", "linear(1e-3, 0)"). Keys are compared by ``normal``, and may be paths
    ("rollout.workers"). A mapping that is a leaf (``env_kwargs``) is replaced as a whole. The text
    "none" means None if the field accepts None.

    Raises ConfigError (with ``where``: file or origin of the changes) for a key that does not
    exist, naming the nearest one, for a value of the wrong type, and from the fields' own checks.
    An {"object": ...} entry, which ``to_dict`` writes for what has no JSON form, is accepted only
    if ``config`` already holds such an object, which is then kept; the "class" of a group likewise.
    """
    if not isinstance(changes, Mapping):
        raise ConfigError(f"settings must be a mapping, not {changes!r}", where)
    return cast(T, _merge(config, list(changes.items()), "", _Scope(config, where)))


def route(config: T, flat: Mapping[str, Any], where: str | None = None) -> T:
    """``config`` with ``flat`` settings, whose names are looked up by ``find``.

    Raises ConfigError as ``merge`` and ``find`` do.
    """
    placed: dict[str, Any] = {}
    for key, value in flat.items():
        path = find(config, str(key), where) or str(key)
        if path in placed:
            raise ConfigError(f"setting {path} is given twice", where, "give it once")
        placed[path] = value
    scope = _Scope(config, where, plain=False)
    return cast(T, _merge(config, list(placed.items()), "", scope))


def find(config: Any, name: str, where: str | None = None) -> str | None:
    """The dotted path of the setting that a name means; None if there is none.

    A name is a whole path ("algorithm.lr"), a short name ("stop_steps"), or the end of one path
    ("lr", "network.hidden"); one that has a short name is not meant by an end that another has too
    ("every" is self_play.every, evaluation.every is "evaluate_every").

    Raises ConfigError for an end that several paths have.
    """
    key = normal(name)
    paths = {normal(path): path for path, _, _ in _walk(config, "")}
    whole = paths.get(key) or paths.get(SHORT.get(key, ""))
    if whole is not None:
        return whole
    ends = [path for known, path in paths.items() if known.endswith(f".{key}")]
    ends = [path for path in ends if path not in SHORT.values()] or ends
    if len(ends) > 1:
        what = f"setting {name!r} could mean {' or '.join(ends)}"
        raise ConfigError(what, where, f"write the whole name, for example {ends[0]!r}")
    return ends[0] if ends else None


def normal(name: str) -> str:
    """A name as it is compared: "-" is "_", and "lambda" is ``lambda_``, which Python reserves."""
    return ".".join(part.rstrip("_") for part in name.replace("-", "_").split("."))


def elsewhere(config: Any, name: str) -> str | None:
    """The path of the setting that other libraries know by this name, if any does."""
    paths = {path for path, _, _ in _walk(config, "")}
    others = OTHERS.get(normal(name).rpartition(".")[2].lower(), ())
    return next((path for path in others if path in paths), None)


class _Scope(NamedTuple):
    """What errors need: the whole tree, and where the changes come from."""

    root: Any
    where: str | None
    plain: bool = True  # whether the changes are in the form that ``to_dict`` writes

    def unknown(self, path: str) -> ConfigError:
        known = [known for known, _, _ in _walk(self.root, "")]
        close = elsewhere(self.root, path) or nearest(path, known)
        fix = f"did you mean {close}?" if close else "`shoal train --help-all` lists all settings"
        return ConfigError(f"there is no setting {path!r}", self.where, fix)

    def twice(self, path: str) -> ConfigError:
        return ConfigError(f"setting {path} is given twice", self.where, "give it once")


def _merge(group: Any, changes: list[tuple[Any, Any]], prefix: str, scope: _Scope) -> Any:
    """One group with its changes. A group below is built once, with all its changes together."""
    annotations = _annotations(type(group))
    changed: dict[str, Any] = {}
    below: dict[str, list[tuple[Any, Any]]] = {}
    for key, value in changes:
        head, _, rest = str(key).partition(".")
        if head == "class":
            _same_class(group, value, prefix, scope)
            continue
        name = next((known for known in annotations if normal(known) == normal(head)), None)
        if name is None:
            raise scope.unknown(prefix + str(key).replace("-", "_"))
        value = {rest: value} if rest else value
        current, annotation = getattr(group, name), annotations[name]
        settings = isinstance(value, Mapping) and not _is_object(value)
        if settings and _base(current, annotation) is not None:
            below.setdefault(name, []).extend(value.items())
        elif name in changed:
            raise scope.twice(prefix + name)
        else:
            changed[name] = _leaf(value, annotation, current, prefix + name, scope)
    for name, pairs in below.items():
        base = _base(changed.get(name, getattr(group, name)), annotations[name])
        if base is None or (name in changed and changed[name] is None):
            raise scope.twice(prefix + name)
        changed[name] = _merge(base, pairs, f"{prefix}{name}.", scope)
    try:
        return replace(group, **changed) if changed else group
    except ConfigError as error:
        raise ConfigError(error.what, error.where or scope.where, error.fix) from error


def _same_class(group: Any, name: Any, prefix: str, scope: _Scope) -> None:
    """Raise ConfigError unless this is the class of the group that its settings would change."""
    if name != name_of(group):
        setting = prefix.rstrip(".")
        what = f"{setting} was of the class {name}, which settings in a file cannot hold"
        raise ConfigError(what, scope.where, f"pass {setting} again: your own {name}")


def _base(current: Any, annotation: Any) -> Any:
    """The group that a mapping's settings change: the present one, or its type's defaults."""
    if _is_group(current):
        return current
    return next((kind() for kind in _members(annotation) if _is_group_type(kind)), None)


def _leaf(value: Any, annotation: Any, current: Any, path: str, scope: _Scope) -> Any:
    """The value of a field that is not a group, or that a user's object replaces as a whole."""
    if scope.plain and type(value) is dict and not _is_object(value):
        value = _decoded(value, path, scope)
    value = _with_objects(value, current, path, scope)
    kinds = _members(annotation)
    own = path == "algorithm.network" and isinstance(value, str) and ":" in value  # module:Name
    plain = isinstance(value, str | bool | int | float | list | tuple | None)
    if _is_group(current) and plain and not own:
        kinds = tuple(kind for kind in kinds if kind not in (Any, object))
    try:
        return union(value, kinds)
    except Mismatch as error:
        settings = [f"settings of {type(current).__name__}"] if _is_group(current) else []
        options = " | ".join(settings + [accepted(kind) for kind in kinds])
        what, fix = f"{path} is {value!r}", f"it accepts: {options}"
        raise ConfigError(what, scope.where, fix) from error


def _with_objects(value: Any, current: Any, path: str, scope: _Scope) -> Any:
    """``value``, each {"object": ...} in it replaced by the object that is there at present."""
    if _is_object(value):
        if to_dict(current) == value:
            return current
        name = value["object"]
        what = f"{path} was an object of Python, {name}, which settings in a file cannot hold"
        raise ConfigError(what, scope.where, f"pass {path} again in Python: your own {name}")
    if type(value) is dict:
        now = current if isinstance(current, Mapping) else {}
        return {k: _with_objects(v, now.get(k), f"{path}.{k}", scope) for k, v in value.items()}
    if type(value) in (list, tuple):
        old = list(current) if isinstance(current, list | tuple) else []
        old += [None] * (len(value) - len(old))
        items = [_with_objects(v, old[i], f"{path}.{i}", scope) for i, v in enumerate(value)]
        return items if type(value) is list else tuple(items)
    return value


def _decoded(value: dict[str, Any], path: str, scope: _Scope) -> Any:
    """A mapping with what ``to_dict`` wrote in the place of what JSON lacks."""
    try:
        return decode(value, {})
    except Damage as damage:
        what = f"{path} holds a value that no configuration has: {value!r}"
        raise ConfigError(what, scope.where, "write it as a config.json has it") from damage


def _annotations(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def _members(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if union else (annotation,)


def _is_group(value: Any) -> bool:
    return not isinstance(value, type) and _is_group_type(type(value))


def _is_group_type(kind: Any) -> bool:
    """Frozen dataclasses are groups; a flax module, which is a dataclass but not frozen, is not."""
    if not (isinstance(kind, type) and is_dataclass(kind)) or kind is Linear:
        return False
    return bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def _is_object(value: Any) -> bool:
    """Whether this is what ``to_dict`` writes for an object that has no JSON form."""
    if not isinstance(value, Mapping) or list(value) != ["object"]:
        return False
    return isinstance(value["object"], str) and _OBJECT.fullmatch(value["object"]) is not None
