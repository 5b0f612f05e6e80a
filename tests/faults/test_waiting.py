"""Does every long wait report what it waits for?"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from shoal.app.console import Console
from shoal.app.loop import warnings_on
from shoal.fleet import members as fleet
from shoal.trainer import Trainer
from tests.faults.broken import Broken
from tests.faults.conftest import place_of

SMALL: dict[str, Any] = {"workers": 1, "envs_per_worker": 1, "fragment_length": 8}
ENV = "tests.faults.broken:Broken"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, one_ray: None) -> None:
    monkeypatch.setattr(fleet, "SPEAK", 0.5)
    monkeypatch.setattr(fleet, "SLICE", 0.2)


def test_a_slow_constructor_is_named(caplog: pytest.LogCaptureFixture) -> None:
    kwargs = {"fault": "slow", "seconds": 4.0}
    with Trainer("a2c", Broken, env_kwargs=kwargs, **SMALL) as trainer:
        trainer.train()
    said = [text for text in caplog.messages if text.startswith("waiting for worker 0 in 'start'")]
    assert said and place_of("slow") in said[-1] and "nothing has moved there for" in said[-1]


def test_a_stuck_step_is_named_and_then_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """Once in a process; its replacement gets one fragment further."""
    kwargs = {"fault": "hang", "at": 12}
    with (
        Trainer("a2c", Broken, env_kwargs=kwargs, timeout=3.0, stop_steps=16, **SMALL) as trainer,
    ):
        trainer.train()
        assert trainer.fleet.stats.restarts == {0: 1}
    waiting, stuck, back = (
        next((x for x in caplog.messages if x.startswith(begin)), "")
        for begin in (
            "waiting for worker 0 in 'sample'",
            "worker 0: it has been stuck",
            "worker 0 is",
        )
    )
    assert place_of("hang") in waiting and place_of("hang") in stuck
    assert re.fullmatch(r"worker 0 is back after [\d.]+ s", back)


def test_a_place_that_does_not_come_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job takes the cluster's CPUs between check and start, and frees them later."""
    import ray

    from shoal.fleet import cluster

    monkeypatch.setattr(cluster, "_check_cluster", lambda *args: None)
    squatter = ray.remote(num_cpus=4)(type("Squatter", (), {"squat": lambda self: None})).remote()
    ray.get(squatter.squat.remote())
    leaves = threading.Timer(3.0, ray.kill, (squatter,))
    leaves.start()
    with Trainer("a2c", Broken, **SMALL) as trainer:
        leaves.join()
        trainer.train()
    place = "waiting for a place for worker 0: it needs 1 CPU, the cluster has 0 free"
    assert place in caplog.messages


@pytest.mark.parametrize("propagate", [True, False])
def test_warnings_are_plain_lines_of_the_console(propagate: bool, capsys: Any) -> None:
    """Once each, on stdout, and only while the command line runs."""
    log = logging.getLogger("shoal.fleet")
    logging.getLogger("shoal").propagate = propagate
    try:
        with warnings_on(Console()):
            log.warning("worker %d is gone", 3)
            log.info("nobody needs to know")
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("worker 3 is gone\n", "")
        assert logging.getLogger("shoal").propagate == propagate
        assert not logging.getLogger("shoal").handlers
    finally:
        logging.getLogger("shoal").propagate = True


def test_the_command_line_says_whom_it_waits_for(shoal: Callable[..., Any]) -> None:
    small = ["--system", "a2c", "--workers", "1", "--stop-steps", "100"]
    small += ["--rollout.envs-per-worker", "1"]
    slow = ["--rollout.env-kwargs", '{"fault": "slow", "seconds": 2.0}']
    code, out, err, _ = shoal("train", ENV, *small, *slow)
    assert (code, err) == (0, "")
    assert re.search(r"^waiting for worker 0 in 'start': .*broken\.py:\d+ in __init__", out, re.M)
