"""Do the systems that replay learn what they are known to learn?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from shoal.envs.memory import Chain
from shoal.nets.network import Network
from shoal.trainer import Trainer
from tests.worlds import LINEAR

pytestmark = pytest.mark.learning


def frozen_lake() -> Any:
    return FrozenLakeEnv(is_slippery=False)


def test_values_of_frozen_lake_are_those_of_value_iteration() -> None:
    """One weight for each state and action; V of the first state is 0.99^5 = 0.950990."""
    fields: dict[str, Any] = {
        "network": LINEAR,
        "epsilon": 1.0,  # random behaviour reaches all
        "lr": 0.01,
        "target_every": 50,
        "capacity": 20_000,
        "learner": "jax",
        "stop_steps": 30_000,
    }
    with Trainer("double-dqn", frozen_lake, **fields) as trainer:
        list(trainer)
        obs = {"obs": np.zeros(1, np.int64)}
        weights = trainer.learner.weights()
        obs = trainer.spaces.flatten(0)
        q = trainer.config.algorithm.values(trainer.model, weights, obs)[..., 0]
    assert float(np.max(q)) == pytest.approx(0.950990, abs=0.01)


@pytest.mark.parametrize("system", ["dqn", "rainbow"])
def test_cartpole_is_learned(system: str) -> None:
    """Random play gets 22."""
    small = Network(hidden=(64, 64), activation="relu")
    fields: dict[str, Any] = {"tuned": True, "network": small, "learner": "jax"}
    fields |= {"lr": 1e-3, "stop_return": 100.0, "stop_steps": 50_000}
    with Trainer(system, "CartPole-v1", **fields) as trainer:
        report = list(trainer)[-1]
        assert trainer.stopped_by() == "return", report


def right(folder: Path) -> str:
    """One demonstration of the chain: its right actions."""
    minari = pytest.importorskip("minari")
    env: Any = Chain()
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    collector: Any = minari.DataCollector(env, data_format="hdf5", **spaces)
    obs, _ = collector.reset(seed=0)
    over = False
    while not over:
        action = env._task.right[int(np.argmax(obs))]
        obs, _, over, _, _ = collector.step(int(action))
    found = collector.create_dataset("chain-v0", description="its right actions")
    return str(found.storage.data_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("ratio", "solved"), [(1 / 16, True), (0.0, False)])
def test_a_sparse_chain_is_solved_with_one_demonstration_only(
    ratio: float, solved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 states, and only the last of 20 right actions in a row is rewarded."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    network = Network(hidden=(64,), activation="relu", memory="lstm", memory_size=32)
    fields: dict[str, Any] = {"plan": "sync_replay", "workers": 0, "network": network}
    fields |= {"envs_per_worker": 4, "fragment_length": 8, "warmup": 200, "lr": 1e-3}
    fields |= {"sequence": 8, "burn_in": 0, "overlap": 4, "n_step": 3, "target_every": 100}
    fields |= {"gamma": 0.99, "demos": right(tmp_path), "demo_ratio": ratio}
    fields |= {"stop_steps": 20_000, "report_every": 1_000}
    with Trainer("r2d3", "shoal/Chain-v0", **fields) as trainer:
        found = [trainer.evaluate(1)["return_mean"] for _ in trainer]
    assert (max(found) == 1.0) == solved


def test_a_cue_is_remembered() -> None:
    """Shown at t = 0, asked for at t = 10; without memory half of the answers are right."""
    network = Network(hidden=(32,), activation="relu", memory="lstm", memory_size=32)
    fields: dict[str, Any] = {"plan": "sync_replay", "workers": 0, "network": network}
    fields |= {"sequence": 11, "burn_in": 0, "overlap": 0, "lr": 2e-3, "target_every": 100}
    fields |= {"epsilon": 0.1, "batch_size": 16, "stop_steps": 40_000, "report_every": 4_000}
    with Trainer("r2d2", "shoal/Cue-v0", **fields) as trainer:
        found = 0.0
        for _ in trainer:
            if (found := trainer.evaluate(100)["return_mean"]) >= 0.95:
                break
    assert found >= 0.95
