"""Is evaluation while training of the right weights, at the right time, and without a trace?"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import shoal
from shoal.checkpoint import files as checkpoint
from shoal.errors import CheckpointError, ConfigError, EnvError
from shoal.evaluating import Evaluations, first_seed
from shoal.fleet.base import Fleet, Stream
from shoal.plans.run import Counters
from shoal.trainer import Trainer
from tests.algorithms.test_policies import Unlike, hunt
from tests.determinism.test_determinism import state
from tests.worlds import LINEAR, difference

SMALL: dict[str, Any] = {
    **{"envs_per_worker": 2, "fragment_length": 8, "network": LINEAR, "learner": "torch"},
    **{"report_every": 1, "lr": 0.05},
}
UPDATE = 16  # env steps


class Told(gymnasium.Env[Any, Any]):
    """Five env steps; the reward is the action's, shifted by the seed. Tells who reset it."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Discrete(3)
    told: ClassVar[list[tuple[int, int]]] = []  # worker_index, seed of each episode

    def __init__(self, worker_index: int = 0, fails: bool = False) -> None:
        self.worker, self.fails = worker_index, fails

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        assert seed is not None
        self.told.append((self.worker, seed))
        return self._look()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if self.fails and self.worker < 0:
            raise ValueError("the wheel fell off")
        obs, info = self._look()
        return obs, float(action) + float(obs[0]), self.t == 5, False, info

    def _look(self) -> tuple[Any, dict[str, Any]]:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}


@pytest.fixture(autouse=True)
def nobody_told() -> Iterator[None]:
    Told.told.clear()
    yield
    Told.told.clear()


def make(env: Any = Told, system: Any = "a2c", **fields: Any) -> Trainer:
    return Trainer(system, env, **{**SMALL, **fields})


def evaluations(reports: list[Any]) -> list[dict[str, Any]]:
    """What reports say of evaluations; times aside."""
    kept = [
        {k: x for k, x in r.items() if k.startswith("evaluation/")} | {"at": r["env_steps"]}
        for r in reports
    ]
    return [each for each in kept if len(each) > 1]


# ------------------------------------------------------------------------ in this process


def test_it_is_what_evaluate_says_of_those_weights() -> None:
    """On the same episodes; after every multiple of ``every``, at the end of the update."""
    trainer = make(evaluate_every=40, evaluate_episodes=3)
    for update in range(1, 8):
        found = evaluations([trainer.train()])
        if update not in (3, 5):  # 48 and 80 env steps: the first after 40, and after 80
            assert not found
            continue
        oracle = shoal.evaluate(trainer.policy, Told, 3, seed=first_seed(0))
        names = ("return_mean", "return_std", "length_mean")
        assert found == [
            {f"evaluation/{name}": oracle[name] for name in names}
            | {"evaluation/env_steps": update * UPDATE, "at": update * UPDATE}
        ]


def test_training_does_not_change_by_a_bit() -> None:
    watched, alone = make(evaluate_every=16, normalise_obs=True), make(normalise_obs=True)
    for _ in range(4):
        watched.train()
        alone.train()
    assert len([x for x in Told.told if x[0] == -1]) > 4 * 10
    assert not difference(state(watched), state(alone))


def test_its_episodes_have_seeds_that_training_cannot_draw() -> None:
    trainer = make(evaluate_every=16, evaluate_episodes=3)
    for _ in range(2):
        trainer.train()
    played = [(worker, seed) for worker, seed in Told.told if seed]  # 0: to see what reset gives
    of_training = {seed for worker, seed in played if worker >= 0}
    own = [seed for worker, seed in played if worker < 0]
    assert max(of_training) < 2**31 <= min(own)
    assert sorted(own[-3:]) == [first_seed(0) + i for i in range(3)]
    assert first_seed(0) != first_seed(1)


def test_a_run_that_was_resumed_reports_the_same_and_knows_the_best(tmp_path: Path) -> None:
    settings = {"evaluate_every": 32, "evaluate_episodes": 2}
    whole, halted = make(**settings), make(**settings)
    expected = evaluations([whole.train() for _ in range(8)])
    found = evaluations([halted.train() for _ in range(3)])
    halted.save(tmp_path)
    resumed = Trainer.restore(tmp_path, Told)
    assert resumed.evaluations.best is not None
    assert resumed.evaluations.best.return_mean == found[0]["evaluation/return_mean"]
    found += evaluations([resumed.train() for _ in range(5)])
    assert found == expected and len(found) == 4
    assert not difference(state(resumed), state(whole))
    assert resumed.evaluations.get_state() == whole.evaluations.get_state()


def test_one_that_was_interrupted_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights of the update after which it was due, though an update comes before it."""
    whole, halted = (make(evaluate_every=16, evaluate_episodes=2) for _ in range(2))
    expected = evaluations([whole.train() for _ in range(2)])

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shoal.evaluating.evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            halted.train()
    halted.save(tmp_path)
    resumed = Trainer.restore(tmp_path, Told)
    first = evaluations([resumed.train()])[0]
    assert first == expected[0] | {"at": 2 * UPDATE}


def test_its_share_of_the_time_is_told() -> None:
    shares = [make(evaluate_every=16).train()["time/evaluate"], make().train().get("time/evaluate")]
    assert 0 < shares[0] < 1 and shares[1] is None


def test_stop_return_is_the_evaluations() -> None:
    """Which is reached at once; training's mean return of 100 episodes is not there yet."""
    trainer = make(evaluate_every=64, stop_return=-100.0, stop_steps=500)
    reports = list(trainer)
    assert trainer.stopped_by() == "return" and reports[-1]["env_steps"] == 64
    assert not trainer.recorder.window_full()
    other = make(evaluate_every=10**6, stop_return=-100.0, stop_steps=600)
    assert [other.stopped_by() for _ in other][-1] == "steps" and other.recorder.window_full()


def test_each_policy_is_told_by_the_mean_of_its_agents() -> None:
    """Twelve env steps, in which two wolves earn 1 and 3, and a hare -2."""
    fields = {"envs_per_worker": 3, "fragment_length": 16, "report_every": 1}
    with Trainer(hunt(), Unlike, evaluate_every=1, evaluate_episodes=2, **fields) as trainer:
        report = trainer.train()
    assert report["evaluation/pack/return_mean"] == 24
    assert report["evaluation/prey/return_mean"] == -24
    assert report["evaluation/return_mean"] == 8


def test_who_learns_against_itself_is_evaluated_against_another() -> None:
    """Half of the games with each side; what it earns is what a match counts as won and lost."""
    fields = {"envs_per_worker": 4, "simulations": 4, "batch_size": 8, "warmup": 8}
    games = {"evaluate_every": 1, "evaluate_episodes": 7}
    with Trainer("alphazero", "tic_tac_toe", report_every=1, **fields, **games) as trainer:
        report = trainer.train()
        oracle = shoal.match(trainer.policy, "random", "tic_tac_toe", 7, seed=first_seed(0))  # type: ignore[arg-type]
    mean = (oracle["wins"] - oracle["losses"]) / 7
    assert report["evaluation/return_mean"] == pytest.approx(mean)
    assert oracle["wins"] != oracle["losses"], "or this tests nothing"
    assert 5 <= report["evaluation/length_mean"] <= 9


# ------------------------------------------------------------------------ faults


def test_an_environment_that_raises_ends_the_run_and_is_what_it_raised() -> None:
    trainer = make(evaluate_every=32, env_kwargs={"fails": True})
    trainer.train()
    with pytest.raises(ValueError, match="the wheel fell off") as caught:
        trainer.train()
    assert "evaluating the weights of 32 env steps" in caught.value.__notes__
    assert trainer.run.counters.env_steps == 32


def test_or_the_run_goes_on_if_that_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(
        evaluate_every=32, on_evaluation_error="continue", env_kwargs={"fails": True}, stop_steps=96
    )
    with caplog.at_level(logging.WARNING, "shoal"):
        assert not evaluations(list(trainer))
    said = [record.getMessage() for record in caplog.records]
    what = "ValueError: the wheel fell off"
    assert said == [f"the evaluation at {n} env steps failed: {what}" for n in (32, 64, 96)]


def test_what_cannot_be_filmed_is_refused_before_training() -> None:
    with pytest.raises(EnvError, match="does not render in the mode 'rgb_array'"):
        make(video_every=100)


class Dark(Told):
    """Says that it renders, and cannot."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, worker_index: int = 0, render_mode: str | None = None) -> None:
        super().__init__(worker_index)
        self.render_mode = render_mode

    def render(self) -> Any:
        raise RuntimeError("no light")


def test_so_is_what_fails_to_draw_its_first_frame() -> None:
    with pytest.raises(RuntimeError, match="no light"):
        make(Dark, video_every=100)


def test_an_unknown_answer_to_errors_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.on_error is 'ignore'"):
        make(evaluate_every=1, on_evaluation_error="ignore")


def test_a_film_is_of_one_episode_and_leaves_no_evaluation() -> None:
    imageio = pytest.importorskip("imageio.v2")
    trainer = make("CartPole-v1", video_every=32, evaluate_every=48, evaluate_episodes=2)
    reports = [trainer.train() for _ in range(2)]
    assert not evaluations(reports) and trainer.evaluations.video is not None
    assert [report.get("video/env_steps") for report in reports] == [None, 32]
    env_steps, film = trainer.evaluations.video
    frames = imageio.mimread(film, format="mp4", memtest=False)
    played = shoal.evaluate(trainer.policy, "CartPole-v1", 1, seed=first_seed(0))
    assert env_steps == 32 and len(frames) == played["length_mean"]


# ------------------------------------------------------------------------ the best


def test_the_best_is_kept_whatever_came_later(tmp_path: Path) -> None:
    trainer = make(evaluate_every=16, lr=0.5)
    made: list[tuple[float, Any]] = []
    for _ in range(6):
        report = trainer.train()
        made.append((report["evaluation/return_mean"], trainer.learner.weights()))
        if trainer.evaluations.best.env_steps == report["env_steps"]:  # type: ignore[union-attr]
            trainer.save_best(tmp_path)
        trainer.save(tmp_path, keep=1)
    mean, weights = max(made, key=lambda x: x[0])
    assert mean > made[-1][0], "the last one is not the best, or this tests nothing"
    for policy in (shoal.load(tmp_path, best=True), shoal.load(tmp_path / "best")):
        assert not difference(dict(policy.weights), dict(weights))
    _, meta = checkpoint.load(tmp_path / "best")
    assert meta["best"]["return_mean"] == mean
    assert meta["counters"]["env_steps"] == meta["best"]["env_steps"]
    assert sorted(os.listdir(tmp_path)) == ["000000096", "best"]


def test_no_run_goes_on_from_the_best(tmp_path: Path) -> None:
    trainer = make(evaluate_every=16)
    trainer.train()
    with pytest.raises(CheckpointError, match="no run can go on from the best policy"):
        Trainer.restore(trainer.save_best(tmp_path), Told)
    with pytest.raises(CheckpointError, match="no run can go on from the best policy"):
        trainer.load(tmp_path / "best")


def test_without_an_evaluation_there_is_no_best(tmp_path: Path) -> None:
    make().save(tmp_path)
    with pytest.raises(CheckpointError, match="there is no best checkpoint"):
        shoal.load(tmp_path, best=True)
    with pytest.raises(shoal.errors.ShoalError, match="no evaluation whose policy"):
        make().save_best(tmp_path)


def put_best(root: Path, number: int) -> None:
    checkpoint.save_best(root, {"learner": {"n": np.array(number)}}, {"n": number})


def test_a_best_that_was_killed_while_it_was_replaced_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the renaming of the old one and that of the new one; by another process."""
    put_best(tmp_path, 1)
    checkpoint.save(tmp_path, 4, {}, {"n": 4})
    rename, done = os.rename, []

    def killed(source: Any, target: Any) -> None:
        if done:
            raise KeyboardInterrupt
        rename(source, target)
        done.append(target)

    with monkeypatch.context() as patch:
        patch.setattr("shoal.checkpoint.files.os.rename", killed)
        patch.setattr("shoal.checkpoint.files._clean", lambda root: None)
        patch.setattr("shoal.checkpoint.files.os.getpid", lambda: 2**22 + 1)
        with pytest.raises(KeyboardInterrupt):
            put_best(tmp_path, 2)
    assert not (tmp_path / "best").exists()
    assert checkpoint.load(tmp_path / "best")[1]["n"] == 1
    assert checkpoint.best_of(tmp_path) == tmp_path / "best"
    assert checkpoint.load(tmp_path)[1]["n"] == 4
    checkpoint.save(tmp_path, 5, {}, {}, keep=1)  # the next save puts it back
    assert checkpoint.load(tmp_path / "best")[1]["n"] == 1
    assert sorted(os.listdir(tmp_path)) == ["000000005", "best"]


# ------------------------------------------------------------------------ beside training


class Apart:
    """A fleet whose only spawned member answers when the test says so, or dies."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Any]] = []  # the job, and the weights it is played with
        self.answers: list[Any] = []
        self.weights: Any = None

    def spawn(self, make: Any, size: int, name: str, *, aside: bool) -> Any:
        self.make = make
        return self

    def publish(self, weights: Mapping[str, Any], version: int) -> None:
        self.weights = weights

    def send(self, member: int | None = None) -> None:
        """They travel with the next call."""

    def stream(self, verb: str, args: Any) -> Stream:
        def come() -> Iterator[Any]:
            busy = False
            while True:
                own = None if busy else args(0)
                if own is not None:
                    self.asked.append((own[0], self.weights))
                    busy = True
                if not busy or not self.answers:
                    yield None
                    continue
                answer, busy = self.answers.pop(0), False
                if answer is not None:  # else it died
                    yield 0, answer

        return Stream(come())  # type: ignore[arg-type]

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> tuple[Apart, Evaluations]:
    monkeypatch.setattr("shoal.evaluating.LOOK", 0.0)
    config = make(system="impala", evaluate_every=10).config
    config = shoal.Config(**{**vars(config), "rollout": shoal.Rollout(workers=1)})
    fleet: Any = Apart()
    return fleet, Evaluations(config, Told, fleet, None)


def result(mean: float) -> Any:
    from shoal.evaluating import Result

    return Result({"return_mean": mean, "return_std": 0.0, "length_mean": 1.0})


def advance(both: tuple[Apart, Evaluations], env_steps: int) -> dict[str, Any]:
    return both[1].advance(Counters(env_steps=env_steps), lambda: {"w": np.array(env_steps)})


def test_training_goes_on_meanwhile_and_the_result_is_of_the_weights_of_then(
    beside: tuple[Apart, Evaluations],
) -> None:
    fleet, kept = beside
    assert [advance(beside, n) for n in (9, 12, 15, 18)] == [{}, {}, {}, {}]
    fleet.answers.append(result(3.0))
    found = advance(beside, 19)
    assert found["evaluation/env_steps"] == 12 and found["evaluation/return_mean"] == 3.0
    best = kept.best
    assert best is not None and best.weights is not None and best.counters is not None
    assert (best.env_steps, int(best.weights["w"]), best.counters["env_steps"]) == (12, 12, 12)
    assert advance(beside, 20) == {}
    assert [(job.env_steps, int(w["w"])) for job, w in fleet.asked] == [(12, 12), (20, 20)]


def test_a_return_that_is_no_number_is_never_the_best(beside: tuple[Apart, Evaluations]) -> None:
    """Nothing is greater than it."""
    fleet, kept = beside
    for n, mean in ((10, math.nan), (20, 1.0), (30, math.nan)):
        fleet.answers.append(result(mean))
        advance(beside, n)
        advance(beside, n + 1)
    assert kept.best is not None and kept.best.env_steps == 20


def test_an_evaluator_that_dies_is_asked_again(beside: tuple[Apart, Evaluations]) -> None:
    fleet, _ = beside
    advance(beside, 10)
    fleet.answers += [None]
    assert advance(beside, 11) == {}
    fleet.answers += [result(1.0)]
    assert advance(beside, 12)["evaluation/env_steps"] == 10
    assert [job.env_steps for job, _ in fleet.asked] == [10, 10]


def test_the_end_of_a_run_waits_for_what_is_played(beside: tuple[Apart, Evaluations]) -> None:
    fleet, kept = beside
    advance(beside, 10)
    fleet.answers += [result(5.0)]
    found = kept.finish(Counters(env_steps=19), lambda: {})
    assert found["evaluation/env_steps"] == 10 and len(fleet.asked) == 1


def test_or_for_the_last_weights_if_they_are_due(beside: tuple[Apart, Evaluations]) -> None:
    """A report tells of one evaluation: the one before counts for nothing, not for the best."""
    fleet, kept = beside
    advance(beside, 10)
    fleet.answers += [result(4.0)]
    found = kept.finish(Counters(env_steps=21), lambda: {"w": np.array(21)})
    assert found["evaluation/env_steps"] == 21 and found["evaluation/return_mean"] == 4.0
    assert kept.best is not None and kept.best.env_steps == 21
    assert [(job.env_steps, int(w["w"])) for job, w in fleet.asked] == [(10, 10), (21, 21)]


def test_it_is_said_once_that_evaluations_are_late(
    beside: tuple[Apart, Evaluations], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "shoal"):
        for n in (10, 20, 30):
            advance(beside, n)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["an evaluation takes longer than 10 env steps: there will be fewer"]


def test_exact_plans_and_one_process_do_not_leave_it_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what it finds, and with it the end of a run, would depend on time."""
    config = make(system="impala", evaluate_every=10).config
    ppo = shoal.Config(
        **{**vars(make(system="ppo", evaluate_every=10, minibatch_size=8).config)}
        | {"rollout": shoal.Rollout(workers=1)}
    )

    class NoFleet:
        def spawn(self, *args: Any, aside: bool) -> Fleet:
            raise AssertionError("spawned")

    fleet: Any = NoFleet()
    for each in (config, ppo):
        Evaluations(each, Told, fleet, None).close()
    asynchronous = shoal.Config(**{**vars(config), "rollout": shoal.Rollout(workers=1)})
    with pytest.raises(AssertionError, match="spawned"):
        Evaluations(asynchronous, Told, fleet, None)
