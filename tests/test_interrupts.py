"""Does an interrupt, at whatever instant it comes, leave everything whole?"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.learners import choose
from shoal.process import interrupts
from shoal.replay.buffer import Buffer
from shoal.replay.layout import Column, Layout
from shoal.trainer import Trainer
from tests.worlds import Script, Scripts, difference

PACKAGE = str(Path(shoal.__file__).parent)


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """Python's own handlers, even where the tests run in the background."""
    fresh = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in fresh.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def at(k: int, act: Callable[[], None], *files: str) -> Iterator[list[int]]:
    """``act`` before the k-th line of these files of Shoal's; counts them."""
    count = [0]
    paths = tuple(os.path.join(PACKAGE, file) for file in files)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(paths):
            return None
        if event == "line":
            count[0] += 1
            if count[0] == k:
                act()
        return trace

    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(None)


def interrupt() -> None:
    raise KeyboardInterrupt


# ------------------------------------------------------------------ the replay buffer


def full_buffer() -> Buffer:
    """Two slots of rows that wrap around, frames in stacks of two."""
    frames = Layout({"": Column((2, 1, 1), np.dtype(np.uint8), 2)}, Column((), np.dtype(np.int64)))
    buffer = Buffer(frames, 2, 24, n_step=2, alpha=0.5)
    for first in (0, 10, 20):
        store(buffer, first)
    return buffer


def store(buffer: Buffer, first: int) -> None:
    """Four steps of two slots; one of them is cut by a time limit, and then begins anew."""
    seen = first + np.arange(5 * 2, dtype=np.uint8).reshape(5, 2, 1, 1, 1)
    truncated = np.zeros((4, 2), bool)
    truncated[1, 0] = True
    buffer.add(
        slice(0, 2),
        {"": np.broadcast_to(seen, (5, 2, 2, 1, 1))},
        np.full((4, 2), first),
        np.full((4, 2), first, np.float32),
        np.zeros((4, 2), bool),
        truncated,
        np.ones((4, 2), bool),
        {(1, 0): {"": np.full((2, 1, 1), 99, np.uint8)}},
        np.full((4, 2), 1.0 + first),
    )


def contents(buffer: Buffer) -> dict[str, Any]:
    """All of a buffer, copied."""
    state = {name: np.array(x) for name, x in buffer.get_state().items()}
    return state | {"tree": buffer._tree.copy(), "size": buffer.size, "changes": buffer.changes}


def change(buffer: Buffer) -> None:
    drawn = buffer.draw(np.array([[0.1, 0.5, 0.9]]), 0.4)
    buffer.set_priorities(drawn.rows, np.array([7.0, 8.0, 9.0]))
    store(buffer, 30)


def each_instruction(of: Callable[[], None], then: Callable[[int], None]) -> int:
    """Calls ``then(k)`` before the k-th instruction of the buffer; returns how many there were."""
    path, k, busy = os.path.join(PACKAGE, "replay", "buffer.py"), 0, False

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal k, busy
        if busy or frame.f_code.co_filename != path:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            k, busy = k + 1, True
            then(k)
            busy = False
        return trace

    sys.settrace(trace)
    try:
        of()
    finally:
        sys.settrace(None)
    return k


def test_a_buffer_goes_back_from_between_any_two_instructions() -> None:
    """An exception there would leave it just as it is at that instant."""
    buffer = full_buffer()
    begun = buffer.changes
    buffer.forget(begun)
    before, ways = contents(buffer), set()

    def go_back(k: int) -> None:
        other = deepcopy(buffer)
        ways.add(np.array_equal(buffer._rows, before["rows"]))
        other.rollback(begun)
        assert not (found := difference(contents(other), before)), f"instruction {k}: {found}"

    assert each_instruction(lambda: change(buffer), go_back) > 500
    assert ways == {True, False}
    # And the way back can be interrupted as well.
    assert each_instruction(lambda: buffer.rollback(begun), go_back) > 50


def test_a_buffer_keeps_no_more_than_the_newest_changes() -> None:
    buffer = full_buffer()
    change(buffer)
    assert buffer._undo is None  # of a buffer that nobody goes back with
    buffer.forget(buffer.changes)
    change(buffer)
    assert buffer._undo is not None and len(buffer._undo) == 2
    buffer.forget(buffer.changes)
    assert not buffer._undo


# ------------------------------------------------------------------ a trainer

SMALL: dict[str, Any] = {"envs_per_worker": 2, "fragment_length": 8, "hidden": (4,), "workers": 0}
REPLAY: dict[str, Any] = {"capacity": 200, "batch_size": 4, "warmup": 16, "replay_ratio": 4.0}


def trainer(system: str, env: Any = None) -> Trainer:
    replay = REPLAY if "dqn" in system else {"epochs": 1, "minibatch_size": 8}
    return Trainer(system, env or Scripts(length=6), learner="jax", **SMALL, **replay)


class Scene(Script):
    """In a step, something may happen."""

    happens: Callable[[], None] | None = None

    def step(self, action: Any) -> Any:
        if self.happens is not None:
            now, type(self).happens = self.happens, None
            now()
        return super().step(action)


def scene() -> Scene:
    return Scene(length=6)


def everything(made: Trainer) -> dict[str, Any]:
    """All that the next update depends on."""
    replay = made.run.local_replay
    state = {
        "learner": made.learner.get_state(),
        "run": made.run.get_state(),
        "workers": made.fleet.map("get_state"),
        "replay": None if replay is None else contents(replay.buffer) | {"changes": 0},
    }
    state["run"] |= {"rng": str(state["run"]["rng"])}
    return state


@pytest.mark.parametrize("system", ["prioritized-dqn", "ppo"])
@pytest.mark.parametrize("how", ["noted", "raised"])
def test_a_run_with_interrupts_is_the_run_without(
    system: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, or an exception from a handler of somebody else's, before any line of Shoal's."""
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)
    straight, made = trainer(system), trainer(system)
    files = ("trainer.py", "plans/", "replay/", "fleet/", "learners/", "envs/", "algorithms/")
    draw, raised = random.Random(0), 0
    with at(0, interrupt, *files) as lines:
        made.train()
    for _ in range(5):
        for _ in range(3):
            k = draw.randint(1, lines[0])
            if how == "raised":
                signal.signal(signal.SIGINT, lambda *_: interrupt())
            try:
                with at(k, ctrl_c, *files):
                    made.train()
            except KeyboardInterrupt:
                raised += 1
        while made.run.counters.env_steps < straight.run.counters.env_steps + 16:
            straight.train()
    goal = max(t.run.counters.env_steps for t in (straight, made)) + 160
    for each in (straight, made):
        while each.run.counters.env_steps < goal:
            each.train()
    assert raised > 5
    assert not difference(everything(made), everything(straight))


def test_an_error_that_an_interrupt_became_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code turns it into SystemError, an environment into what it likes."""
    made = trainer("ppo", scene)

    def swallow() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr(Scene, "happens", staticmethod(swallow))
    with pytest.raises(KeyboardInterrupt):
        made.train()


# ------------------------------------------------------------------ signals


def test_a_signal_waits_for_a_safe_point_and_comes_once() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        ctrl_c()
        with interrupts.shielded():
            interrupts.check()
        interrupts.check()
    interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts.deferred():
        interrupts.check()


def test_a_signal_without_a_safe_point_is_raised_at_the_end() -> None:
    after = []
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        ctrl_c()
        after.append("here")
    assert after == ["here"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_is_interrupted_at_once_where_nothing_can_break(number: int) -> None:
    with interrupts.listening():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert interrupts.exit_code() == 128 + number
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_swallows_an_interrupt_only_delays_it() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.listening():
        with suppress(KeyboardInterrupt):  # as a callback of JAX's does
            ctrl_c()
        interrupts.check()


def test_the_second_signal_says_what_is_waited_for_and_the_third_is_not_ours(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with interrupts.listening():
        with pytest.raises(KeyboardInterrupt), interrupts.deferred():
            ctrl_c()
            ctrl_c()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert "waiting for tests/test_interrupts.py" in (told := capfd.readouterr().err)
        assert "once more ends at once, without a checkpoint" in told
    with interrupts.listening(), interrupts.deferred():
        ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        ctrl_c()
        assert "saving the checkpoint; once more" in capfd.readouterr().err


def test_an_environment_that_does_not_come_back_ends_by_the_second_signal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "SPEAK", 0.0)
    made, waits = trainer("ppo", scene), 0

    def blocked() -> None:
        nonlocal waits
        ctrl_c()
        while "Ctrl-C again stops it there" not in capfd.readouterr().err:
            waits += 1
            time.sleep(0.01)
        ctrl_c()
        raise AssertionError("this is not reached")

    made.train()
    before = everything(made)
    monkeypatch.setattr(Scene, "happens", staticmethod(blocked))
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert waits < 500
    assert not difference(everything(made), before)


def test_an_interrupt_that_nobody_can_catch_is_not_told_as_an_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In a destructor or a callback of the garbage collector: it comes at the next safe point."""

    class Destroyed:
        def __del__(self) -> None:
            ctrl_c()

    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), interrupts.listening():
        Destroyed()
        interrupts.check()
    assert capfd.readouterr().err == "" and sys.unraisablehook is hook


def test_signals_are_held_back_while_a_library_changes_the_handlers() -> None:
    """As Ray does, whose handler ends the process; threads of its own never take them."""
    taken: list[set[int]] = []
    with interrupts.listening(), interrupts.deferred():
        with interrupts.held():
            with interrupts.free():  # what is started can be ended
                assert subprocess.run(["sh", "-c", "kill $$"]).returncode == -signal.SIGTERM
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            thread = threading.Thread(
                target=lambda: taken.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
            )
            thread.start(), thread.join()
            assert interrupts.received() is None
            interrupts.listen_again()
        assert interrupts.received() == signal.SIGTERM
        interrupts.dismiss()
    assert taken[0] >= {signal.SIGINT, signal.SIGTERM}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("block", [interrupts.listening, interrupts.deferred])
def test_a_forked_process_takes_signals_as_ever(block: Any) -> None:
    """Else an environment's own processes would not end when they are asked to."""
    with block():
        child = os.fork()
        if child == 0:
            handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
            os._exit(7 if handlers == (signal.default_int_handler, signal.SIG_DFL) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interrupts.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.received() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_somebody_elses_handler_is_left_alone() -> None:
    came = []
    signal.signal(signal.SIGINT, lambda *_: came.append(1))
    with interrupts.deferred():
        ctrl_c()
        interrupts.check()
    assert came == [1]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no masks of signals here")
def test_the_thread_that_imports_a_framework_takes_no_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor do the threads that the framework begins: a mask is inherited."""
    masks: list[set[Any]] = []
    done = threading.Event()

    def imported(name: str) -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        done.set()

    monkeypatch.setattr(choose.importlib, "import_module", imported)
    with interrupts.listening():
        choose.preload("jax")
        assert done.wait(10)
    assert signal.SIGTERM in masks[0] and signal.SIGINT in masks[0]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
