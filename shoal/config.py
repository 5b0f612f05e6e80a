"""One tree of frozen dataclasses: the same names in Python, on the command line, in YAML and JSON.

This file knows the shape of a configuration, not what any algorithm or plan puts into it. A field
whose value is a frozen dataclass is a *group*; everything else is a leaf, and a leaf's annotation
says what it accepts.
"""

from __future__ import annotations

import math
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import SequenceMatcher
from functools import cache
from typing import (
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from shoal.errors import ConfigError
from shoal.values import Linear as Linear
from shoal.values import Mismatch, accepted, union
from shoal.values import Schedule as Schedule
from shoal.values import at as at
from shoal.values import check as check
from shoal.values import is_number as is_number
from shoal.values import is_whole as is_whole
from shoal.values import load_file as load_file

T = TypeVar("T")
_OBJECT = re.compile(r"[\w.]+:[\w.<>]+")  # what to_dict writes: "module:QualName"


class Frozen(Mapping[str, Any]):
    """A mapping that cannot be changed, and that processes can send to each other."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items = dict(items or {})

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True)
class Rollout:
    """How the environments are sampled."""

    workers: int = 0  # processes that sample, each with environments of its own; 0: this one does
    envs_per_worker: int = 8  # copies of the environment that one worker steps together
    fragment_length: int = 128  # env steps of each copy between two batches
    normalise_obs: bool = False  # observations by their running mean and standard deviation
    scale_reward: bool = False  # rewards by the running standard deviation of the return
    clip_reward: float | Literal["auto"] | None = "auto"  # to +-this for training; auto: 1 on Atari
    env_kwargs: Mapping[str, Any] = field(default_factory=Frozen)  # given to the environment

    def __post_init__(self) -> None:
        check(is_whole(self.workers, 0), "rollout.workers", self.workers, "a whole number >= 0")
        for name in ("envs_per_worker", "fragment_length"):
            value = getattr(self, name)
            check(is_whole(value, 1), f"rollout.{name}", value, "a whole number >= 1")
        ok = isinstance(self.env_kwargs, Mapping) and all(type(k) is str for k in self.env_kwargs)
        check(ok, "rollout.env_kwargs", self.env_kwargs, "a mapping of argument names to values")
        clip: Any = self.clip_reward
        number = is_number(clip)
        ok = clip is None or (isinstance(clip, str) and clip == "auto") or (number and clip > 0)
        check(ok, "rollout.clip_reward", clip, "a finite number above 0, 'auto' or none")
        both = bool(self.scale_reward) and number
        fix = "'auto' or none where rollout.scale_reward is on: scaled rewards have a clip already"
        check(not both, "rollout.clip_reward", clip, fix)
        object.__setattr__(self, "env_kwargs", Frozen(self.env_kwargs))


@dataclass(frozen=True)
class Stop:
    """When a run ends: at the first of these that is met; none means never."""

    return_mean: float | None = None  # mean return of the last 100 training episodes
    env_steps: int | None = None  # env steps sampled
    seconds: float | None = None  # wall-clock time of the run

    def __post_init__(self) -> None:
        mean, steps, seconds = self.return_mean, self.env_steps, self.seconds
        check(mean is None or is_number(mean), "stop.return_mean", mean, "a finite number")
        check(steps is None or is_whole(steps, 1), "stop.env_steps", steps, "a whole number >= 1")
        ok = seconds is None or (is_number(seconds) and seconds > 0)
        check(ok, "stop.seconds", seconds, "a finite number above 0")


@dataclass(frozen=True)
class Checkpointing:
    """When a run saves itself, and how much of that it keeps."""

    every_seconds: float = 60.0  # wall-clock time between two checkpoints
    every_iterations: int | None = None  # reports between two checkpoints, besides the seconds
    keep: int = 2  # newest checkpoints that are kept

    def __post_init__(self) -> None:
        seconds, every = self.every_seconds, self.every_iterations
        ok = is_number(seconds) and seconds > 0
        check(ok, "checkpointing.every_seconds", seconds, "a finite number above 0")
        ok = every is None or is_whole(every, 1)
        check(ok, "checkpointing.every_iterations", every, "a whole number >= 1, or none")
        check(is_whole(self.keep, 1), "checkpointing.keep", self.keep, "a whole number >= 1")


@dataclass(frozen=True)
class Cluster:
    """Where workers live, from the first one on (rollout.workers); without any, in this process."""

    address: str | None = None  # of a Ray cluster; none: RAY_ADDRESS, else Ray on this machine
    in_process: bool = False  # all workers in this process, in turn: to debug, or to compare
    cpus_per_worker: float | None = None  # reserved; none: 1, in a trainer that is an actor 0
    timeout: float = 60.0  # seconds without an env step after which a worker counts as stuck
    restarts_per_minute: int = 10  # workers that may die before the run ends

    def __post_init__(self) -> None:
        cpus, timeout, restarts = self.cpus_per_worker, self.timeout, self.restarts_per_minute
        ok = cpus is None or (is_number(cpus) and cpus >= 0)
        check(ok, "cluster.cpus_per_worker", cpus, "a finite number >= 0, or none")
        check(is_number(timeout) and timeout > 0, "cluster.timeout", timeout, "seconds above 0")
        check(is_whole(restarts, 0), "cluster.restarts_per_minute", restarts, "a whole number >= 0")

    @property
    def joined(self) -> str | None:
        """Address of the cluster that workers live on; None: they live on this machine."""
        return None if self.in_process else self.address or os.environ.get("RAY_ADDRESS")


@dataclass(frozen=True)
class Replay:
    """How much is remembered, how it is drawn, and how often."""

    capacity: int = 100_000  # env steps of all slots together; the oldest make room
    batch_size: int = 64  # transitions of one gradient step
    replay_ratio: float = 8.0  # transitions trained on for each env step (DQN: 32 every 4 steps)
    warmup: int = 1_000  # env steps before the first gradient step
    alpha: float = 0.0  # exponent of priorities; 0: all are drawn alike (PER: 0.6)
    beta: Schedule = 0.4  # of the weights that make up for it: 1 makes up for all of it
    save: bool | None = None  # with every checkpoint; none: where that is up to 256 MB

    def __post_init__(self) -> None:
        for name, least in (("capacity", 2), ("batch_size", 1), ("warmup", 1)):
            value = getattr(self, name)
            check(is_whole(value, least), f"replay.{name}", value, f"a whole number >= {least}")
        ratio, alpha = self.replay_ratio, self.alpha
        check(is_number(ratio) and ratio > 0, "replay.replay_ratio", ratio, "a number above 0")
        check(is_number(alpha) and 0 <= alpha <= 1, "replay.alpha", alpha, "between 0 and 1")
        if self.warmup > self.capacity:
            raise ConfigError(
                f"replay.warmup is {self.warmup:,}, but a buffer of {self.capacity:,} env steps "
                "never holds so many",
                None,
                "lower replay.warmup, or raise replay.capacity",
            )
        if self.batch_size > self.warmup:
            raise ConfigError(
                f"replay.batch_size is {self.batch_size}, but learning begins with "
                f"{self.warmup} env steps",
                None,
                "raise replay.warmup to the batch size at least",
            )

    def begin(self, stored: int, replayed: int) -> float | None:
        """``learning_from`` of ``due`` once ``stored`` env steps are enough to begin, else None."""
        return stored - replayed / self.replay_ratio if stored >= self.warmup else None

    def due(self, stored: int, learning_from: float | None, replayed: int) -> int:
        """Gradient steps that are due, in the declared ratio, with ``replayed`` transitions so far.

        All of these stand for ``stored - learning_from`` env steps; None: there is no learning yet.
        """
        if learning_from is None:
            return 0
        owed = self.replay_ratio * (stored - learning_from) - replayed
        return max(int(owed // self.batch_size), 0)

    def at_once(self, due: int, most: int) -> int:
        """Gradient steps of one call: a power of two, for each number is compiled by itself."""
        steps = min(due, most)
        return 1 << (steps.bit_length() - 1) if steps > 0 else 0

    def each(self, members: int) -> Replay:
        """The part of one of several members that remember for themselves."""
        capacity, warmup = self.capacity // members, -(-self.warmup // members)
        return replace(self, capacity=capacity, warmup=max(warmup, self.batch_size))


@dataclass(frozen=True)
class Config:
    """A whole run: an algorithm under a plan on an environment."""

    system: str  # name of the system: an algorithm under a plan
    env: str | Mapping[str, Any] | Callable[..., Any]  # Gymnasium id, module:Class, or a callable
    algorithm: Any  # what is learned: a frozen dataclass
    plan: Any  # how it is run: a frozen dataclass
    rollout: Rollout = Rollout()
    replay: Replay = Replay()
    cluster: Cluster = Cluster()
    stop: Stop = Stop()
    checkpointing: Checkpointing = Checkpointing()
    learner: Literal["auto", "jax", "torch"] = "auto"  # the library that differentiates
    precision: Literal["float32", "bfloat16"] = "float32"  # of its matrix products; weights float32
    seed: int = 0  # of everything random in the run

    def __post_init__(self) -> None:
        ok = isinstance(self.learner, str) and self.learner in ("auto", "jax", "torch")
        check(ok, "learner", self.learner, "'auto', 'jax' or 'torch'")
        ok = isinstance(self.precision, str) and self.precision in ("float32", "bfloat16")
        check(ok, "precision", self.precision, "'float32' or 'bfloat16'")
        check(is_whole(self.seed, 0), "seed", self.seed, "a whole number >= 0")


# ------------------------------------------------------------------ out: a tree as plain values


def to_dict(value: Any) -> Any:
    """A configuration, or any part of it, as plain JSON values; ``merge`` takes them back.

    What has no JSON form (a module, a callable) becomes {"object": "module:QualName"}. A number
    that JSON cannot spell becomes its text ("inf"); tuples become lists.
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
        return {f.name: to_dict(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    named = value if hasattr(value, "__qualname__") else type(value)
    return {"object": f"{named.__module__}:{named.__qualname__}"}


class Argument(NamedTuple):
    """One leaf of a configuration, as a command line or a table of options shows it."""

    name: str  # "rollout.envs_per_worker"
    annotation: str  # what it accepts: "int", "float | linear(start, end) | none"
    default: Any
    help: str  # the field's metadata "help", else the comment beside it in the source


def arguments(config: Any) -> list[Argument]:
    """Every leaf of a configuration, in the order of its fields."""
    found = []
    for path, owner, name in _walk(config, ""):
        value = getattr(owner, name)
        if not _is_group(value):
            annotation = accepted(_annotations(type(owner))[name])
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
    """The comment at the end of each field's line; empty where the source is not at hand."""
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

    Values are Python's, YAML's, JSON's, or text as on a command line ("1e-3", "true", "64,64",
    "none", "linear(1e-3, 0)"). In keys "-" and "_" are one, at the end neither counts ("lambda" is
    ``lambda_``), and "rollout.workers" is a path. A mapping that is a leaf (``env_kwargs``) is
    replaced as a whole. The text "none" always means None where None is accepted.

    Raises ConfigError (with ``where``: file or origin of the changes) for a key that does not
    exist, naming the nearest one, for a value of the wrong type, and from the fields' own checks.
    An {"object": ...} entry, which ``to_dict`` writes for what has no JSON form, is accepted only
    where ``config`` already holds such an object: it is then kept.
    """
    if not isinstance(changes, Mapping):
        raise ConfigError(f"settings must be a mapping, not {changes!r}", where)
    return cast(T, _merge(config, list(changes.items()), "", _Scope(config, where)))


def route(config: T, flat: Mapping[str, Any], where: str | None = None) -> T:
    """``config`` with bare names placed where they belong: {"lr": 1e-3, "workers": 2}.

    A name goes to the one field of that name anywhere in the tree; dotted paths work as in
    ``merge``. Raises ConfigError as ``merge`` does, and for a name that several groups have.
    """
    paths = [path for path, _, _ in _walk(config, "")]
    placed: dict[str, Any] = {}
    for key, value in flat.items():
        name = str(key).replace("-", "_")
        candidates = [path for path in paths if _same(path.rpartition(".")[2], name)]
        if len(candidates) > 1:
            raise ConfigError(
                f"setting {key!r} could mean {' or '.join(candidates)}",
                where,
                f"write the whole name, for example {candidates[0]!r}",
            )
        target = candidates[0] if candidates else name
        if target in placed:
            raise ConfigError(f"setting {target} is given twice", where, "give it once")
        placed[target] = value
    return merge(config, placed, where)


class _Scope(NamedTuple):
    """What an error needs to tell: the whole tree, and where the changes come from."""

    root: Any
    where: str | None

    def unknown(self, path: str) -> ConfigError:
        close = nearest(path, (known for known, _, _ in _walk(self.root, "")))
        return ConfigError(f"there is no setting {path!r}", self.where, f"did you mean {close}?")

    def twice(self, path: str) -> ConfigError:
        return ConfigError(f"setting {path} is given twice", self.where, "give it once")


def nearest(name: str, names: Iterable[str]) -> str:
    """The one of ``names`` (which may be dotted) that ``name`` was most likely meant to be.

    What counts is the last part of a path, so that a setting is found in whatever group it was
    sought; the rest decides between equals.
    """

    def score(other: str) -> tuple[float, float]:
        last = SequenceMatcher(None, name.rpartition(".")[2], other.rpartition(".")[2]).ratio()
        return last, SequenceMatcher(None, name, other).ratio()

    return max(names, key=score)


def _merge(group: Any, changes: list[tuple[Any, Any]], prefix: str, scope: _Scope) -> Any:
    """One group with its changes; those of a group below are gathered, so that it is built once."""
    annotations = _annotations(type(group))
    changed: dict[str, Any] = {}
    below: dict[str, list[tuple[Any, Any]]] = {}
    for key, value in changes:
        head, _, rest = str(key).partition(".")
        name = next((known for known in annotations if _same(known, head)), None)
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


def _same(field_name: str, key: str) -> bool:
    """Whether a key means a field; "lambda" means ``lambda_``, which Python makes us call so."""
    return field_name.rstrip("_") == key.replace("-", "_").rstrip("_")


def _base(current: Any, annotation: Any) -> Any:
    """The group that a mapping's settings change: the present one, or its type's defaults."""
    if _is_group(current):
        return current
    return next((kind() for kind in _members(annotation) if _is_group_type(kind)), None)


def _leaf(value: Any, annotation: Any, current: Any, path: str, scope: _Scope) -> Any:
    """The value of a field that is not a group, or that a user's object replaces as a whole."""
    value = _with_objects(value, current, path, scope)
    kinds = _members(annotation)
    if _is_group(current) and isinstance(value, str | bool | int | float | list | tuple | None):
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
    if type(value) is list:
        old = list(current) if isinstance(current, list | tuple) else []
        old += [None] * (len(value) - len(old))
        return [_with_objects(v, old[i], f"{path}.{i}", scope) for i, v in enumerate(value)]
    return value


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
