"""Does an exception of the user's code reach the user as what it is, wherever it was raised?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from shoal.errors import EnvError
from shoal.fleet.create import learns
from shoal.plans.allreduce import Allreduce
from shoal.plans.async_gradients import AsyncGradients
from shoal.plans.async_replay import AsyncReplay
from shoal.plans.async_samples import AsyncSamples
from shoal.plans.bellman_updaters import BellmanUpdaters
from shoal.plans.evolution import Evolution
from shoal.plans.sync_replay import SyncReplay
from shoal.plans.sync_samples import SyncSamples
from shoal.process.tracebacks import IN_PROCESS, describe
from shoal.systems.table import PLANS
from shoal.trainer import Trainer
from tests.faults.broken import Broken, Engine, LostA2C, LostDQN, LostVTrace
from tests.faults.conftest import keeps_the_form, place_of

ENV = "tests.faults.broken:Broken"
SMALL = [
    *("--rollout.envs-per-worker", "2"),
    *("--rollout.fragment-length", "8"),
    *("--algorithm.network.hidden", "4"),
    *("--stop-steps", "4000"),
]
FAULTS: dict[str, tuple[type[BaseException], str, str]] = {  # type, message, where
    "init": (ValueError, "no level file", "init"),
    "reset": (KeyError, "spawn point", "reset"),
    "step": (RuntimeError, "the physics exploded", "step"),
    "dtype": (EnvError, "the observation is complex64", "contract"),
    "shape": (EnvError, "the observation has shape [3]", "contract"),
    "nan observation": (EnvError, "the observation is nan", "contract"),
    "nan reward": (EnvError, "the reward is nan", "contract"),
    "memory": (MemoryError, "Unable to allocate 909. TiB", "memory"),
    "sys.exit": (SystemExit, "bye", "sys.exit"),
    "odd": (Engine, "the gear broke", "odd"),
}


def broken(fault: str) -> list[str]:
    return ["--rollout.env-kwargs", f'{{"fault": "{fault}"}}']


def told(shoal: Callable[..., Any], system: str, fault: str, *place: str) -> list[str]:
    """The lines of the error: type, message, file and line, copy, episode, what to do."""
    kind, message, line = FAULTS[fault]
    code, _, text, error = shoal("train", ENV, "--system", system, *SMALL, *place, *broken(fault))
    lines = keeps_the_form(text)
    assert code == 1 and isinstance(error, kind)
    assert message in lines[0] and place_of(line) in lines[1]
    assert re.search(r"copy [01] of environment", text)
    assert fault == "init" or re.search(r"episode seed \d+, env step \d of the episode", text)
    return lines


def reproduces(lines: list[str], in_process: bool) -> None:
    """A worker is named, and a command that shows the same in one process."""
    command = next(shlex.split(x)[1:] for x in lines if x.startswith("  reproduce: "))
    assert command[:3] == ["shoal", "train", ENV]
    assert ("--cluster.in-process" in command) == in_process
    assert bool(re.search(r"in worker [01]\b", "\n".join(lines))) == in_process


@pytest.mark.parametrize("fault", FAULTS)
def test_what_where_and_what_to_do(fault: str, shoal: Callable[..., Any]) -> None:
    reproduces(told(shoal, "a2c", fault, "--workers", "0"), in_process=False)


@pytest.mark.parametrize("fault", ["init", "step"])
@pytest.mark.parametrize("system", ["a2c", "impala"])
def test_of_several_workers_the_one_is_named(
    system: str, fault: str, shoal: Callable[..., Any]
) -> None:
    place = ["--workers", "2", "--cluster.in-process", "true"]
    reproduces(told(shoal, system, fault, *place), in_process=True)


CALLS = [("a2c", fault) for fault in FAULTS if fault not in ("dtype", "shape", "nan observation")]
STREAMS = [("impala", fault) for fault in ("init", "step")]


@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize(("system", "fault"), CALLS + STREAMS)
def test_it_is_the_same_from_another_process(
    system: str, fault: str, shoal: Callable[..., Any]
) -> None:
    """Every type of exception; those of checks are all one."""
    reproduces(told(shoal, system, fault, "--workers", "2"), in_process=True)


@pytest.mark.usefixtures("one_ray")
def test_the_command_that_is_given_shows_the_same(shoal: Callable[..., Any]) -> None:
    """In one process: the same worker, copy and episode break at the same env step."""
    out = ["--out", "elsewhere"]
    _, _, text, _ = shoal(
        "train", ENV, "--system", "a2c", *SMALL, *broken("step"), *out, "--workers=1"
    )
    apart = keeps_the_form(text)
    command = next(shlex.split(x)[2:] for x in apart if x.startswith("  reproduce: "))
    _, _, text, _ = shoal(*command)
    assert keeps_the_form(text)[:3] == apart[:3]
    assert "--out" not in command


@pytest.mark.usefixtures("one_ray")
def test_a_package_that_is_missing_is_named(shoal: Callable[..., Any]) -> None:
    code, _, text, error = shoal(
        "train", "tests.faults.needy:Env", "--system", "a2c", "--workers=1"
    )
    lines = keeps_the_form(text)
    assert code == 1 and type(error) is EnvError
    assert "the package 'a_simulator_that_nobody_has' is not installed" in lines[0]
    assert "needy.py:3" in lines[1] and "pip install a_simulator" in lines[2]


def test_in_python_a_note_says_how_to_see_it(one_ray: None) -> None:
    with (
        pytest.raises(RuntimeError, match="the physics exploded") as caught,
        Trainer("a2c", Broken, workers=1, env_kwargs={"fault": "step"}) as trainer,
    ):
        trainer.train()
    assert IN_PROCESS in caught.value.__notes__
    assert place_of("step") in describe(caught.value).split("\n")[1]


REPLAYING = (SyncReplay, AsyncReplay)
OTHERS = (Evolution, BellmanUpdaters)  # no loss; only losses on labels
HERE = [(plan(), True) for plan in PLANS if plan not in OTHERS]
REMOTE = [(AsyncGradients(), False), (Allreduce(), False)]  # elsewhere the loss is not there


@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize(("plan", "in_process"), HERE + REMOTE, ids=str)
def test_a_loss_that_raises(plan: Any, in_process: bool) -> None:
    """A user's own algorithm, on whichever process the plan differentiates."""
    lost = {AsyncSamples: LostVTrace}.get(type(plan), LostA2C)
    small: dict[str, Any] = {"workers": 2, "envs_per_worker": 2, "fragment_length": 4}
    if type(plan) in REPLAYING:
        lost = LostDQN
        small |= {"warmup": 16, "batch_size": 8}
    with (
        pytest.raises(LookupError, match="no such column") as caught,
        Trainer(lost(), Broken, plan=plan, in_process=in_process, **small) as trainer,
    ):
        trainer.train()
    lines = describe(caught.value).split("\n")
    assert place_of(f"loss of {lost.__name__.removeprefix('Lost')}") in lines[1]
    if learns(plan):
        assert re.search(r"in worker [01]\b", lines[2])


@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("plan", [SyncSamples(), Allreduce()], ids=lambda p: type(p).__name__)
def test_a_network_that_raises(plan: Any, in_process: bool) -> None:
    from shoal.algorithms.a2c import A2C
    from tests.faults.networks import Net, line

    small: dict[str, Any] = {"workers": 2, "envs_per_worker": 2, "fragment_length": 4}
    with (
        pytest.raises(ZeroDivisionError, match="an empty layer") as caught,
        Trainer(A2C(network=Net(9)), Broken, plan=plan, in_process=in_process, **small) as trainer,
    ):
        trainer.train()
    lines = describe(caught.value).split("\n")
    assert f"networks.py:{line()}" in lines[1]
    assert re.search(r"in worker [01]\b", lines[2])


def test_a_setting_that_asks_for_too_much_memory_is_not_the_users_code() -> None:
    made = Trainer("a2c", "CartPole-v1", fragment_length=10**12)
    with made, pytest.raises(MemoryError) as caught:
        made.train()
    told = describe(caught.value)
    assert "lower the setting that takes the memory" in told
    assert "correct the line" not in told and "fault of Shoal" not in told
