"""States of environments as plain data: nested dicts of JSON values and NumPy arrays."""

from __future__ import annotations

import types
from enum import Enum
from typing import Any

import numpy as np

from shoal.envs.base import NDArray
from shoal.errors import CheckpointError

MAX_REPLAY = 2**17  # env steps of one episode that are kept, and replayed to restore it
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class ActionLog:
    """The actions of every slot's running episode, in policy form.

    What `actions` returns is a view: rows are only ever appended, and a full array is replaced by
    a new one, so that taking a snapshot costs nothing and it stays what it was.
    """

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._rows: NDArray = np.empty((slots, 1024, *shape), dtype)
        self._t = 0
        self._start = [0] * slots  # negative: the episode's beginning has been forgotten

    def append(self, actions: NDArray) -> None:
        """One action per slot."""
        if self._t == self._rows.shape[1]:
            self._renew(max(0, min(self._start), self._t - MAX_REPLAY))
        self._rows[:, self._t] = actions
        self._t += 1

    def begin(self, slot: int) -> None:
        """A new episode: nothing has been done in it."""
        self._start[slot] = self._t

    def steps(self, slot: int) -> int:
        return self._t - self._start[slot]

    def actions(self, slot: int) -> NDArray | None:
        """[steps, ...]; None if the episode is too long to be kept."""
        start = self._start[slot]
        return None if start < 0 else self._rows[slot, start : self._t]

    def restore(self, episodes: list[NDArray]) -> None:
        """Each slot's running episode consists of these actions, [steps, ...]."""
        self._t = max(map(len, episodes))
        old = self._rows
        self._rows = np.empty((len(old), max(1024, 2 * self._t), *old.shape[2:]), old.dtype)
        self._start = [self._t - len(actions) for actions in episodes]
        for slot, actions in enumerate(episodes):
            self._rows[slot, self._start[slot] : self._t] = actions

    def _renew(self, first: int) -> None:
        """Forget what is older than `first`, and make room for as much again."""
        old = self._rows[:, first : self._t]
        self._rows = np.empty((len(old), max(1024, 2 * old.shape[1]), *old.shape[2:]), old.dtype)
        self._rows[:, : old.shape[1]] = old
        self._t -= first
        self._start = [start - first for start in self._start]


def set_generator(rng: np.random.Generator, state: Any) -> None:
    """Make `rng` go on from a saved state. Raises CheckpointError if it is not one."""
    try:
        rng.bit_generator.state = state
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise CheckpointError(f"a saved random state cannot be read: {error}") from error


def capture(owner: Any, skip: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[str]]:
    """The plain attributes of an object, and the names of the others that may change.

    Spaces, specs, enums, classes and functions are taken for constants.
    """
    from gymnasium import Space
    from gymnasium.envs.registration import EnvSpec

    constant = (Space, EnvSpec, Enum, type, np.dtype, types.FunctionType, types.MethodType)
    held, lost = {}, []
    for name, value in vars(owner).items():
        if name in skip or name == "metadata" or isinstance(value, constant):
            continue
        try:
            held[name] = _encode(value)
        except TypeError:
            lost.append(name)
    return held, lost


def restore(owner: Any, held: dict[str, Any], skip: tuple[str, ...] = ()) -> bool:
    """Set what `capture` held; False, and nothing is set, if the attributes are others now."""
    if set(capture(owner, skip)[0]) != set(held):
        return False
    values = {name: _decode(value) for name, value in held.items()}
    for name, value in values.items():
        setattr(owner, name, value)
    return True


def _encode(value: Any) -> Any:
    """Containers become dicts, so that arrays lie in dicts only. Raises TypeError for others."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.copy()
    if isinstance(value, np.bool_ | np.number):  # its type decides the dtype of what it meets
        return {"scalar": np.array(value)}
    if isinstance(value, np.random.Generator):
        return {"generator": value.bit_generator.state}
    if type(value) in (list, tuple):
        return {type(value).__name__: {str(i): _encode(part) for i, part in enumerate(value)}}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _encode(part) for key, part in value.items()}}
    raise TypeError(f"{type(value)} is not plain data")


def _decode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if not isinstance(value, dict):
        return value
    try:
        ((kind, inner),) = value.items()
        if kind == "scalar":
            return np.asarray(inner)[()]
        if kind == "generator":
            name = inner["bit_generator"]
            if name not in _BIT_GENERATORS:
                raise CheckpointError(f"unknown random generator {name!r}")
            rng = np.random.Generator(getattr(np.random, name)())
            set_generator(rng, inner)
            return rng
        if kind == "dict":
            return {key: _decode(part) for key, part in inner.items()}
        parts = [_decode(inner[str(i)]) for i in range(len(inner))]
        return {"list": list, "tuple": tuple}[kind](parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"a saved environment cannot be read: {error!r}") from error
