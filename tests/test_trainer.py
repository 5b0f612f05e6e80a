"""Does a run count what happened, end when it should, and come back as what it was?"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.ppo import PPO
from shoal.checkpoint import files as checkpoint
from shoal.config.config import Stop
from shoal.errors import CheckpointError, ConfigError, NetworkError, ShoalError
from shoal.metrics import PARTS, WORKER_PARTS
from shoal.plans.async_samples import AsyncSamples
from shoal.plans.parameter_server import ParameterServer
from shoal.systems.table import default_config
from shoal.trainer import Trainer
from tests.envs.micro import Bandit
from tests.worlds import TINY, Script, Scripts, difference, episodes

VOCABULARY = """
env_steps agent_steps gradient_steps trained_steps dropped_steps in_flight_steps episodes
replayed_steps lost_steps out_of_bounds_steps
return_mean return_min return_max length_mean steps_per_s policy_lag_mean policy_lag_max
queue_depth_mean queue_depth_max worker_restarts lost_calls concurrency wall_s
worker/0/steps_per_s worker/0/lag_max worker/0/restarts
learn/loss learn/grad_norm learn/policy_loss learn/value_loss
learn/entropy learn/kl learn/clip_fraction hyper/lr hyper/clip hyper/entropy_coef
"""
SMALL: dict[str, Any] = {
    "network": TINY,
    "envs_per_worker": 2,
    "fragment_length": 16,
    "learner": "torch",
    "in_process": True,
}


def make(system: str, env: Any, **fields: Any) -> Trainer:
    several = {"epochs": 1, "minibatch_size": 16} if system == "ppo" else {}
    return Trainer(system, env, **{**SMALL, **several, **fields})


# -------------------------------------------------------------------------- accounting


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("system", ["pg", "a2c", "ppo"])
def test_every_report_counts_what_the_environments_saw(
    system: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 100)
    scripts = Scripts()
    trainer = make(system, scripts, workers=workers)
    before = 0
    for _ in range(4):
        report = trainer.train()
        assert report["env_steps"] == report["agent_steps"] == scripts.steps()
        assert report["in_flight_steps"] == 0
        assert report["env_steps"] == report["trained_steps"] + report["dropped_steps"]
        assert report["env_steps"] - before >= 100
        before = report["env_steps"]
        if system != "pg":
            assert report["dropped_steps"] == 0
            assert report["episodes"] == sum(len(episodes(log)) for log in scripts.logs)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize(
    ("system", "plan"),
    [
        ("a3c", None),
        ("impala", None),
        ("impala", AsyncSamples(fragments=2, max_lag=1)),
        ("appo", None),
        ("dd-ppo", None),
        ("a2c", ParameterServer(sync_every=3)),
        ("a2c", ParameterServer(sync_every=3, max_lag=0)),
    ],
)
def test_every_plan_counts_what_the_environments_saw(
    system: str, plan: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is interrupted in between: what was not taken by then is not counted.

    One worker then samples its fragment again: it replays running episodes, of at most 5 steps.
    """
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 400)
    scripts = Scripts()
    several = {"epochs": 1, "minibatch_size": 16} if system in ("dd-ppo", "appo") else {}
    trainer = Trainer(system, scripts, plan=plan, workers=workers, **{**SMALL, **several})
    uncounted, before = 0, 0
    for turn in range(4):
        report = trainer.train()
        replayed = scripts.steps() - uncounted - report["env_steps"]
        again = turn == 2 and not trainer.config.plan.exact
        assert 0 <= replayed <= (5 * trainer.config.rollout.envs_per_worker if again else 0)
        assert report["env_steps"] >= before + 400
        uncounted += replayed
        assert report["in_flight_steps"] == 0
        assert report["env_steps"] == report["trained_steps"] + report["dropped_steps"]
        assert report["policy_lag_max"] <= getattr(trainer.config.plan, "max_lag", 0)
        before = report["env_steps"]
        if turn == 1 and not trainer.config.plan.exact:  # the others replay: see determinism
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(Script, "_draw", interrupted(Script._draw, 100))
                trainer.train()
            uncounted = scripts.steps() - trainer.run.counters.env_steps
            assert trainer.run.counters.env_steps >= before


def interrupted(call: Any, at: int) -> Any:
    """The same call, but KeyboardInterrupt from the ``at``-th time on."""
    left = iter(range(at))

    def counted(*args: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return call(*args)

    return counted


@pytest.mark.parametrize("system", ["a2c", "ppo"])
def test_returns_and_lengths_are_the_environments_own(system: str) -> None:
    scripts = Scripts(length=6)
    trainer = make(system, scripts, stop_steps=256)
    for report in trainer:
        done = [episode for log in scripts.logs for episode in episodes(log)]
        returns = [r for r, _ in done]
        assert report["return_mean"] == pytest.approx(np.mean(returns))
        assert (report["return_min"], report["return_max"]) == (min(returns), max(returns))
        assert report["length_mean"] == 6.0
        assert len(done) < 100


def test_means_look_back_on_a_hundred_episodes() -> None:
    """In the order in which they ended: here one after the other, of one slot."""
    scripts = Scripts()
    trainer = make("a2c", scripts, envs_per_worker=1)
    report = trainer.train()
    last = [r for r, _ in episodes(scripts.logs[0])[-100:]]
    assert report["episodes"] > 300
    assert report["return_mean"] == pytest.approx(np.mean(last))


def test_what_normalisation_tries_out_first_is_sampled_and_dropped() -> None:
    scripts = Scripts()
    trainer = make("ppo", scripts, normalise_obs=True, scale_reward=True)
    report = trainer.train()
    assert report["env_steps"] == scripts.steps()
    assert report["dropped_steps"] == 64 * 2
    assert trainer.run.moments["obs"].count == scripts.steps()


def test_a_report_has_the_whole_vocabulary_and_only_numbers() -> None:
    report = make("ppo", Scripts()).train()
    wanted = {f"time/{part}" for part in (*PARTS, *WORKER_PARTS)} | set(VOCABULARY.split())
    assert set(report) == wanted | {f"worker/0/{part}" for part in WORKER_PARTS}
    assert all(type(x) in (int, float) and math.isfinite(x) for x in report.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_shares_of_time_are_shares(workers: int) -> None:
    report = make("ppo", Scripts(), workers=workers).train()
    shares = [report[f"time/{part}"] for part in (*PARTS, *WORKER_PARTS)]
    assert min(shares) >= 0 and sum(shares) <= 1
    assert sum(report[f"time/{part}"] for part in ("env", "act", "learn")) > 0.1
    for i in range(workers):
        own = [report[f"worker/{i}/{part}"] for part in WORKER_PARTS]
        assert min(own) >= 0 and 0.5 < sum(own) <= 1


def test_metrics_are_means_over_the_updates_of_a_report() -> None:
    one, many = (make("a2c", Scripts()) for _ in range(2))
    losses = [next(one.updates).metrics["loss"] for _ in range(63)]  # of 32 env steps each
    report = many.train()
    assert report["env_steps"] == 63 * 32 >= 2000 > 62 * 32
    assert report["learn/loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_report_after_an_interruption_is_of_what_came_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its seconds and its updates would not belong together."""
    straight, made = (make("a2c", Scripts()) for _ in range(2))
    losses = [next(straight.updates).metrics["loss"] for _ in range(63)]
    update, left = made.learner.update, iter(range(40))

    def interrupted(*args: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return update(*args)

    with monkeypatch.context() as patch:
        patch.setattr(made.learner, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.train()
    assert made.run.counters.env_steps == 40 * 32
    assert made.recorder.wall_s > 0
    report = made.train()
    assert report["env_steps"] == 63 * 32  # as without the interruption
    assert report["learn/loss"] == pytest.approx(np.mean(losses[40:]), rel=1e-4)
    assert sum(report[f"time/{part}"] for part in (*PARTS, *WORKER_PARTS)) <= 1


# ------------------------------------------------------------------------------- ends


def test_stops_at_the_first_update_past_the_steps() -> None:
    trainer = make("ppo", Scripts(), stop_steps=100)
    reports = list(trainer)
    assert [report["env_steps"] for report in reports] == [128]
    assert trainer.stopped_by() == "steps"
    assert list(trainer) == []


def test_stops_by_return_only_with_a_hundred_episodes_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)
    trainer = make("ppo", Bandit, stop_return=-1.0)
    reports = list(trainer)
    assert trainer.stopped_by() == "return"
    assert [report["episodes"] for report in reports] == [32, 64, 96, 128]


def test_does_not_stop_by_a_return_that_was_not_reached() -> None:
    trainer = make("ppo", Bandit, stop_return=1.01, stop_steps=500)
    reports = list(trainer)
    assert trainer.stopped_by() == "steps"
    assert all(report["return_mean"] < 1.01 for report in reports)


def test_stops_by_the_clock() -> None:
    trainer = make("ppo", Scripts(), stop_seconds=1e-6)
    assert len(list(trainer)) == 1
    assert trainer.stopped_by() == "seconds"


def test_a_report_covers_two_thousand_env_steps() -> None:
    assert make("ppo", Scripts()).train()["env_steps"] == 2016


# ----------------------------------------------------------------------- construction


def test_every_way_to_say_the_same_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("algorithm: {lr: 1e-2}\nrollout: {envs_per_worker: 2}\n")
    nested = {"algorithm": {"lr": 0.01}, "rollout": {"envs_per_worker": 2}}
    made = [
        Trainer("ppo", Script, lr=0.01, envs_per_worker=2),
        Trainer(PPO(lr=0.01), Script, envs_per_worker=2),
        Trainer("ppo", Script, config=nested),
        Trainer("ppo", Script, config=file),
        Trainer(replace(default_config("ppo", Script), algorithm=PPO(lr=0.01)), envs_per_worker=2),
    ]
    assert all(trainer.config == made[0].config for trainer in made)
    assert made[0].config.algorithm.lr == 0.01


class Ends(Script):
    """Counts the copies that were closed."""

    closed = 0

    def close(self) -> None:
        Ends.closed += 1


def test_leaving_the_context_ends_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ends, "closed", 0)
    with pytest.raises(ZeroDivisionError), make("ppo", Ends, workers=2):
        raise ZeroDivisionError
    assert Ends.closed == 4


def test_a_trainer_that_was_stopped_says_so() -> None:
    trainer = make("ppo", Ends)
    trainer.stop()
    with pytest.raises(ShoalError, match="was stopped"):
        trainer.train()


def test_settings_of_another_system_are_refused() -> None:
    with pytest.raises(ConfigError, match="'ppo', but these settings are for 'a2c'"):
        Trainer("ppo", "CartPole-v1", config={"system": "a2c"})


@pytest.mark.parametrize(
    "fields",
    [
        {"minibatch_size": 1000},
        {"lr": "linear(1e-3, 0)"},
        {"learning_rate": 1e-3},
        {"gamma": 2.0},
        {"workers": -1},
    ],
)
def test_impossible_settings_are_refused_before_an_environment_is_made(fields: Any) -> None:
    scripts = Scripts()
    with pytest.raises(ConfigError):
        make("ppo", scripts, **fields)
    assert not scripts.logs


def test_a_network_that_does_not_fit_is_refused_before_a_step_is_taken() -> None:
    import torch

    scripts = Scripts()
    with pytest.raises(NetworkError, match="expected pi"):
        make("ppo", scripts, network=torch.nn.Linear(3, 7))
    assert scripts.steps() == 0


def test_the_first_update_uses_what_init_gave() -> None:
    """Initial weights depend on the seed only, not on who learns or samples."""
    first = make("ppo", Scripts(), seed=5).learner.weights()
    second = make("ppo", Scripts(), seed=5, learner="jax", workers=2).learner.weights()
    assert not difference(first, second)


# ----------------------------------------------------------------- observations out of bounds


def test_observations_out_of_bounds_are_counted_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The bit is 0 or 1 with equal chances, but the space ends at 0.5."""

    class Narrow(Bandit):
        observation_space = Box(0.0, 0.5, (1,), np.float32)

    trainer = make("ppo", Narrow)
    reports = [trainer.train(), trainer.train()]
    for report in reports:
        assert report["out_of_bounds_steps"] == pytest.approx(1000, abs=200)
    told = [record.getMessage() for record in caplog.records if "bounds" in record.getMessage()]
    assert len(told) == 1 and "'obs'" in told[0]
    assert make("ppo", Bandit).train()["out_of_bounds_steps"] == 0


# --------------------------------------------------------------------------- evaluating


def test_an_evaluation_takes_the_likeliest_actions_from_its_own_seeds() -> None:
    trainer = make("ppo", Bandit)
    report = trainer.evaluate(episodes=20, seed=7)
    assert report == trainer.evaluate(episodes=20, seed=7)
    assert report["episodes"] == len(report["returns"]) == 20
    policy, returns = trainer.policy, []
    for i in range(20):
        env = Bandit()
        obs, _ = env.reset(seed=7 + i)
        returns.append(env.step(int(policy.act(obs)))[1])
    assert report["returns"] == returns
    assert report["return_mean"] == np.mean(returns)
    assert (report["return_min"], report["return_max"]) == (min(returns), max(returns))
    assert report["return_std"] == pytest.approx(np.std(returns))


def test_an_evaluation_has_episodes_of_its_own() -> None:
    """Not those that training began with, and the same ones again."""
    scripts = Scripts()
    trainer = make("ppo", scripts)
    trainer.train()
    trained = [log[0].obs.tolist() for log in scripts.logs]
    reports = [trainer.evaluate(2) for _ in range(2)]
    evaluated = [log[0].obs.tolist() for log in scripts.logs[len(trained) :]]
    assert reports[0] == reports[1] and evaluated
    assert not any(obs in trained for obs in evaluated)


# ---------------------------------------------------------------------------- restoring


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    trainer = make("ppo", Script, stop_steps=4000)
    trainer.train()
    trainer.save(tmp_path)
    return tmp_path


def test_a_restored_trainer_has_the_same_settings_and_counters(saved: Path) -> None:
    trainer = Trainer.restore(saved, Script)
    original = make("ppo", Script, stop_steps=4000)
    assert trainer.config == replace(original.config, learner="torch")
    assert trainer.run.counters.env_steps == 2016
    assert trainer.recorder.wall_s > 0
    assert trainer.train()["env_steps"] == 4000


def test_a_report_covers_as_many_steps_as_wished() -> None:
    trainer = make("ppo", Script, stop_steps=4000, report_every=300)
    steps = [trainer.train()["env_steps"] for _ in range(2)]
    assert steps[0] >= 300 and steps[1] - steps[0] == steps[0] < 600


def test_what_it_is_shows_in_one_line(saved: Path) -> None:
    trainer = Trainer.restore(saved, Script)
    assert repr(trainer) == "<Trainer: ppo on tests.worlds:Script, 2,016 env steps>"
    weights = sum(x.size for x in trainer.learner.get_state()["params"].values())
    assert repr(trainer.policy) == f"<Policy: PPO, {weights:,} weights>"


def test_settings_can_change_on_the_way(saved: Path) -> None:
    trainer = Trainer.restore(saved, Script, stop_steps=5000, stop_return=9.0, lr=1e-5)
    assert (trainer.config.stop.env_steps, trainer.config.stop.return_mean) == (5000, 9.0)
    assert trainer.train()["hyper/lr"] == pytest.approx(1e-5)


def test_a_new_stop_replaces_those_of_the_run(saved: Path) -> None:
    """So that `resume DIR --stop-steps N` goes on after a return that was met."""
    assert Trainer.restore(saved, Script, stop_return=9.0).config.stop == Stop(return_mean=9.0)
    assert Trainer.restore(saved, Script, lr=1e-5).config.stop == Stop(env_steps=4000)


def test_a_run_can_go_on_with_the_other_learner(saved: Path) -> None:
    """Its parameters after the next update are the same within rounding."""
    same, other = Trainer.restore(saved, Script), Trainer.restore(saved, Script, learner="jax")
    assert (same.framework, other.framework) == ("torch", "jax")
    assert not difference(same.learner.get_state(), other.learner.get_state())
    ends = []
    for trainer in (same, other):
        next(trainer.updates)
        ends.append(trainer.learner.weights())
    for name, x in ends[0].items():
        np.testing.assert_allclose(x, ends[1][name], atol=1e-5, err_msg=name)


class Wider(Script):
    observation_space = Box(-np.inf, np.inf, (4,), np.float32)

    def _draw(self) -> np.ndarray:
        return self.np_random.standard_normal(4, dtype=np.float32)


class Fewer(Script):
    action_space = Discrete(3)


@pytest.mark.parametrize("env", [Wider, Fewer])
def test_a_checkpoint_of_another_environment_is_refused(saved: Path, env: Any) -> None:
    with pytest.raises(CheckpointError, match="another environment"):
        Trainer.restore(saved, env)


def test_a_run_with_a_users_environment_needs_it_again(saved: Path) -> None:
    with pytest.raises(ConfigError, match=r"tests\.worlds:Script"):
        Trainer.restore(saved)


def test_a_checkpoint_of_other_copies_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="3 copies"):
        Trainer.restore(saved, Script, envs_per_worker=3)


@pytest.mark.parametrize("part", ["learner", "run", "recorder", "workers"])
def test_a_checkpoint_that_lacks_a_part_is_refused(saved: Path, part: str) -> None:
    state, meta = checkpoint.load(saved)
    meta = {k: x for k, x in meta.items() if k not in ("format_version", "shoal", "time")}
    checkpoint.save(saved, 10**6, {k: x for k, x in state.items() if k != part}, meta)
    with pytest.raises(CheckpointError, match="do not fit"):
        Trainer.restore(saved, Script)


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    trainer = make("ppo", Script)
    for _ in range(4):
        trainer.train()
        trainer.save(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000006048", "000008064"]


class Noisy(gymnasium.Env[Any, Any]):
    """No seed decides what it shows."""

    observation_space = Box(0, 1, (1,), np.float64)
    action_space = Discrete(2)
    generator = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        return self.generator.random(1), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.generator.random(1), 1.0, self.t == 50, False, {}


def test_episodes_that_cannot_be_resumed_begin_anew_and_are_told(tmp_path: Path) -> None:
    """Then their returns hold nothing of the episode that was lost: each step earns 1."""
    trainer = make("a2c", Noisy, stop_steps=10_000)
    trainer.train()
    trainer.save(tmp_path)
    with pytest.warns(RuntimeWarning, match="begin anew"):
        resumed = Trainer.restore(tmp_path, Noisy)
    report = resumed.train()
    assert (report["return_min"], report["return_max"]) == (50.0, 50.0)
    assert report["length_mean"] == 50.0
