"""Is every system what its name says, and is an impossible one refused with a fix?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.algorithms.a2c import A2C
from shoal.algorithms.ppo import PPO
from shoal.config.config import Config, Stop
from shoal.config.files import load_file
from shoal.config.replay import Replay
from shoal.config.schedule import Linear
from shoal.config.settings import find, to_dict
from shoal.errors import ConfigError
from shoal.plans.sync_samples import SyncSamples
from shoal.systems.configure import change, configure, tuned
from shoal.systems.table import PLANS, SYSTEMS, default_config, matrix, system, unread
from shoal.trainer import Trainer
from tests.worlds import TINY, Scripts

TUNED = load_file(Path(__file__).parents[1] / "shoal" / "systems" / "tuned.yaml")


@pytest.mark.parametrize(
    ("name", "algorithm", "plan"),
    [
        ("pg", "PG", "sync_samples"),
        ("a2c", "A2C", "sync_samples"),
        ("a3c", "A2C", "async_gradients"),
        ("ppo", "PPO", "sync_samples"),
        ("dd-ppo", "PPO", "allreduce"),
        ("impala", "VTrace", "async_samples"),
        ("appo", "APPO", "async_samples"),
        ("dqn", "DQN", "sync_replay"),
        ("rainbow", "DQN", "sync_replay"),
        ("ddpg", "DDPG", "sync_replay"),
        ("td3", "TD3", "sync_replay"),
        ("sac", "SAC", "sync_replay"),
        ("qt-opt", "QTOpt", "bellman_updaters"),
        ("ape-x", "DQN", "async_replay"),
        ("ape-x-dpg", "DDPG", "async_replay"),
        ("r2d2", "DQN", "async_replay"),
        ("alphazero", "AlphaZero", "sync_replay"),
        ("gorila", "DQN", "parameter_server"),
    ],
)
def test_a_name_is_an_algorithm_under_a_plan(name: str, algorithm: str, plan: str) -> None:
    config = default_config(name, "CartPole-v1")
    assert type(config.algorithm).__name__ == algorithm
    assert config.plan.name == plan
    assert config == configure(name, "CartPole-v1")


def test_every_plan_is_in_the_matrix_with_every_algorithm() -> None:
    pairs = {(algorithm, plan) for algorithm, plan, _, _ in matrix()}
    kinds = {type(row.algorithm).__name__ for row in SYSTEMS.values()}
    assert pairs == {(algorithm, plan().name) for algorithm in kinds for plan in PLANS}


def test_the_matrix_names_each_system_once_and_says_why_not_elsewhere() -> None:
    """Of the systems that are one algorithm with other switches, the first."""
    named = [name for _, _, name, _ in matrix() if name]
    switched = {
        "double-dqn",
        "dueling-dqn",
        "prioritized-dqn",
        "c51",
        "noisy-dqn",
        "rainbow",
        "r2d2",
        "r2d3",
    }
    assert sorted(named) == sorted(set(SYSTEMS) - switched)
    assert all(bool(name) != bool(reason) or not name for _, _, name, reason in matrix())


OLD, ONCE = "what older weights sampled", "one gradient"
REFUSED = {
    ("PG", "async_samples"): OLD,
    ("A2C", "async_samples"): OLD,
    ("PPO", "async_samples"): OLD,
    ("PPO", "async_gradients"): ONCE,
    ("PPO", "parameter_server"): ONCE,
    ("APPO", "async_gradients"): ONCE,
    ("APPO", "parameter_server"): ONCE,
}
ROWS = list(SYSTEMS.values())[::-1]  # of several systems of an algorithm the first
ALGORITHMS = {type(row.algorithm).__name__: row.algorithm for row in ROWS}
REPLAYING = {"DQN", "DDPG", "TD3", "SAC", "QTOpt", "AlphaZero"}
EVOLVED = {"ES", "ARS"}
for plan in ("sync_replay", "async_replay", "bellman_updaters"):
    REFUSED |= {(name, plan): "single transitions" for name in ALGORITHMS if name not in REPLAYING}
for plan in ("sync_samples", "async_samples", "allreduce"):
    REFUSED |= {(name, plan): "has no replay buffer" for name in REPLAYING}
REFUSED |= {(name, "evolution"): "gradients of a loss" for name in ALGORITHMS}
REFUSED |= {(name, p().name): "perturbs none" for name in EVOLVED for p in PLANS}
unlabelled = REPLAYING - {"QTOpt"}
REFUSED |= {(name, "bellman_updaters"): "none can be labelled" for name in unlabelled}
for name in EVOLVED:
    del REFUSED[name, "evolution"]


def test_the_matrix_refuses_these_and_no_others() -> None:
    assert len(matrix()) == 117
    reasons = {(algorithm, plan): why for algorithm, plan, _, why in matrix() if why}
    assert reasons.keys() == REFUSED.keys()
    assert all(REFUSED[pair] in why for pair, why in reasons.items())


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=list(ALGORITHMS))
def test_what_cannot_be_is_refused_before_anything_starts(algorithm: Any, plan: Any) -> None:
    """And every other one starts, in one process with a worker that fits the plan."""
    scripts = Scripts()
    pair = type(algorithm).__name__, plan().name
    small: dict[str, Any] = {
        "envs_per_worker": 2,
        "fragment_length": 128,
        "network": TINY,
        "learner": "torch",
    }
    if pair[0] in EVOLVED:
        small = {"envs_per_worker": 2, "network": TINY}
    if pair[0] in REPLAYING:
        small |= {"batch_size": 16, "warmup": 64, "replay_ratio": 1.0}
    floats = pair[0] in ("DDPG", "TD3", "QTOpt")  # which act in floats alone
    env = "Pendulum-v1" if floats else "tic_tac_toe" if pair[0] == "AlphaZero" else scripts
    if pair in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[pair]) as caught:
            Trainer(algorithm, env, plan=plan(), workers=2, **small)
        assert f"{pair[0]} does not run under {pair[1]}" in caught.value.what
        assert not scripts.logs
    else:
        with Trainer(algorithm, env, plan=plan(), workers=2, in_process=True, **small) as made:
            assert made.train()["gradient_steps"] > 0
            assert len(scripts.logs) == (4 if env is scripts else 0)


# ----------------------------------------------------------------------------- precedence


def test_later_settings_win(tmp_path: Path) -> None:
    """Defaults, tuned, a file or mapping, then fields."""
    file = tmp_path / "settings.yaml"
    file.write_text("algorithm: {lr: 2e-3, epochs: 7}\n")
    config = configure("ppo", "Pendulum-v1", file, {"epochs": 8}, use_tuned=True)
    assert config.algorithm.gamma == 0.9  # tuned: the default is .99
    assert config.algorithm.lr == 2e-3  # the file: tuned is 1e-3
    assert config.algorithm.epochs == 8
    assert config.algorithm.clip == PPO().clip
    assert config.rollout.fragment_length == 1024


def test_an_algorithm_brings_its_plan_and_rollout() -> None:
    config = configure(A2C(lr=1.0), "CartPole-v1")
    assert config == replace(default_config("a2c", "CartPole-v1"), algorithm=A2C(lr=1.0))


def test_a_plan_can_be_given() -> None:
    plan = SyncSamples()
    assert configure("ppo", "CartPole-v1", plan=plan).plan is plan


def test_system_and_environment_can_stand_in_the_mapping() -> None:
    assert configure(None, None, {"system": "a2c", "env": "CartPole-v1"}) == default_config(
        "a2c", "CartPole-v1"
    )


def test_a_whole_configuration_passes_through() -> None:
    config = default_config("pg", "Acrobot-v1")
    assert configure(config, None) == config
    assert configure(config, None, None, {"seed": 4}) == replace(config, seed=4)


@pytest.mark.parametrize(("name", "env"), [(n, e) for n, envs in TUNED.items() for e in envs])
def test_tuned_settings_are_settings_and_end(name: str, env: str) -> None:
    config = configure(name, env, use_tuned=True)
    assert isinstance(config, Config)
    assert config != default_config(name, env)
    assert config.stop.env_steps is not None


# ------------------------------------------------------------------------------- refusals


def refusal(*args: Any, **kwargs: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        configure(*args, **kwargs)
    return caught.value


def test_an_unknown_system_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        system("pp0")
    assert "'pp0'" in caught.value.what and "did you mean ppo?" in str(caught.value.fix)


def test_an_unknown_setting_is_answered_with_the_nearest() -> None:
    error = refusal("ppo", "CartPole-v1", None, {"minibatch": 3})
    assert "'minibatch'" in error.what and "algorithm.minibatch_size" in str(error.fix)


def test_what_is_no_algorithm_is_refused() -> None:
    assert "dict" in refusal({}, "CartPole-v1").what


@pytest.mark.parametrize(
    ("args", "missing"), [((None, "CartPole-v1"), "system"), (("ppo", None), "env")]
)
def test_what_is_missing_is_named(args: Any, missing: str) -> None:
    assert missing in refusal(*args).what


def test_a_minibatch_larger_than_a_batch_is_refused_with_the_numbers() -> None:
    fields = {"workers": 2, "envs_per_worker": 3, "fragment_length": 5, "minibatch_size": 31}
    error = refusal("ppo", "CartPole-v1", None, fields)
    assert "31" in error.what and "30 rows" in error.what and "<= 30" in str(error.fix)
    configure("ppo", "CartPole-v1", None, {**fields, "minibatch_size": 30})


@pytest.mark.parametrize("name", ["lr", "clip", "entropy_coef"])
def test_annealing_over_an_unknown_length_is_refused(name: str) -> None:
    assert name in refusal("ppo", "CartPole-v1", None, {name: Linear(0.1)}).what
    config = configure("ppo", "CartPole-v1", None, {name: Linear(0.1), "env_steps": 1000})
    assert config.stop.env_steps == 1000


def test_annealing_beta_over_an_unknown_length_is_refused() -> None:
    fields = {"beta": Linear(0.4, 1.0)}
    error = refusal("prioritized-dqn", "CartPole-v1", None, fields)
    assert "replay.beta is annealed" in error.what
    configure("prioritized-dqn", "CartPole-v1", None, {**fields, "env_steps": 1000})


@pytest.mark.parametrize("name", [row.name for row in SYSTEMS.values() if row.replay == Replay()])
def test_settings_of_a_buffer_are_refused_without_one(name: str, tmp_path: Path) -> None:
    if not unread(default_config(name, "CartPole-v1")):
        configure(name, "CartPole-v1", None, {"capacity": 7_000})
        return
    file = tmp_path / "settings.yaml"
    file.write_text("replay: {alpha: 0.6}\n")
    for changes, fields in ((None, {"replay.alpha": 0.6}), (file, {}), ({"replay.alpha": 0.6}, {})):
        error = refusal(name, "CartPole-v1", changes, fields)
        assert "replay.alpha is 0.6, but nothing reads it" in error.what
        assert "dqn" in str(error.fix) and name not in str(error.fix).replace(":", ",").split(", ")


def test_a_saved_configuration_says_all_and_is_taken(tmp_path: Path) -> None:
    """It also lists the defaults of settings that nothing reads, and an older run may differ."""
    config = default_config("ppo", "CartPole-v1")
    assert configure(None, None, to_dict(config)) == config
    older = replace(config, replay=Replay(alpha=0.6))
    assert configure(older, None) == older
    assert change(older, {"lr": 1.0}, 0).replay == older.replay
    with pytest.raises(ConfigError, match=r"replay\.alpha is 0\.5, but nothing reads it"):
        change(config, {"replay.alpha": 0.5}, 0)


def test_an_algorithm_that_was_not_called_is_told_to_be() -> None:
    error = refusal(PPO, "CartPole-v1")
    assert error.what == "PPO is a class" and "Trainer(PPO(), ...)" in str(error.fix)


# --------------------------------------------------------------------------- runs that go on


STOPS = Stop(return_mean=9.0, env_steps=100)


@pytest.mark.parametrize(
    ("fields", "stop"),
    [
        ({"stop_steps": 200}, Stop(env_steps=200)),
        ({"stop.seconds": 5}, Stop(seconds=5.0)),
        ({"stop_steps": 200, "stop_return": 9}, Stop(return_mean=9.0, env_steps=200)),
        ({"stop": {"env_steps": 200}}, Stop(env_steps=200)),
        ({"lr": 1e-4}, STOPS),
        ({}, STOPS),
    ],
)
def test_a_new_stop_replaces_the_old_ones(fields: dict[str, Any], stop: Stop) -> None:
    config = replace(default_config("ppo", "CartPole-v1"), stop=STOPS)
    assert change(config, fields, 50).stop == stop


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"stop_steps": 400}, "was 100 and is now 400: it jumps from 0.5 to 0.875"),
        ({"stop_steps": 100}, None),
        ({"stop_steps": 400, "lr": 0.1}, None),
        ({"stop_steps": 400, "lr": Linear(0.1)}, None),  # its own wish
    ],
)
def test_a_schedule_that_jumps_is_warned_of(
    fields: dict[str, Any], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("ppo", "CartPole-v1", None, {"lr": Linear(1.0), "env_steps": 100})
    change(config, fields, 50)
    assert [r.getMessage() for r in caplog.records] == (
        [] if told is None else [f"algorithm.lr is annealed over stop.env_steps, which {told}"]
    )


def test_a_return_that_no_episode_can_have_is_refused() -> None:
    error = refusal("ppo", "CartPole-v1", None, {"return_mean": 500.5})
    assert "500.5" in error.what and "500" in str(error.fix)
    configure("ppo", "CartPole-v1", None, {"return_mean": 500})


def test_tuned_settings_that_do_not_exist_are_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError) as caught:
        tuned("ppo", "CliffWalking-v1")
    assert "Pendulum-v1" in str(caught.value.fix)


def test_a_plan_refuses_an_algorithm_by_name() -> None:
    class Elsewhere:
        name = "elsewhere"

        def refuses(self, algorithm: type) -> str:
            return "it needs importance weights"

    error = refusal("ppo", "CartPole-v1", plan=Elsewhere())
    assert "PPO does not run under elsewhere: it needs importance weights" in error.what


def test_atari_settings_are_the_papers() -> None:
    """Rainbow's Table 1 and the Nature paper's, in env steps (4 frames) and gradient steps."""
    rainbow = configure("rainbow", "ALE/Pong-v5", use_tuned=True)
    learned, replay = rainbow.algorithm, rainbow.replay
    assert (learned.lr, learned.eps, learned.target_every * 4) == (6.25e-5, 1.5e-4, 8_000)
    assert (learned.n_step, learned.atoms, learned.sigma) == (3, 51, 0.5)
    assert (replay.warmup, replay.batch_size / replay.replay_ratio) == (20_000, 4)
    assert (replay.alpha, replay.beta) == (0.5, Linear(0.4, 1.0))
    dqn = configure("dqn", "ALE/Pong-v5", use_tuned=True)
    learned, replay = dqn.algorithm, dqn.replay
    assert (learned.rule, learned.lr, learned.target_every * 4) == ("rmsprop", 2.5e-4, 10_000)
    assert (learned.epsilon, learned.epsilon_steps, learned.max_grad_norm) == (0.1, 1_000_000, None)
    assert (replay.warmup, replay.batch_size / replay.replay_ratio) == (50_000, 4)


@pytest.mark.parametrize("name", [k for k, x in SYSTEMS.items() if x.algorithm.acting])
def test_settings_of_acting_are_settings(name: str) -> None:
    algorithm = SYSTEMS[name].algorithm
    assert all(find(algorithm, setting) == setting for setting in algorithm.acting)
