"""Environments that are vectors by themselves, in any of Gymnasium's three autoreset modes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from shoal.envs.base import NDArray, Obs, Step
from shoal.envs.checks import Checks, Rows, check_call, check_reset, check_step, where_is
from shoal.envs.copies import claim, release
from shoal.envs.state import capture, restore, set_generator
from shoal.errors import CheckpointError, EnvError, ShoalError
from shoal.spaces.base import ACTION_MASK, Spaces
from shoal.spaces.gym import GymSpaces

_FINAL_OBS = ("final_obs", "final_observation")  # the second until Gymnasium 1.0


class NativeVector:
    """A `gymnasium.vector.VectorEnv` under the contract of `shoal.envs.VectorEnv`.

    What `metadata["autoreset_mode"]` says decides how an episode's end is read. NEXT_STEP: the row
    after it is only a reset, and not valid. SAME_STEP: the observation that followed is
    `info["final_obs"]`. DISABLED: the rows that ended are reset here.

    Its state is every plain attribute (arrays, numbers, generators) of the environment and its
    wrappers. Where others may change too (handles of a simulator, sub-environments), the state says
    `"exact": False`, and restoring it begins new episodes.

    ``spaces`` are those of one copy, if the environment's own do not say all.

    Raises EnvError if the environment does not say its autoreset mode.
    """

    agents: tuple[str, ...] = ()
    takes_turns = False
    frame_stack = 1
    reward_clip: float | None = None
    spec: Any = None  # of a vector environment, not of one copy

    def __init__(
        self, env: Any, *, id: str, seed: int | None = None, spaces: Spaces | None = None
    ) -> None:
        from gymnasium.vector import AutoresetMode

        claim(env, id)
        self.env, self.id, self.slots = env, id, int(env.num_envs)
        self._rng = np.random.default_rng(seed)
        self._env_steps = 0
        try:
            self._mode = AutoresetMode(env.metadata.get("autoreset_mode"))
        except ValueError as error:
            raise EnvError(
                f"the vector environment {id!r} does not say how it resets: "
                f'metadata["autoreset_mode"] is {env.metadata.get("autoreset_mode")!r}',
                where=where_is(env, "step"),
                fix='set metadata["autoreset_mode"] to a gymnasium.vector.AutoresetMode',
            ) from error
        self._next_step = self._mode == AutoresetMode.NEXT_STEP
        self._same_step = self._mode == AutoresetMode.SAME_STEP
        self.spaces = self._find_spaces() if spaces is None else spaces
        self._checks = Checks(self.spaces)
        self._shapes = [(leaf.path, (self.slots, *leaf.shape)) for leaf in self.spaces.leaves]
        self._none = np.zeros(self.slots, bool)
        self._over = self._none  # ended in the last step (NEXT_STEP only)
        self._obs: Obs = {}
        self._info: dict[str, Any] = {}  # of the last reset or step

    @property
    def episode_seeds(self) -> list[int | None]:
        """Unknown: the environment draws its own."""
        return [None] * self.slots

    def reset(self, seed: int | None = None) -> Obs:
        """Begin a new episode in every copy; see `VectorEnv.reset`."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._over = np.zeros(self.slots, bool)
        self._env_steps = 0
        try:
            result = self.env.reset(seed=int(self._rng.integers(2**31 - self.slots)))
            check_reset(result)
            obs, info = result
            self._obs, self._info = self._read(obs, info, self._over), info
        except (Exception, SystemExit) as error:
            self._blame(error, "reset")
        return {path: x.copy() for path, x in self._obs.items()}

    def play(self, seeds: Sequence[int]) -> Obs:
        """Begin an episode in every copy; see `VectorEnv.play`."""
        return self.reset(int(seeds[0]))

    def step(self, action: NDArray) -> Step:
        """Step every copy once; see `VectorEnv.step`."""
        self._env_steps += 1
        try:
            result = self.env.step(self.spaces.to_env(action))
            check_step(result)
            obs, reward, terminated, truncated, info = result
            reward = self._batch("the reward", reward, "fiub").astype(np.float32)
            terminated = self._batch("terminated", terminated, "b")
            truncated = self._batch("truncated", truncated, "b")
            valid = None
            if self._next_step and np.count_nonzero(self._over):
                valid = ~self._over
                reward[self._over] = 0
                terminated, truncated = terminated & valid, truncated & valid
            ended = terminated | truncated
            # In SAME_STEP mode the rows that ended already show the next episode.
            flat = self._read(obs, info, self._none if self._same_step else ended)
            self._raise(self._checks.rewards(reward))
            final = None
            if not self._next_step and np.count_nonzero(ended):
                final = self._final(flat, info, ended)
                if not self._same_step:
                    flat = self._reset_rows(flat, ended)
        except (Exception, SystemExit) as error:
            self._blame(error, "step")
        if self._next_step:
            self._over = ended
        self._obs, self._info = flat, info
        return Step(dict(flat), reward, terminated, truncated, valid, final)

    def get_state(self) -> dict[str, Any]:
        """Plain attributes of the environment and its wrappers, or its own `get_state()`."""
        state = {
            "kind": "native",
            "rng": self._rng.bit_generator.state,
            "over": self._over.copy(),
            "obs": {path: x.copy() for path, x in self._obs.items()},
        }
        if self._has_state():
            return {**state, "exact": True, "lost": [], "own": self.env.get_state()}
        layers, lost = {}, []
        for depth, layer in enumerate(self._layers()):
            layers[str(depth)], opaque = capture(layer, skip=("env",))
            lost += [f"{type(layer).__name__}.{name}" for name in opaque]
        return {**state, "exact": not lost, "lost": lost, "layers": {} if lost else layers}

    def set_state(self, state: dict[str, Any]) -> Obs:
        """Go on from `get_state`; see `VectorEnv.set_state`. Warns where episodes begin anew."""
        obs, over = state.get("obs"), np.asarray(state.get("over"))
        if (
            state.get("kind") != "native"
            or not isinstance(obs, dict)
            or over.shape != (self.slots,)
        ):
            raise CheckpointError(
                f"this is no state of {self.slots} copies of {self.id!r}",
                fix="restore with the same environment and number of copies",
            )
        set_generator(self._rng, state["rng"])
        reason = self._resume(state)
        if reason is not None:
            warnings.warn(
                f"the episodes of {self.id!r} could not be resumed and begin anew: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return self.reset()
        self._over = over.astype(bool)
        self._obs = {path: np.array(x) for path, x in obs.items()}
        return {path: x.copy() for path, x in self._obs.items()}

    def render(self) -> Any:
        """A frame of the first copy."""
        frames = self.env.render()
        return frames[0] if isinstance(frames, tuple | list) else frames

    @property
    def fps(self) -> float | None:
        """Frames of `render` in a second, from the metadata."""
        fps: float | None = self.env.metadata.get("render_fps")
        return fps

    def close(self) -> None:
        """Close the environment."""
        try:
            self.env.close()
        finally:
            release(self.env)

    def _find_spaces(self) -> Spaces:
        spaces = GymSpaces(self.env.single_observation_space, self.env.single_action_space)
        if spaces.action_kind == "box" or spaces.masked:
            return spaces
        try:  # whether info holds an action mask shows only in a reset
            result = self.env.reset(seed=0)
            check_reset(result)
        except (Exception, SystemExit) as error:
            self._blame(error, "reset")
        return GymSpaces(spaces.observation, spaces.action, masked=ACTION_MASK in result[1])

    def _read(self, obs: Any, info: Any, ended: NDArray) -> Obs:
        """A batch in Gymnasium's form as `{path: [B, ...]}`, checked."""
        flat = self.spaces.flatten(obs)
        for path, shape in self._shapes:
            if flat[path].shape != shape:
                raise EnvError(
                    f"the observation {path!r} has shape {list(flat[path].shape)}, "
                    f"expected {list(shape)}",
                    fix="return one row per copy",
                )
        if self.spaces.masked and self.spaces.mask_space is None:
            flat[ACTION_MASK] = self._info_mask(info, ended)
        self._raise(self._checks.obs(flat))
        self._raise(self._checks.mask(flat, ended))
        return flat

    def _info_mask(self, info: Any, free: NDArray) -> NDArray:
        """`info["action_mask"]` as bool [B, sum(n)]; rows in `free` may lack it."""
        mask = info.get(ACTION_MASK)
        given = np.asarray(info.get(f"_{ACTION_MASK}", np.full(self.slots, mask is not None)), bool)
        if not (given | free).all():
            lacking = int(np.argmin(given | free))
            raise EnvError(
                f'info has no "action_mask" for copy {lacking}, although the first reset gave one',
                fix="give it from every reset and step",
            )
        out = np.ones((self.slots, sum(self.spaces.action_n)), bool)
        if isinstance(mask, np.ndarray) and mask.dtype == object:
            for row in np.flatnonzero(given):
                out[row] = self.spaces.flatten_mask(mask[row])
        elif mask is not None:
            out[given] = self.spaces.flatten_mask(mask)[given]
        return out

    def _final(self, flat: Obs, info: Any, ended: NDArray) -> tuple[NDArray, Obs]:
        """The observations that followed in the rows that ended: [K], `{path: [K, ...]}`."""
        slots = np.flatnonzero(ended)
        if not self._same_step:
            return slots, {path: x[slots] for path, x in flat.items()}
        found = next((info[key] for key in _FINAL_OBS if key in info), None)
        if found is None:
            raise EnvError(
                f"copy {slots[0]} ended and was reset in the same step, but info has no "
                '"final_obs"',
                fix='put the last observation into info["final_obs"], or declare another mode',
            )
        mask = None
        if self.spaces.masked and self.spaces.mask_space is None:
            mask = self._info_mask(info.get("final_info", {}), np.ones(self.slots, bool))
        if isinstance(found, np.ndarray) and found.dtype == object:  # one observation per copy
            rows = Rows(self.spaces, len(slots))
            for k, slot in enumerate(slots.tolist()):
                own_info = {} if mask is None else {ACTION_MASK: mask[slot]}
                rows.write(k, found[slot], own_info, ended=True)
            final = rows.arrays
        else:
            final = {path: x[slots] for path, x in self.spaces.flatten(found).items()}
            if mask is not None:
                final[ACTION_MASK] = mask[slots]
        self._raise(self._checks.obs(final), slots)
        return slots, final

    def _reset_rows(self, flat: Obs, ended: NDArray) -> Obs:
        """DISABLED mode: begin new episodes in the rows that ended, and keep the others."""
        kept = {path: x.copy() for path, x in flat.items()}  # the reset may reuse the arrays
        result = self.env.reset(options={"reset_mask": ended.copy()})
        check_reset(result)
        obs, info = result
        fresh = self._read(obs, info, ~ended)
        for path, x in kept.items():
            x[ended] = fresh[path][ended]
        return kept

    def _batch(self, name: str, value: Any, kinds: str) -> NDArray:
        x: NDArray = np.asarray(value)
        if x.shape != (self.slots,) or x.dtype.kind not in kinds:
            raise EnvError(
                f"{name} is {x.dtype} {list(x.shape)}, expected "
                f"{'bool' if kinds == 'b' else 'float32'} [{self.slots}]",
                fix="return one entry per copy",
            )
        return x

    def _resume(self, state: dict[str, Any]) -> str | None:
        """Bring the environment to where it was; the reason if that cannot be."""
        if "own" in state and self._has_state():
            self.env.set_state(state["own"])
            return None
        layers = list(self._layers())
        saved = state.get("layers", {})
        if not state["exact"] or len(saved) != len(layers):
            lost = ", ".join(map(str, state["lost"])) or "its wrappers"
            return f"what it is made of cannot be saved ({lost})"
        self.env.reset(seed=0)  # makes the attributes that only a reset makes
        for depth, layer in enumerate(layers):
            if not restore(layer, saved[str(depth)], skip=("env",)):
                return f"{type(layer).__name__} has other attributes now"
        return None

    def _layers(self) -> Iterator[Any]:
        """The environment, from the outermost wrapper inwards."""
        from gymnasium.vector import VectorWrapper

        layer = self.env
        while isinstance(layer, VectorWrapper):
            yield layer
            layer = layer.env
        yield layer

    def _has_state(self) -> bool:
        return all(callable(getattr(self.env, name, None)) for name in ("get_state", "set_state"))

    def _raise(self, fault: tuple[int, EnvError] | None, slots: NDArray | None = None) -> None:
        if fault is not None:
            row, error = fault
            copy = row if slots is None else int(slots[row])
            error.add_note(f"in copy {copy}")
            raise error

    def _blame(self, error: BaseException, method: str) -> NoReturn:
        """Raise it again, with the environment, the step and, for a broken contract, the method."""
        error = check_call(error, method)
        if isinstance(error, ShoalError):
            error.locate(where_is(self.env, method))
        error.add_note(
            f"in environment {self.id!r} ({self.slots} copies in its own vector form), "
            f"env step {self._env_steps} since the reset"
        )
        raise error
