"""Is what is recorded what happened, in the field's format, and read back only if it fits?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from shoal import PPO, Replay, Trainer, evaluate, record
from shoal.app.cli import main
from shoal.config.bounds import bounds_of
from shoal.errors import ConfigError, DemoError
from shoal.fleet.world import make_world
from shoal.nets.factory import build
from shoal.policy import Policy
from shoal.replay.buffer import Buffer
from shoal.replay.demos import read
from shoal.replay.layout import layout
from shoal.spaces.gym import GymSpaces
from shoal.spaces.view import ALL, View
from tests.worlds import TINY, Script, difference, settings

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

CARTPOLE = GymSpaces(gym.make("CartPole-v1").observation_space, Discrete(2))


def policy(env: Any, view: View = ALL, masked: bool = False) -> Policy:
    """A policy with initial weights."""
    spaces = GymSpaces(env.observation_space, env.action_space, masked)
    ppo = PPO(network=TINY)
    model = ppo.model(view.of(spaces).spaces, build)
    return Policy(ppo, spaces, ppo.init(model, np.random.default_rng(0)), view=view)


class Rich(Script):
    """All that an observation and an action may be, with a mask within the observation."""

    observation_space = Dict(
        {
            "x": Box(-9, 9, (2,), np.float64),
            "deep": Tuple((Discrete(3, start=-1), Dict({"b": MultiBinary([2, 2])}))),
            "n": MultiDiscrete([[2, 3], [4, 5]]),
            "action_mask": Tuple((MultiBinary(2), MultiBinary(3))),
        }
    )
    action_space = MultiDiscrete([2, 3], start=[5, 0])

    def _draw(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        found = self.observation_space.sample()
        found["action_mask"][0][0] = found["action_mask"][1][2] = 1
        return found


class Hinted(Script):
    """Its mask is in info."""

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return obs, info | {"action_mask": np.int8([1, 0, 1, 1])}

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        mask = np.eye(4, dtype=np.int8)[int(action)]
        return obs, reward, terminated, truncated, info | {"action_mask": mask}


class Arm(Script):
    action_space = Box(-2.0, 4.0, (2,), np.float32)


# ---------------------------------------------------------------------------- written


def rows(spaces: Any, observations: Any) -> dict[str, Any]:
    """Observations {leaf: [T + 1, ...]}, of one nested structure or of a list of them."""
    if not isinstance(observations, list):
        return dict(GymSpaces(*spaces).flatten(observations))
    flat = [GymSpaces(*spaces).flatten(obs) for obs in observations]
    return {path: np.stack([x[path] for x in flat]) for path in flat[0]}


def test_a_relative_folder_is_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = record(policy(Script), Script, 2, "demos")
    assert minari.MinariDataset(Path("demos", "data").absolute()).total_episodes == 2
    assert Path(result["path"]).is_relative_to(tmp_path)


@pytest.mark.parametrize("kind", [Script, Arm, Rich])
@pytest.mark.parametrize("explore", [False, True])
def test_what_is_recorded_is_what_happened(kind: Any, explore: bool, tmp_path: Path) -> None:
    """Each episode's seed and actions give its observations, the last too, rewards and flags."""
    made, spaces = policy(kind), (kind.observation_space, kind.action_space)
    result = record(made, kind, 20, tmp_path / "demos", seed=3, explore=explore)
    found = minari.MinariDataset(result["path"])
    assert (found.observation_space, found.action_space) == spaces
    assert found.total_episodes == 20 and found.total_steps == result["env_steps"]
    returns = []
    for about, episode in zip(found.storage.get_episode_metadata(range(20)), found, strict=True):
        env = kind()
        seen = [env.reset(seed=about["seed"])[0]]
        for t in range(len(episode)):
            assert env.action_space.contains(episode.actions[t])
            obs, reward, terminated, truncated, _ = env.step(episode.actions[t])
            seen.append(obs)
            assert np.float32(reward) == episode.rewards[t]
            assert terminated == episode.terminations[t] and truncated == episode.truncations[t]
        assert terminated or truncated
        assert not difference(rows(spaces, seen), rows(spaces, episode.observations))
        returns.append(float(episode.rewards.sum()))
    again = evaluate(made, kind, 20, seed=3, explore=explore)
    assert result["returns"] == again["returns"]
    assert sorted(returns) == pytest.approx(sorted(again["returns"]), abs=1e-4)


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
def test_a_vector_environment_is_recorded_whatever_its_resets(mode: Any, tmp_path: Path) -> None:
    def world() -> Any:
        return gym.vector.SyncVectorEnv([Script] * 3, autoreset_mode=mode)

    result = record(policy(Script), world, 10, tmp_path / "demos")
    found = list(minari.MinariDataset(result["path"]))
    assert len(found) == 10
    assert sum(len(x) for x in found) == result["env_steps"]
    for episode in found:
        over = episode.terminations | episode.truncations
        assert over[-1] and not over[:-1].any()
        assert len(episode.observations) == len(episode) + 1
    returns = sorted(float(x.rewards.sum()) for x in found)
    assert returns == pytest.approx(sorted(result["returns"]), abs=1e-4)


def test_the_view_is_the_policys_and_not_the_demonstrations(tmp_path: Path) -> None:
    made = policy(Script, View((0,), previous=True))
    result = record(made, Script, 5, tmp_path / "demos")
    assert all(x.observations.shape[1] == 3 for x in minari.MinariDataset(result["path"]))
    assert result["returns"] == evaluate(made, Script, 5)["returns"]


def test_minari_makes_the_environment_again_and_finds_it_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    kwargs = {"sutton_barto_reward": True}
    made = policy(gym.make("CartPole-v1"))
    result = record(made, "CartPole-v1", 2, tmp_path / "short-v3", env_kwargs=kwargs)
    assert result["dataset_id"] == "short-v3"
    found = minari.load_dataset("short-v3")
    assert found.recover_environment().unwrapped._sutton_barto_reward
    assert list(minari.list_local_datasets()) == ["short-v3"]
    assert len(list(read("short-v3", CARTPOLE))) == 2


def test_a_folder_in_use_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "demos").mkdir()
    (tmp_path / "demos" / "mine").touch()
    with pytest.raises(DemoError, match="exists already"):
        record(policy(Script), Script, 1, tmp_path / "demos")
    assert [x.name for x in (tmp_path / "demos").iterdir()] == ["mine"]


def test_a_recording_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(Script):
        def step(self, action: Any) -> Any:
            raise RuntimeError("a wheel came off")

    with pytest.raises(RuntimeError, match="wheel"):
        record(policy(Script), Broken, 1, tmp_path / "demos")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- read


@pytest.mark.parametrize("kind", [Script, Arm, Rich, Hinted])
@pytest.mark.parametrize("view", [View(), View(previous=True)])
def test_it_is_read_as_it_would_have_been_sampled(kind: Any, view: View, tmp_path: Path) -> None:
    """A worker that takes the recorded actions, from the recorded seed, sees the same rows."""
    made = policy(kind, view, masked=kind is Hinted)
    path = record(made, kind, 6, tmp_path / "demos", explore=True)["path"]
    found = read(tmp_path / "demos", made.spaces, view, clip=1.0)
    about = minari.MinariDataset(path).storage.get_episode_metadata(range(6))
    assert (found.episodes, len(list(found))) == (6, 6)
    for episode, batch in zip(about, found, strict=True):
        config = settings("ppo", kind, rollout={"envs_per_worker": 1, "previous": view.previous})
        world, _ = make_world(config, None, 0, 0)
        obs = [world.play([episode["seed"]])]
        for t, action in enumerate(batch["action"]):
            step = world.step(action)
            last = step.final is not None
            assert last == (t == len(batch["action"]) - 1)
            obs.append(dict(step.final[1] if step.final else step.obs))
            obs[-1] = {k: x.copy() for k, x in obs[-1].items()}
            assert batch["reward"][t] == np.clip(step.reward, -1, 1)
            assert batch["terminated"][t] == step.terminated
            assert batch["truncated"][t] == step.truncated
        seen = {k: np.stack([x[k] for x in obs]) for k in obs[0]}
        seen = world.spaces.narrow(seen, {})
        if kind is Arm:  # actions went through the environment's units: rounding
            for name, x in seen.items():
                np.testing.assert_allclose(batch["obs"][name], x, atol=1e-5)
        else:
            assert not difference(seen, batch["obs"])


def test_hidden_entries_are_hidden(tmp_path: Path) -> None:
    record(policy(Script), Script, 3, tmp_path / "demos")
    own = policy(Script).spaces
    for all_of, part in zip(
        read(tmp_path / "demos", own), read(tmp_path / "demos", own, View((1,))), strict=True
    ):
        assert (all_of["obs"]["obs"][..., [0, 2]] == part["obs"]["obs"]).all()


def test_a_replay_buffer_gives_back_what_was_recorded(tmp_path: Path) -> None:
    """Every transition once, and none from one episode into the next."""
    record(policy(Script), Script, 12, tmp_path / "demos", explore=True)
    spaces = policy(Script).spaces
    demos = read(tmp_path / "demos", spaces)
    buffer = Buffer(layout(spaces, {}), 1, demos.steps + 2 * demos.episodes + 2)
    wanted = set()
    for batch in demos:
        buffer.store(0, batch)
        obs = batch["obs"]["obs"][:, 0]
        for t, reward in enumerate(batch["reward"][:, 0]):
            ended = bool(batch["terminated"][t, 0])
            wanted.add((*obs[t], float(reward), *(obs[t + 1] if not ended else ()), ended))
    drawn = buffer.everything().batch
    assert len(drawn["reward"]) == demos.steps
    found = set()
    for i, reward in enumerate(drawn["reward"]):
        ended = drawn["discount"][i] == 0
        after = drawn["next_obs"]["obs"][i]
        found.add((*drawn["obs"]["obs"][i], float(reward), *(() if ended else after), ended))
    assert found == wanted


def test_what_the_fields_own_tool_writes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make("CartPole-v1"))
    for seed in range(3):
        env.reset(seed=seed)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
    with pytest.warns(UserWarning):
        env.create_dataset("cartpole/random-v0")
    for source in ("cartpole/random-v0", tmp_path / "cartpole" / "random-v0"):
        demos = read(source, CARTPOLE)
        assert demos.steps == sum(len(x["reward"]) for x in demos) > 3


# ---------------------------------------------------------------------------- refused


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = Path(record(policy(Script), Script, 3, tmp_path / "demos", explore=True)["path"])
    assert (path / "main_data.hdf5").is_file()
    return path


def spoil(path: Path, change: Callable[[Any], None]) -> None:
    with h5py.File(path / "main_data.hdf5", "r+") as file:
        change(file["episode_1"])


def put(name: str, value: Callable[[np.ndarray], Any]) -> Callable[[Any], None]:
    """The field of that name is another one."""

    def change(episode: Any) -> None:
        new = value(episode[name][()])
        del episode[name]
        episode[name] = new

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("observations", lambda x: x[:-1]), r"observations: are \d+, .*last one is missing"),
        (put("observations", lambda x: x[:1]), "observations: are 1, for"),
        (put("observations", lambda x: x[:, :2]), r"do not fit: .* \[\d+, 2\], expected"),
        (put("observations", lambda x: x * np.nan), "observations: is not finite at row 0"),
        (put("rewards", lambda x: x + np.inf), "rewards: is not finite"),
        (put("rewards", lambda x: x[:0]), "rewards: has the shape .0.: it has no env step"),
        (put("rewards", lambda x: x[:-1]), r"terminations: is bool"),
        (put("actions", lambda x: x + 4), "actions: hold 4 at env step 0, outside"),
        (put("actions", lambda x: x + 0.5), "actions: are float64"),
        (put("actions", lambda x: x[:-1]), "actions: are int64"),
        (put("terminations", lambda x: np.zeros_like(x)), "gaps"),
        (put("terminations", lambda x: x.astype(np.float32)), "terminations: is float32"),
        (lambda episode: episode.pop("actions"), "KeyError"),
    ],
)
def test_an_episode_that_is_damaged_is_named(
    recorded: Path, change: Callable[[Any], None], words: str
) -> None:
    def alone(episode: Any) -> None:
        for name, value in (("terminations", True), ("truncations", False)):
            field = episode[name][()]
            field[-1] = value
            episode[name][...] = field
        change(episode)

    spoil(recorded, alone)
    with pytest.raises(DemoError, match=words) as caught:
        list(read(recorded, policy(Script).spaces))
    assert "episode 1" in str(caught.value) and str(recorded) in str(caught.value)


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (Box(-np.inf, np.inf, (4,), np.float32), Discrete(4), "their observations are Box.*\\(3,"),
        (Script.observation_space, Discrete(5), r"their actions are Discrete\(4\)"),
        (Script.observation_space, Discrete(4, start=1), "their actions"),
        (Script.observation_space, Box(-1, 1, (1,)), "their actions"),
        (Dict({"obs": Script.observation_space, "more": Discrete(2)}), Discrete(4), "observations"),
    ],
)
def test_another_environments_are_refused(
    recorded: Path, observation: Any, action: Any, words: str
) -> None:
    with pytest.raises(DemoError, match=words):
        read(recorded, GymSpaces(observation, action))


def test_spaces_that_no_policy_takes_are_refused(recorded: Path) -> None:
    about = json.loads((recorded / "metadata.json").read_text())
    text = {"type": "Text", "max_length": 3, "min_length": 0, "charset": "ab"}
    (recorded / "metadata.json").write_text(json.dumps(about | {"action_space": json.dumps(text)}))
    with pytest.raises(DemoError, match="Text") as caught:
        read(recorded, policy(Script).spaces)
    assert str(recorded) in str(caught.value)


def test_masks_are_needed_where_the_environment_has_them(recorded: Path) -> None:
    with pytest.raises(DemoError, match=r"action_mask.*is missing"):
        list(read(recorded, policy(Script, masked=True).spaces))


def test_a_data_set_that_names_code_is_not_run(recorded: Path, tmp_path: Path) -> None:
    """Without its spaces Minari would make the environment that the data set names."""
    about = json.loads((recorded / "metadata.json").read_text())
    del about["action_space"]
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    spec = {"id": "Evil-v0", "entry_point": "evil:Env", "additional_wrappers": []}
    about["env_spec"] = json.dumps(spec)
    (recorded / "metadata.json").write_text(json.dumps(about))
    with pytest.raises(DemoError, match="does not say its spaces"):
        read(recorded, policy(Script).spaces)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("total_episodes", 0, "holds no episodes"),
        ("total_episodes", "many", "ValueError"),
        ("data_format", "punch cards", "cannot be read"),
        ("minari_version", "9.9.9", "of Minari 9.9.9"),
        ("action_space", "{}", "cannot be read"),
    ],
)
def test_metadata_that_are_wrong_are_named(
    recorded: Path, name: str, value: Any, words: str
) -> None:
    about = json.loads((recorded / "metadata.json").read_text())
    (recorded / "metadata.json").write_text(json.dumps(about | {name: value}))
    with pytest.raises(DemoError, match=words) as caught:
        read(recorded, policy(Script).spaces)
    assert str(recorded) in str(caught.value)


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(DemoError, match=r"neither a folder .* nor one in"):
        read("cartpole/random-v0", CARTPOLE)
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(DemoError, match="cannot be read"):
        read(tmp_path, CARTPOLE)


@pytest.mark.parametrize("package", ["minari", "h5py"])
def test_a_package_that_is_missing_is_named(
    package: str, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DemoError, match=r"pip install .shoal\[demos\]"):
        read(recorded, policy(Script).spaces)
    with pytest.raises(DemoError, match=r"pip install .shoal\[demos\]"):
        record(policy(Script), Script, 1, recorded.parent / "more")


def test_a_view_that_does_not_fit_is_refused_first(recorded: Path) -> None:
    with pytest.raises(ConfigError, match="no entry 7"):
        read(recorded, policy(Script).spaces, View((7,)))


def test_settings_have_bounds_and_are_read_by_plans_that_draw_demonstrations() -> None:
    bounds = bounds_of(Replay, "demo_ratio")
    assert bounds is not None and (bounds.least, bounds.most) == (0, 1)
    for ratio in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="demo_ratio"):
            Replay(demo_ratio=ratio)
    with pytest.raises(ConfigError, match="draws no demonstrations"):
        Trainer("gorila", "CartPole-v1", demos="there")
    with pytest.raises(ConfigError, match="nothing reads it"):
        Trainer("ppo", "CartPole-v1", demos="there")


# ---------------------------------------------------------------------- the command line


def test_from_the_command_line(tmp_path: Path, capsys: Any) -> None:
    run, out = str(tmp_path / "run"), tmp_path / "demos"
    line = ["train", "CartPole-v1", "--system", "ppo", "--stop-steps", "2000", "--hide", "1"]
    assert main([*line, "--out", run]) == 0
    capsys.readouterr()
    assert main(["record", run, "--episodes", "3", "--out", str(out), "--explore"]) == 0
    said = capsys.readouterr().out
    assert "ppo on CartPole-v1, 3 episodes" in said and "Minari data set demos-v0" in said
    assert len(list(read(out, CARTPOLE, View((1,))))) == 3
    assert main(["record", run, "--out", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["record", run]) == 2
    assert main(["record", run, "--episodes", "0", "--out", str(tmp_path / "x")]) == 2
