"""Does an environment go on from a saved state as if nothing had happened?"""

from __future__ import annotations

import json
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from shoal.envs import make
from shoal.envs.state import ActionLog, capture, restore
from shoal.errors import CheckpointError
from tests.envs.micro import Constant, OppositeSigns


def actions(env: Any, env_steps: int, seed: int = 0) -> list[np.ndarray]:
    rng, spaces, slots = np.random.default_rng(seed), env.spaces, env.slots
    if spaces.action_kind == "box":
        low, high, shape = -1.5, 1.5, (env_steps, slots, spaces.action_dim)
        return list(rng.uniform(low, high, shape).astype(np.float32))
    draws = [rng.integers(0, n, (env_steps, slots)) for n in spaces.action_n]
    return list(draws[0] if spaces.action_kind == "discrete" else np.stack(draws, axis=-1))


def record(env: Any, todo: list[np.ndarray]) -> list[Any]:
    told = []
    for action in todo:
        step = env.step(action)
        obs = {path: x.tobytes() for path, x in step.obs.items()}
        final = step.final and {path: x.tobytes() for path, x in step.final[1].items()}
        flags = [x.tobytes() for x in (step.reward, step.terminated, step.truncated)]
        told.append((obs, *flags, final, env.episode_seeds))
    return told


def stored(value: Any) -> Any:
    """What is left after a file: copies of arrays, JSON values; anything else fails."""
    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "biuf"
        return value.copy()
    if isinstance(value, dict):
        return {key: stored(part) for key, part in value.items()}
    return json.loads(json.dumps(value))


class Grid(gym.Env):
    observation_space = MultiDiscrete([5, 5])
    action_space = MultiDiscrete([3, 2], start=[-1, 0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.integers(0, 5, 2)
        return self.at.copy(), {}

    def step(self, action):
        self.at = (self.at + action + self.np_random.integers(0, 2, 2)) % 5
        return self.at.copy(), float(self.at.sum()), bool(self.at.sum() == 8), False, {}


ENVS = [
    "CartPole-v1",
    "CartPole-v0",
    "Pendulum-v1",
    "FrozenLake-v1",
    Grid,
    Constant,
    "HalfCheetah-v5",
]


@pytest.mark.parametrize(
    ("name", "slots"),
    [*((name, 3) for name in ENVS), ("CartPole-v1", 5), ("CartPole-v0", 5)],  # loops, own forms
    ids=str,
)
def test_restored_environment_goes_on_bit_equal(name: Any, slots: int) -> None:
    if name == "HalfCheetah-v5":
        pytest.importorskip("mujoco")
    env = make(name, slots, seed=1)
    env.reset(seed=7)
    record(env, actions(env, 33))
    state = env.get_state()
    kept = stored(state)
    expected = record(env, actions(env, 70, seed=2))
    assert repr(stored(state)) == repr(kept)  # later steps have not changed it
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for target in (env, make(name, slots, seed=99)):  # the same object, another one
            obs = target.set_state(kept)
            for path, x in state["obs"].items():
                np.testing.assert_array_equal(obs[path], x)
            record(target, actions(env, 70, seed=2)[:35])
            target.set_state(stored(target.get_state()))  # a state of what was restored
            assert record(target, actions(env, 70, seed=2)[35:]) == expected[35:]


def test_restoring_in_the_middle_of_a_next_step_reset() -> None:
    """CartPole's own vector form resets in the step after the last: that is state too."""
    env = make("CartPole-v1", 5, seed=0)
    env.reset(seed=0)
    push = np.ones(5, np.int64)
    while not env.step(push).terminated.any():
        pass
    state = stored(env.get_state())
    expected = env.step(push)
    other = make("CartPole-v1", 5, seed=5)
    other.set_state(state)
    found = other.step(push)
    assert expected.valid is not None and found.valid is not None
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.obs["obs"], expected.obs["obs"])


def test_attributes_keep_their_types() -> None:
    """A NumPy number and a Python one of the same value lead to other dtypes."""

    class Owner:
        def __init__(self, seed: int, value: float) -> None:
            self.rng = np.random.default_rng(seed)
            self.number, self.scalar = value, np.float64(value)
            self.parts = [(1, np.arange(3) * value), {"a": None, "b": np.int8(value)}]
            self.space, self.call = MultiDiscrete([2]), actions
            self.opaque = iter(())

    one, other = Owner(0, 3.0), Owner(1, 5.0)
    held, lost = capture(one)
    assert lost == ["opaque"]
    assert restore(other, stored(held))
    assert other.rng.random() == one.rng.random()
    assert (type(other.number), type(other.scalar)) == (float, np.float64)
    assert repr(other.parts) == repr(one.parts) and other.number == other.scalar == 3.0
    assert not restore(other, {**held, "step": 1}) and not hasattr(other, "step")


def test_same_seed_same_world_other_seed_other_world() -> None:
    for name in ("CartPole-v1", "Pendulum-v1"):
        first, second = (make(name, 2).reset(seed=3)["obs"] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, make(name, 2).reset(seed=4)["obs"])
        assert not np.array_equal(first[0], first[1])


def test_every_episode_has_its_own_seed_that_reproduces_it() -> None:
    env = make(OppositeSigns, 2, seed=0)
    env.reset(seed=0)
    seeds = {tuple(env.episode_seeds)}
    for action in actions(env, 8 * 5):
        env.step(action)
        seeds.add(tuple(env.episode_seeds))
    assert len(seeds) == 6 and len({s for pair in seeds for s in pair}) == 12
    now = env.step(np.zeros(2, np.int64)).obs["obs"]
    for slot, seed in enumerate(env.episode_seeds):
        single = OppositeSigns()
        single.reset(seed=seed)
        assert single.step(0)[0] == now[slot]


class Drifting(OppositeSigns):
    """Not determined by its seed."""

    drift = 0

    def _look(self):
        Drifting.drift += 1
        return np.array([Drifting.drift % 97 / 97], np.float32)

    def step(self, action):
        self.state = 1
        return super().step(action)


def test_an_episode_that_cannot_be_replayed_begins_anew_with_a_warning() -> None:
    env = make(Drifting, 2, seed=0)
    env.reset(seed=0)
    record(env, actions(env, 3))
    state = stored(env.get_state())
    with pytest.warns(RuntimeWarning, match="another observation") as told:
        env.set_state(state)
    assert len(told) == 1
    assert not set(env.episode_seeds) & set(state["seeds"])
    ends = [env.step(action) for action in actions(env, 8)]
    assert ends[7].terminated.all() and not ends[6].final  # whole episodes lie ahead


class OwnState(OppositeSigns):
    """Cannot be replayed, but says itself what it is."""

    def get_state(self):
        return {"t": self.t, "rng": self.np_random.bit_generator.state, "state": self.state}

    def set_state(self, state):
        self.t, self.state = state["t"], state["state"]
        self.reset_called = False
        self.np_random.bit_generator.state = state["rng"]

    def reset(self, *, seed=None, options=None):
        self.reset_called = True
        return super().reset(seed=seed)


def test_an_environments_own_state_is_used() -> None:
    env = make(OwnState, 2, seed=0)
    env.reset(seed=0)
    record(env, actions(env, 5))
    state = stored(env.get_state())
    expected = record(env, actions(env, 30, seed=1))
    other = make(OwnState, 2, seed=1)
    other.reset(seed=1)
    other.set_state(state)
    assert not any(copy.reset_called for copy in other.envs)
    assert record(other, actions(env, 30, seed=1)) == expected


def test_a_vector_of_unknown_parts_says_so_and_begins_anew() -> None:
    def vector() -> SyncVectorEnv:
        return SyncVectorEnv([OppositeSigns] * 2, autoreset_mode=AutoresetMode.SAME_STEP)

    env = make(vector, 2, seed=0)
    env.reset(seed=0)
    record(env, actions(env, 5))
    state = stored(env.get_state())
    assert state["exact"] is False and "SyncVectorEnv.envs" in state["lost"]
    with pytest.warns(RuntimeWarning, match=r"SyncVectorEnv\.envs"):
        env.set_state(state)
    ends = [env.step(action).terminated.all() for action in actions(env, 8)]
    assert ends == [False] * 7 + [True]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_state_of_another_environment_is_refused(name: str) -> None:
    env = make(name, 3, seed=0)
    env.reset(seed=0)
    state = env.get_state()
    with pytest.raises(CheckpointError, match="2 copies"):
        make(name, 2).set_state(state)
    with pytest.raises(CheckpointError):
        make(name, 3).set_state({**state, "kind": "other"})
    with pytest.raises(CheckpointError, match="random state"):
        make(name, 3).set_state({**state, "rng": {"bit_generator": "os.system"}})


def test_snapshots_of_the_action_log_stay_what_they_were() -> None:
    """Against plain lists, over many episodes and several renewals of the array."""
    rng = np.random.default_rng(0)
    log, lists = ActionLog(3, (), np.dtype(np.int64)), [[], [], []]
    taken: list[tuple[np.ndarray, list[int]]] = []
    for t in range(6000):
        row = rng.integers(0, 9, 3)
        log.append(row)
        for slot, action in enumerate(row.tolist()):
            lists[slot].append(action)
            if rng.random() < (0.01, 0.001, 0.0003)[slot]:
                log.begin(slot)
                lists[slot] = []
            if t % 500 == 7:
                view = log.actions(slot)
                assert view is not None and log.steps(slot) == len(lists[slot])
                taken.append((view, list(lists[slot])))
    assert max(len(told) for _, told in taken) > 1024
    for view, told in taken:
        assert view.tolist() == told


def test_an_endless_episode_is_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.envs.state.MAX_REPLAY", 2000)
    log = ActionLog(2, (3,), np.dtype(np.float32))
    for t in range(20_000):
        log.append(np.zeros((2, 3), np.float32))
        if t % 10 == 0:
            log.begin(1)
    assert log.actions(0) is None and log.steps(0) == 20_000
    assert len(log.actions(1)) == 9
    assert log._rows.shape[1] <= 2 * 2000


def test_random_generator_of_a_hostile_state_is_not_looked_up() -> None:
    env = make("CartPole-v1", 5, seed=0)
    env.reset(seed=0)
    state = stored(env.get_state())
    state["layers"]["0"]["_np_random"]["generator"]["bit_generator"] = "seed"
    with pytest.raises(CheckpointError, match="unknown random generator"):
        env.set_state(state)
