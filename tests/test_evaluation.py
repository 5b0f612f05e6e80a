"""Is an evaluation the same environment as training's, checked the same way, and the right mean?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from shoal import PPO, evaluate
from shoal.errors import EnvError, ShoalError, SpaceError
from shoal.nets.factory import build
from shoal.policy import Policy
from shoal.spaces.gym import GymSpaces
from tests.envs.test_env_faults import NAN, Masked, Sound, spoiled


class Steps(gym.Env):
    """Its seed decides how long it is: ``lengths[seed]`` env steps, each worth 1."""

    observation_space: gym.Space = Box(-1.0, 1.0, (3,), np.float32)
    action_space: gym.Space = Discrete(2)
    lengths = (40, 1, 1, 1, 7)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.left = self.lengths[(seed or 0) % len(self.lengths)]
        return np.zeros(3, np.float32), {}

    def step(self, action: int) -> Any:
        self.left -= 1
        return np.zeros(3, np.float32), 1.0, self.left == 0, False, {}


def policy(env: Any = Sound, masked: bool = False) -> Policy:
    spaces = GymSpaces(env.observation_space, env.action_space, masked)
    algorithm = PPO()
    weights = algorithm.init(algorithm.model(spaces, build), np.random.default_rng(0))
    return Policy(algorithm, spaces, weights)


def test_episode_i_starts_from_seed_i_and_counts_however_long_it_is() -> None:
    """With 16 copies, the short ones begin and end many more before the first has ended."""
    found = evaluate(policy(Steps), Steps, 50)
    assert found["returns"] == [float(Steps.lengths[i % 5]) for i in range(50)]
    assert found["length_mean"] == 10.0 and found["episodes"] == 50
    assert evaluate(policy(Steps), Steps, 3, seed=4)["returns"] == [7.0, 40.0, 1.0]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_environment_counts_the_episodes_that_begin_first(mode: AutoresetMode) -> None:
    """Each copy repeats its own length; so the third to fifth episodes are copy 1's."""

    class Fixed(Steps):
        def __init__(self, length: int) -> None:
            self.length = length

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
            obs, info = super().reset(seed=seed)
            self.left = self.length
            return obs, info

    def world() -> Any:
        return SyncVectorEnv([lambda: Fixed(9), lambda: Fixed(2)], autoreset_mode=mode)

    assert evaluate(policy(Steps), world, 5)["returns"] == [9.0, 2.0, 2.0, 2.0, 2.0]
    assert evaluate(policy(Steps), world, 1)["returns"] == [9.0]


def test_the_same_seed_gives_the_same_returns_when_exploring() -> None:
    made = policy(gym.make("Pendulum-v1"))
    first, second, other = (
        evaluate(made, "Pendulum-v1", 3, seed=seed, explore=True)["returns"] for seed in (5, 5, 6)
    )
    assert first == second != other
    assert first != evaluate(made, "Pendulum-v1", 3, seed=5)["returns"]


def test_actions_are_of_the_types_that_training_gives() -> None:
    given: list[Any] = []

    class Takes(Sound):
        def step(self, action: Any) -> Any:
            given.append(json.dumps(action))
            obs, reward, *_ = super().step(action)
            return obs, reward, self.t == 2, False, {}

    evaluate(policy(Takes), Takes, 2)
    assert len(given) == 4 and json.dumps(policy(Takes).act(np.zeros(3))) in ("0", "1")


def test_masks_in_info_may_be_tuples() -> None:
    class Parts(Masked):
        action_space = MultiDiscrete([2, 3])

        def info(self) -> Any:
            return {"action_mask": (np.array([0, 1]), np.array([0, 0, 1]))}

        def step(self, action: Any) -> Any:
            assert action.tolist() == [1, 2]
            obs, reward, _, _, info = super().step(action)
            return obs, reward, self.t == 3, False, info

    made = policy(Parts, masked=True)
    assert evaluate(made, Parts, 2)["length_mean"] == 3
    mask = Parts().info()["action_mask"]
    assert made.act(np.zeros(3), action_mask=mask).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("env", "what"),
    [
        (spoiled(0, NAN), "the observation is nan"),
        (spoiled(1, float("nan")), "the reward is nan"),
        (type("Old", (Sound,), {"spoil": lambda self, values: values[:4]}), "step returned list"),
        (
            type("Four", (Sound,), {"spoil": lambda self, values: tuple(values[:4])}),
            "step returned 4 values",
        ),
        (type("No", (Sound,), {"reset": lambda self, **_: (np.zeros(3), None)}), "reset returned"),
    ],
    ids=["nan", "reward", "list", "four", "info"],
)
def test_a_broken_contract_is_reported_as_in_training(env: Any, what: str) -> None:
    with pytest.raises(EnvError, match=what):
        evaluate(policy(), env, 2)


@pytest.mark.parametrize(
    ("env", "what"),
    [
        (type("More", (Sound,), {"action_space": Discrete(3)}), r"Discrete\(2\).*Discrete\(3\)"),
        (
            type("Wide", (Sound,), {"observation_space": Box(-9, 9, (4,), np.float32)}),
            r"it sees Box.*\(3,\).*\(4,\)",
        ),
        (Masked, "the environment has an action mask, and the policy has none"),
    ],
    ids=["actions", "observations", "mask"],
)
def test_an_environment_of_other_spaces_is_refused_by_name(env: Any, what: str) -> None:
    with pytest.raises(SpaceError, match=what) as caught:
        evaluate(policy(), env, 2)
    assert env.__name__ in str(caught.value)


def test_other_bounds_of_observations_are_taken() -> None:
    wide = type("Wide", (Steps,), {"observation_space": Box(-5, 5, (3,), np.float32)})
    assert evaluate(policy(Steps), wide, 2)["returns"] == [40.0, 1.0]


def test_an_episode_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.evaluation.ENDLESS", 50)
    with pytest.raises(EnvError, match="has not ended within 50 env steps") as caught:
        evaluate(policy(), Sound, 2)
    assert "time limit" in str(caught.value)
    assert evaluate(policy(Steps), Steps, 1)["returns"] == [40.0]


@pytest.mark.parametrize("name", ["episodes", "video_episodes"])
def test_none_is_too_few(name: str) -> None:
    with pytest.raises(ShoalError, match=f"{name} is 0"):
        evaluate(policy(), Sound, **{name: 0})


def test_progress_is_told_after_every_step() -> None:
    told: list[tuple[int, int]] = []
    evaluate(policy(Steps), Steps, 3, progress=lambda *now: told.append(now))
    assert told[0] == (2, 3) and told[1] == (2, 4) and told[-1] == (3, 42)
    assert len(told) == 40


class Shown(Steps):
    metadata = {"render_fps": 10}  # noqa: RUF012
    drawn = 0

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def render(self) -> Any:
        type(self).drawn += 1
        return np.zeros((32, 32, 3), np.uint8)


def test_only_the_first_episodes_are_filmed_and_all_count(tmp_path: Path) -> None:
    film = tmp_path / "new" / "film.gif"
    found = evaluate(policy(Steps), Shown, 8, video=film, video_episodes=2)
    assert found["returns"] == evaluate(policy(Steps), Shown, 8)["returns"]
    assert found["frames"] == Shown.drawn == 41 and found["video_s"] == 4.1
    assert film.is_file()


class Guess(Shown):
    """Pays the action."""

    lengths = (5, 7)

    def step(self, action: Any) -> Any:
        obs, _, *ends = super().step(action)
        return obs, float(action), *ends


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_has_the_pace_and_the_picture_of_its_environment(
    suffix: str, tmp_path: Path
) -> None:
    """10 frames a second; of odd sides, which H.264 cannot have, the last row and column go."""
    import imageio.v3 as imageio

    class Odd(Shown):
        def render(self) -> Any:
            picture = np.zeros((33, 35, 3), np.uint8)
            picture[:, :16] = 255
            return picture

    film = tmp_path / f"film{suffix}"
    evaluate(policy(Steps), Odd, 1, video=film)
    assert imageio.improps(film).shape[1:3] == (32, 34)
    about = imageio.immeta(film)  # a GIF of 40 equal frames is one, shown for their 4,000 ms
    assert about["duration"] == 4000 if suffix == ".gif" else about["fps"] == 10
    frame = imageio.imread(film, index=0)
    assert frame[:, :14].mean() > 240 and frame[:, 20:].mean() < 15


def test_a_film_does_not_change_what_exploring_finds(tmp_path: Path) -> None:
    """Each episode draws its own numbers, whatever else is played beside it."""
    made, film = policy(Guess), tmp_path / "film.gif"
    filmed = evaluate(made, Guess, 20, explore=True, video=film, video_episodes=3)["returns"]
    assert filmed == evaluate(made, Guess, 20, explore=True)["returns"]
    assert evaluate(made, Guess, 4, explore=True)["returns"] == filmed[:4]
    assert len(set(filmed)) > 2


def test_no_folder_is_made_for_a_film_that_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match="does not render"):
        evaluate(policy(), Sound, 1, video=tmp_path / "new" / "film.gif")
    assert not list(tmp_path.iterdir())
