"""Is a trajectory the same, whichever way an environment begins its next episode?"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from shoal.envs import make

ENDS = [(3, "terminated"), (1, "truncated"), (4, "both"), (2, "truncated"), (1, "terminated")]
SLOTS = 3


class Counter(gym.Env):
    """Observes (episode, t); episodes have the lengths and endings of ENDS, for any seed."""

    def __init__(self, first: int = 0, form: str = "box", masked: bool = False) -> None:
        part = Box(-1.0, 1e3, (2,), np.float32)
        self.form, self.masked = form, masked
        self.observation_space = {
            "box": part,
            "dict": Dict({"b": part, "a": Dict({"t": Discrete(100, start=-1)})}),
            "tuple": Tuple((part, Discrete(100, start=-1))),
        }[form]
        self.action_space = Discrete(3) if masked else Box(-2.0, 2.0, (1,), np.float32)
        self.episode, self.t = first, 0

    def reset(self, *, seed=None, options=None):
        self.episode += self.t > 0
        self.t = 0
        return self.look()

    def step(self, action):
        self.t += 1
        length, how = ENDS[self.episode % len(ENDS)]
        over = self.t == length
        reward = 100 * self.episode + self.t + float(np.sum(action))
        terminated, truncated = over and how != "truncated", over and how != "terminated"
        obs, info = self.look()
        return obs, reward, terminated, truncated, info

    def look(self):
        part = np.array([self.episode, self.t], np.float32)
        t = self.t - 1
        obs = {"box": part, "dict": {"b": part, "a": {"t": t}}, "tuple": (part, t)}[self.form]
        mask = np.arange(3) != (self.episode + self.t) % 3
        return obs, {"action_mask": mask.astype(np.int8)} if self.masked else {}


def policy(obs: dict[str, np.ndarray], env: Any) -> np.ndarray:
    """A function of the observation alone, so that a row that is only a reset changes nothing."""
    seen = sum(x.reshape(len(x), -1).astype(float).sum(1) for x in obs.values())
    if env.spaces.action_kind == "discrete":
        allowed = obs["action_mask"]
        return np.argmax(allowed * (1 + (np.arange(3) + seen[:, None]) % 3), axis=1)
    return np.sin(seen).astype(np.float32)[:, None]


def transitions(env: Any, env_steps: int) -> list[list[tuple]]:
    """Per slot: (obs, action, reward, terminated, truncated, obs that really followed)."""
    obs = env.reset(seed=0)
    told: list[list[tuple]] = [[] for _ in range(env.slots)]
    for _ in range(env_steps):
        action = policy(obs, env)
        step = env.step(action)
        after = {path: x.copy() for path, x in step.obs.items()}
        followed = {path: x.copy() for path, x in after.items()}
        if step.final is not None:
            slots, last = step.final
            for path, x in last.items():
                followed[path][slots] = x
        for slot in range(env.slots):
            if step.valid is None or step.valid[slot]:
                row = [{p: x[slot].tolist() for p, x in o.items()} for o in (obs, followed)]
                if step.terminated[slot] or step.truncated[slot]:
                    row[1].pop("action_mask", None)  # nothing is chosen there
                flags = bool(step.terminated[slot]), bool(step.truncated[slot])
                told[slot].append(
                    (row[0], action[slot].tolist(), float(step.reward[slot]), *flags, row[1])
                )
        obs = after
    env.close()
    return told


def vector(
    mode: AutoresetMode, form: str, masked: bool, wrap: Any = SyncVectorEnv, copy: bool = True
) -> Any:
    def create() -> gym.vector.VectorEnv:
        copies = [lambda i=i: Counter(i, form, masked) for i in range(SLOTS)]
        return wrap(copies, autoreset_mode=mode, copy=copy)

    return create


@pytest.mark.parametrize("masked", [False, True], ids=["box action", "masked"])
@pytest.mark.parametrize("form", ["box", "dict", "tuple"])
def test_every_mode_gives_the_same_transitions(form: str, masked: bool) -> None:
    numbers = iter(range(SLOTS))
    serial = make(lambda: Counter(next(numbers), form, masked), SLOTS, seed=0)
    expected = transitions(serial, 40)
    assert {(t[3], t[4]) for t in expected[0]} == {(a, b) for a in (0, 1) for b in (0, 1)}
    for mode in AutoresetMode:
        for copy in (True, False):  # False: one array is written to by every step and reset
            create = vector(mode, form, masked, copy=copy)
            found = transitions(make(create, SLOTS, seed=0), 40)
            for slot in range(SLOTS):
                assert len(found[slot]) > 20
                assert found[slot] == expected[slot][: len(found[slot])], mode


def test_the_oracle() -> None:
    """What the transitions of slot 0 must be, written out for its first two episodes."""
    serial = make(lambda: Counter(0), 1, seed=0)
    seen = [
        (t[0]["obs"], t[3], t[4], t[5]["obs"], t[2] - 2 * t[1][0])
        for t in transitions(serial, 4)[0]
    ]
    rewards = [pytest.approx(r, abs=1e-5) for r in (1, 2, 3, 101)]
    assert seen == [
        ([0, 0], False, False, [0, 1], rewards[0]),
        ([0, 1], False, False, [0, 2], rewards[1]),
        ([0, 2], True, False, [0, 3], rewards[2]),
        ([1, 0], False, True, [1, 1], rewards[3]),
    ]


def test_same_step_also_takes_batched_final_observations() -> None:
    """Some vector environments give final_obs as one batch, not as an object per copy."""

    class Batched(SyncVectorEnv):
        def step(self, actions):
            *rest, info = super().step(actions)
            if "final_obs" in info:
                empty = gym.vector.utils.create_empty_array(self.single_observation_space, SLOTS)
                filler = self.single_observation_space.sample()
                rows = [filler if x is None else x for x in info["final_obs"]]
                space = self.single_observation_space
                info["final_obs"] = gym.vector.utils.concatenate(space, rows, empty)
            return (*rest, info)

    for form in ("box", "dict", "tuple"):
        plain = make(vector(AutoresetMode.SAME_STEP, form, False), SLOTS)
        batched = make(vector(AutoresetMode.SAME_STEP, form, False, Batched), SLOTS)
        assert transitions(batched, 20) == transitions(plain, 20)


def test_arrays_of_reset_are_not_written_to_by_steps() -> None:
    env = make(lambda: Counter(0), 1, seed=0)
    obs = env.reset(seed=0)
    env.step(np.zeros((1, 1), np.float32))
    assert obs["obs"].tolist() == [[0, 0]]


def test_next_step_marks_the_reset_row_as_no_transition() -> None:
    env = make(vector(AutoresetMode.NEXT_STEP, "box", False), SLOTS)
    env.reset(seed=0)
    for _ in range(3):
        step = env.step(np.zeros((SLOTS, 1), np.float32))
    assert step.terminated.tolist() == [True, False, False]
    step = env.step(np.zeros((SLOTS, 1), np.float32))
    assert step.valid is not None and not step.valid[0]
    assert step.obs["obs"][0].tolist() == [1, 0]
    assert (step.reward[0], step.terminated[0], step.truncated[0]) == (0, False, False)
