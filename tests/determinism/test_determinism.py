"""Does a seed decide a run to the bit, however often it is interrupted, killed and resumed?

Compared is everything that a checkpoint holds but the seconds: parameters, optimiser, counters,
moments, random generators, environments in mid-episode, the last episodes; and every report.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from shoal.checkpoint import files as checkpoint
from shoal.fleet.base import results
from shoal.fleet.worker import Worker
from shoal.trainer import Trainer
from tests.worlds import RECURRENT, TINY, Script, difference

NORMALISED: dict[str, Any] = {"normalise_obs": True, "scale_reward": True}
# Gymnasium's vector form; and a loop over copies, whose episodes are replayed.
WORLDS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"envs_per_worker": 5},
    "Pendulum-v1": {**NORMALISED, "gamma": 0.9},
}
SEVERAL = {"ppo": {"epochs": 2, "minibatch_size": 16}}
UPDATES = 3


@pytest.fixture(autouse=True)
def one_update_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)


def make(system: str, env: Any, learner: str = "torch", seed: int = 0, **fields: Any) -> Trainer:
    small = {"envs_per_worker": 2, "fragment_length": 24, "network": TINY, "seed": seed}
    small["in_process"] = True
    return Trainer(system, env, learner=learner, **{**small, **SEVERAL.get(system, {}), **fields})


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    timed = ("wall_s", "steps_per_s", "time/", "worker/")
    return {k: None if k.startswith(timed) else x for k, x in report.items()}


def state(trainer: Trainer) -> dict[str, Any]:
    """All that the future depends on."""
    return {
        "learner": trainer.learner.get_state(),
        "run": trainer.run.get_state(),
        "workers": results(trainer.fleet.map("get_state")),
        "episodes": list(trainer.recorder.episodes),
    }


def train(trainer: Trainer, updates: int = UPDATES) -> list[dict[str, Any]]:
    return [untimed(trainer.train()) for _ in range(updates)]


# ------------------------------------------------------------------------ one seed


@pytest.mark.parametrize(
    ("env", "learner"),
    [("CartPole-v1", "jax"), ("CartPole-v1", "torch"), ("Pendulum-v1", "torch")],
)
@pytest.mark.parametrize("system", ["pg", "a2c", "ppo"])
def test_a_seed_decides_everything(system: str, env: str, learner: str) -> None:
    first, second = (make(system, env, learner, **WORLDS[env]) for _ in range(2))
    assert not difference(train(first), train(second))
    assert not difference(state(first), state(second))


@pytest.mark.parametrize("env", WORLDS)
def test_another_seed_decides_something_else(env: str) -> None:
    first, second = (make("ppo", env, seed=seed, **WORLDS[env]) for seed in (0, 1))
    for trainer in (first, second):
        train(trainer, 1)
    a, b = first.learner.weights(), second.learner.weights()
    assert all(difference(a[name], b[name]) for name in a if name.startswith("pi/"))
    x, y = (results(trainer.fleet.map("get_state"))[0]["obs"] for trainer in (first, second))
    assert difference(x, y)


def test_training_does_not_depend_on_who_looks(tmp_path: Path) -> None:
    """Evaluating, acting and saving draw nothing from the run's generators."""
    quiet, watched = (make("ppo", "CartPole-v1") for _ in range(2))
    for _ in range(UPDATES):
        train(quiet, 1)
        train(watched, 1)
        watched.evaluate(1)
        watched.policy.act([0.0, 0.0, 0.0, 0.0], explore=True)
        watched.save(tmp_path)
    assert not difference(state(quiet), state(watched))


# -------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("learner", ["jax", "torch"])
@pytest.mark.parametrize("env", WORLDS)
@pytest.mark.parametrize("system", ["pg", "a2c", "ppo"])
def test_resuming_is_never_stopping(system: str, env: str, learner: str, tmp_path: Path) -> None:
    straight = make(system, env, learner, **WORLDS[env])
    wanted = train(straight, 2 * UPDATES)[UPDATES:]
    halted = make(system, env, learner, **WORLDS[env])
    train(halted)
    halted.save(tmp_path)
    resumed = Trainer.restore(tmp_path)
    assert not difference(train(resumed), wanted)
    assert not difference(state(resumed), state(straight))
    assert state(straight)["run"]["counters"]["gradient_steps"] > 0


@pytest.mark.parametrize("learner", ["jax", "torch"])
@pytest.mark.parametrize("env", WORLDS)
def test_resuming_with_a_memory_is_never_stopping(env: str, learner: str, tmp_path: Path) -> None:
    """In mid-episode, with what the policy remembers of it."""
    fields: dict[str, Any] = {**WORLDS[env], "network": RECURRENT, "chunk": 8}
    straight = make("ppo", env, learner, **fields)
    wanted = train(straight, 2 * UPDATES)[UPDATES:]
    halted = make("ppo", env, learner, **fields)
    train(halted)
    halted.save(tmp_path)
    resumed = Trainer.restore(tmp_path)
    held = results(resumed.fleet.map("get_state"))[0]["obs"]
    assert np.abs(held["~memory/pi"]).min(axis=(1, 2)).max() > 0.0
    assert not difference(train(resumed), wanted)
    assert not difference(state(resumed), state(straight))


def test_resuming_with_several_workers_is_never_stopping(tmp_path: Path) -> None:
    straight = make("ppo", Script, workers=2, **NORMALISED)
    train(straight, 2 * UPDATES)
    halted = make("ppo", Script, workers=2, **NORMALISED)
    train(halted)
    halted.save(tmp_path)
    resumed = Trainer.restore(tmp_path, Script)
    train(resumed)
    assert not difference(state(resumed), state(straight))


def test_annealing_goes_on_where_it_was(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "lr": "linear(1e-2, 0)",
        "clip": "linear(0.3, 0.1)",
        "stop_steps": 6 * 48,
    }
    straight = make("ppo", "CartPole-v1", **fields)
    wanted = train(straight, 6)
    halted = make("ppo", "CartPole-v1", **fields)
    train(halted, 3)
    halted.save(tmp_path)
    resumed = Trainer.restore(tmp_path)
    assert not difference(train(resumed, 3), wanted[3:])
    done = [0] + [report["env_steps"] for report in wanted[:-1]]
    rates = [report["hyper/lr"] for report in wanted]
    assert rates == pytest.approx([0.01 * (1 - steps / 288) for steps in done])


def test_a_checkpoint_of_a_checkpoint_is_the_same(tmp_path: Path) -> None:
    """Restored and saved again at once: not a bit is lost, before anything was sampled too."""
    for updates in (0, 2):
        first = make("ppo", "Pendulum-v1", **WORLDS["Pendulum-v1"])
        train(first, updates)
        first.save(tmp_path / f"{updates}a")
        Trainer.restore(tmp_path / f"{updates}a").save(tmp_path / f"{updates}b")
        a, b = (checkpoint.load(tmp_path / f"{updates}{part}") for part in "ab")
        assert not difference(a[0], b[0])
        assert not difference({**a[1], "time": 0}, {**b[1], "time": 0})


# ---------------------------------------------------------------- in another process


CHILD = """
import sys
sys.path.insert(0, {tests!r})
import shoal.trainer
shoal.trainer.REPORT_STEPS = 1
from shoal.trainer import Trainer
from tests.determinism.test_determinism import TINY, make

kind, path, learner = sys.argv[1:]
if kind == "begin":
    trainer = make("ppo", "Pendulum-v1", learner, normalise_obs=True, scale_reward=True, gamma=0.9)
else:
    trainer = Trainer.restore(path)
while True:
    trainer.train()
    trainer.save(path)
    print(trainer.learner.version, flush=True)
"""


def child(kind: str, path: Path, learner: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD.format(tests=root), kind, str(path), learner]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=path)


@pytest.mark.parametrize("learner", ["jax", "torch"])
def test_killing_a_process_at_any_instant_changes_nothing(learner: str, tmp_path: Path) -> None:
    """kill -9 twice: after the checkpoints of the third and of the ninth update."""
    for kind, until in (("begin", 3), ("go on", 9)):
        with child(kind, tmp_path, learner) as running:
            assert running.stdout is not None
            for line in running.stdout:
                if int(line) == until:
                    os.kill(running.pid, signal.SIGKILL)
                    break
        assert running.returncode == -signal.SIGKILL
    resumed = Trainer.restore(tmp_path)
    straight = make("ppo", "Pendulum-v1", learner, **WORLDS["Pendulum-v1"])
    assert resumed.learner.version >= 9
    train(resumed, 2)
    train(straight, resumed.learner.version)
    assert not difference(state(resumed), state(straight))


# ----------------------------------------------------------------------- interruptions


class Fused(Script):
    """Raises ``error`` once: in the ``fuse``-th env step from now on, of all copies together."""

    fuse = 0
    error: type[BaseException] = KeyboardInterrupt

    def step(self, action: Any) -> Any:
        Fused.fuse -= 1
        if Fused.fuse == 0:
            raise self.error("in the user's own code")
        return super().step(action)


class Interrupted:
    """Raises KeyboardInterrupt once: at the ``at``-th call, before or after the call itself."""

    def __init__(self, call: Callable[..., Any], at: int, after: bool = False) -> None:
        self.call, self.left, self.after = call, at, after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KeyboardInterrupt
        out = self.call(*args, **kwargs)
        if self.left == 0:
            raise KeyboardInterrupt
        return out


def in_env(trainer: Trainer, monkeypatch: Any, at: int) -> None:
    monkeypatch.setattr(Fused, "fuse", at)


def in_learner(trainer: Trainer, monkeypatch: Any, at: int) -> None:
    """At the ``at``-th line that runs in the learners' files, as a signal does."""
    update, lines = trainer.learner.update, iter(range(1, at))

    def line(frame: Any, event: str, arg: Any) -> Any:
        if event == "line" and next(lines, None) is None:
            raise KeyboardInterrupt
        return line

    def call(frame: Any, event: str, arg: Any) -> Any:
        return line if "/shoal/learners/" in frame.f_code.co_filename else None

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(trainer.learner, "update", update)
        sys.settrace(call)
        try:
            return update(*args, **kwargs)
        finally:
            sys.settrace(None)

    monkeypatch.setattr(trainer.learner, "update", interrupted)


def behind_learner(trainer: Trainer, monkeypatch: Any, at: int) -> None:
    update = trainer.learner.update
    monkeypatch.setattr(trainer.learner, "update", Interrupted(update, 1, after=True))


def in_broadcast(trainer: Trainer, monkeypatch: Any, at: int) -> None:
    """When the second of two workers is given its weights."""
    give = Interrupted(Worker.set_weights, 2)
    monkeypatch.setattr(Worker, "set_weights", lambda *args: give(*args))


def before_sampling(trainer: Trainer, monkeypatch: Any, at: int) -> None:
    monkeypatch.setattr(trainer.fleet, "map", Interrupted(trainer.fleet.map, 1))


# Of 96 env steps in an update, the first 48 are the first worker's (pg's whole episodes: more).
PLACES: list[tuple[Callable[..., None], int]] = [
    (before_sampling, 1),
    (in_env, 1),
    (in_env, 80),
    (in_learner, 1),
    (in_learner, 15),
    (behind_learner, 1),
    (in_broadcast, 1),
]
CASES = [(system, "torch", *place) for system in ("a2c", "pg", "ppo") for place in PLACES]
CASES += [("ppo", "jax", in_learner, at) for at in (1, 5, 15)] + [("ppo", "jax", behind_learner, 1)]


@pytest.mark.parametrize(("system", "learner", "place", "at"), CASES)
def test_an_interruption_changes_nothing(
    system: str, learner: str, place: Any, at: int, monkeypatch: Any, tmp_path: Path
) -> None:
    """Whether the run goes on at once, or is saved and resumed."""
    straight, made = (make(system, Fused, learner, workers=2, **NORMALISED) for _ in range(2))
    wanted = train(straight, 5)
    train(made, 2)
    place(made, monkeypatch, at)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made.save(tmp_path)
    resumed = Trainer.restore(tmp_path, Fused)
    for trainer in (made, resumed):
        assert not difference(train(trainer), wanted[2:])
        assert not difference(state(trainer), state(straight))


@pytest.mark.parametrize(
    ("env", "form"), zip(WORLDS, (CartPoleVectorEnv, PendulumEnv), strict=True)
)
def test_an_interruption_of_gymnasiums_environments_changes_nothing(
    env: str, form: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    straight, made = (make("ppo", env, **WORLDS[env]) for _ in range(2))
    train(straight, 5)
    train(made, 2)
    step = Interrupted(form.step, 13, after=True)
    monkeypatch.setattr(form, "step", lambda *args: step(*args))
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made.save(tmp_path)
    for trainer in (made, Trainer.restore(tmp_path)):
        train(trainer)
        assert not difference(state(trainer), state(straight))


def test_an_interruption_of_the_first_moments_changes_nothing(
    monkeypatch: Any, tmp_path: Path
) -> None:
    """The random env steps before the first update, in the second of two workers."""
    straight, made = (make("ppo", Fused, workers=2, **NORMALISED) for _ in range(2))
    train(straight)
    in_env(made, monkeypatch, 128 + 20)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made.save(tmp_path)
    for trainer in (made, Trainer.restore(tmp_path, Fused)):
        train(trainer)
        assert not difference(state(trainer), state(straight))


def test_one_interruption_after_the_other_changes_nothing(monkeypatch: Any) -> None:
    """At eight places in a row, without an update between them."""
    straight, made = (make("ppo", Fused, workers=2, **NORMALISED) for _ in range(2))
    train(straight, 4)
    train(made, 1)
    for place, at in [*PLACES, (in_env, 7)]:
        with monkeypatch.context() as patch:
            place(made, patch, at)
            with pytest.raises(KeyboardInterrupt):
                made.train()
    train(made, 3)
    assert not difference(state(made), state(straight))


def test_an_error_in_the_environment_leaves_the_last_whole_update(
    monkeypatch: Any, tmp_path: Path
) -> None:
    """What is saved behind it is what was before the update that failed."""
    made = make("ppo", Fused)
    train(made, 2)
    before = state(made)

    monkeypatch.setattr(Fused, "error", ZeroDivisionError)
    in_env(made, monkeypatch, 10)
    with pytest.raises(ZeroDivisionError, match="own code"):
        made.train()
    assert not difference(state(made), before)


def test_other_workers_after_a_resume_survive_an_interruption_too(
    monkeypatch: Any, tmp_path: Path
) -> None:
    """Resumed with three workers instead of two: new episodes, but then to the bit again."""
    first = make("ppo", Fused, workers=2)
    train(first, 2)
    first.save(tmp_path)
    straight, made = (Trainer.restore(tmp_path, Fused, workers=3) for _ in range(2))
    train(straight)
    in_env(made, monkeypatch, 48 + 9)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    train(made)
    assert not difference(state(made), state(straight))
