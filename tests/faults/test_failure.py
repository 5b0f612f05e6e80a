"""Does an exception survive its way from one process to another?"""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from shoal.errors import ConfigError, EnvError
from shoal.fleet.failure import Failure, sendable
from shoal.process.tracebacks import describe
from shoal.trainer import Trainer
from tests.faults.broken import Engine, Opened


class Renamed(Exception):
    """Says something else when it is made from its own arguments again."""

    def __init__(self, path: str) -> None:
        super().__init__(f"cannot read {path}")


class Coded(Exception):
    """Its text comes from an attribute."""

    def __init__(self, code: int, lock: Any) -> None:
        super().__init__()
        self.code, self.lock = code, lock

    def __str__(self) -> str:
        return f"code {self.code}"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def travelled(error: BaseException) -> BaseException:
    """As a worker catches it, sends it, and a driver makes it anew."""
    try:
        raise error  # the line
    except BaseException as caught:
        sent = pickle.dumps(Failure.of(caught, "in worker 3"))
    failure: Failure = pickle.loads(sent)
    return failure.revive()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("plain"), "plain"),
        (KeyError("key"), "'key'"),
        (OSError(2, "No such file"), "[Errno 2] No such file"),
        (Engine("gear", threading.Lock()), "the gear broke"),
        (Renamed("level.txt"), "cannot read level.txt"),
        (Coded(7, threading.Lock()), "code 7"),
        (SystemExit("bye"), "bye"),
        (ExceptionGroup("two", [ValueError("a"), KeyError("b")]), "two (2 sub-exceptions)"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_type_message_frames_and_notes_arrive(error: BaseException, text: str) -> None:
    error.add_note("in copy 1")
    there = travelled(error)
    assert isinstance(there, type(error)) and type(there).__name__ == type(error).__name__
    assert str(there) == text
    assert there.__notes__[:2] == ["in copy 1", "in worker 3"]
    assert "in travelled: raise error" in describe(there).split("\n")[1]


def test_a_type_that_only_the_other_process_knows_keeps_its_name() -> None:
    failure = Failure(b"garbage", b"garbage", "Torn", "the rope tore", ["in worker 3"], [])
    error = failure.revive()
    assert (type(error).__name__, str(error)) == ("Torn", "the rope tore")
    assert any("could not be found in this process" in note for note in error.__notes__)


def test_an_error_that_cannot_be_told_is_no_reason_to_lose_it() -> None:
    assert "cannot be shown" in describe(travelled(Mute()))


def test_an_error_of_shoal_keeps_what_where_and_what_to_do() -> None:
    error = travelled(EnvError("it fell", "world.py:3", "hold it"))
    assert str(error) == "it fell\n  where: world.py:3\n  to do: hold it"


@pytest.mark.parametrize("kind", [ModuleNotFoundError, EnvError])
def test_a_module_that_only_another_node_lacks_is_told_so(kind: Any) -> None:
    """Here it can be imported: installing it here would not help."""
    try:
        try:
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        except ModuleNotFoundError as cause:
            if kind is ModuleNotFoundError:
                raise
            raise EnvError("the environment cannot be made") from cause
    except (EnvError, ModuleNotFoundError) as caught:
        failure = Failure.of(caught, "in worker 0")
    failure.node = "far-away"
    lines = describe(failure.revive()).split("\n")
    assert "'numpy'" in lines[2] and "far-away" in lines[2] and "pip install" not in lines[2]


@pytest.mark.usefixtures("one_ray")
def test_an_environment_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the environment .*Opened cannot be sent") as caught:
        Trainer("a2c", Opened(), workers=1)
    assert "rollout.workers=0" in str(caught.value)


def test_what_can_be_sent_is_not_blamed() -> None:
    parts = {"the environment": int, "the network": threading.Lock()}
    with pytest.raises(ConfigError, match=r"^the network _thread:lock cannot be sent"):
        sendable(lambda: parts["the network"], parts)
