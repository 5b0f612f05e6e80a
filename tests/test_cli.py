"""Does the command line mean what was typed, and say plainly when it cannot?"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import shoal
from shoal.app.cli import main
from shoal.app.commands.train import new_config, options
from shoal.app.options import flag
from shoal.app.run import DEFAULT_STEPS
from shoal.config.config import Config
from shoal.config.schedule import Linear
from shoal.config.settings import arguments
from shoal.systems.table import SYSTEMS, default_config, reads

ROOT = Path(__file__).parents[1]
MODULE = __name__.replace(".", "_")
ENV = f"{MODULE}:Chamber"
SMALL = [
    *("--stop-steps", "200"),
    *("--rollout.envs-per-worker", "2"),
    *("--rollout.fragment-length", "100"),
    *("--algorithm.epochs", "1"),
    *("--algorithm.minibatch-size", "100"),
    *("--algorithm.network.hidden", "4"),
]


class Chamber(gymnasium.Env[Any, Any]):
    """Five env steps, each worth the number of the action; drawn as a picture of one colour."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(3)
    imported = 0

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(2, np.float32), float(action), self.t == 5, False, {}

    def render(self) -> Any:
        return np.full((32, 32, 3), 40 * self.t, np.uint8)


@pytest.fixture(autouse=True, scope="module")
def as_module() -> Any:
    """This file under a name without dots, as a user's own module has."""
    sys.modules[MODULE] = sys.modules[__name__]
    yield
    del sys.modules[MODULE]


@pytest.fixture(scope="module")
def trained(as_module: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", ENV, "--system", "ppo", "--out", str(out), *SMALL]) == 0
    return out


def configured(command: str) -> tuple[Config, bool]:
    """The configuration of ``shoal train <command>``, and whether its stop is the default."""
    parser = options()
    return new_config(parser, *parser.read(shlex.split(command)))


def refused(capsys: pytest.CaptureFixture[str], *command: str, code: int = 2) -> list[str]:
    """The three lines of the error of a command that must fail."""
    assert main(list(command)) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ") and lines[1].startswith("  where: ")
    assert lines[2].startswith("  to do: ") and len(lines) <= 25
    return lines


# ------------------------------------------------------------------ what was typed


def test_every_kind_of_option_reaches_the_configuration() -> None:
    config, default_stop = configured(
        "--algorithm.lr 1e-3 CartPole-v1 --system=ppo --seed 7 --workers 2 --learner torch "
        "--report-every 5e3 --stop-return -250 --stop-steps 1e5 --stop-seconds=2.5 "
        "--rollout.normalise-obs --rollout.scale_reward false --hidden 32,16 "
        "--algorithm.clip 'linear(0.2, 0.1)' "
        "--target-kl none --rollout.env-kwargs '{gravity: -9.5}' --lambda 0.9"
    )
    assert not default_stop
    assert (config.env, config.system, config.seed, config.learner) == (
        "CartPole-v1",
        "ppo",
        7,
        "torch",
    )
    stop, rollout, algorithm = config.stop, config.rollout, config.algorithm
    assert config.report_every == 5000
    assert (stop.return_mean, stop.env_steps, stop.seconds) == (-250.0, 100_000, 2.5)
    assert (rollout.workers, rollout.normalise_obs, rollout.scale_reward) == (2, True, False)
    assert dict(rollout.env_kwargs) == {"gravity": -9.5}
    assert (algorithm.lr, algorithm.lambda_, algorithm.target_kl) == (1e-3, 0.9, None)
    assert algorithm.network.hidden == (32, 16)
    assert algorithm.clip == Linear(0.2, 0.1)


def test_options_win_over_the_file_and_that_over_the_tuned_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("env: Pendulum-v1\nsystem: ppo\nalgorithm: {gamma: 0.8, epochs: 3}\nseed: 4\n")
    config, default_stop = configured(f"--config {file} --tuned Pendulum-v1 --epochs 2")
    assert (config.algorithm.epochs, config.algorithm.gamma, config.seed) == (2, 0.8, 4)
    assert config.algorithm.lr == 1e-3  # tuned: neither the file nor an option says other
    assert config.stop.env_steps == 100_000 and not default_stop  # tuned too


def test_a_system_may_be_typed_in_capitals() -> None:
    assert configured("CartPole-v1 --system PPO")[0] == configured("CartPole-v1 --system ppo")[0]
    assert configured("CartPole-v1 --system DD_PPO")[0].system == "dd-ppo"


def test_environment_and_system_that_are_typed_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("env: Pendulum-v1\nsystem: ppo\nrollout: {fragment_length: 7}\n")
    config, _ = configured(f"CartPole-v1 --system a2c --config {file}")
    assert (config.env, config.system, config.rollout.fragment_length) == ("CartPole-v1", "a2c", 7)


def test_a_run_without_a_stop_has_the_default_one() -> None:
    config, default_stop = configured("CartPole-v1 --system ppo --lr 'linear(1e-3, 0)'")
    assert config.stop.env_steps == DEFAULT_STEPS and default_stop
    config, default_stop = configured("CartPole-v1 --system ppo --stop-return 475")
    assert config.stop.env_steps is None and not default_stop


@pytest.mark.parametrize(
    ("command", "what", "fix"),
    [
        ("CartPole-v1 --system ppo --algorithm.lrr 1", "--algorithm.lrr", "--algorithm.lr?"),
        ("CartPole-v1 --system ppo --gama 0.9", "--gama", "--algorithm.gamma?"),
        ("CartPole-v1 --system ppo --stop-retrun 3", "--stop-retrun", "--stop-return?"),
        ("CartPole-v1 --system ppo --algorithm.lr", "--algorithm.lr needs a value", "float"),
        ("CartPole-v1 --system ppo --algorithm.lr fast", "'fast'", "float | linear(start, end)"),
        ("CartPole-v1 --system ppo --seed -1", "seed is -1", ">= 0"),
        ("CartPole-v1 --system ppo --seed", "expected one argument", "--help"),
        ("CartPole-v1 --system ppo --workers 1 --workers 2 --rollout.workers 2", "twice", "once"),
        ("CartPole-v1 Pendulum-v1 --system ppo", "Pendulum-v1", "--help"),
        ("CartPole-v1 --system pppo", "no system 'pppo'", "did you mean ppo?"),
        ("CartPole-v1", "no system was given", "--system ppo"),
        ("CartPole-v1 --sytem ppo", "no option --sytem", "--system?"),
        ("CartPole-v1 --algo ppo", "no option --algo", "--system?"),
        ("CartPole-v1 --system ppo --learning-rate 1", "--learning-rate", "--algorithm.lr?"),
        ("CartPole-v1 --system ppo --num_envs 4", "num_envs", "--rollout.envs-per-worker?"),
        ("CartPole-v1 --system ppo --n_steps 9", "n_steps", "--rollout.fragment-length?"),
        ("CartPole-v1 --system ppo --total-timesteps 9", "total-timesteps", "--stop-steps?"),
        ("CartPole-v1 --system ppo --replay.alpha 0.6", "nothing reads it", "dqn"),
        ("--system ppo", "no environment was given", "shoal train CartPole-v1"),
        ("CartPole-v1 --system ppo --stop-return 501", "more than 500", "stop at 500"),
        ("CartPole-v1 --system ppo --minibatch-size 9999", "9999", "minibatch_size <="),
        ("Nowhere-v0 --system ppo --tuned", "no tuned settings", "Pendulum-v1"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, what: str, fix: str
) -> None:
    out = tmp_path / "run"
    told = refused(capsys, "train", *shlex.split(command), "--out", str(out))
    assert what in told[0] and fix in told[2]
    assert f"shoal train {command}".split(" --")[0] in told[1] or "tuned" in told[0]
    assert not out.exists()


def test_an_error_in_the_file_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("algorithm:\n  lrr: 1e-3\n")
    told = refused(capsys, "train", "CartPole-v1", "--system", "ppo", "--config", str(file))
    assert "algorithm.lrr" in told[0] and str(file) in told[1] and "algorithm.lr?" in told[2]


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("trian CartPole-v1", "train?"),
        ("evaluate x --epsiodes 3", "--episodes?"),
        ("evaluate x --simulatoins 3", "--simulations?"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], command: str, hint: str
) -> None:
    assert hint in refused(capsys, *command.split())[2]


# ------------------------------------------------------------------ what it tells


@pytest.mark.parametrize("name", SYSTEMS)
def test_help_lists_every_setting_of_the_system(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["train", "--help-all", "--system", name]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line[:1]}
    listed = {line.strip().split()[0]: line for line in lines.values()}
    config = default_config(name, "")
    assert ("--replay.alpha" in listed) == reads(config, "replay.alpha")
    for argument in arguments(config):
        if argument.name.startswith(("algorithm.", "plan.")) and argument.name != "plan.name":
            line = listed[f"--{flag(argument.name)}"]
            assert argument.help in line and argument.annotation in line


def test_the_help_of_every_command_says_how_it_is_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # a screen's
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line.split()[1] for line in lines if line.startswith("  shoal ")][:-1]
    assert commands[:4] == ["train", "resume", "tune", "evaluate"] and "export" in commands
    for command in commands:
        assert main([command, "--help"]) == 0
        short = capsys.readouterr().out
        assert short.startswith(f"usage: shoal {command}")
        assert len(short.splitlines()) <= 32 and max(map(len, short.splitlines())) <= 100
        assert main([command, "--help-all"]) == 0
        options = set(re.findall(r"^  (--[a-z-]+)", short, re.M))
        assert options <= set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.M))
    assert main([]) == 2


def test_a_word_that_is_near_none_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "quux")[2] == "  to do: `shoal --help` lists them all"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"shoal {shoal.__version__}\n"


def test_systems_names_all_and_what_runs_under_what(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [
        ("PPO", "Plain", "ppo", ""),
        ("PPO", "Odd", "", ""),
        ("PPO", "Late", "", "too old"),
        ("DQN", "Plain", "", "no replay"),
        ("DQN", "Odd", "", "no replay"),
        ("DQN", "Late", "", "too old"),
    ]
    monkeypatch.setattr("shoal.systems.table.matrix", lambda: pairs)
    assert main(["systems"]) == 0
    systems, matrix = capsys.readouterr().out.split("\n\n")
    for name, row in SYSTEMS.items():
        assert any(line.split()[0] == name and row.source in line for line in systems.split("\n"))
    head, _, *rows = matrix.splitlines()
    assert head.split() == ["plan", "PPO", "DQN"]
    assert rows == [
        "Plain ppo (2)",
        "Odd   yes (2)",
        "Late  (1) (1)",
        "(1) too old",
        "(2) no replay",
    ]


def test_what_runs_under_what_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_the_header_tells_what_runs_and_until_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", ENV, "--system", "ppo", "--seed", "3", "--out", str(out), *SMALL]) == 0
    said = capsys.readouterr().out.splitlines()
    for part in (
        f"ppo on {ENV}",
        "PPO under sync_samples",
        "jax (auto:",
        "2 environments",
        "seed 3",
    ):
        assert part in said[0]
    assert "200 env steps" in said[1] and str(out) in said[1] and "default" not in said[1]
    assert said[-1] == f"next: shoal evaluate {out} --env {ENV}"
    assert main([*shlex.split(said[-1])[2:], "--episodes", "1"]) == 0  # works as it is printed
    assert "\x1b" not in "".join(said)


def test_the_output_does_not_mind_a_closed_pipe() -> None:
    script = "import sys; from shoal.app.cli import main; sys.exit(main())"
    shell = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} train --help | true"
    ended = subprocess.run(
        ["sh", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""


# ------------------------------------------------------------------ evaluate


def test_evaluation_is_told_and_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(trained), "--env", ENV, "--episodes", "4", "--explore"]
    assert main([*command, "--seed", "5"]) == 0
    said = capsys.readouterr().out
    kept = json.loads((trained / "evaluation.json").read_text())
    assert kept["episodes"] == len(kept["returns"]) == 4 and kept["length_mean"] == 5.0
    assert (kept["seed"], kept["explore"], kept["env_steps"]) == (5, True, 200)
    assert kept["return_mean"] == pytest.approx(np.mean(kept["returns"]))
    assert f"return {kept['return_mean']:.1f} +- {kept['return_std']:.1f}" in said
    assert f"min {kept['return_min']:.1f}, max {kept['return_max']:.1f}" in said


def test_evaluation_takes_one_checkpoint_too(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "evaluation.json").unlink(missing_ok=True)
    assert main(["evaluate", str(trained / "checkpoint" / "000000200"), "--env", ENV]) == 0
    assert (trained / "evaluation.json").is_file()


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_video_shows_every_env_step(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    imageio = pytest.importorskip("imageio.v3")
    film = tmp_path / f"film{suffix}"
    command = ["evaluate", str(trained), "--env", ENV, "--episodes", "2", "--video", str(film)]
    assert main(command) == 0
    frames = imageio.imread(film)
    assert len(frames) == 10
    shades = [int(np.mean(frame)) for frame in frames]
    np.testing.assert_allclose(shades, [0, 40, 80, 120, 160] * 2, atol=6)
    assert str(film) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--video", "film.avi"], ".mp4 or .gif"),
        (["--episodes", "0"], "--episodes is 0"),
        (["--episodes", "many"], "many"),
    ],
)
def test_evaluation_refuses_bad_options_first(
    trained: Path, capsys: pytest.CaptureFixture[str], options: list[str], what: str
) -> None:
    assert what in refused(capsys, "evaluate", str(trained), *options)[0]


def test_what_is_no_run_cannot_be_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(tmp_path) in refused(capsys, "evaluate", str(tmp_path), code=1)[1]


# ------------------------------------------------------------------ whose code is run


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_a_module_is_imported_only_when_the_user_names_it(
    trained: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    del sys.modules[MODULE]  # importing it again would fail, and be told otherwise
    try:
        told = refused(capsys, command, str(trained))
    finally:
        sys.modules[MODULE] = sys.modules[__name__]
    assert "only if you name it" in told[0]
    assert f"add --env {ENV}" in told[2] and "--trust" in told[2]


@pytest.mark.parametrize("options", [["--env", ENV], ["--trust"]])
def test_what_is_named_or_trusted_is_imported(
    trained: Path, caplog: pytest.LogCaptureFixture, options: list[str]
) -> None:
    assert main(["evaluate", str(trained), "--episodes", "1", *options]) == 0
    said = f"importing {ENV}: {trained} names it" in caplog.text
    assert said == (options == ["--trust"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seed", "4"),
        ("--learner", "torch"),
        ("--algorithm.network.hidden", "8"),
        ("--rollout.envs-per-worker", "3"),
        ("--rollout.normalise-obs", "true"),
    ],
)
def test_what_a_run_is_made_of_cannot_change(
    trained: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    told = refused(capsys, "resume", str(trained), "--env", ENV, option, value)
    assert "cannot change" in told[0] and "shoal train" in told[2]


def test_a_checkpoint_without_a_run_folder_goes_on_in_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"envs_per_worker": 2, "fragment_length": 100, "epochs": 1, "minibatch_size": 100}
    with shoal.Trainer("ppo", "CartPole-v1", hidden=(4,), stop_steps=200, **small) as trainer:
        trainer.train()
        trainer.save(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert "Trainer.restore" in refused(capsys, "resume", str(tmp_path))[2]
    assert main(["evaluate", str(tmp_path), "--episodes", "1"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before
