"""Is every transition that a buffer gives back one that happened?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.replay.buffer import Buffer
from shoal.replay.layout import Column, Layout
from shoal.replay.tree import sum_tree

GAMMA = 0.9


@dataclass
class Slot:
    """An environment copy whose observations are numbers that never occur twice."""

    rng: np.random.Generator
    first: int
    padded: str  # what an episode's first stack is filled with: "zeros" or "copies"
    stack: int
    log: dict[int, tuple[Any, float, str, int]] = field(default_factory=dict)
    # of the number that was seen: action, reward, how it went on, the number that followed
    frames: dict[int, list[int]] = field(default_factory=dict)  # the stack of each number

    def __post_init__(self) -> None:
        self.next = self.first
        self.begin()

    def see(self, older: list[int]) -> int:
        self.next += 1
        self.frames[self.next] = [*older, self.next][-self.stack :]
        return self.next

    def begin(self) -> int:
        self.left = int(self.rng.integers(1, 7))
        self.end = str(self.rng.choice(["terminated", "truncated"]))
        older = [0 if self.padded == "zeros" else self.next + 1] * (self.stack - 1)
        self.now = self.see(older)
        return self.now

    def step(self) -> tuple[Any, float, str]:
        """What was done, earned and how it ended; ``now`` is what followed."""
        before = self.now
        self.left -= 1
        how = "" if self.left else self.end
        action, reward = int(self.rng.integers(3)), float(self.rng.integers(-3, 4))
        self.now = self.see(self.frames[before])
        self.log[before] = (action, reward, how, self.now)
        return action, reward, how


def image(slot: Slot, number: int) -> np.ndarray:
    """What is observed: the number, or a stack of frames that show theirs."""
    if slot.stack == 1:
        return np.array([number], np.int32)
    return np.array(slot.frames[number], np.int32)[:, None, None] * np.ones((1, 2, 2), np.int32)


def fragment(slots: list[Slot], length: int, same_step: bool, waiting: list[bool]) -> Any:
    """What a worker would sample, in either of two autoreset modes."""
    seen = [[image(s, s.now) for s in slots]]
    columns: dict[str, list[Any]] = {k: [] for k in ("action", "reward", "term", "trunc", "valid")}
    final = {}
    for t in range(length):
        row: dict[str, list[Any]] = {k: [] for k in columns}
        for b, slot in enumerate(slots):
            if waiting[b]:  # next-step mode: this row is only the reset
                slot.begin()
                waiting[b] = False
                values: tuple[Any, ...] = (0, 7.0, False, False, False)
            else:
                action, reward, how = slot.step()
                values = (action, reward, how == "terminated", how == "truncated", True)
                if how and same_step:
                    final[t, b] = {"obs": image(slot, slot.now)}
                    slot.begin()
                elif how:
                    waiting[b] = True
            for key, value in zip(row, values, strict=True):
                row[key].append(value)
        for key, column in columns.items():
            column.append(row[key])
        seen.append([image(s, s.now) for s in slots])
    action, reward, terminated, truncated, valid = (np.array(x) for x in columns.values())
    return {"obs": np.array(seen)}, action, reward, terminated, truncated, valid, final


def buffer_of(stack: int, slots: int, capacity: int, **options: Any) -> Buffer:
    shape = (1,) if stack == 1 else (stack, 2, 2)
    obs = {"obs": Column(shape, np.dtype(np.int32), stack)}
    layout = Layout(obs, Column((), np.dtype(np.int32)))
    return Buffer(layout, slots, capacity, gamma=GAMMA, **options)


def check(
    buffer: Buffer,
    worlds: list[Slot],
    rng: np.random.Generator,
    drawn: int = 64,
) -> set[int]:
    """Every transition is that of the raw log; the numbers of those that were drawn."""
    batch = buffer.draw(rng.random((1, drawn))).batch
    numbers = batch["obs"]["obs"].reshape(drawn, -1)[:, -1]
    for j, number in enumerate(numbers.tolist()):
        slot = next(s for s in worlds if number in s.log)
        np.testing.assert_array_equal(batch["obs"]["obs"][j], image(slot, number))
        assert batch["action"][j] == slot.log[number][0]
        total, discount, at, seen = 0.0, 1.0, number, []
        for _ in range(buffer.n_step):
            if at not in slot.log:
                break
            _, reward, how, after = slot.log[at]
            total, discount, at = total + discount * reward, discount * GAMMA, after
            seen.append((total, 0.0 if how == "terminated" else discount, after))
            if how:
                break
        got = batch["reward"][j], batch["discount"][j]
        following = int(batch["next_obs"]["obs"][j].reshape(-1)[-1])
        whole = seen[-1]
        if whole[1] == 0.0:
            assert got == (pytest.approx(whole[0]), 0.0)
            continue
        # A window that reaches the newest row stops there, as the log does.
        total, discount, after = whole
        assert got == (pytest.approx(total, rel=1e-6), pytest.approx(discount, rel=1e-6))
        assert following == after
        np.testing.assert_array_equal(batch["next_obs"]["obs"][j], image(slot, following))
    return set(numbers.tolist())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    stack=st.sampled_from([1, 3]),
    n_step=st.sampled_from([1, 3]),
    same_step=st.booleans(),
    padded=st.sampled_from(["zeros", "copies"]),
    capacity=st.sampled_from([40, 75, 2000]),
)
def test_what_is_drawn_has_happened(
    seed: int, stack: int, n_step: int, same_step: bool, padded: str, capacity: int
) -> None:
    rng = np.random.default_rng(seed)
    worlds = [Slot(rng, 10_000 * b, padded, stack) for b in range(2)]
    buffer = buffer_of(stack, 2, capacity, n_step=n_step)
    waiting = [False, False]
    for _ in range(12):
        length = int(rng.integers(1, 9))
        buffer.add(slice(0, 2), *fragment(worlds, length, same_step, waiting))
        check(buffer, worlds, rng)


@pytest.mark.parametrize("same_step", [True, False])
def test_all_that_is_remembered_can_be_drawn(same_step: bool) -> None:
    """While nothing was overwritten: every env step, and nothing twice."""
    rng = np.random.default_rng(0)
    worlds = [Slot(rng, 10_000 * b, "zeros", 3) for b in range(2)]
    buffer, waiting = buffer_of(3, 2, 2000), [False, False]
    for _ in range(20):
        buffer.add(slice(0, 2), *fragment(worlds, 10, same_step, waiting))
    happened = {number for world in worlds for number in world.log}
    assert buffer.size == buffer.stored == len(happened)
    assert check(buffer, worlds, rng, buffer.size) == happened


def test_the_newest_are_kept() -> None:
    rng = np.random.default_rng(0)
    worlds = [Slot(rng, 0, "zeros", 1)]
    buffer = buffer_of(1, 1, 50)
    for _ in range(30):
        buffer.add(slice(0, 1), *fragment(worlds, 10, False, [False]))
    newest = sorted(worlds[0].log)[-buffer.size :]
    assert buffer.size > 30
    assert check(buffer, worlds, rng, buffer.size) == set(newest)


def test_n_step_returns_are_the_golden_ones() -> None:
    """Rewards 1 to 5, gamma 0.9, n = 3, and an end after the last."""
    buffer = buffer_of(1, 1, 50, n_step=3)
    obs = {"obs": np.arange(1, 7)[:, None, None]}
    end = np.array([[False]] * 4 + [[True]])
    reward, none = np.arange(1.0, 6.0)[:, None], np.zeros((5, 1), bool)
    buffer.add(slice(0, 1), obs, np.zeros((5, 1), int), reward, end, none, ~none, {})
    batch = buffer.draw(
        np.random.default_rng(0).random((1, 5))
    ).batch  # one of each: all weigh the same
    np.testing.assert_allclose(batch["reward"][:3], [5.23, 7.94, 10.65], rtol=1e-6)
    np.testing.assert_allclose(batch["discount"], [0.729, 0.729, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(batch["reward"][3:], [4 + 0.9 * 5, 5], rtol=1e-6)


def test_weights_are_the_golden_ones() -> None:
    """p = 1, 2, 4, 8 with alpha 0.6 and beta 0.4."""
    buffer = buffer_of(1, 1, 50, alpha=0.6)
    none = np.zeros((4, 1), bool)
    obs = {"obs": np.arange(5)[:, None, None]}
    buffer.add(slice(0, 1), obs, np.zeros((4, 1), int), np.zeros((4, 1)), none, none, ~none, {})
    rng = np.random.default_rng(0)
    all_of_them = buffer.draw(rng.random((1, 4)))
    buffer.set_priorities(all_of_them.rows, np.array([1.0, 2.0, 4.0, 8.0]))
    batch = buffer.draw(rng.random((1, 1000)), beta=0.4).batch
    pairs = zip(batch["obs"]["obs"][:, 0].tolist(), batch["weight"].tolist(), strict=True)
    weights = dict(pairs)
    expected = {0: 1.0, 1: 0.846745, 2: 0.716978, 3: 0.607097}
    assert weights == {k: pytest.approx(w, abs=1e-6) for k, w in expected.items()}


def test_a_late_priority_does_not_reach_what_was_overwritten() -> None:
    rng = np.random.default_rng(0)
    worlds = [Slot(rng, 0, "zeros", 1)]
    buffer = buffer_of(1, 1, 20, alpha=1.0)
    buffer.add(slice(0, 1), *fragment(worlds, 10, True, [False]))
    early = buffer.draw(rng.random((1, 8)))
    for _ in range(3):
        buffer.add(slice(0, 1), *fragment(worlds, 10, True, [False]))
    before = buffer.get_state()["values"].copy()
    assert buffer.set_priorities(early.rows, np.full(8, 1e6)) == 8
    np.testing.assert_array_equal(buffer.get_state()["values"], before)


def steps(buffer: Buffer, first: int, count: int, **columns: Any) -> None:
    """Store steps of one slot that see, do and earn ``first``, ``first + 1``, ..."""
    seen = np.arange(first, first + count + 1, dtype=np.int32)
    no = np.zeros((count, 1), bool)
    rows = {"terminated": no, "truncated": no, "valid": ~no, "final": {}, **columns}
    buffer.add(slice(0, 1), {"obs": seen[:, None, None]}, seen[:-1, None], seen[:-1, None], **rows)


def drawn(buffer: Buffer) -> list[tuple[int, float, float, int]]:
    """All transitions: what was seen, the return, the product of discounts, what followed."""
    batch = buffer.everything().batch
    seen, following = (batch[name]["obs"][:, 0] for name in ("obs", "next_obs"))
    columns = seen, batch["reward"], batch["discount"], following
    return list(zip(*(x.tolist() for x in columns), strict=True))


def test_a_stream_that_broke_off_is_not_continued_by_the_next() -> None:
    """Its last transitions end with the observation that really followed."""
    buffer = buffer_of(1, 1, 50, n_step=2)
    steps(buffer, 10, 2)
    steps(buffer, 20, 2)  # the worker was replaced
    once, twice = pytest.approx(GAMMA), pytest.approx(GAMMA**2)
    assert drawn(buffer) == [
        (10, pytest.approx(10 + GAMMA * 11), twice, 12),
        (11, 11.0, once, 12),
        (20, pytest.approx(20 + GAMMA * 21), twice, 22),
        (21, 21.0, once, 22),
    ]


def test_a_fragment_that_is_not_the_next_one_continues_nothing() -> None:
    """Though it begins with what was seen last: two steps between them were lost."""
    buffer = buffer_of(1, 1, 50, n_step=2)
    steps(buffer, 10, 1, fragment=np.array([0, 0]))
    steps(buffer, 11, 1, fragment=np.array([0, 2]))
    steps(buffer, 12, 1, fragment=np.array([0, 3]))
    assert [(seen, after) for seen, _, _, after in drawn(buffer)] == [(10, 11), (11, 13), (12, 13)]


def test_a_run_of_steps_longer_than_the_ring_leaves_the_newest() -> None:
    buffer = buffer_of(1, 1, 8)
    steps(buffer, 0, 12)
    discount = pytest.approx(GAMMA)
    assert drawn(buffer) == [(t, float(t), discount, t + 1) for t in range(5, 12)]


def test_what_a_time_limit_cut_off_outlives_a_gap_after_it() -> None:
    """Next-step autoreset: the observation would have come with the next fragment's first row."""
    buffer = buffer_of(1, 1, 50)
    steps(buffer, 0, 3, truncated=np.array([[False], [False], [True]]))
    steps(buffer, 100, 2)  # of a replacement
    assert [(seen, after) for seen, _, _, after in drawn(buffer)] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (100, 101),
        (101, 102),
    ]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_an_end_that_is_not_valid_is_no_step(end: str) -> None:
    """Of two episodes only the first is to be drawn; what ended the other is nobody's last."""
    buffer = buffer_of(1, 1, 50)
    over, valid = np.array([[[0], [1], [0], [1]], [[1], [1], [0], [0]]], bool)
    final = {(t, 0): {"obs": np.array([90 + t], np.int32)} for t in (1, 3)}
    steps(buffer, 0, 4, **{end: over}, valid=valid, final=final)
    steps(buffer, 4, 1)
    truncated = end == "truncated"
    seen, earned, discounts, after = zip(*drawn(buffer), strict=True)
    assert (seen, earned) == ((0, 1, 4), (0.0, 1.0, 4.0)) and buffer.stored == 3
    assert discounts == pytest.approx((GAMMA, GAMMA * truncated, GAMMA))
    assert (after[0], after[2]) == (1, 5) and (after[1] == 91 or not truncated)


def test_rows_behind_an_end_that_are_not_valid_take_no_room() -> None:
    buffer, over = buffer_of(1, 1, 8), np.zeros((20, 1), bool)
    over[2] = True
    for first in (0, 100):
        valid = np.arange(20)[:, None] < 3
        steps(buffer, first, 20, terminated=over, valid=valid)
    assert [seen for seen, _, _, _ in drawn(buffer)] == [0, 1, 2, 100, 101, 102]


@pytest.mark.parametrize("stack", [1, 3])
def test_a_restored_buffer_goes_on_bit_for_bit(stack: int) -> None:
    world = [Slot(np.random.default_rng(0), 0, "zeros", stack)]
    buffer = buffer_of(stack, 1, 60, alpha=0.5, n_step=3)
    for _ in range(10):
        buffer.add(slice(0, 1), *fragment(world, 9, True, [False]))
    other = buffer_of(stack, 1, 60, alpha=0.5, n_step=3)
    elsewhere = [Slot(np.random.default_rng(2), 500, "zeros", stack)]
    for _ in range(8):  # of what it held, nothing stays
        other.add(slice(0, 1), *fragment(elsewhere, 11, True, [False]))
    other.set_state(buffer.get_state())
    assert other.size == buffer.size
    assert other.mass == buffer.mass
    last = fragment(world, 9, True, [False])
    drawn = []
    for each in (buffer, other):
        rng = np.random.default_rng(1)
        each.add(slice(0, 1), *last)
        first = each.draw(rng.random((1, 16)), 0.5)
        each.set_priorities(first.rows, rng.random(16))
        drawn.append((first.rows, each.draw(rng.random((1, 16)), 0.5)))
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    for key in ("reward", "discount", "weight", "action"):
        np.testing.assert_array_equal(drawn[0][1].batch[key], drawn[1][1].batch[key])


@pytest.mark.parametrize(
    ("key", "broken", "said"),
    [
        ("rows", lambda x: x[:1], "rows"),
        ("head", lambda x: x[:1], "head"),
        ("values", lambda x: np.append(x, 1.0), "values"),
        ("values", lambda x: np.where(x > 0.0, np.nan, x), "not finite"),
        ("values", lambda x: -x, "below 0"),
        ("head", lambda x: -1 - x, "below 0"),
        ("due", lambda x: x[:1], "due"),
        ("rows", lambda x: x | 4, "kind"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(key: str, broken: Any, said: str) -> None:
    """Compiled code does not look where it reads, so nothing of another size may come in."""
    rng = np.random.default_rng(0)
    buffer, slots = buffer_of(1, 2, 50), [Slot(rng, 1000 * i, "zeros", 1) for i in range(2)]
    *columns, final = fragment(slots, 20, True, [False] * 2)
    buffer.add(slice(0, 2), *columns, final)
    before = buffer.everything()
    state = buffer.get_state()
    with pytest.raises(ValueError, match=said):
        buffer.set_state({**state, key: broken(state[key])})
    np.testing.assert_array_equal(buffer.everything().rows, before.rows)
    np.testing.assert_array_equal(buffer.everything().batch["reward"], before.batch["reward"])


def test_entries_of_every_size_come_back_as_they_were_stored() -> None:
    """Also those that do not fill words of four bytes, beside each other in one row."""
    columns = {
        "mask": Column((3,), np.dtype(bool)),
        "image": Column((2, 3, 3), np.dtype(np.uint8), 2),
        "double": Column((2, 2), np.dtype(np.float64)),
        "half": Column((), np.dtype(np.float16)),
    }
    buffer = Buffer(Layout(columns, Column((3,), np.dtype(np.float32))), 2, 40)
    rng, steps = np.random.default_rng(0), 9
    shape = steps + 1, 2
    obs = {k: rng.integers(0, 200, (*shape, *c.shape)).astype(c.dtype) for k, c in columns.items()}
    obs["image"][1:, :, 0] = obs["image"][:-1, :, 1]  # successive stacks share all but one frame
    action = rng.standard_normal((steps, 2, 3)).astype(np.float32)
    no, reward = np.zeros((steps, 2), bool), np.zeros((steps, 2))
    buffer.add(slice(0, 2), obs, action, reward, no, no, ~no, {})
    batch = buffer.everything().batch
    for key, x in obs.items():
        in_order = np.moveaxis(x, 1, 0)  # slot by slot
        expected = in_order[:, :-1].reshape(-1, *columns[key].shape)
        followed = in_order[:, 1:].reshape(-1, *columns[key].shape)
        np.testing.assert_array_equal(batch["obs"][key], expected, strict=True)
        np.testing.assert_array_equal(batch["next_obs"][key], followed, strict=True)
    np.testing.assert_array_equal(batch["action"], np.moveaxis(action, 1, 0).reshape(-1, 3))


def test_a_buffer_takes_the_bytes_that_were_predicted() -> None:
    """100,000 Atari transitions: frames are stored once, not four times and not twice."""
    obs = {"obs": Column((4, 84, 84), np.dtype(np.uint8), 4)}
    layout = Layout(obs, Column((), np.dtype(np.int32)))
    buffer = Buffer(layout, 8, 100_000, n_step=3)
    state = buffer.get_state()
    predicted = layout.nbytes(100_000, 8)
    assert state["rows"].nbytes + sum_tree(100_000).nbytes == predicted
    assert predicted == pytest.approx(100_000 * 84 * 84, rel=0.01)
    assert layout.nbytes(1_000_000, 8) <= 7.6e9
