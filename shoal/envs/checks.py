"""Whether an environment keeps Gymnasium's contract; cheap enough for every step.

The first value of its kind goes through the full check, later ones through comparisons of class,
dtype and shape, and numbers are looked at once per step for the whole batch. Errors are raised
without a place: the vector environment knows which copy it was, and adds it.
"""

from __future__ import annotations

import traceback
from math import isfinite
from typing import Any

import numpy as np

from shoal.envs.base import NDArray, Obs
from shoal.errors import EnvError, cut
from shoal.process.tracebacks import is_user_code, place_of
from shoal.spaces.base import ACTION_MASK, Leaf, Spaces

LIMIT = float(np.finfo(np.float32).max)
REWARDS = frozenset((float, int, np.float64, np.float32, np.int64, np.int32))
FLAGS = frozenset((bool, np.bool_))


class Rows:
    """Observations of all slots, `{path: [slots, *shape]}`, written row by row and checked."""

    def __init__(self, spaces: Spaces, slots: int) -> None:
        self.arrays: Obs = {
            leaf.path: np.zeros((slots, *leaf.shape), leaf.dtype) for leaf in spaces.leaves
        }
        self._leaves = [(leaf, self.arrays[leaf.path]) for leaf in spaces.leaves]
        self._seen: list[Any] = [None] * len(self._leaves)  # dtype that needs no conversion
        self._spaces = spaces
        self._mask: NDArray | None = None
        if spaces.masked:
            self._mask = np.ones((slots, sum(spaces.action_n)), bool)
            self.arrays[ACTION_MASK] = self._mask

    def write(self, row: int, obs: Any, info: Any, ended: bool = False) -> None:
        """One copy's observation; raises EnvError or SpaceError if it does not fit its space."""
        for index, (leaf, array) in enumerate(self._leaves):
            value = obs
            if leaf.keys:
                value = _entry(obs, leaf)
            if (
                value.__class__ is not np.ndarray
                or value.dtype is not self._seen[index]
                or value.shape != leaf.shape
            ):
                value = self._convert(index, leaf, value)
            array[row] = value
        if self._mask is not None:
            self._mask[row] = self._read_mask(obs, info, ended)

    def _convert(self, index: int, leaf: Leaf, value: Any) -> NDArray:
        """The full check of one leaf."""
        x = convert(leaf, value)
        same_numbers = leaf.raw == leaf.shape and not any(leaf.start) and leaf.shape != ()
        if isinstance(value, np.ndarray) and same_numbers:
            floats = leaf.dtype.kind == "f"
            if floats or np.can_cast(value.dtype, leaf.dtype, "safe"):
                self._seen[index] = value.dtype
        return x

    def _read_mask(self, obs: Any, info: Any, ended: bool) -> NDArray | bool:
        if self._spaces.mask_space is not None:
            if ACTION_MASK not in obs:
                raise EnvError('the observation has no entry "action_mask"', fix="always give it")
            return self._spaces.flatten_mask(obs[ACTION_MASK])
        if ACTION_MASK in info:
            return self._spaces.flatten_mask(info[ACTION_MASK])
        if ended:  # nothing is chosen here, so it may be left out
            return True
        raise EnvError(
            'info has no "action_mask", although the first reset gave one',
            fix="give it from every reset and step",
        )


def _entry(obs: Any, leaf: Leaf) -> Any:
    try:
        for key in leaf.keys:
            obs = obs[key]
    except (KeyError, IndexError, TypeError) as error:
        raise EnvError(
            f"the observation has no entry {leaf.path!r}, which its space has: it is "
            f"{cut(repr(obs), 120)}",
            fix="return every entry of the observation space, from reset and from step",
        ) from error
    return obs


def convert(leaf: Leaf, value: Any) -> NDArray:
    """One observation of a leaf in the network's form. Raises EnvError if it does not fit."""
    name = "the observation" if leaf.path == "obs" else f"the observation's entry {leaf.path!r}"
    wanted = f"its space says {leaf.dtype} {list(leaf.raw)}"
    try:
        x: NDArray = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise EnvError(f"{name} is no array ({error}); {wanted}", fix="return an array") from error
    if x.dtype.kind not in ("biuf" if leaf.dtype.kind == "f" else "biu"):
        hint = f"return it as np.{leaf.dtype}"
        if leaf.dtype.kind != "f" and x.dtype.kind == "f":
            hint += ", or declare the space with dtype=np.float32"
        got = type(value).__name__ if x.dtype.kind == "O" else x.dtype
        raise EnvError(f"{name} is {got} {list(x.shape)}; {wanted}", fix=hint)
    if x.shape != leaf.raw:
        raise EnvError(
            f"{name} has shape {list(x.shape)}; {wanted}",
            fix="return that shape, or correct observation_space",
        )
    with np.errstate(over="ignore"):  # becomes an infinity, which is reported
        out = x.astype(leaf.dtype)
    if leaf.dtype.kind != "f" and not np.array_equal(out, x):
        raise EnvError(
            f"{name} holds {x.max()} and {x.min()}, beyond {leaf.dtype}; {wanted}",
            fix="keep to the space, or declare a wider dtype",
        )
    if leaf.n:
        out = out.reshape(leaf.shape) - np.reshape(leaf.start, leaf.shape)
    return out


class Checks:
    """Looks at the numbers of a whole batch: finite floats, choices in range, a legal action.

    Each method returns None, or the row and what is wrong with it.
    """

    def __init__(self, spaces: Spaces) -> None:
        self._limits = [(leaf, _limit(leaf)) for leaf in spaces.leaves if _has_limit(leaf)]
        self._components = np.cumsum((0, *spaces.action_n[:-1])) if spaces.masked else None

    def obs(self, obs: Obs) -> tuple[int, EnvError] | None:
        for leaf, limit in self._limits:
            x = obs[leaf.path]
            # A finite sum has finite terms; one reduction costs half of what the exact test does.
            if limit is None and -LIMIT < np.add.reduce(x, None) < LIMIT:
                continue
            # Negative numbers, seen as unsigned ones, exceed every limit.
            good = _finite(x) if limit is None else x.view(limit.dtype) < limit
            if not good.all():
                row = int(np.argmin(good.reshape(len(x), -1).all(axis=1)))
                return row, _out_of_range(leaf, x[row])
        return None

    def mask(self, obs: Obs, ended: NDArray) -> tuple[int, EnvError] | None:
        """Rows that ended need no legal action."""
        if self._components is None:
            return None
        legal = np.logical_or.reduceat(obs[ACTION_MASK], self._components, axis=1).all(axis=1)
        good = legal | ended
        if good.all():
            return None
        return int(np.argmin(good)), EnvError(
            "the action mask allows no action", fix="allow at least one, or end the episode"
        )

    def rewards(self, reward: NDArray) -> tuple[int, EnvError] | None:
        if isfinite(np.add.reduce(reward)):
            return None
        good = np.isfinite(reward)
        if good.all():
            return None
        row = int(np.argmin(good))
        return row, bad_number("the reward", reward[row])


class Bounds:
    """Counts observations that lie outside of their Box: for whole fragments, not every step.

    What is a little outside by rounding (1e-5 of the bound, at least of 1) is inside.
    """

    def __init__(self, spaces: Spaces) -> None:
        self._bounds: list[tuple[str, NDArray, NDArray]] = []
        for leaf in spaces.leaves:
            if leaf.kind != "box" or leaf.dtype.kind == "b":
                continue
            low, high = np.asarray(leaf.low), np.asarray(leaf.high)
            most: Any = np.iinfo if leaf.dtype.kind != "f" else np.finfo
            least, most = most(leaf.dtype).min, most(leaf.dtype).max
            if leaf.dtype.kind == "f":
                with np.errstate(over="ignore"):  # infinite is what no bound is
                    low = (low - 1e-5 * np.maximum(1.0, abs(low))).astype(leaf.dtype)
                    high = (high + 1e-5 * np.maximum(1.0, abs(high))).astype(leaf.dtype)
            if (low > least).any() or (high < most).any():
                self._bounds.append((leaf.path, low, high))

    def outside(self, obs: Obs, valid: NDArray) -> dict[str, int]:
        """Of `{path: [T, B, ...]}` and bool [T, B]: env steps outside, for paths that have any."""
        found = {}
        for path, low, high in self._bounds:
            x = obs[path]
            wrong = (x < low) | (x > high)
            if wrong.any():
                steps = wrong.reshape(*valid.shape, -1).any(-1) & valid
                found[path] = int(np.count_nonzero(steps))
        return {path: steps for path, steps in found.items() if steps}


def _finite(x: NDArray) -> NDArray:
    """Where numbers are finite in float32, which is what networks compute in."""
    with np.errstate(over="ignore"):
        finite: NDArray = np.isfinite(x.astype(np.float32, copy=False))
    return finite


def _has_limit(leaf: Leaf) -> bool:
    return leaf.dtype.kind == "f" or leaf.kind != "box"


def _limit(leaf: Leaf) -> NDArray | None:
    """What discrete entries stay below, in the unsigned form of their dtype; None for floats."""
    if leaf.kind == "box":
        return None
    return np.reshape(leaf.n, leaf.shape).astype(np.uint64) if leaf.n else np.array(2, np.uint8)


def _out_of_range(leaf: Leaf, x: NDArray) -> EnvError:
    name = "the observation" if leaf.path == "obs" else f"the observation's entry {leaf.path!r}"
    if leaf.dtype.kind == "f":
        return bad_number(name, x[~_finite(x)][0] if x.ndim else x)
    top = np.reshape(np.array(leaf.n or 2) - 1, -1) + np.reshape(leaf.start or 0, -1)
    value = np.reshape(x, -1) + np.reshape(leaf.start or 0, -1)
    return EnvError(
        f"{name} is {value.tolist()}, outside its space: at most {top.tolist()}, "
        f"at least {list(leaf.start) or [0]}",
        fix="keep to the space, or correct observation_space",
    )


def bad_number(name: str, value: Any) -> EnvError:
    return EnvError(
        f"{name} is {value}",
        fix="find the division by zero, overflow or unset value; for a simulator that diverges, "
        "end the episode there",
    )


def check_step(result: Any) -> None:
    """Raises EnvError unless `env.step` gave Gymnasium's five values."""
    if isinstance(result, tuple) and len(result) == 5:
        return
    got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
    hint = "return obs, reward, terminated, truncated, info"
    if isinstance(result, tuple) and len(result) == 4:
        hint += "; the four values of old Gym mix terminated and truncated into one"
    raise EnvError(f"step returned {got}, expected a tuple of 5", fix=hint)


def check_reset(result: Any) -> None:
    """Raises EnvError unless `env.reset` gave an observation and a dict."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        return
    got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
    raise EnvError(
        f"reset returned {got}, expected a tuple of an observation and a dict",
        fix="return obs, info",
    )


def check_reward(reward: Any) -> float:
    """The reward as a float. Raises EnvError if it is no finite number that float32 holds."""
    if reward.__class__ is float and -LIMIT < reward < LIMIT:
        return float(reward)
    number = isinstance(reward, int | float | np.number | np.bool_)
    if number or (isinstance(reward, np.ndarray) and reward.ndim == 0 and reward.dtype.kind != "O"):
        value = float(reward)
        if not -LIMIT < value < LIMIT:
            raise bad_number("the reward", value)
        return value
    got = (
        f"an array of shape {list(reward.shape)}"
        if isinstance(reward, np.ndarray)
        else (f"{type(reward).__name__} {cut(repr(reward), 60)}")
    )
    raise EnvError(f"the reward is {got}, expected a float", fix="return float(reward)")


def check_flag(name: str, flag: Any) -> bool:
    """`terminated` or `truncated` as a bool. Raises EnvError for anything else."""
    if isinstance(flag, bool | np.bool_) or (
        isinstance(flag, np.ndarray) and flag.shape == () and flag.dtype == np.bool_
    ):
        return bool(flag)
    raise EnvError(
        f"{name} is {type(flag).__name__} {cut(repr(flag), 60)}, expected a bool",
        fix=f"return bool({name}); both flags are separate values",
    )


def never_began(error: TypeError) -> bool:
    """Whether a call failed over its arguments, before a line of the user's code ran.

    To be asked where Shoal catches the error: outer calls are not in its traceback then.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return "argument" in str(error) and not any(is_user_code(f.filename) for f in frames)


def check_call(error: BaseException, method: str) -> BaseException:
    """The error, or an EnvError in its place if `reset` or `step` lacks Gymnasium's parameters."""
    called = f"{method}() " in str(error)
    if not isinstance(error, TypeError) or not called or not never_began(error):
        return error
    form = {
        "reset": "def reset(self, *, seed=None, options=None), and in it super().reset(seed=seed)",
        "step": "def step(self, action)",
    }[method]
    broken = EnvError(f"{method} cannot be called as Gymnasium does: {error}", fix=f"write {form}")
    broken.__cause__ = error
    return broken


def where_is(env: Any, method: str) -> str | None:
    """`file:line` of a method: that of the outermost wrapper the user wrote, else the innermost."""
    found = None
    while env is not None:
        function = getattr(type(env), method, None)
        code = getattr(function, "__code__", None)
        if function is not None and code is not None:
            found = f"{place_of(function)} in {type(env).__name__}.{method}"
            if is_user_code(code.co_filename):
                break
        env = vars(env).get("env")
    return found
