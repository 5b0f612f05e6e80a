"""Is every fault of a user's environment told with what is wrong, where, and what to do?"""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from shoal.envs import make
from shoal.errors import EnvError, NetworkError, SpaceError
from shoal.process.tracebacks import describe

FILE = __file__.rpartition("/")[2]
OBS = np.zeros(3, np.float32)


class Sound(gym.Env):
    """Keeps the contract; the others break one thing each, in their fifth env step."""

    observation_space: gym.Space = Box(-9.0, 9.0, (3,), np.float32)
    action_space: gym.Space = Discrete(2)
    bad: Any = None
    when = 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.sound(), {}

    def step(self, action):
        self.t += 1
        values = [self.sound(), 0.0, False, False, {}]
        return self.spoil(values) if self.t == self.when else tuple(values)

    def sound(self):
        return OBS

    def spoil(self, values):
        return tuple(values)


def spoiled(position: int, value: Any, **attributes: Any) -> type[Sound]:
    def spoil(self: Sound, values: list) -> tuple:
        values[position] = value
        return tuple(values)

    return type("Spoiled", (Sound,), {"spoil": spoil, **attributes})


NAN, INF = np.array([0, np.nan, 0], np.float32), np.array([0, 0, -np.inf], np.float32)
CHOICE = {"observation_space": Discrete(4, start=1), "sound": lambda self: 1}
BITS = {"observation_space": MultiBinary(2), "sound": lambda self: np.zeros(2, np.int8)}
MANY = {"observation_space": MultiDiscrete([2, 3]), "sound": lambda self: np.array([1, 2])}
IMAGE = {
    "observation_space": Box(0, 255, (4, 4, 3), np.uint8),
    "sound": lambda self: np.zeros((4, 4, 3), np.uint8),
}
NESTED = {
    "observation_space": Dict({"a": Box(-1, 1, (2,), np.float32), "b": Discrete(3)}),
    "sound": lambda self: {"a": np.zeros(2, np.float32), "b": 2},
}
FAULTS = {
    "scalar for a vector": (spoiled(0, np.float32(1)), "the observation has shape []"),
    "one number for three": (spoiled(0, np.zeros(1, np.float32)), "shape [1]; its space says"),
    "four numbers for three": (spoiled(0, np.zeros(4, np.float32)), "shape [4]"),
    "a batch": (spoiled(0, np.zeros((1, 3), np.float32)), "shape [1, 3]"),
    "no observation": (spoiled(0, None), "the observation is NoneType"),
    "text": (spoiled(0, np.array(["a", "b", "c"])), "the observation is <U1"),
    "objects": (spoiled(0, np.array([1, None, 2])), "the observation is ndarray"),
    "nan": (spoiled(0, NAN), "the observation is nan"),
    "infinity": (spoiled(0, INF), "the observation is -inf"),
    "double that float32 cannot hold": (spoiled(0, np.full(3, 1e300)), "the observation is inf"),
    "nan in a nested entry": (
        spoiled(0, {"a": NAN[:2], "b": 0}, **NESTED),
        "the observation's entry 'a' is nan",
    ),
    "missing entry": (spoiled(0, {"a": OBS[:2]}, **NESTED), "no entry 'b'"),
    "tuple for a dict": (spoiled(0, (OBS[:2], 1), **NESTED), "no entry 'a'"),
    "floats for an image": (spoiled(0, np.zeros((4, 4, 3)), **IMAGE), "is float64 [4, 4, 3]"),
    "numbers beyond uint8": (spoiled(0, np.full((4, 4, 3), 300), **IMAGE), "holds 300 and 300"),
    "choice too high": (spoiled(0, 5, **CHOICE), "is [5], outside its space: at most [4]"),
    "choice too low": (spoiled(0, 0, **CHOICE), "is [0], outside its space: at most [4]"),
    "choice as a float": (spoiled(0, 1.5, **CHOICE), "the observation is float64"),
    "one of several choices": (spoiled(0, np.array([1, 3]), **MANY), "is [1, 3], outside"),
    "a bit of 2": (spoiled(0, np.array([0, 2], np.int8), **BITS), "is [0, 2], outside"),
    "reward nan": (spoiled(1, float("nan")), "the reward is nan"),
    "reward infinite": (spoiled(1, np.float64("inf")), "the reward is inf"),
    "reward too large": (spoiled(1, 1e39), "the reward is 1e+39"),
    "reward none": (spoiled(1, None), "the reward is NoneType None"),
    "reward text": (spoiled(1, "1.0"), "the reward is str '1.0'"),
    "reward of shape [1]": (spoiled(1, np.ones(1)), "the reward is an array of shape [1]"),
    "flag as a number": (spoiled(2, 1), "terminated is int 1, expected a bool"),
    "flag none": (spoiled(3, None), "truncated is NoneType None, expected a bool"),
    "flag as a dict": (spoiled(3, {}), "truncated is dict {}, expected a bool"),
    "four values": (
        type("Spoiled", (Sound,), {"spoil": lambda self, values: tuple(values[:4])}),
        "step returned 4 values, expected a tuple of 5",
    ),
    "nothing": (
        type("Spoiled", (Sound,), {"spoil": lambda self, values: None}),
        "step returned NoneType",
    ),
}


def run(env: Any, copies: int = 3, env_steps: int = 8) -> None:
    world = make(env, copies, seed=0)
    world.reset(seed=0)
    for _ in range(env_steps):
        world.step(np.zeros(copies, np.int64))


def told(error: BaseException) -> list[str]:
    """The lines of the report, once it is seen to keep its promise."""
    lines = describe(error, "shoal train x").split("\n")
    assert len(lines) <= 25 and max(map(len, lines)) < 600
    assert lines[0].startswith(type(error).__name__)
    assert lines[1].startswith("  where: ") and lines[2].startswith("  to do: ")
    assert any("shoal train x" in line for line in lines)
    return lines


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("name", FAULTS)
def test_broken_contract(name: str) -> None:
    env, text = FAULTS[name]
    with pytest.raises(EnvError) as caught:
        run(env)
    lines = told(caught.value)
    assert text in lines[0]
    line = inspect.getsourcelines(Sound.step)[1]
    assert f"{FILE}:{line} in Spoiled.step" in lines[1]
    assert len(lines[2]) > 20
    assert "in copy 0 of environment" in lines[3] and "env step 5 of the episode" in lines[3]


def test_sound_environments_of_every_form_pass() -> None:
    for attributes in ({}, CHOICE, BITS, MANY, IMAGE, NESTED):
        run(type("Fine", (Sound,), attributes))
    for obs in (OBS.astype(np.float64), OBS.astype(np.int64), [0.0, 1.0, 2.0], OBS.astype(bool)):
        run(spoiled(0, obs))
    for reward in (1, np.float32(2), np.array(3.0), True, np.int16(4)):
        run(spoiled(1, reward))
    run(spoiled(2, np.True_))
    run(spoiled(0, np.full((4, 4, 3), 255), **IMAGE))  # whole numbers that uint8 holds


def test_the_copy_and_the_episode_are_named() -> None:
    """The third copy breaks in its second episode, which lasted one step when it ended in nan."""
    copies = iter(range(3))

    class Late(Sound):
        def __init__(self):
            self.copy, self.episode = next(copies), -1

        def reset(self, *, seed=None, options=None):
            self.episode += 1
            return super().reset(seed=seed)

        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            bad = self.copy == 2 and self.episode == 1
            return obs + np.float32("nan") if bad else obs, reward, self.t == 2 or bad, False, info

    world = make(Late, 3, seed=0)
    world.reset(seed=0)
    for _ in range(2):
        world.step(np.zeros(3, np.int64))
    seed = world.episode_seeds[2]
    with pytest.raises(EnvError) as caught:
        world.step(np.zeros(3, np.int64))
    note = f"in copy 2 of environment {world.id!r}, episode seed {seed}, env step 1 of the episode"
    assert note in told(caught.value)[3]


@pytest.mark.parametrize("method", ["__init__", "reset", "step"])
def test_what_the_users_code_raises_keeps_its_type_and_place(method: str) -> None:
    class Trouble(ArithmeticError):
        pass

    def raises(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise Trouble("the valve is stuck")  # the line that must be named

    with pytest.raises(Trouble) as caught:
        run(type("Broken", (Sound,), {method: raises}))
    lines = told(caught.value)
    assert lines[0] == "Trouble: the valve is stuck"
    number = inspect.getsourcelines(raises)[1] + 1
    assert f"{FILE}:{number} in raises: raise Trouble" in lines[1]
    assert "copy 0 of environment" in lines[2]
    if method != "__init__":
        assert "episode seed" in lines[2]


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize(
    ("method", "form"),
    [("reset", "def reset(self, *, seed=None, options=None)"), ("step", "def step(self, action)")],
)
def test_a_method_without_gymnasiums_parameters(method: str, form: str, vector: bool) -> None:
    def bare(self: Any) -> Any:
        return OBS, {}

    bare.__name__, bare.__qualname__ = method, f"Old.{method}"
    old = type("Old", (Sound,), {method: bare})
    with pytest.raises(EnvError, match=f"{method} cannot be called as Gymnasium does") as caught:
        run(vectorised(old) if vector else old)
    lines = told(caught.value)
    assert form in lines[2]
    if not vector:
        assert f"{FILE}:{inspect.getsourcelines(bare)[1]} in Old.{method}" in lines[1]


def test_an_argument_that_the_users_own_line_gets_wrong_keeps_its_type() -> None:
    class Wrong(Sound):
        def reset(self, *, seed=None, options=None):
            return super().reset(sed=seed)

    with pytest.raises(TypeError, match="'sed'"):
        run(Wrong)


def test_an_observation_without_an_info() -> None:
    class Bare(Sound):
        def reset(self, *, seed=None, options=None):
            return OBS

    with pytest.raises(EnvError, match="reset returned ndarray") as bare:
        run(Bare)
    assert f"{FILE}:{inspect.getsourcelines(Bare.reset)[1]} in Bare.reset" in told(bare.value)[1]


class Masked(Sound):
    masks = (np.array([1, 0], np.int8),) * 9

    def info(self):
        mask = self.masks[self.t]
        return {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed)
        return obs, self.info()

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, self.info()


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (None, 'info has no "action_mask"'),
        (np.zeros(2, bool), "allows no action"),
        (np.ones(3, bool), "the action mask is bool [3]"),
        (np.array(["a", "b"]), "the action mask is <U1 [2]"),
    ],
    ids=["missing", "nothing allowed", "too long", "text"],
)
def test_action_masks(mask: Any, text: str) -> None:
    masks = [*Masked.masks[:4], mask, *Masked.masks[5:]]
    broken = type("Broken", (Masked,), {"masks": masks})
    with pytest.raises((EnvError, SpaceError)) as alone:
        run(broken)
    assert text in told(alone.value)[0]
    with pytest.raises((EnvError, SpaceError)) as caught:
        run(vectorised(broken))
    assert text.partition(" is ")[0] in told(caught.value)[0]
    run(Masked)


def test_masks_may_be_left_out_where_nothing_is_chosen() -> None:
    class Ending(Masked):
        masks = (*Masked.masks[:4], None)

        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            return obs, reward, self.t == 4, False, info

    class Zero(Ending):
        masks = (*Masked.masks[:4], np.zeros(2, bool))

    for env in (Ending, Zero):
        for world in (env, *(vectorised(env, mode) for mode in AutoresetMode)):
            run(world, env_steps=11)


def test_a_mask_is_due_again_where_the_next_episode_already_began() -> None:
    episodes = iter(range(99))

    class Stuck(Masked):
        def reset(self, *, seed=None, options=None):
            self.episode = next(episodes) // 3  # of three copies; the first shows the mask
            return super().reset(seed=seed)

        def info(self):
            nothing = self.episode > 1 and self.t == 0
            return {"action_mask": np.full(2, not nothing)}

        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            return obs, reward, False, self.t == 3, info

    with pytest.raises(EnvError, match="allows no action"):
        run(vectorised(Stuck), env_steps=3)


def vectorised(env: Any, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> Any:
    return lambda num_envs: SyncVectorEnv([env] * num_envs, autoreset_mode=mode)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", ["nan", "reward nan", "reward too large", "choice too high"])
def test_broken_contract_inside_a_vector(name: str, mode: AutoresetMode) -> None:
    env, text = FAULTS[name]
    with pytest.raises(EnvError) as caught:
        run(vectorised(env, mode))
    lines = told(caught.value)
    assert text.replace("1e+39", "inf") in lines[0]
    assert "in copy 0" in lines[3] and "3 copies" in lines[4] and "env step 5" in lines[4]


def test_nan_in_a_final_observation_is_found() -> None:
    for mode in AutoresetMode:
        env = type("Last", (Sound,), {"spoil": lambda self, values: (NAN, 0.0, True, False, {})})
        for world in (env, vectorised(env, mode)):
            with pytest.raises(EnvError, match="the observation is nan"):
                run(world)


class Vector(gym.vector.VectorEnv):
    """A vector environment of its own, with what a test wants broken."""

    metadata: dict = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space = Box(-1, 1, (3,), np.float32)
    single_action_space = Box(-1, 1, (1,), np.float32)
    values: tuple = ()

    def __init__(self, num_envs: int):
        self.num_envs = num_envs

    def reset(self, *, seed=None, options=None):
        return np.zeros((self.num_envs, 3), np.float32), {}

    def step(self, actions):
        n = self.num_envs
        sound = (np.zeros((n, 3), np.float32), np.zeros(n), np.zeros(n, bool), np.zeros(n, bool))
        return (*self.values, *sound[len(self.values) :], {})


ROWS = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((ROWS[:1],), "the observation 'obs' has shape [1, 3], expected [2, 3]"),
        ((ROWS, np.zeros((2, 1))), "the reward is float64 [2, 1], expected float32 [2]"),
        ((ROWS, np.zeros(2), np.zeros(2)), "terminated is float64 [2], expected bool [2]"),
        ((ROWS, np.zeros(2), np.array([False, True])), "copy 1 ended and was reset in the same"),
    ],
    ids=["rows", "reward", "flags", "final"],
)
def test_vector_environments_of_their_own(values: tuple, text: str) -> None:
    world = make(type("Broken", (Vector,), {"values": values}), 2)
    world.reset(seed=0)
    with pytest.raises(EnvError) as caught:
        world.step(np.zeros((2, 1), np.float32))
    lines = told(caught.value)
    assert text in lines[0]
    assert f"{FILE}:{inspect.getsourcelines(Vector.step)[1]} in Broken.step" in lines[1]


def test_a_vector_must_say_how_it_resets() -> None:
    with pytest.raises(EnvError, match="does not say how it resets") as caught:
        make(type("Silent", (Vector,), {"metadata": {}}), 2)
    assert "autoreset_mode" in told(caught.value)[2]


def test_actions_that_are_not_finite_are_not_blamed_on_the_environment() -> None:
    env = make("Pendulum-v1", 2, seed=0)
    env.reset(seed=0)
    with pytest.raises(NetworkError, match="slot 1") as caught:
        env.step(np.array([[0.0], [np.nan]], np.float32))
    assert "diverged" in told(caught.value)[2]


def test_copies_with_different_spaces() -> None:
    sizes = iter((2, 3))

    class Random(Sound):
        def __init__(self):
            self.observation_space = Box(-1, 1, (next(sizes),), np.float32)

    with pytest.raises(EnvError, match=r"copy 1 of .* has other spaces than copy 0"):
        make(Random, 2)


def test_an_unsupported_space_is_located() -> None:
    class Wordy(Sound):
        observation_space = Dict({"said": gym.spaces.Text(9)})

        def __init__(self):
            pass

    with pytest.raises(SpaceError) as caught:
        make(Wordy, 2)
    lines = told(caught.value)
    line = inspect.getsourcelines(Wordy.__init__)[1]
    assert "Text" in lines[0] and "'said'" in lines[1] and f"{FILE}:{line}" in lines[1]
    assert "Box, Discrete" in lines[2]
