"""Does Ape-X learn with processes of its own?"""

from __future__ import annotations

import pytest

from shoal.plans.async_replay import AsyncReplay
from shoal.trainer import Trainer

pytestmark = pytest.mark.learning


def test_ape_x_learns_cartpole_with_workers_and_shards_of_its_own(one_ray: None) -> None:
    plan = AsyncReplay(shards=2)
    fields = {"plan": plan, "learner": "jax", "stop_return": 100.0, "stop_steps": 300_000}
    with Trainer("ape-x", "CartPole-v1", **fields) as trainer:
        report = list(trainer)[-1]
        assert trainer.stopped_by() == "return", report
