"""Copies of a single environment, stepped one after the other in this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import numpy as np

from shoal.envs.base import NDArray, Obs, Step
from shoal.envs.checks import (
    FLAGS,
    LIMIT,
    REWARDS,
    Checks,
    Rows,
    check_call,
    check_flag,
    check_reset,
    check_reward,
    check_step,
    where_is,
)
from shoal.envs.copies import claim, release
from shoal.envs.state import MAX_REPLAY, ActionLog, set_generator
from shoal.errors import CheckpointError, EnvError, NetworkError, ShoalError
from shoal.spaces.base import ACTION_MASK, Spaces
from shoal.spaces.gym import GymSpaces


class SerialEnv:
    """N single environments in a Python loop, each reset in the very step that ends its episode.

    Every episode begins with an explicit seed, drawn from the generator of this object, so that it
    is known by its seed and its actions: that is the state, and restoring it replays them. An
    environment that has `get_state()` and `set_state(state)` itself is asked instead.

    With `seeds`, episodes take theirs from there, in the order in which they begin; a copy whose
    episode has ended when none is left is not stepped any more: it stays at a first observation.

    The arrays of a `Step` are written to by the next step; those of `reset` and `set_state` are the
    caller's.

    Args:
        create: makes one `gymnasium.Env`, given its number; not called for those in `made`.
        made: copies that exist already.

    Raises SpaceError for spaces that are not supported, EnvError if the copies differ or are one
    and the same object.
    """

    agents: tuple[str, ...] = ()
    takes_turns = False
    frame_stack = 1
    reward_clip: float | None = None

    def __init__(
        self,
        create: Callable[[int], Any],
        slots: int,
        *,
        id: str,
        seed: int | None = None,
        seeds: Iterable[int] | None = None,
        made: tuple[Any, ...] = (),
    ) -> None:
        self.id, self.slots = id, slots
        self._given = None if seeds is None else iter(seeds)
        self._rng = np.random.default_rng(seed)
        self.envs: list[Any] = []
        try:
            for slot in range(slots):
                env = made[slot] if slot < len(made) else create(slot)
                claim(env, id, self.envs)
                self.envs.append(env)
            self.spaces = self._find_spaces()
        except BaseException:
            self.close()
            raise
        self.spec: Any = self.envs[0].spec
        self._step = [env.step for env in self.envs]
        self._own = [_has_state(env) for env in self.envs]
        self._rows = Rows(self.spaces, slots)
        self._checks = Checks(self.spaces)
        self._floats = self.spaces.action_kind == "box"
        self._reward = np.zeros(slots, np.float32)
        self._terminated = np.zeros(slots, bool)
        self._truncated = np.zeros(slots, bool)
        self._seeds = [0] * slots
        self._log = ActionLog(slots, self.spaces.action_shape, self.spaces.action_dtype)

    @property
    def episode_seeds(self) -> list[int | None]:
        """Seed of each copy's running episode."""
        return list(self._seeds)

    def reset(self, seed: int | None = None) -> Obs:
        """Begin a new episode in every copy; see `VectorEnv.reset`."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        for slot in range(self.slots):
            self._begin(slot)
        self._check_batch("reset", self._rows.arrays, range(self.slots))
        return self._copy()

    def play(self, seeds: Sequence[int]) -> Obs:
        """Begin these episodes; a copy that has ended its own stands still: `VectorEnv.play`."""
        self._given = iter([int(seed) for seed in seeds])
        self._step = [env.step for env in self.envs]
        return self.reset()

    def step(self, action: NDArray) -> Step:
        """Step every copy once; see `VectorEnv.step`."""
        actions = self._to_env(action)
        self._log.append(action)
        write, rewards = self._rows.write, self._reward
        terminated, truncated = self._terminated, self._truncated
        ended: list[int] = []
        slot = 0
        try:
            for slot, one in enumerate(actions):
                result = self._step[slot](one)
                if result.__class__ is not tuple or len(result) != 5:
                    check_step(result)
                obs, reward, terminal, cut_off, info = result
                plain = reward.__class__ in REWARDS
                if not plain or not -LIMIT < reward < LIMIT:
                    reward = check_reward(reward)
                if terminal.__class__ not in FLAGS:
                    terminal = check_flag("terminated", terminal)
                if cut_off.__class__ not in FLAGS:
                    cut_off = check_flag("truncated", cut_off)
                over = bool(terminal or cut_off)
                write(slot, obs, info, over)
                rewards[slot], terminated[slot], truncated[slot] = reward, terminal, cut_off
                if over:
                    ended.append(slot)
        except (Exception, SystemExit) as error:
            self._blame(error, "step", slot)
        final = None
        if ended:
            final = np.array(ended), {path: x[ended] for path, x in self._rows.arrays.items()}
            self._check_batch("step", final[1], ended)
            for slot in ended:
                self._begin(slot)
        self._check_batch("step", self._rows.arrays, range(self.slots))
        return Step(dict(self._rows.arrays), rewards, terminated, truncated, None, final)

    def get_state(self) -> dict[str, Any]:
        """RNG, and for each copy its episode's seed and actions (or its own state).

        The actions are views that later steps leave as they are: this costs the same however long
        the episodes are.
        """
        own = {str(i): env.get_state() for i, env in enumerate(self.envs) if self._own[i]}
        logged = {
            str(i): actions
            for i in range(self.slots)
            if not self._own[i] and (actions := self._log.actions(i)) is not None
        }
        return {
            "kind": "serial",
            "rng": self._rng.bit_generator.state,
            "seeds": list(self._seeds),
            "actions": logged,
            "own": own,
            "obs": self._copy(),
        }

    def set_state(self, state: dict[str, Any]) -> Obs:
        """Go on from `get_state`; see `VectorEnv.set_state`.

        A copy that does not come to the observation it had (because it is not deterministic) warns
        and begins a new episode.
        """
        seeds = state.get("seeds")
        if state.get("kind") != "serial" or not isinstance(seeds, list) or len(seeds) != self.slots:
            raise CheckpointError(
                f"this is no state of {self.slots} copies of {self.id!r}",
                fix="restore with the same environment and number of copies",
            )
        set_generator(self._rng, state["rng"])
        self._seeds = [int(seed) for seed in seeds]
        nothing = np.zeros((0, *self.spaces.action_shape), self.spaces.action_dtype)
        episodes = [np.asarray(state["actions"].get(str(i), nothing)) for i in range(self.slots)]
        self._log.restore(episodes)
        lost: dict[int, str] = {}
        for slot in range(self.slots):
            try:
                reason = self._resume(slot, state, episodes[slot])
            except (Exception, SystemExit) as error:
                self._blame(error, "step", slot)
            if reason is not None:
                lost[slot] = reason
        for slot in lost:
            self._begin(slot)
        if lost:
            slot, reason = next(iter(lost.items()))
            warnings.warn(
                f"{len(lost)} of {self.slots} episodes of {self.id!r} could not be resumed and "
                f"begin anew; copy {slot}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
        return self._copy()

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

    def _find_spaces(self) -> Spaces:
        first = self.envs[0]
        for slot, env in enumerate(self.envs):
            same = (
                env.observation_space == first.observation_space
                and env.action_space == first.action_space
            )
            if not same:
                raise EnvError(
                    f"copy {slot} of {self.id!r} has other spaces than copy 0: "
                    f"{env.observation_space}, {env.action_space}",
                    where=where_is(env, "__init__"),
                    fix="make every copy with the same spaces",
                )
        spaces = GymSpaces(first.observation_space, first.action_space)
        if spaces.action_kind == "box" or spaces.masked:
            return spaces
        # Whether info holds an action mask shows only in a reset.
        self._seeds = [0]
        try:
            result = first.reset(seed=0)
            check_reset(result)
        except (Exception, SystemExit) as error:
            self._blame(error, "reset", 0, env_steps=0)
        return GymSpaces(spaces.observation, spaces.action, masked=ACTION_MASK in result[1])

    def _to_env(self, action: NDArray) -> Any:
        """What each copy's `step` takes: Python ints for Discrete, else an array of its own."""
        if self._floats and not np.isfinite(action).all():
            row = int(np.argmin(np.isfinite(action).all(axis=1)))
            raise NetworkError(
                f"the policy's action for slot {row} is {action[row].tolist()}",
                fix="training has diverged: lower the learning rate or clip the gradients",
            )
        taken = self.spaces.to_env(action)
        return taken.tolist() if self.spaces.action_kind == "discrete" else taken

    def _begin(self, slot: int) -> None:
        """A new episode, with a seed of its own."""
        drawn = int(self._rng.integers(2**31)) if self._given is None else None
        seed = drawn if self._given is None else next(self._given, None)
        if seed is not None:
            self._seeds[slot] = seed
        self._log.begin(slot)
        try:
            result = self.envs[slot].reset(seed=self._seeds[slot])
            check_reset(result)
            self._rows.write(slot, *result)
        except (Exception, SystemExit) as error:
            self._blame(error, "reset", slot)
        if seed is None:  # no episode is left to begin
            obs, info = result
            self._step[slot] = lambda action: (obs, 0.0, False, False, info)

    def _resume(self, slot: int, state: dict[str, Any], actions: NDArray) -> str | None:
        """Bring one copy to where its episode was; the reason if that fails."""
        env, key = self.envs[slot], str(slot)
        saved = {path: x[slot] for path, x in state["obs"].items()}
        if self._own[slot] and key in state["own"]:
            env.set_state(state["own"][key])
            for path, array in self._rows.arrays.items():
                array[slot] = saved[path]
            return None
        if key not in state["actions"]:
            return f"it was longer than {MAX_REPLAY} steps, which are not kept"
        obs, info = env.reset(seed=self._seeds[slot])
        for done, action in enumerate(self._to_env(actions) if len(actions) else (), start=1):
            obs, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                return f"replayed with the same seed and actions it ended after {done} steps"
        self._rows.write(slot, obs, info)
        differ = [
            path
            for path, x in self._rows.arrays.items()
            if not np.array_equal(x[slot], saved[path])
        ]
        if differ:
            return (
                "replayed with the same seed and actions it came to another observation "
                f"({differ[0]!r}): reset(seed=...) does not determine the episode"
            )
        return None

    def _copy(self) -> Obs:
        return {path: array.copy() for path, array in self._rows.arrays.items()}

    def _check_batch(self, method: str, obs: Obs, slots: Any) -> None:
        none_ended = np.zeros(len(slots), bool)
        fault = self._checks.obs(obs)
        if fault is None and obs is self._rows.arrays:
            fault = self._checks.mask(obs, none_ended)
        if fault is not None:
            self._blame(fault[1], method, slots[fault[0]])

    def _blame(
        self, error: BaseException, method: str, slot: int, env_steps: int | None = None
    ) -> NoReturn:
        """Raise it again, with the copy, the episode and, for a broken contract, the method."""
        error = check_call(error, method)
        if isinstance(error, ShoalError):
            error.locate(where_is(self.envs[slot], method))
        if env_steps is None:
            env_steps = self._log.steps(slot)
        error.add_note(
            f"in copy {slot} of environment {self.id!r}, episode seed {self._seeds[slot]}, "
            f"env step {env_steps} of the episode"
        )
        raise error


def _has_state(env: Any) -> bool:
    return callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None))
