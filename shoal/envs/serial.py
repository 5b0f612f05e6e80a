"""Copies of a single environment, stepped one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from shoal.envs.base import NDArray, Obs, Step
from shoal.envs.checks import (
    FLAGS,
    LIMIT,
    REWARDS,
    Checks,
    Rows,
    check_flag,
    check_reset,
    check_reward,
    check_step,
    where_is,
)
from shoal.envs.copies import Copies, to_env
from shoal.envs.state import MAX_REPLAY, ActionLog, set_generator
from shoal.errors import CheckpointError, EnvError
from shoal.spaces.base import ACTION_MASK, Spaces
from shoal.spaces.gym import GymSpaces


class SerialEnv(Copies):
    """N single environments in a Python loop, each reset in the very step that ends its episode.

    An environment that has `get_state()` and `set_state(state)` itself is asked for its state; that
    of any other is its episode's seed and actions, as `Copies` has it.

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
        super().__init__(create, slots, id=id, seed=seed, seeds=seeds, made=made)
        self.slots = slots
        with self._closed_on_error():
            self.spaces = self._find_spaces()
        self.spec: Any = self.envs[0].spec
        self._step = [env.step for env in self.envs]
        self._own = [_has_state(env) for env in self.envs]
        self._rows = Rows(self.spaces, slots)
        self._checks = Checks(self.spaces)
        self._reward = np.zeros(slots, np.float32)
        self._terminated = np.zeros(slots, bool)
        self._truncated = np.zeros(slots, bool)

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
        actions = to_env(self.spaces, action, "slot {}".format)
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
        self._resume_all(lambda slot: self._resume(slot, state, episodes[slot]))
        return self._copy()

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
        self._log = ActionLog(self.slots, spaces.action_shape, spaces.action_dtype)
        if spaces.action_kind == "box" or spaces.masked:
            return spaces
        # Whether info holds an action mask shows only in a reset.
        try:
            result = first.reset(seed=0)
            check_reset(result)
        except (Exception, SystemExit) as error:
            self._blame(error, "reset", 0)
        return GymSpaces(spaces.observation, spaces.action, masked=ACTION_MASK in result[1])

    def _begin(self, slot: int) -> None:
        seed = self._next_seed()
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
        taken = to_env(self.spaces, actions, "slot {}".format) if len(actions) else ()
        obs, info = env.reset(seed=self._seeds[slot])
        for done, action in enumerate(taken, start=1):
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

    def _moment(self, slot: int) -> str:
        return f"env step {self._log.steps(slot)} of the episode"


def _has_state(env: Any) -> bool:
    return callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None))
