"""Copies of an environment: each an object of its own that belongs to one vector environment."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import numpy as np

from shoal.envs.base import NDArray
from shoal.envs.checks import check_call, where_is
from shoal.errors import EnvError, NetworkError, ShoalError
from shoal.spaces.base import Spaces

_in_use: WeakValueDictionary[int, Any] = WeakValueDictionary()  # id -> environment, not yet closed


class Copies(ABC):
    """Copies that are stepped one after the other in this process.

    Every episode begins with an explicit seed, drawn from the generator of this object, so that it
    is known by its seed and its actions: that is the state, and restoring it replays them.

    Args:
        create: makes one copy, given its number; not called for those in `made`.
        seeds: of the episodes, in the order in which they begin; None: they are drawn.
        made: copies that exist already.

    Raises EnvError if two copies are one and the same object, and closes all if making one fails.
    """

    def __init__(
        self,
        create: Callable[[int], Any],
        copies: int,
        *,
        id: str,
        seed: int | None,
        seeds: Iterable[int] | None,
        made: tuple[Any, ...],
    ) -> None:
        self.id, self.copies = id, copies
        self._given = None if seeds is None else iter(seeds)
        self._rng = np.random.default_rng(seed)
        self._seeds = [0] * copies  # of the running episodes
        self.envs: list[Any] = []
        with self._closed_on_error():
            for copy in range(copies):
                env = made[copy] if copy < len(made) else create(copy)
                claim(env, id, self.envs)
                self.envs.append(env)

    def render(self) -> Any:
        """A frame of the first copy."""
        return self.envs[0].render()

    @property
    def fps(self) -> float | None:
        """Frames of `render` in a second, from the metadata."""
        fps: float | None = self.envs[0].metadata.get("render_fps")
        return fps

    def close(self) -> None:
        """Close every copy, also if one of them fails to."""
        with ExitStack() as stack:
            for env in self.envs:
                stack.callback(release, env)
                stack.callback(env.close)

    @abstractmethod
    def _begin(self, copy: int) -> None:
        """A new episode of one copy, with a seed of its own."""

    @abstractmethod
    def _moment(self, copy: int) -> str:
        """Where in its episode a copy is, for error messages."""

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _next_seed(self) -> int | None:
        """Seed of the episode that begins next; None if none is left to begin."""
        if self._given is None:
            return int(self._rng.integers(2**31))
        return next(self._given, None)

    def _resume_all(self, resume: Callable[[int], str | None]) -> None:
        """Bring every copy to where its episode was, by a function that tells why it could not.

        Those that cannot begin anew, with a warning.
        """
        lost: dict[int, str] = {}
        for copy in range(self.copies):
            try:
                reason = resume(copy)
            except (Exception, SystemExit) as error:
                self._blame(error, "step", copy)
            if reason is not None:
                lost[copy] = reason
        for copy in lost:
            self._begin(copy)
        if lost:
            copy, reason = next(iter(lost.items()))
            warnings.warn(
                f"{len(lost)} of {self.copies} episodes of {self.id!r} could not be resumed and "
                f"begin anew; copy {copy}: {reason}",
                RuntimeWarning,
                stacklevel=3,
            )

    def _blame(self, error: BaseException, method: str, copy: int) -> NoReturn:
        """Raise it again, with the copy, the episode and, for a broken contract, the method."""
        error = check_call(error, method)
        if isinstance(error, ShoalError):
            error.locate(where_is(self.envs[copy], method))
        error.add_note(
            f"in copy {copy} of environment {self.id!r}, episode seed {self._seeds[copy]}, "
            f"{self._moment(copy)}"
        )
        raise error


def to_env(spaces: Spaces, action: NDArray, who: Callable[[int], str]) -> Any:
    """Actions [B, ...] as environments take them, in B rows; of Discrete spaces as a list of ints.

    Raises NetworkError if one is not finite; ``who`` names the row in its message.
    """
    if spaces.action_kind == "box" and not np.isfinite(action).all():
        row = int(np.argmin(np.isfinite(action).reshape(len(action), -1).all(axis=1)))
        raise NetworkError(
            f"the policy's action for {who(row)} is {action[row].tolist()}",
            fix="training has diverged: lower the learning rate or clip the gradients",
        )
    taken = spaces.to_env(action)
    return taken.tolist() if spaces.action_kind == "discrete" else taken


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
