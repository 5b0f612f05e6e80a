"""Does evolution on processes take the steps that it takes in this one, whoever dies meanwhile?"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

import shoal
from shoal.fleet import dispatch
from tests.worlds import difference

pytestmark = pytest.mark.usefixtures("one_ray")
SMALL: dict[str, Any] = {
    **{"table_size": 100_000, "directions": 8, "envs_per_worker": 4, "report_every": 1},
    "cpus_per_worker": 0.0,
}


class Fragile(gymnasium.Env[Any, Any]):
    """Five steps towards a number; something happens to the first process that comes to it.

    ``how``: "start", "reset" and "step" kill it there, "hang" keeps it 8 s in a step.
    """

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, folder: str = "", how: str = "") -> None:
        self.folder, self.how = folder, how
        self._come_to("start")
        if folder:
            Path(folder, f"pid-{os.getpid()}").touch()

    def _come_to(self, what: str) -> None:
        if not self.folder or what != {"hang": "step"}.get(self.how, self.how):
            return
        try:
            os.close(os.open(Path(self.folder, "happened"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if self.how == "hang":
            time.sleep(8)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._come_to("reset")
        self.t, self.x = 0, self.np_random.normal(size=2).astype(np.float32)
        return np.tanh(self.x), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        if self.t == 3:
            self._come_to("step")
        reward = -abs(float(action[0]) - float(self.x[0]))
        return np.tanh(self.x), reward, self.t == 5, False, {}


def trained(generations: int = 3, **fields: Any) -> Any:
    with shoal.Trainer("ars", **{**SMALL, **fields}) as trainer:
        for _ in range(generations):
            trainer.train()
        return trainer.learner.get_state(), trainer.run.get_state(), trainer.fleet.stats


def test_one_two_and_four_processes_take_the_same_steps() -> None:
    alone = trained(env="CartPole-v1")
    for workers in (1, 2, 4):
        more = trained(env="CartPole-v1", workers=workers)
        assert not difference(alone[0], more[0]), workers
        assert not difference(alone[1], more[1]), workers


@pytest.mark.parametrize("how", ["start", "reset", "step"])
def test_what_a_dead_worker_was_doing_is_done_by_others(how: str, tmp_path: Path) -> None:
    alone = trained(env=Fragile)
    kwargs = {"folder": str(tmp_path), "how": how}
    more = trained(env=Fragile, workers=2, env_kwargs=kwargs)
    assert (tmp_path / "happened").exists()
    assert sum(more[2].restarts.values()) == 1
    assert not difference(alone[0], more[0])
    assert not difference(alone[1], more[1])


def test_a_worker_that_dies_between_generations_is_replaced(tmp_path: Path) -> None:
    alone = trained(env=Fragile, generations=4)
    kwargs = {"folder": str(tmp_path)}
    with shoal.Trainer("ars", Fragile, workers=2, env_kwargs=kwargs, **SMALL) as trainer:
        for _ in range(2):
            trainer.train()
        pid = int(next(tmp_path.glob("pid-*")).name.partition("-")[2])
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            trainer.train()
        assert not difference(alone[0], trainer.learner.get_state())


def test_others_do_what_a_stuck_worker_does_not_and_its_result_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "FIRST", 0.5)
    alone = trained(env=Fragile, generations=3)
    kwargs = {"folder": str(tmp_path), "how": "hang"}
    with shoal.Trainer("ars", Fragile, workers=2, env_kwargs=kwargs, **SMALL) as trainer:
        begun = time.monotonic()
        for _ in range(3):
            trainer.train()
        assert time.monotonic() - begun < 8.0  # nobody waited for it
        assert not difference(alone[0], trainer.learner.get_state())
        counters = trainer.run.counters
        before = counters.dropped_steps
        while counters.dropped_steps == before and time.monotonic() - begun < 30:
            trainer.train()
        assert counters.dropped_steps - before == SMALL["envs_per_worker"] * 5
        assert counters.env_steps == counters.trained_steps + counters.dropped_steps


def test_functions_are_evaluated_in_processes() -> None:
    def pid(x: np.ndarray) -> float:
        return -float((x**2).sum()) - 1e6 * (os.getpid() == here)

    here = os.getpid()
    found = shoal.evolve(pid, [1.0, 2.0], workers=2, generations=2, directions=4)
    assert found.history[0] == -5.0
