"""Atari games through ale-py's own vector environment, with the preprocessing of the literature.

That is (Mnih et al. 2015, Nature 518, Methods): up to 30 no-ops at the start, each action repeated
for 4 frames, the maximum over the last 2 of them in grey and 84x84, the newest 4 stacked, rewards
clipped for training, a lost life as an ending for training, and 108,000 raw frames at most.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from gymnasium.vector import VectorWrapper

from shoal.envs.base import NDArray, Obs, Step
from shoal.envs.native import NativeVector
from shoal.errors import EnvError, cut, nearest
from shoal.spaces.base import Spaces
from shoal.spaces.gym import GymSpaces

ENTRY = "ale_py.env:AtariEnv"  # what Gymnasium's ids of Atari games stand for
_SKIP = 4  # raw frames of one env step, where the id says 1 and leaves them to the preprocessing
_FPS = 60.0  # raw frames a second
_OWN = {  # arguments of the vector environment that are set here -> what to do instead
    "game": "name the game by the id",
    "num_envs": "set rollout.envs_per_worker",
    "batch_size": "leave it out: all copies are stepped together",
    "num_threads": "leave it out: it follows from the number of workers",
    "thread_affinity_offset": "leave it out: it follows from the number of workers",
    "autoreset_mode": "leave it out: an ended game is followed by the next in the same step",
    "reward_clipping": "set rollout.clip_reward: returns are reported unclipped",
}


def settings(name: str, spec: Any, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of ale-py's vector environment for a Gymnasium id and the user's arguments.

    None where these ask for the raw single environment (arguments that only that one has, such as
    `obs_type="ram"`), where the id's action repeat is random, and for what is no Atari id. An id
    with an action repeat of 1 leaves that to the preprocessing, and gets 4.

    Raises EnvError for an argument that there is not, that is set by Shoal itself, or that does not
    go together with the others. Imports ale-py for an Atari id.
    """
    if spec.entry_point != ENTRY or spec.additional_wrappers:
        return None
    from ale_py.env import AtariEnv
    from ale_py.vector_env import AtariVectorEnv

    single, vector = _arguments(AtariEnv), _arguments(AtariVectorEnv)
    taken = dict(kwargs)
    limit = taken.pop("max_episode_steps", None)  # Gymnasium's, of every id
    raw = [key for key in taken if key in single - vector - set(_OWN)]
    if isinstance(taken.get("frameskip"), list | tuple):
        raw.append("frameskip")
    for key in taken:
        if key in _OWN:
            raise _refused(name, f"the argument {key!r} is set by Shoal", _OWN[key])
        if key not in single | vector:
            known = sorted((single | vector | {"max_episode_steps"}) - set(_OWN))
            near = nearest(key, known)
            hint = f"did you mean {near!r}?" if near else f"its arguments: {', '.join(known)}"
            raise _refused(name, f"there is no argument {key!r}", hint)
        if raw and key in vector - single:
            what = f"the argument {raw[0]!r} is one of raw frames, and {key!r} of preprocessed ones"
            raise _refused(name, what, f"leave out {key!r} or {raw[0]!r}")
    skip = taken.get("frameskip", spec.kwargs.get("frameskip", _SKIP))
    if raw or not isinstance(skip, int):
        return None
    if "frameskip" not in taken and skip == 1:
        skip = _SKIP
    found = {**spec.kwargs, **taken, "frameskip": skip}
    if limit is not None:
        found["max_num_frames_per_episode"] = limit * skip
    return found


def make_vector(
    name: str, settings: Mapping[str, Any], slots: int, *, seed: int | None, threads: int
) -> Atari:
    """`slots` copies stepped by `threads` threads, for training. Raises EnvError for bad values."""
    taken = dict(settings)
    # Episodes that really end with a life (`episodic_life`) need no ending besides.
    life_loss = bool(taken.pop("life_loss_info", not taken.get("episodic_life", False)))
    vector = _vector(name, taken, slots, min(threads, slots))
    return Atari(vector, id=name, seed=seed, life_loss=life_loss)


def make_whole(
    name: str, settings: Mapping[str, Any], slots: int, seed: int, *, threads: int, film: bool
) -> Atari:
    """`slots` copies for evaluation: the same preprocessing, and whole games.

    With `film`, what is rendered is the first game in full colour. Raises EnvError for bad values.
    """
    whole = {**settings, "life_loss_info": False, "episodic_life": False}
    vector = _vector(name, whole, slots, min(threads, slots))
    if film:
        import ale_py
        from ale_py import roms

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it prints all it loads
        game = ale_py.ALEInterface()
        game.loadROM(str(roms.get_rom_path(settings["game"])))
        height, width = game.getScreenDims()
        seen = {"img_height": height, "img_width": width, "grayscale": False, "stack_num": 1}
        vector = _Screened(vector, _vector(name, {**whole, **seen}, slots, min(threads, slots)))
    return Atari(vector, id=name, seed=seed, life_loss=False)


class Atari(NativeVector):
    """A vector of Atari games: rewards are the game's own, lost lives are endings that go on.

    A life is lost where the game says fewer lives than before and more than none: with none left,
    some games show a few frames more, and then their real end. What follows a lost life is the same
    game, with its frames still stacked.
    """

    reward_clip: float | None = 1.0

    def __init__(self, env: Any, *, id: str, seed: int | None = None, life_loss: bool) -> None:
        super().__init__(env, id=id, seed=seed)
        self._life_loss = life_loss
        shape = self.spaces.leaves[0].shape
        self.frame_stack = shape[0] if len(shape) == 3 else 1  # in colour, frames have three axes
        self._lives: NDArray = np.zeros(self.slots, np.int32)

    def reset(self, seed: int | None = None) -> Obs:
        """Begin a new game in every copy; see `VectorEnv.reset`."""
        obs = super().reset(seed)
        self._lives = self._info["lives"].copy()
        return obs

    def step(self, action: NDArray) -> Step:
        """Step every copy once; see `VectorEnv.step`."""
        step = super().step(action)
        if not self._life_loss:
            return step
        before, self._lives = self._lives, self._info["lives"].copy()
        fewer = (self._lives < before) & (self._lives > 0)
        lost = fewer & ~(step.terminated | step.truncated)
        return step._replace(terminated=step.terminated | lost, goes_on=lost)

    def render(self) -> NDArray:
        """The first copy's screen, uint8 [H, W, 3]; without one, what it last observed, enlarged.

        That is uint8 [4 H, 4 W, 3].
        """
        if isinstance(self.env, _Screened):
            return self.env.screen
        frame = self._obs[self.spaces.leaves[0].path][0, -1]
        if frame.ndim == 2:
            frame = np.repeat(frame[:, :, None], 3, axis=2)
        return np.repeat(np.repeat(frame, 4, axis=0), 4, axis=1)

    def _find_spaces(self) -> Spaces:
        # No mask is to be looked for, and a reset with a seed takes 0.1 s of each copy.
        return GymSpaces(self.env.single_observation_space, self.env.single_action_space)

    def _resume(self, state: dict[str, Any]) -> str | None:
        return "ale-py's vector environment cannot save the games that it plays"


class _Screened(VectorWrapper):
    """Games that are filmed: a second set of them in full colour.

    It has the same seeds and is given the same actions, so it plays the same games.
    """

    def __init__(self, env: Any, coloured: Any) -> None:
        super().__init__(env)
        self._coloured = coloured
        self.screen: NDArray = np.zeros(0, np.uint8)  # of the first game, uint8 [H, W, 3]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """See `gymnasium.vector.VectorEnv.reset`."""
        self.screen = self._coloured.reset(seed=seed, options=options)[0][0, -1]
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        """See `gymnasium.vector.VectorEnv.step`."""
        self.screen = self._coloured.step(actions)[0][0, -1]
        return self.env.step(actions)

    def close(self, **kwargs: Any) -> None:
        """Close both."""
        self.env.close(**kwargs)
        self._coloured.close(**kwargs)


def _vector(name: str, settings: Mapping[str, Any], slots: int, threads: int) -> Any:
    import gymnasium
    from gymnasium.vector import AutoresetMode

    given = {"reward_clipping": False, "autoreset_mode": AutoresetMode.SAME_STEP}
    try:
        vector = _vector_class()(num_envs=slots, num_threads=threads, **{**settings, **given})
    except (gymnasium.error.Error, TypeError, ValueError, RuntimeError) as error:
        user = {k: x for k, x in settings.items() if k != "game"}
        raise _refused(name, f"{cut(str(error), 200)}", f"it was given {user}") from error
    vector.metadata["render_fps"] = _FPS / settings["frameskip"]
    return vector


@cache
def _vector_class() -> Any:
    """ale-py's, with metadata of its own: it writes into what all vector environments share."""
    from ale_py.vector_env import AtariVectorEnv

    class Vector(AtariVectorEnv):
        def __init__(self, **kwargs: Any) -> None:
            self.metadata = {"render_modes": ["rgb_array"]}
            super().__init__(**kwargs)

    return Vector


def _arguments(kind: type) -> set[str]:
    return set(inspect.signature(kind).parameters)


def _refused(name: str, why: str, fix: str) -> EnvError:
    return EnvError(f"the environment {name!r} cannot be made: {why}", fix=fix)
