"""Does every way to name an environment make it, and every wrong way say what to do?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from shoal.envs import BEST_RETURN, best_return, make, make_for_evaluation, rendering
from shoal.envs.make import FEW
from shoal.envs.native import NativeVector
from shoal.envs.serial import SerialEnv
from shoal.errors import EnvError
from shoal.process.tracebacks import describe
from shoal.spaces.axes import image
from tests.envs.micro import Bandit, Constant, Delayed, Memory, OppositeSigns

MODULE = """
import gymnasium as gym
import numpy as np

class Lamp(gym.Env):
    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)
    def __init__(self, watts=40, render_mode=None):
        self.watts, self.render_mode = watts, render_mode
    def reset(self, *, seed=None, options=None):
        return 0, {}
    def step(self, action):
        return int(action), float(self.watts), False, False, {}
    def render(self):
        return np.zeros((4, 4, 3), np.uint8)

def dimmed(watts=10):
    return Lamp(watts)

gym.register("Lamp-v0", Lamp, max_episode_steps=7)
number = 3
"""


@pytest.fixture
def lamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lamps.py").write_text(MODULE)
    (tmp_path / "needs.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("lamps", "needs"):
        sys.modules.pop(name, None)
    gym.registry.pop("Lamp-v0", None)


def first_reward(env: Any, **kwargs: Any) -> float:
    world = make(env, 2, kwargs=kwargs, seed=0)
    world.reset(seed=0)
    return float(world.step(np.zeros(2, np.int64)).reward[1])


@pytest.mark.usefixtures("lamps")
def test_import_strings_look_in_the_working_directory() -> None:
    assert first_reward("lamps:Lamp") == 40
    assert first_reward("lamps:Lamp", watts=60) == 60
    assert first_reward("lamps:dimmed") == 10
    assert first_reward("lamps:Lamp-v0") == 40
    assert first_reward({"id": "lamps:Lamp", "kwargs": {"watts": 5}}) == 5
    assert make("lamps:Lamp", 2).id == "lamps:Lamp"
    world = make("lamps:Lamp-v0", 1)
    world.reset(seed=0)
    assert [bool(world.step(np.zeros(1, np.int64)).truncated) for _ in range(7)][-1]


def test_callables() -> None:
    world = make(lambda: Bandit(), 3)
    assert isinstance(world, SerialEnv) and len({id(env) for env in world.envs}) == 3
    assert make(Bandit, 2).id == "tests.envs.micro:Bandit"

    def two() -> SyncVectorEnv:
        return SyncVectorEnv([Bandit] * 2, autoreset_mode=AutoresetMode.DISABLED)

    def any_number(num_envs: int) -> SyncVectorEnv:
        return SyncVectorEnv([Bandit] * num_envs)

    assert make(two, 2).slots == 2
    assert make(any_number, 5).slots == 5
    with pytest.raises(EnvError, match="of 2 copies, not 3"):
        make(two, 3)


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v0", 200), ("CartPole-v1", 500)])
def test_own_vector_form_keeps_the_time_limit(name: str, limit: int) -> None:
    world = make(name, 5, seed=0)
    assert isinstance(world, NativeVector) and world.env.unwrapped.max_episode_steps == limit
    shorter = make(name, 5, kwargs={"max_episode_steps": 5}, seed=0)
    shorter.reset(seed=0)
    ended = [shorter.step(np.arange(5) * 0 + t % 2).truncated.all() for t in range(5)]
    assert ended == [False] * 4 + [True]


@pytest.mark.parametrize("slots", [1, FEW, FEW + 1])
def test_only_more_than_a_few_copies_use_the_own_vector_form(slots: int) -> None:
    assert isinstance(make("CartPole-v1", slots), NativeVector) == (slots > FEW)


def test_a_vector_form_that_is_another_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

    class Other(CartPoleVectorEnv):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.single_observation_space = gym.spaces.Box(-1, 1, (4,))

    monkeypatch.setattr(gym.registry["CartPole-v1"], "vector_entry_point", Other)
    assert isinstance(make("CartPole-v1", 5), SerialEnv)

    class Narrow(CartPoleVectorEnv):
        def __init__(self, num_envs: int, max_episode_steps: int) -> None:
            super().__init__(num_envs, max_episode_steps)

    monkeypatch.setattr(gym.registry["CartPole-v1"], "vector_entry_point", Narrow)
    assert isinstance(make("CartPole-v1", 5), NativeVector)
    world = make("CartPole-v1", 5, kwargs={"sutton_barto_reward": True})
    assert isinstance(world, SerialEnv)


def test_atari_is_found_without_an_import() -> None:
    pytest.importorskip("ale_py")
    world = make("ALE/Pong-v5", 1)
    assert image(world.spaces.leaves[0]) and world.spaces.action_n == (6,)
    world.close()


@pytest.mark.usefixtures("lamps")
@pytest.mark.parametrize(
    ("env", "kwargs", "words"),
    [
        ("Cartpol-v1", {}, ("'Cartpol-v1'", "did you mean 'CartPole-v1'")),
        ("CartPole-v9", {}, ("`v9`", "'CartPole-v1'")),
        ("Taxi-v1", {}, ("deprecated", "Taxi-v4")),
        ("Nowhere/Thing-v0", {}, ("Nowhere", "module:Nowhere/Thing-v0")),
        ("", {}, ("cannot be made",)),
        ("CartPole-v1", {"gravity": 3}, ("'gravity'", "sutton_barto_reward")),
        ("no_such_module:Env", {}, ("no module 'no_such_module'", "looked in")),
        ("needs:Env", {}, ("a_package_that_is_not_there", "pip install a_package")),
        ("lamps:Lump", {}, ("'Lump'", "did you mean 'Lamp'")),
        ("lamps:number", {}, ("makes no environment",)),
        ("lamps:Lamp", {"wats": 3}, ("'wats'", "did you mean 'watts'", "lamps.py:8")),
        ("lamps:Lamp-v0", {"max_episode_step": 3}, ("did you mean 'max_episode_steps'",)),
        ("Pendulum-v1", {"max_episode_step": 3}, ("did you mean 'max_episode_steps'",)),
        (3, {}, ("3 is not a way",)),
        ({"env": "CartPole-v1"}, {}, ("['env']", '"id"')),
        (lambda: "a string", {}, ("'a string'", "gymnasium.Env")),
        (lambda config: Bandit(), {}, ("missing 1 required positional argument: 'config'",)),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_what_cannot_be_made_says_why(env: Any, kwargs: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(EnvError) as caught:
        make(env, 2, kwargs=kwargs)
    text = describe(caught.value)
    assert len(text.split("\n")) <= 25
    for word in words:
        assert word in "\n".join(text.split("\n")[:3]), text


@pytest.mark.parametrize(
    ("package", "env", "command"),
    [
        ("mujoco", "HalfCheetah-v5", 'pip install "shoal[mujoco]"'),
        ("ale_py", "ALE/Pong-v5", 'pip install "shoal[atari]"'),
        ("Box2D", "LunarLander-v3", '"gymnasium[box2d]"'),
    ],
)
def test_missing_packages_are_named_with_the_command(
    package: str, env: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    for name in [
        n for n in sys.modules if n.startswith(("gymnasium.envs.mujoco", "gymnasium.envs.box2d"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # an import of it now fails
    for name in [name for name in gym.registry if name.startswith("ALE/")]:
        monkeypatch.delitem(gym.registry, name)
    with pytest.raises(EnvError, match=f"'{package}' is not installed") as caught:
        make(env, 1)
    assert command in describe(caught.value).split("\n")[2]


@pytest.mark.usefixtures("lamps")
def test_environments_for_evaluation_render() -> None:
    frames = {"render_mode": "rgb_array"}
    world = make_for_evaluation("lamps:Lamp", 1, range(1), kwargs={"watts": 3}, **frames)
    world.reset()
    assert world.step(np.ones(1, int)).reward == [3] and world.render().shape == (4, 4, 3)
    with pytest.raises(EnvError, match="does not render"):
        make_for_evaluation(Bandit, 1, range(1), **frames)


def test_a_package_that_only_rendering_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pygame"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pygame", None)
    world = make_for_evaluation("CartPole-v1", 1, range(1), render_mode="rgb_array")
    world.reset()
    with (
        pytest.raises(EnvError, match="cannot be rendered: the package 'pygame'"),
        rendering(world.id),
    ):
        world.render()


def test_drawing_with_mujoco_without_a_screen_names_its_variable(tmp_path: Path) -> None:
    """What fails is below a file of MuJoCo's; the same failure elsewhere is not explained away."""
    names: dict[str, Any] = {}
    source = "def draw():\n    raise RuntimeError('no OpenGL context')\n"
    exec(compile(source, str(tmp_path / "mujoco_rendering.py"), "exec"), names)
    with pytest.raises(EnvError, match="no OpenGL context") as caught, rendering("Ant-v5"):
        names["draw"]()
    assert "MUJOCO_GL=egl" in str(caught.value)
    exec(compile(source, str(tmp_path / "own.py"), "exec"), names)
    with pytest.raises(RuntimeError), rendering("Ant-v5"):
        names["draw"]()


def test_what_only_makes_vectors_is_evaluated_with_the_copies_that_it_has() -> None:
    def vector(num_envs: int) -> SyncVectorEnv:
        return SyncVectorEnv([Bandit] * num_envs)

    assert make_for_evaluation(vector, 3, range(9)).slots == 3
    assert make_for_evaluation(lambda: vector(5), 3, range(9)).slots == 5


def test_a_copy_may_know_its_worker_and_its_number() -> None:
    """By parameters of those names; evaluation's worker is none that trains."""

    class Port(Bandit):
        def __init__(self, base: int = 0, *, worker_index: int, env_index: int = 7) -> None:
            self.mine = base, worker_index, env_index

    def known(world: Any) -> list[Any]:
        return [env.unwrapped.mine for env in world.envs]

    assert known(make(Port, 2, worker=3)) == [(0, 3, 0), (0, 3, 1)]
    assert known(make_for_evaluation(Port, 2, range(2))) == [(0, -1, 0), (0, -1, 1)]
    given = {"env_index": 5, "base": 1}
    assert known(make(Port, 2, kwargs=given, worker=3)) == [(1, 3, 5)] * 2
    gym.register("Port-v0", Port)
    try:
        assert known(make("Port-v0", 6, worker=1)) == [(0, 1, i) for i in range(6)]
    finally:
        gym.registry.pop("Port-v0")


def test_seeds_that_are_given_out_leave_copies_standing_still() -> None:
    """Two copies, three episodes: the copy that finds none left is not stepped any more."""
    steps: list[int] = []

    class Count(Bandit):
        def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
            self.seed = seed
            return super().reset(seed=seed)

        def step(self, action: int) -> Any:
            steps.append(self.seed)
            obs, reward, _, _, info = super().step(action)
            return obs, reward, self.seed == 4 or len(steps) > 5, False, info

    world = make_for_evaluation(Count, 2, range(4, 7))
    world.reset()
    ended = [world.step(np.zeros(2, int)).terminated.tolist() for _ in range(5)]
    assert steps == [4, 5, 6, 5, 6, 5, 6]
    assert ended == [[True, False], [False, False], [False, True], [True, False], [False, False]]


def test_best_returns_are_not_beaten() -> None:
    """Against random play, and for the pole against a controller that holds it up."""
    for name in ("Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "FrozenLake-v1", "Blackjack-v1"):
        env = gym.make(name)
        env.action_space.seed(0)
        for seed in range(20):
            env.reset(seed=seed)
            total, over = 0.0, False
            while not over:
                _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                total, over = total + float(reward), terminated or truncated
            assert total <= BEST_RETURN[name]
    for name in ("CartPole-v0", "CartPole-v1"):
        env, total, over = gym.make(name), 0.0, False
        obs, _ = env.reset(seed=0)
        while not over:
            angle, spin = obs[2], obs[3]
            obs, reward, terminated, truncated, _ = env.step(int(3 * angle + spin > 0))
            total, over = total + float(reward), terminated or truncated
        assert total == BEST_RETURN[name]
    assert best_return("CartPole-v1") == 500
    assert best_return("CartPole-v1", {"sutton_barto_reward": True}) is None
    assert best_return("Unknown-v0") is None and best_return(Bandit) is None


def test_the_micro_environments_are_what_they_say() -> None:
    """The best policy's return, for every one of them; and the golden values of their docs."""
    best = {Bandit: 1.0, Delayed: 1.0, Constant: 10.0, Memory: 1.0, OppositeSigns: 8.0}
    for env, expected in best.items():
        for seed in range(8):
            world, total, over = env(), 0.0, False
            obs, _ = world.reset(seed=seed)
            first = obs
            while not over:
                cue = first[0] if env is Memory else obs[0]
                action = 1 if env is Delayed else int(cue > 0)
                obs, reward, terminated, over, _ = world.step(action)
                total, over = total + reward, over or terminated
            assert total == expected
            assert terminated is not (env is Constant)
