"""Does every kind of observation with every kind of action act, learn, save and come back?

One update of PPO in each library; then the saved policy must act as the trained one. The
environment itself refuses what is outside its action space or forbidden by its mask.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from shoal.nets.network import Network
from shoal.policy import load
from shoal.trainer import Trainer
from tests.worlds import difference

OBSERVATIONS: dict[str, Any] = {
    "box": Box(-1.0, 1.0, (3,), np.float64),
    "image": Box(0, 255, (36, 36, 1), np.uint8),
    "discrete": Discrete(5, start=2),
    "multidiscrete": MultiDiscrete([3, 2]),
    "multibinary": MultiBinary(4),
    "nested": Dict(
        {
            "joints": Tuple((Box(-np.inf, np.inf, (2, 2), np.float32), Discrete(3))),
            "inner": Dict({"flags": MultiBinary(2), "grip": Box(0.0, 1.0, (), np.float32)}),
        }
    ),
}
ACTIONS: dict[str, Any] = {
    "discrete": Discrete(4, start=-1),
    "multidiscrete": MultiDiscrete([3, 2]),
    "bounded": Box(np.array([-3, 0], np.float32), np.array([3, 0.5], np.float32)),
    "unbounded": Box(-np.inf, np.inf, (2,), np.float32),
}
CASES = [
    pytest.param(observation, action, masked, id=f"{observation}-{action}{'-masked' * masked}")
    for observation in OBSERVATIONS
    for action in ACTIONS
    for masked in ([False, True] if "discrete" in action else [False])
]
STEPS, SLOTS, LIMIT = 8, 2, 3


class World(gymnasium.Env[Any, Any]):
    """Draws observations and masks from its seed; takes only actions that are allowed."""

    def __init__(self, observation: str, action: str, masked: bool) -> None:
        self.action_space = deepcopy(ACTIONS[action])
        self.observation_space: Any = deepcopy(OBSERVATIONS[observation])
        self.masked = masked
        self.within = masked and isinstance(self.observation_space, Dict)
        nvec = getattr(self.action_space, "nvec", [getattr(self.action_space, "n", 0)])
        self.ns = [int(n) for n in nvec]
        if self.within:
            spaces = dict(self.observation_space.spaces)
            self.observation_space = Dict({**spaces, "action_mask": MultiBinary(sum(self.ns))})

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self._look()

    def step(self, action: Any) -> Any:
        check(self.action_space, self.ns, action, self.mask)
        self.t += 1
        obs, info = self._look()
        return obs, float(np.sum(action)) / 10, False, self.t == LIMIT, info

    def _look(self) -> Any:
        obs = self.observation_space.sample()
        self.mask = None
        if self.masked:
            parts = [self.np_random.permutation(np.arange(n) < n - 1) for n in self.ns]
            self.mask = np.concatenate(parts).astype(np.int8)  # one choice of each is forbidden
            if self.within:
                obs["action_mask"] = self.mask
        return obs, {"action_mask": self.mask} if self.masked and not self.within else {}


def check(space: Any, ns: list[int], action: Any, mask: Any) -> None:
    """The action is one of the space, and allowed."""
    assert space.contains(action), f"{action!r} is not in {space}"
    if mask is not None:
        chosen = np.reshape(action, -1) - getattr(space, "start", 0)
        offsets = np.cumsum([0, *ns[:-1]])
        assert mask[offsets + chosen].all(), f"{action} is forbidden by {mask}"


@pytest.mark.parametrize(("observation", "action", "masked"), CASES)
def test_it_learns_saves_and_acts(
    observation: str, action: str, masked: bool, tmp_path: Path
) -> None:
    weights = {}
    for learner in ("torch", "jax"):
        trainer = Trainer(
            "ppo",
            lambda: World(observation, action, masked),
            learner=learner,
            network=Network(hidden=(4,)),
            envs_per_worker=SLOTS,
            fragment_length=STEPS,
            epochs=1,
            minibatch_size=STEPS * SLOTS,
            stop_steps=STEPS * SLOTS,
        )
        before = trainer.learner.weights()
        trainer.train()
        weights[learner] = trainer.learner.weights()
        assert difference(before, weights[learner])
    for name, x in weights["jax"].items():  # after one step of Adam: lr 3e-4 wherever g > eps
        np.testing.assert_allclose(x, weights["torch"][name], atol=1e-4, err_msg=name)
    trainer.save(tmp_path)
    own, loaded = trainer.policy, load(tmp_path)
    world = World(observation, action, masked)
    obs, info = world.reset(seed=1)
    for i in range(40):
        mask = info.get("action_mask")
        actions = [p.act(obs, explore=i % 2 == 0, action_mask=mask) for p in (own, loaded)]
        assert not difference(np.asarray(actions[0]), np.asarray(actions[1]))
        obs, *_, info = world.step(actions[0])


def test_a_world_refuses_what_is_forbidden() -> None:
    """The tests above rely on it."""
    world = World("box", "discrete", True)
    world.reset(seed=0)
    forbidden = int(np.flatnonzero(world.mask == 0)[0]) - 1
    with pytest.raises(AssertionError, match="forbidden"):
        world.step(np.int64(forbidden))


def test_gradients_do_not_pass_through_what_is_masked() -> None:
    """A choice that is never allowed keeps its bias through an update."""

    class Fixed(World):
        def _look(self) -> Any:
            obs, _ = super()._look()
            self.mask = np.array([1, 1, 0, 1], np.int8)
            return obs, {"action_mask": self.mask}

    trainer = Trainer(
        "ppo",
        lambda: Fixed("box", "discrete", True),
        learner="torch",
        network=Network(hidden=(4,)),
        stop_steps=2048,
        entropy_coef=0.1,
    )
    trainer.train()
    bias = trainer.learner.weights()["pi/out/b"]
    assert bias[2] == 0.0 and (bias[[0, 1, 3]] != 0).all()
