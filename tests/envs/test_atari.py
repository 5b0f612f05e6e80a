"""Is what an agent sees of an Atari game what the literature says, and is the score the game's?

The emulator stands for itself; frames, rewards and lives are recomputed from its raw interface.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

ale_py = pytest.importorskip("ale_py")

from ale_py import roms  # noqa: E402

from shoal.envs import make, make_for_evaluation  # noqa: E402
from shoal.envs.atari import Atari  # noqa: E402
from shoal.envs.serial import SerialEnv  # noqa: E402
from shoal.errors import CheckpointError, ConfigError, EnvError  # noqa: E402
from shoal.spaces.axes import image  # noqa: E402
from tests.worlds import settings, worker  # noqa: E402

PLAIN = {"repeat_action_probability": 0.0, "noop_max": 0, "use_fire_reset": False}
LIVES = 5  # of a game of Breakout


def play(world: Any, steps: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    n = world.spaces.action_n[0]
    return [world.step(rng.integers(n, size=world.slots)) for _ in range(steps)]


def frames(steps: list[Any]) -> np.ndarray:
    """[T, B, 84, 84]"""
    return np.stack([step.obs["obs"][:, -1] for step in steps])


def emulator(game: str) -> Any:
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("frame_skip", 1)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    return ale


def cover(size: int, parts: int) -> np.ndarray:
    """[parts, size]: how much of each pixel lies in each of the equal parts; rows sum to 1."""
    edges = np.arange(parts + 1) * size / parts
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    return (np.minimum(high, pixel + 1) - np.maximum(low, pixel)).clip(0) * parts / size


def shrunk(frame: np.ndarray) -> np.ndarray:
    """[H, W] to 84x84 by area, in grey levels."""
    return cover(frame.shape[0], 84) @ frame.astype(float) @ cover(frame.shape[1], 84).T


# ---------------------------------------------------------------------------- what is seen


@pytest.mark.parametrize(("game", "name"), [("pong", "Pong"), ("breakout", "Breakout")])
def test_preprocessing_is_that_of_the_nature_paper(game: str, name: str) -> None:
    """Each action four times, the maximum of the last two frames, grey, 84x84, four of them."""
    world, ale = make(f"ALE/{name}-v5", 1, kwargs=PLAIN), emulator(game)
    stack = [np.zeros((84, 84))] * 3 + [shrunk(ale.getScreenGrayscale())]
    obs, actions = world.reset(seed=0)["obs"], ale.getMinimalActionSet()
    rng = np.random.default_rng(0)
    for _ in range(40):
        assert abs(obs[0] - np.stack(stack)).max() <= 1  # of 255, by rounding
        action = int(rng.integers(len(actions)))
        reward, raw = 0, []
        for _ in range(4):
            reward += ale.act(actions[action])
            raw.append(ale.getScreenGrayscale())
        stack = [*stack[1:], shrunk(np.maximum(*raw[-2:]))]
        step = world.step(np.array([action]))
        assert step.reward[0] == reward
        obs = step.obs["obs"]


def test_spaces_are_an_image_of_four_frames() -> None:
    world = make("ALE/Breakout-v5", 3)
    (leaf,) = world.spaces.leaves
    obs = world.reset(seed=0)["obs"]
    assert isinstance(world, Atari) and image(leaf)
    assert leaf.shape == obs.shape[1:] == (4, 84, 84) and obs.dtype == np.uint8
    assert world.spaces.action_n == (4,)


def test_automatic_network_is_the_nature_cnn() -> None:
    made = worker(settings("ppo", "ALE/Pong-v5", rollout={"envs_per_worker": 1}))
    shapes = made.model.net.shapes()
    assert shapes["trunk/obs/conv0/w"] == (32, 4, 8, 8)
    assert shapes["trunk/obs/fc/w"] == (7 * 7 * 64, 512)


@pytest.mark.parametrize(
    ("name", "sticky", "skip"),
    [("ALE/Pong-v5", 0.25, 4), ("PongNoFrameskip-v4", 0.0, 4), ("PongNoFrameskip-v0", 0.25, 4)],
)
def test_an_id_says_how_sticky_actions_are(name: str, sticky: float, skip: int) -> None:
    """The same seed and actions make the same game as those numbers given by hand."""
    by_hand = {"repeat_action_probability": sticky, "frameskip": skip}
    worlds = [make(name, 2), make("ALE/Pong-v5", 2, kwargs=by_hand)]
    first, second = (world.reset(seed=4)["obs"] for world in worlds)
    np.testing.assert_array_equal(first, second)
    first, second = (frames(play(world, 80)) for world in worlds)
    np.testing.assert_array_equal(first, second)
    other = make("ALE/Pong-v5", 2, kwargs={**by_hand, "repeat_action_probability": 0.6})
    other.reset(seed=4)
    assert (frames(play(other, 80)) != first).any()


def test_games_begin_with_different_numbers_of_no_ops() -> None:
    world = make("ALE/Pong-v5", 8)
    world.reset(seed=0)
    waited = world._info["episode_frame_number"]
    assert waited.max() <= 32 and len(set(waited.tolist())) > 4  # fire and up follow the no-ops


def test_a_game_is_cut_off_after_its_limit_and_its_last_frames_are_kept() -> None:
    """25 env steps of 4 frames: truncated, with what followed beside the next game's beginning."""
    limits = [{"max_num_frames_per_episode": 100}, {"max_episode_steps": 25}]
    for limit in limits:
        cut, whole = make("ALE/Pong-v5", 2, kwargs=limit), make("ALE/Pong-v5", 2)
        cut.reset(seed=3), whole.reset(seed=3)
        steps, longer = play(cut, 26), play(whole, 25)
        assert [step.truncated.all() for step in steps] == [False] * 24 + [True, False]
        assert not any(step.terminated.any() for step in steps)
        slots, final = steps[24].final
        assert slots.tolist() == [0, 1]
        uncut = longer[-1].obs["obs"]
        np.testing.assert_array_equal(final["obs"][:, :3], uncut[:, :3])
        # The emulator pools the very last frame with an older one: the ball is seen twice.
        assert np.mean(final["obs"][:, 3] != uncut[:, 3]) < 0.01
        assert not steps[24].obs["obs"][:, :3].any()  # a new stack holds one frame


# ---------------------------------------------------------------------------- lives and scores


@cache
def games(**kwargs: Any) -> tuple[list[Any], list[Any]]:
    """300 random env steps of Breakout, and the lives that were left after each."""
    world = make("ALE/Breakout-v5", 3, kwargs=kwargs)
    world.reset(seed=1)
    rng, steps, lives = np.random.default_rng(0), [], []
    for _ in range(300):
        steps.append(world.step(rng.integers(4, size=3)))
        lives.append(world._info["lives"].copy())
    return steps, lives


def test_a_lost_life_is_an_ending_that_goes_on() -> None:
    steps, lives = games()
    lost = over = 0
    before = np.full(3, LIVES)
    for step, now in zip(steps, lives, strict=True):
        fewer = now < before
        np.testing.assert_array_equal(step.goes_on, fewer)
        ended = step.terminated & ~step.goes_on
        # The last life ends the game: the next one has begun in the same step.
        assert (before[ended] == 1).all() and (now[ended] == LIVES).all()
        np.testing.assert_array_equal(step.over, ended)
        np.testing.assert_array_equal(step.terminated, fewer | ended)
        slots = [] if step.final is None else step.final[0].tolist()
        assert slots == np.flatnonzero(ended).tolist()
        lost, over, before = lost + fewer.sum(), over + ended.sum(), now
    assert over >= 3 and lost >= 4 * over


def test_without_endings_of_lives_only_games_end() -> None:
    steps, _ = games()
    whole, _ = games(life_loss_info=False)
    for step, other in zip(steps, whole, strict=True):
        np.testing.assert_array_equal(step.over, other.terminated)
        np.testing.assert_array_equal(step.obs["obs"], other.obs["obs"])
        assert other.goes_on is None


def test_episodic_lives_begin_a_new_game() -> None:
    steps, lives = games(episodic_life=True)
    ended = np.stack([step.terminated for step in steps])
    assert ended.sum() > 12 and (np.stack(lives) == LIVES).all()
    assert not any(step.goes_on is not None and step.goes_on.any() for step in steps)


def whole_games(seed: int) -> tuple[Any, list[tuple[float, int]]]:
    """A worker on Breakout, and (return, length) of the whole games it played, from its steps."""
    rollout = {"envs_per_worker": 4, "fragment_length": 64}
    made = worker(settings("ppo", "ALE/Breakout-v5", rollout=rollout, seed=seed))
    original, logs, found = made.env.step, [[] for _ in range(4)], []

    def logged(action: np.ndarray) -> Any:
        step = original(action)
        for slot, log in enumerate(logs):
            log.append(float(step.reward[slot]))
            if step.over[slot]:
                found.append((sum(log), len(log)))
                log.clear()
        return step

    made.env.step = logged
    return made, found


def test_episodes_are_whole_games_and_lives_end_the_learners() -> None:
    made, found = whole_games(0)
    samples = [made.sample() for _ in range(6)]
    assert [episode for sample in samples for episode in sample.episodes] == found
    assert found and min(length for _, length in found) > 100
    record = made.play(made._collect(64, False))[0]
    assert record.goes_on.any()
    np.testing.assert_array_equal(record.over, record.last & ~record.goes_on)
    assert record.terminated[record.goes_on].all()


class TenPoints:
    """Rewards of 10, 0 and -10 in the place of the game's."""

    def __init__(self, env: Any) -> None:
        self.env, self.t, self.original = env, 0, env.step

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        reward = np.full(self.env.slots, 10.0 * (self.t % 3 - 1), np.float32)
        return self.original(action)._replace(reward=reward)


@pytest.mark.parametrize(
    ("clip", "expected"), [("auto", [0, 1, -1]), (2.5, [0, 2.5, -2.5]), (None, [0, 10, -10])]
)
def test_only_training_rewards_are_clipped(
    clip: Any, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = {
        **{"envs_per_worker": 2, "fragment_length": 30, "clip_reward": clip},
        "env_kwargs": {"max_episode_steps": 26},
    }
    made = worker(settings("a2c", "ALE/Pong-v5", rollout=rollout))
    made.env.step = TenPoints(made.env).step
    seen: list[np.ndarray] = []
    original = type(made.config.algorithm).postprocess

    def spied(self: Any, model: Any, params: Any, trajectory: Any) -> Any:
        seen.append(trajectory.reward)
        return original(self, model, params, trajectory)

    monkeypatch.setattr(type(made.config.algorithm), "postprocess", spied)
    sample = made.sample()
    assert seen[0].dtype == np.float32
    np.testing.assert_array_equal(seen[0][:3, 0], expected)
    # 26 env steps: (0, 10, -10) eight times, 0, 10.
    assert sample.episodes == [(10.0, 26)] * 2


def test_clipping_is_for_atari_only_and_not_for_scaled_rewards() -> None:
    def clip(env: Any, **rollout: Any) -> float | None:
        return worker(settings("ppo", env, rollout={"envs_per_worker": 1, **rollout})).reward_clip

    assert clip("ALE/Pong-v5") == 1.0
    assert clip("ALE/Pong-v5", scale_reward=True) is None
    assert clip("CartPole-v1") is None
    assert clip("CartPole-v1", clip_reward=0.5) == 0.5
    with pytest.raises(ConfigError, match=r"rollout\.clip_reward is 1\.0"):
        settings("ppo", "ALE/Pong-v5", rollout={"scale_reward": True, "clip_reward": 1.0})
    with pytest.raises(ConfigError, match=r"rollout\.clip_reward is -1"):
        settings("ppo", "ALE/Pong-v5", rollout={"clip_reward": -1})


# ---------------------------------------------------------------------------- seeds and states


@pytest.mark.parametrize("threads", [1, 2])
def test_a_seed_decides_the_games_whatever_came_before(threads: int) -> None:
    world, other = make("ALE/Breakout-v5", 3, seed=8), make("ALE/Breakout-v5", 3, threads=threads)
    world.reset(seed=2), play(world, 1), world.reset(seed=5)
    first = frames(play(world, 60))
    world.reset(seed=5), other.reset(seed=5)
    np.testing.assert_array_equal(frames(play(world, 60)), first)
    np.testing.assert_array_equal(frames(play(other, 60)), first)
    world.reset(seed=6)
    assert (frames(play(world, 60)) != first).any()


def test_workers_play_different_games() -> None:
    """The same actions in all slots of two workers: eight different games."""
    config = settings("ppo", "ALE/Pong-v5", rollout={"envs_per_worker": 4})
    seen = set()
    for index in (0, 1):
        env = worker(config, index).env
        steps = [env.step(np.full(4, t % 6)) for t in range(60)]
        seen |= {frames(steps)[:, slot].tobytes() for slot in range(4)}
    assert len(seen) == 8


def test_restored_games_begin_anew_and_say_so() -> None:
    world, other = make("ALE/Pong-v5", 2), make("ALE/Pong-v5", 2)
    world.reset(seed=0), play(world, 30)
    state = world.get_state()
    assert not state["exact"]
    begun = []
    for restored in (world, other):
        with pytest.warns(RuntimeWarning, match="begin anew: .*cannot save the games"):
            begun.append(restored.set_state(state)["obs"])
        assert not begun[-1][:, :3].any()
    np.testing.assert_array_equal(*begun)
    np.testing.assert_array_equal(frames(play(world, 20)), frames(play(other, 20)))
    with pytest.raises(CheckpointError):
        make("ALE/Pong-v5", 3).set_state(state)


# ---------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kwargs", "what", "fix"),
    [
        ({"stak_num": 3}, "no argument 'stak_num'", "did you mean 'stack_num'"),
        ({"zzz": 3}, "no argument 'zzz'", "frameskip"),
        ({"reward_clipping": True}, "'reward_clipping' is set by Shoal", "rollout.clip_reward"),
        ({"num_threads": 2}, "'num_threads' is set by Shoal", "number of workers"),
        ({"game": "breakout"}, "'game' is set by Shoal", "id"),
        ({"obs_type": "ram", "stack_num": 3}, "'obs_type' is one of raw frames", "'stack_num'"),
        ({"frameskip": 0}, "frameskip must be positive", "'frameskip': 0"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_are_refused_by_name(kwargs: Any, what: str, fix: str) -> None:
    with pytest.raises(EnvError) as caught:
        make("ALE/Pong-v5", 1, kwargs=kwargs)
    assert what in caught.value.what and fix in str(caught.value.fix)


def test_arguments_reach_the_game() -> None:
    kwargs = {"stack_num": 2, "img_height": 42, "full_action_space": True, "frameskip": 1}
    world = make({"id": "ALE/Pong-v5", "kwargs": kwargs}, 2)
    assert world.spaces.leaves[0].shape == (2, 42, 84) and world.spaces.action_n == (18,)
    world.reset(seed=0)
    before = world._info["frame_number"].copy()
    play(world, 3)
    np.testing.assert_array_equal(world._info["frame_number"] - before, 3)


@pytest.mark.parametrize(
    ("name", "kwargs", "shape"),
    [
        ("ALE/Pong-v5", {"obs_type": "ram"}, (128,)),
        ("ALE/Pong-v5", {"mode": 0}, (210, 160, 3)),
        ("ALE/Pong-v5", {"frameskip": [2, 5]}, (210, 160, 3)),
        ("Pong-v4", {}, (210, 160, 3)),  # its action repeat is random
    ],
    ids=str,
)
def test_what_only_raw_frames_have_leaves_them_raw(name: str, kwargs: Any, shape: Any) -> None:
    world = make(name, 1, kwargs=kwargs)
    assert isinstance(world, SerialEnv) and world.reward_clip is None
    assert world.spaces.leaves[0].shape == shape


def test_other_vector_environments_do_not_learn_how_atari_resets() -> None:
    """ale-py writes its autoreset mode into what all of them have in common."""
    from gymnasium.vector import VectorEnv

    before = dict(VectorEnv.metadata)
    make("ALE/Pong-v5", 1)
    assert VectorEnv.metadata == before


# ---------------------------------------------------------------------------- evaluation


def test_games_for_evaluation_are_whole_and_unclipped() -> None:
    """Invaders are worth 5 points and more; Breakout loses lives that end nothing."""
    one, many = (
        make_for_evaluation("ALE/SpaceInvaders-v5", 2, range(3, 5)),
        make("ALE/SpaceInvaders-v5", 2),
    )
    many.reset(seed=3)
    np.testing.assert_array_equal(one.reset()["obs"], many._obs["obs"])
    rng, best = np.random.default_rng(0), 0.0
    for _ in range(120):
        action = rng.integers(one.spaces.action_n[0], size=2)
        step, other = one.step(action), many.step(action)
        np.testing.assert_array_equal(step.obs["obs"], other.obs["obs"])
        np.testing.assert_array_equal(step.reward, other.reward)
        best = max(best, step.reward.max())
    assert best > 1

    game, lives = make_for_evaluation("ALE/Breakout-v5", 1, range(1)), [LIVES]
    game.reset()
    over = False
    while not over:
        step = game.step(rng.integers(4, size=1))
        over = bool(step.terminated[0])
        lives += [int(game._info["lives"][0])]
    assert set(lives) == set(range(1, LIVES + 1)) and lives[-1] == LIVES


def test_the_screen_that_is_filmed_is_the_game_that_is_played() -> None:
    """In colour, of the emulator's size; in grey and shrunk, it is what the agent sees."""
    world = make_for_evaluation("ALE/Breakout-v5", 1, range(2, 3), render_mode="rgb_array")
    obs = world.reset()["obs"]
    rng = np.random.default_rng(0)
    weights = np.array([0.299, 0.587, 0.114])
    coloured = 0
    for _ in range(60):
        screen = world.render()
        assert screen.shape == (210, 160, 3) and screen.dtype == np.uint8
        seen = abs(shrunk(screen @ weights) - obs[0, -1])
        assert np.mean(seen > 3) < 0.02
        coloured += int(np.ptp(screen.astype(int), axis=2).max() > 50)
        obs = world.step(rng.integers(4, size=1)).obs["obs"]
    assert coloured == 60
    assert world.fps == 15
    world.close()
