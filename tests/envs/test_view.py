"""Does a policy see what its view shows, and what it did last, wherever episodes begin and end?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from shoal import Trainer, evaluate, load
from shoal.app.cli import main
from shoal.envs import make, seen
from shoal.errors import CheckpointError, ConfigError, SpaceError
from shoal.policy import Policy
from shoal.replay.buffer import Buffer
from shoal.replay.layout import layout_of
from shoal.spaces.gym import GymSpaces
from shoal.spaces.view import View
from shoal.trajectory import Trajectory
from tests.worlds import TINY, Script, difference, settings, worker

VECTOR = Box(np.float32([-1, -2, -3]), np.float32([1, 2, 3]))
IMAGE = Box(0, 255, (4, 36, 36), np.uint8)
NESTED = Dict(
    {"eye": IMAGE, "body": Dict({"arm": VECTOR, "on": MultiBinary(2)}), "mode": Discrete(3)}
)
PAIR = Tuple((MultiDiscrete([2, 3, 4]), VECTOR))
MASKED = Dict({"x": VECTOR, "y": VECTOR, "action_mask": MultiBinary(4)})

# -------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    ("space", "hide", "left"),
    [
        (VECTOR, (), {"obs": (3,)}),
        (VECTOR, (0, 2), {"obs": (1,)}),
        (VECTOR, ("obs:0", 2), {"obs": (1,)}),
        (NESTED, ("eye",), {"body/arm": (3,), "body/on": (2,), "mode": ()}),
        (NESTED, ("body",), {"eye": (4, 36, 36), "mode": ()}),
        (
            NESTED,
            ("eye", "mode", "body/arm:1", 2, "body/on:0"),
            {"body/arm": (1,), "body/on": (1,)},
        ),
        (NESTED, ("eye", "mode", "body/arm:0", 1, 2), {"body/on": (2,)}),
        (PAIR, ("0",), {"0": (3,)}),
        (PAIR, ("0:1", "1:1"), {"0": (2,), "1": (2,)}),
        (MASKED, ("x",), {"y": (3,)}),
    ],
)
def test_what_is_hidden_is_not_there(space: Any, hide: Any, left: Any) -> None:
    """The space that is seen takes exactly what is seen of the environment's observations."""
    own = GymSpaces(space, Discrete(4))
    lens = View(hide).of(own)
    assert {leaf.path: leaf.shape for leaf in lens.spaces.leaves} == left
    assert lens.spaces.masked == own.masked
    space.seed(0)
    flat = lens(own.flatten(space.sample()))
    assert not difference(flat, lens.spaces.flatten(lens.spaces.nest(flat)))


def test_entries_and_bounds_keep_their_order() -> None:
    lens = View((1,)).of(GymSpaces(VECTOR, Discrete(2)))
    assert lens({"obs": np.float32([[7, 8, 9]])})["obs"].tolist() == [[7, 9]]
    assert lens.spaces.observation.high.tolist() == [1, 3]
    counted = Tuple((MultiDiscrete([2, 3, 4], start=[5, 6, 7]), VECTOR))
    choices = View(("0:1", "1")).of(GymSpaces(counted, Discrete(2)))
    assert choices.spaces.leaves[0].n == (2, 4)
    assert choices.spaces.observation[0].start.tolist() == [5, 7]


@pytest.mark.parametrize(
    ("space", "hide", "words"),
    [
        (VECTOR, (3,), r"'obs' is float32 \[3\]: it has no entry 3"),
        (VECTOR, (-1,), "no '-1'"),
        (VECTOR, ("obs",), "leaves nothing"),
        (VECTOR, (0, 1, 2), "leaves nothing"),
        (IMAGE, (0,), r"'obs' is uint8 \[4, 36, 36\], of which no single entries"),
        (NESTED, ("eye:0",), "of which no single entries"),
        (NESTED, ("mode:0",), "of which no single entries"),
        (NESTED, ("bdy",), "no 'bdy'"),
        (NESTED, (0,), r"no '0': body/arm float32 \[3\], body/on int8 \[2\]"),
        (NESTED, ("body/arm:x",), "no 'x'"),
        (MASKED, ("action_mask",), "no 'action_mask'"),
        (MASKED, ("x", "y"), "leaves nothing"),
    ],
)
def test_what_cannot_be_hidden_is_refused(space: Any, hide: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        View(hide).of(GymSpaces(space, Discrete(4)))


@pytest.mark.parametrize("hide", ["1", [1.5], [True]])
def test_hide_is_a_tuple_of_names_and_numbers(hide: Any) -> None:
    from shoal import Rollout

    with pytest.raises(ConfigError, match=r"rollout\.hide"):
        Rollout(hide=hide)


def test_an_environment_that_is_all_shown_is_itself() -> None:
    env = make(Script, 2)
    assert seen(env, View()) is env


def test_a_wrong_view_ends_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(Script, "close", lambda self: closed.append(True))
    with pytest.raises(ConfigError, match="no entry 7"):
        Trainer("ppo", Script, hide=(7,), network=TINY)
    assert closed


# -------------------------------------------------------------------------- what came before


def encode(env: Any, action: Any) -> Any:
    """In the notation of the literature: e_a for a choice; a Box's own action in [-1, 1]."""
    if isinstance(env.action_space, Discrete):
        return np.eye(env.action_space.n)[action - env.action_space.start]
    if isinstance(env.action_space, MultiDiscrete):
        return np.concatenate(
            [np.eye(n)[a] for n, a in zip(env.action_space.nvec, action, strict=True)]
        )
    return action / env.action_space.high


class Choices(Script):
    action_space = MultiDiscrete([2, 3])


class Shifted(Script):
    action_space = Discrete(4, start=-1)


class Arm(Script):
    action_space = Box(-2.0, 2.0, (2,), np.float32)


def vector(kind: type[Script], mode: AutoresetMode | None, logs: list[Any]) -> Any:
    def copy() -> Script:
        logs.append([])
        return kind(log=logs[-1])

    if mode is None:
        return copy
    return lambda num_envs=2: SyncVectorEnv([copy] * num_envs, autoreset_mode=mode)


@pytest.mark.parametrize("mode", [None, *AutoresetMode])
@pytest.mark.parametrize("kind", [Script, Choices, Shifted, Arm])
def test_the_previous_action_and_reward_are_those_of_the_environment(
    kind: type[Script], mode: AutoresetMode | None
) -> None:
    logs: list[Any] = []
    config = settings("a2c", vector(kind, mode, logs), rollout={"previous": True, "hide": (1,)})
    made = worker(config)
    parts = []
    for _ in range(6):
        made._begin(None)
        parts.append(made.play(made._collect(8, False))[0])
    assert sum(int(x.valid.sum()) for x in parts) == sum(map(len, logs))
    for slot, log in enumerate(logs):
        _check_slot(kind, parts, slot, log)


def _check_slot(kind: Any, parts: list[Trajectory], slot: int, log: list[Any]) -> None:
    """Every row of a slot, and what followed it, against the log of its environment."""
    steps, zero, before = iter(log), 0.0 * encode(kind, kind.action_space.sample()), None
    for x in parts:
        last = {
            int(t): k
            for k, (t, b) in enumerate(zip(x.final_t, x.final_b, strict=True))
            if b == slot
        }
        for t in range(len(x.reward)):
            if not x.valid[t, slot]:
                before = None
                continue
            step = next(steps)
            action, reward = (zero, 0.0) if before is None else before
            row = {path: a[t, slot] for path, a in x.obs.items()}
            assert row["observation"].tolist() == step.obs[[0, 2]].tolist()
            np.testing.assert_allclose(row["previous_action"], action, atol=1e-6)
            np.testing.assert_allclose(row["previous_reward"], [reward], rtol=1e-6)
            before = encode(kind, step.action), step.reward
            if t in last:
                followed = {path: a[last[t]] for path, a in x.final.items()}
                assert followed["observation"].tolist() == step.next_obs[[0, 2]].tolist()
                np.testing.assert_allclose(followed["previous_action"], before[0], atol=1e-6)
                np.testing.assert_allclose(followed["previous_reward"], [before[1]], rtol=1e-6)
                before = None
    assert next(steps, None) is None


def test_a_mask_stays_where_it_is() -> None:
    lens = View(("x",), previous=True).of(GymSpaces(MASKED, Discrete(4)))
    assert [leaf.path for leaf in lens.spaces.leaves] == [
        *("observation/y", "previous_action", "previous_reward"),
    ]
    assert lens.spaces.masked
    mask = np.ones((2, 4), bool)
    flat = lens({"x": np.zeros((2, 3)), "y": np.zeros((2, 3)), "action_mask": mask})
    assert flat["action_mask"] is mask


# ---------------------------------------------------------------------------- where it goes


def test_stacked_frames_stay_shared() -> None:
    """A row of the replay buffer holds one new frame, and beside it what came before."""
    pytest.importorskip("ale_py")
    config = settings(
        "dqn",
        "ALE/Pong-v5",
        rollout={"previous": True, "envs_per_worker": 2, "fragment_length": 40},
    )
    made = worker(config)
    made.set_weights({**made.weights, "explore/epsilon": np.ones(2, np.float32)}, 0)
    assert made.get_stacks() == {"observation": 4}
    columns = layout_of(config.algorithm, made.model, made.get_stacks())
    assert columns.obs["observation"].stored == (84, 84)
    buffer = Buffer(columns, 2, 400)
    sample, trajectory = made.play(made.sampling(None))
    buffer.store(0, sample.batch)
    drawn = buffer.everything().batch
    for path in ("observation", "previous_action", "previous_reward"):
        then = trajectory.obs[path]
        assert (drawn["obs"][path] == np.concatenate(then[:-1].swapaxes(0, 1))).all()
        assert (drawn["next_obs"][path] == np.concatenate(then[1:].swapaxes(0, 1))).all()
    made.close()


@pytest.mark.parametrize(("env", "copies"), [(Script, 2), ("CartPole-v1", 5)])
def test_a_worker_goes_on_where_it_was(env: Any, copies: int) -> None:
    """Copies in a loop, and an environment's own vector form."""
    view = {"previous": True, "hide": (0,), "envs_per_worker": copies}
    first, second = (worker(settings("ppo", env, rollout=view)) for _ in range(2))
    first.sample()
    second.set_state(first.get_state())
    assert not difference(first.sample().batch, second.sample().batch)


def test_nothing_came_before_an_episode_that_begins_anew() -> None:
    class Fickle(Script):
        """It draws its observations from elsewhere, so that no episode can be replayed."""

        def _draw(self) -> Any:
            return np.random.default_rng().standard_normal(3, dtype=np.float32)

    config = settings("ppo", lambda: Fickle(length=100), rollout={"previous": True})
    first, second = worker(config), worker(config)
    first.sample()
    with pytest.warns(RuntimeWarning, match="begin anew"):
        second.set_state(first.get_state())
    assert first.obs["previous_action"].any()
    assert not second.obs["previous_action"].any() and not second.obs["previous_reward"].any()


@pytest.mark.parametrize("system", ["ppo", "dqn", "sac"])
def test_resume_is_to_the_bit(system: str, tmp_path: Path) -> None:
    env = "Pendulum-v1" if system == "sac" else "CartPole-v1"
    small = (
        {"warmup": 64, "batch_size": 16, "report_every": 100}
        if system != "ppo"
        else {"minibatch_size": 16}
    )
    given = {"hide": "1", "previous": True, "network": TINY, "envs_per_worker": 2, **small}
    with Trainer(system, env, fragment_length=32, **given) as trainer:
        trainer.train()
        path = trainer.save(tmp_path)
        trainer.train()
        wanted = trainer.learner.weights()
    with Trainer.restore(path) as again:
        again.train()
        assert not difference(wanted, again.learner.weights())
    with pytest.raises(ConfigError, match="cannot change"):
        Trainer.restore(path, hide=(0,))


def test_another_view_of_the_same_environment_is_refused(tmp_path: Path) -> None:
    """Its weights would fit, and mean something else."""
    given = {"network": TINY, "envs_per_worker": 2, "fragment_length": 8, "minibatch_size": 8}
    with Trainer("ppo", Script, hide=(1,), **given) as trainer:
        path = trainer.save(tmp_path)
    words = r"\(not shown: 1\) than this trainer's"
    with (
        Trainer("ppo", Script, hide=(2,), **given) as other,
        pytest.raises(CheckpointError, match=words),
    ):
        other.load(path)


# ------------------------------------------------------------------------ the policy's own


def acting(kind: Any = Script, hide: Any = (1,)) -> Policy:
    trained = Trainer("ppo", kind, network=TINY, hide=hide, previous=True)
    policy = trained.policy
    trained.stop()
    # An output that follows what came before more than anything else.
    weights = {name: 3.0 * x for name, x in policy.weights.items()}
    return Policy(policy.algorithm, policy.spaces, weights, view=policy.view)


def play(policy: Policy, env: Any, seed: int) -> float:
    obs, _ = env.reset(seed=seed)
    policy.reset()
    total, reward = 0.0, None
    while True:
        obs, reward, terminated, truncated, _ = env.step(policy.act(obs, reward=reward))
        total += reward
        if terminated or truncated:
            return total


@pytest.mark.parametrize("kind", [Script, Arm])
def test_a_loop_and_an_evaluation_see_the_same(kind: Any) -> None:
    policy = acting(kind)
    wanted = [play(policy, kind(), seed) for seed in range(6)]
    assert evaluate(policy, kind, 6)["returns"] == pytest.approx(wanted, abs=1e-5)


def test_a_batch_acts_as_each_alone() -> None:
    """Episodes of a batch begin at different times: ``reset`` with those slots."""
    policy, rng = acting(), np.random.default_rng(0)
    obs, reward = rng.standard_normal((9, 3, 3)), rng.standard_normal((9, 3))
    begins = rng.random((9, 3)) < 0.3
    together = []
    for t in range(9):
        policy.reset(begins[t])
        together.append(policy.act(obs[t], reward=reward[t]))
    for slot in range(3):
        policy.reset()
        for t in range(9):
            if begins[t, slot]:
                policy.reset()
            assert policy.act(obs[t, slot], reward=reward[t, slot]) == together[t][slot]


def test_a_reward_that_is_missing_is_named() -> None:
    policy = acting()
    policy.act(np.zeros(3))
    with pytest.raises(SpaceError, match="previous reward, which was not given"):
        policy.act(np.zeros(3))
    with pytest.raises(SpaceError, match=r"shape \(2,\)"):
        policy.act(np.zeros(3), reward=np.zeros(2))
    policy.reset()
    policy.act(np.zeros(3))


@pytest.mark.parametrize("system", ["es", "impala", "ape-x", "dd-ppo", "gorila"])
def test_every_plan_takes_it(system: str) -> None:
    """Evolution, whose members play whole episodes, and plans whose workers differentiate too."""
    where = {"workers": 2, "in_process": True, "hide": (1, 3), "previous": True, "network": TINY}
    with Trainer(system, "CartPole-v1", stop_steps=300, report_every=200, **where) as trainer:
        trainer.train()
        assert [leaf.shape for leaf in trainer.model.spaces.leaves] == [(2,), (2,), (1,)]


def test_from_the_command_line_to_evaluation(tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "run")
    line = ["train", "CartPole-v1", "--system", "ppo", "--hide", "1,3", "--previous"]
    assert main([*line, "--stop-steps", "2000", "--out", out]) == 0
    assert "not shown: 1,3; shown too: previous action and reward" in capsys.readouterr().out
    assert load(out).view == View((1, 3), previous=True)
    assert main(["evaluate", out, "--episodes", "2"]) == 0
    assert main([*line[:-2], "9", "--out", str(tmp_path / "no")]) == 2
    assert "it has no entry 9" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
