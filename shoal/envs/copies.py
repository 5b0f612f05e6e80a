"""Every copy of an environment is an object of its own, and belongs to one vector environment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakValueDictionary

from shoal.errors import EnvError

_in_use: WeakValueDictionary[int, Any] = WeakValueDictionary()  # id -> environment, not yet closed


def claim(env: Any, name: str, own: Iterable[Any] = ()) -> None:
    """Take this environment for the caller alone, until ``release``.

    ``own`` are the copies that the caller has already. Raises EnvError if the environment, below
    its wrappers, is one of them, or is in use elsewhere in this process.
    """
    mine = [core for other in own for core in _cores(other)]
    for core in _cores(env):
        if any(core is other for other in mine):
            raise _shared(name, "returned the same environment twice, but copies are independent")
        if _in_use.get(id(core)) is core:
            raise _shared(name, "returned an environment that is in use already")
        mine.append(core)
    for core in mine:
        _in_use[id(core)] = core


def release(env: Any) -> None:
    """Let others use it: it has been closed."""
    for core in _cores(env):
        _in_use.pop(id(core), None)


def _cores(env: Any) -> Iterator[Any]:
    """What lies below the wrappers; of a vector environment, its copies too."""
    import gymnasium

    core = getattr(env, "unwrapped", env)
    yield core if isinstance(core, gymnasium.Env | gymnasium.vector.VectorEnv) else env
    copies = getattr(core, "envs", None)
    for copy in copies if isinstance(copies, list | tuple) else ():
        if isinstance(copy, gymnasium.Env):
            yield copy.unwrapped


def _shared(name: str, what: str) -> EnvError:
    return EnvError(
        f"{name!r} {what}",
        fix="make a new environment in every call: env=lambda: Maze(...), or env=Maze",
    )
