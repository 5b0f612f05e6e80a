"""Do the tasks that ask for memory ask for it, and are they the same whatever their form?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import shoal.envs.memory
from shoal import Trainer
from shoal.app.cli import main
from shoal.envs import make
from shoal.envs.native import NativeVector
from shoal.errors import EnvError
from tests.worlds import TINY, difference, settings, worker


@pytest.mark.parametrize("name", ["Cue", "Chain"])
def test_they_keep_gymnasiums_contract(name: str) -> None:
    check_env(gymnasium.make(f"shoal/{name}-v0").unwrapped)


@pytest.mark.parametrize(("delay", "cues"), [(1, 2), (10, 2), (4, 5)])
def test_a_cue_is_shown_once_and_asked_for_later(delay: int, cues: int) -> None:
    env = gymnasium.make("shoal/Cue-v0", delay=delay, cues=cues)
    shown = set()
    for seed in range(40):
        obs, _ = env.reset(seed=seed)
        cue = int(obs[:-1].argmax())
        shown.add(cue)
        assert obs.sum() == obs[cue] == 1
        for t in range(1, delay + 1):
            obs, reward, over, _, _ = env.step(0)
            assert obs.tolist() == [0.0] * cues + [float(t == delay)]
            assert not over and reward == 0
        answer = cue if seed % 2 else (cue + 1) % cues
        _, reward, over, truncated, _ = env.step(answer)
        assert over and not truncated and reward == float(seed % 2)
    assert shown == set(range(cues))


def test_a_chain_goes_on_with_the_right_actions_only() -> None:
    env = gymnasium.make("shoal/Chain-v0", length=20)
    right = env.unwrapped._task.right  # type: ignore[attr-defined]
    assert 0 < right.sum() < 20
    for wrong in (0, 7, 19, None):
        obs, _ = env.reset()
        for t in range(20):
            assert obs.tolist() == np.eye(20)[t].tolist()
            taken = 1 - right[t] if t == wrong else right[t]
            obs, reward, over, _, _ = env.step(int(taken))
            assert over == (t in (wrong, 19))
            assert reward == float(t == 19 and wrong is None)
            if over:
                break
        assert not obs.any()


def test_the_right_actions_of_a_chain_may_cost_something() -> None:
    env = shoal.envs.memory.Chain(length=4, cost=0.2)
    env.reset()
    with pytest.raises(EnvError, match="cost"):
        shoal.envs.memory.Chain(cost=1.0)
    rewards = [env.step(int(action))[1] for action in env._task.right]
    assert rewards == pytest.approx([-0.05, -0.05, -0.05, 0.95])
    env.reset()
    assert env.step(int(1 - env._task.right[0]))[1] == 0


def test_a_chains_task_is_its_own_and_not_an_episodes() -> None:
    tasks = [shoal.envs.memory.Chain(task=k)._task for k in (0, 0, 1)]
    same, other = tasks[0].right == tasks[1].right, tasks[0].right == tasks[2].right
    assert same.all() and not other.all()


@pytest.mark.parametrize("name", ["shoal/Cue-v0", "shoal/Chain-v0"])
def test_a_vector_is_as_many_single_ones(name: str) -> None:
    """Copies of one seed, stepped with the same actions: each sees what one alone does."""
    rng = np.random.default_rng(0)
    vector = make(name, 6, kwargs={} if "Cue" in name else {"length": 3})
    assert isinstance(vector, NativeVector)
    obs = vector.reset(seed=0)["obs"].copy()
    lengths: list[int] = []
    running = np.zeros(6, int)
    for _ in range(60):
        step = vector.step(rng.integers(2, size=6))
        running += 1
        final = dict(zip(*(step.final[0], step.final[1]["obs"]), strict=True)) if step.final else {}
        assert set(final) == set(np.flatnonzero(step.terminated))
        for slot in final:
            assert not final[slot].any()
            assert step.obs["obs"][slot].any()  # the next episode's beginning
            lengths.append(running[slot])
            running[slot] = 0
        obs = step.obs["obs"].copy()
    assert set(lengths) <= ({11} if "Cue" in name else {1, 2, 3}) and lengths
    assert obs.shape[0] == 6
    vector.close()


@pytest.mark.parametrize("copies", [2, 6])
def test_a_worker_goes_on_in_the_middle(copies: int) -> None:
    first, second = (
        worker(settings("ppo", "shoal/Cue-v0", rollout={"envs_per_worker": copies}))
        for _ in range(2)
    )
    first.sample()
    second.set_state(first.get_state())
    assert not difference(first.sample().batch, second.sample().batch)


@pytest.mark.parametrize(
    ("kwargs", "words"), [({"delay": 0}, "delay"), ({"cues": 1.5}, "cues"), ({"dely": 3}, "delay")]
)
def test_arguments_that_make_no_task_are_named(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvError, match=words):
        make("shoal/Cue-v0", 2, kwargs=kwargs)


def test_from_the_command_line(tmp_path: Path, capsys: Any) -> None:
    out, kwargs = str(tmp_path / "run"), "{length: 2, task: 3}"
    line = ["train", "shoal/Chain-v0", "--system", "dqn", "--rollout.env-kwargs", kwargs]
    assert main([*line, "--stop-steps", "1500", "--report-every", "500", "--out", out]) == 0
    assert main(["evaluate", out, "--episodes", "4"]) == 0
    assert "(min 1.0, max 1.0), length 2.0" in capsys.readouterr().out


def test_popgym_works_as_it_is() -> None:
    pytest.importorskip("popgym")
    given: Any = {"network": TINY, "stop_steps": 600, "report_every": 500, "previous": True}
    with Trainer("ppo", "popgym:popgym-RepeatPreviousEasy-v0", **given) as trainer:
        report = trainer.train()
    assert -1.0 <= report["return_mean"] <= 0.0  # chance is -0.5
    assert report["length_mean"] == 51.0
