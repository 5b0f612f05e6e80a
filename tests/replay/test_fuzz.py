"""Is every transition, of hundreds of thousands drawn at random settings, one that happened?

Streams of env steps are made first, whole, as arrays: the raw log. Fragments of them go through a
buffer with losses, replaced workers, restored states and late priorities in between. What is drawn
is compared with what a plain oracle reads off the raw log. An action is the number of its step, so
each transition says which it is, whatever its observations look like.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from shoal.replay.buffer import Buffer
from shoal.replay.layout import Column, Layout
from shoal.trajectory import ndarray

GAMMA = 0.9
BLANK = 5  # a frame that is seen again and again
ROWS = 600  # of a stream


@dataclass(frozen=True)
class Setting:
    """What one draw of the fuzz is about."""

    stack: int
    n_step: int
    same_step: bool  # environments begin their next episode in the step that ends one
    zeros: bool  # fill an episode's first stack, else copies of its first frame
    workers: int
    copies: int  # environments of each worker
    length: int  # rows of a slot
    alpha: float
    longest: int  # steps of a fragment
    episode: int  # steps of the longest
    blanks: float  # share of frames that look alike

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Setting:
        stack, n_step = int(rng.integers(1, 5)), int(rng.integers(1, 6))
        return cls(
            stack,
            n_step,
            bool(rng.integers(2)),
            bool(rng.integers(2)),
            int(rng.integers(1, 4)),
            int(rng.integers(1, 3)),
            int(rng.choice([n_step + 2 * stack, 23, 60, 250, 2000])),
            float(rng.choice([0.0, 0.6])),
            int(rng.choice([2, 12, 40, 80])),
            int(rng.choice([3, 12, 100])),
            float(rng.choice([0.0, 0.5])),
        )


def stream(rng: np.random.Generator, s: Setting, first: int) -> dict[str, ndarray]:
    """All that one environment copy does until it is replaced: ``ROWS`` rows, numbered from first.

    Row t acts on ``frames[t]`` and leads to ``after[t]``, stacks [stack]. The environment goes on
    from ``frames[t + 1]``, which is another where it has begun its next episode (``cut``).
    """
    t = np.arange(ROWS + 1)
    resets = not s.same_step  # in a row of their own
    begins = np.cumsum(np.concatenate([[0], rng.integers(1, s.episode + 1, ROWS) + resets]))
    begun = begins[np.searchsorted(begins, t, "right") - 1]  # where each row's episode began
    last = np.isin(t[:-1], begins[1:] - 1 - resets)
    valid = ~np.isin(t[:-1], begins[1:] - 1) if resets else np.ones(ROWS, bool)
    how = rng.integers(3, size=ROWS)
    lives = valid & ~last & (rng.random(ROWS) < 0.05)  # the task ends, the environment goes on
    frame = 10 + first + t
    frame[(rng.random(ROWS + 1) < s.blanks) & (t > 0)] = BLANK
    back = t[:, None] - np.arange(s.stack)[::-1]
    older = frame[np.maximum(back, begun[:, None])]
    frames = np.where((back < begun[:, None]) & s.zeros, 0, older)
    shown = np.where(rng.random(ROWS) < s.blanks, BLANK, 5_000_000 + first + t[:-1])
    final = np.concatenate([frames[:-1, 1:], shown[:, None]], axis=1)
    cut = last & s.same_step
    return {
        "action": first + t[:-1],
        "reward": rng.integers(-3, 4, ROWS).astype(np.float32),
        "terminated": (last & (how != 1)) | lives,
        "truncated": last & (how != 0),
        "mask": valid,
        "cut": cut,
        "frames": frames[:-1],
        "next": frames[1:],
        "after": np.where(cut[:, None], final, frames[1:]),
        "count": t[:-1] - begun[:-1],  # steps of the episode before
        "next_count": t[1:] - begun[1:],
        "stored": np.zeros(ROWS, bool),
        "goes_on": np.zeros(ROWS, bool),  # the next row was stored as its continuation
    }


class Case:
    """A buffer, the workers that fill it, and the log of all that they did."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.setting = each = Setting.draw(self.rng)
        self.slots, self.log = each.workers * each.copies, dict[str, ndarray]()  # of all streams
        self.owner: list[list[int]] = [[] for _ in range(self.slots)]  # first rows of its streams
        self.number, self.cursor = [0] * each.workers, [0] * each.workers
        self.restarts = [0] * each.workers
        self.buffer = self.made()
        for worker in range(each.workers):
            self.replace(worker)
        self.value = np.zeros(0)  # priority to the power of alpha, by number of the step
        self.highest, self.checked = 1.0, 0

    def made(self) -> Buffer:
        s = self.setting
        obs = {
            "image": Column((s.stack, 1, 1), np.dtype(np.int32), s.stack),
            "speed": Column((2,), np.dtype(np.float32)),
        }
        if s.stack == 1:
            obs["image"] = Column((1,), np.dtype(np.int32))
        layout = Layout(obs, Column((), np.dtype(np.int32)))
        capacity = s.length * self.slots
        return Buffer(layout, self.slots, capacity, n_step=s.n_step, gamma=GAMMA, alpha=s.alpha)

    def seen(self, frames: ndarray) -> dict[str, ndarray]:
        """Observations of stacks [..., stack]: the newest frame, and no number, in "speed"."""
        speed = np.stack([frames[..., -1], np.full(frames.shape[:-1], np.nan)], -1)
        image = frames if self.setting.stack == 1 else frames[..., None, None]
        return {"image": image.astype(np.int32), "speed": speed.astype(np.float32)}

    # ------------------------------------------------------------ what happens to the buffer

    def replace(self, worker: int) -> None:
        """New environments, in the same slots."""
        for copy_ in range(self.setting.copies):
            first = len(self.log.get("action", ()))
            new = stream(self.rng, self.setting, first)
            self.log = {k: np.concatenate([self.log[k], x]) if first else x for k, x in new.items()}
            self.owner[worker * self.setting.copies + copy_].append(first)
        self.cursor[worker] = 0

    def store(self, worker: int) -> None:
        """The worker's next fragment; or, in between, a gap before it."""
        s, rng = self.setting, self.rng
        gap = rng.random()
        steps = int(rng.integers(1, s.longest + 1))
        if gap < 0.04:  # a fragment is lost on its way
            self.cursor[worker] += int(rng.integers(1, s.longest + 1))
            self.number[worker] += 1
        elif gap < 0.08:  # a replacement, whose fragments may be counted on or from 0
            self.replace(worker)
            self.restarts[worker] += 1
            self.number[worker] *= int(rng.integers(2))
        elif gap < 0.12:  # a resume, with environments that could not be restored
            self.replace(worker)
        begin = self.cursor[worker]
        if begin + steps > ROWS:
            self.replace(worker)
            self.restarts[worker] += 1
            begin = 0
        own = [self.owner[worker * s.copies + i][-1] for i in range(s.copies)]
        rows = begin + np.arange(steps)[:, None] + np.array(own)
        names = "action", "reward", "terminated", "truncated", "mask"
        t, b = np.nonzero(self.log["cut"][rows])
        frames = np.concatenate([self.log["frames"][rows[:1]], self.log["next"][rows]])
        batch = {
            **{name: self.log[name][rows] for name in names},
            "obs": self.seen(frames),
            "final_t": t,
            "final_b": b,
            "final": self.seen(self.log["after"][rows[t, b]]),
            "fragment": np.array([self.restarts[worker], self.number[worker]]),
        }
        priority = None
        if s.alpha and rng.random() < 0.5:
            batch["priority"] = priority = rng.uniform(0.01, 3.0, rows.shape)
        self.buffer.store(worker, batch)
        self.note(rows, priority)
        self.cursor[worker] += steps
        self.number[worker] += 1

    def note(self, rows: ndarray, priority: ndarray | None) -> None:
        """The same in the log."""
        stored = self.log["stored"]
        stored[rows] = True
        self.log["goes_on"][:-1] = stored[:-1] & stored[1:]
        self.log["goes_on"][ROWS - 1 :: ROWS] = False
        self.value.resize(len(stored), refcheck=False)
        if priority is None:
            self.value[rows] = self.highest
            return
        self.value[rows] = priority**self.setting.alpha
        self.highest = max(self.highest, float(self.value[rows].max()))

    def restore(self) -> None:
        """Another buffer takes up the state of this one."""
        state = copy.deepcopy(self.buffer.get_state())
        self.buffer = self.made()
        self.buffer.set_state(state)

    # ------------------------------------------------------------ what is looked at

    def check(self) -> None:
        found = self.buffer.everything()
        if not len(found.rows):
            return
        live = found.batch["action"]
        self.compare(found.batch)
        self.newest(live)
        beta = 0.4
        u = self.rng.random((3, 8))
        drawn = self.buffer.draw(u, beta)
        self.compare(drawn.batch)
        numbers = drawn.batch["action"]
        assert np.isin(numbers, live).all()
        if self.setting.alpha:
            value = self.value[numbers].reshape(3, 8)
            weight = (value / value.min(1, keepdims=True)) ** -beta
            close(drawn.batch["weight"].reshape(3, 8), weight, rtol=1e-5)
            close(self.buffer.mass, self.value[live].sum(), rtol=1e-9)
            self.store(int(self.rng.integers(self.setting.workers)))  # meanwhile
            now = self.buffer.everything().batch["action"]
            there = np.isin(numbers, now)
            priority = self.rng.uniform(0.01, 4.0, len(numbers))
            assert self.buffer.set_priorities(drawn.rows, priority) == int((~there).sum())
            self.value[numbers[there]] = priority[there] ** self.setting.alpha
            self.highest = max([self.highest, *priority[there] ** self.setting.alpha])
            close(self.buffer.mass, self.value[now].sum(), rtol=1e-9)

    def compare(self, batch: Any) -> None:
        """Transitions with the log's."""
        log, rows = self.log, batch["action"]
        total, discount, at = np.zeros(len(rows)), np.ones(len(rows)), rows.copy()
        going = np.ones(len(rows), bool)
        for step in range(self.setting.n_step):
            if step:
                going &= ~log["terminated"][at] & ~log["truncated"][at] & log["goes_on"][at]
                at[going] += 1
            total[going] += discount[going] * log["reward"][at[going]]
            discount[going] *= GAMMA
        discount[log["terminated"][at]] = 0.0
        frames, following = log["frames"][rows], log["after"][at]
        for leaf, x in self.seen(frames).items():
            same(batch["obs"][leaf], x, leaf)
        counts = discount > 0.0  # what follows an ending is not looked at
        for leaf, x in self.seen(following[counts]).items():
            same(batch["next_obs"][leaf][counts], x, f"next {leaf}")
        close(batch["reward"], total, rtol=1e-5, atol=1e-5)
        close(batch["discount"], discount, rtol=1e-5)
        self.checked += len(rows)

    def newest(self, live: ndarray) -> None:
        """Of each slot the newest are kept, without a hole, as many as its ring has room for."""
        s, stored = self.setting, 0
        assert self.buffer.size == len(live) == len(np.unique(live))
        begin = 0
        wanted = self.log["stored"] & self.log["mask"]
        for firsts in self.owner:
            kept = [first + np.flatnonzero(wanted[first : first + ROWS]) for first in firsts]
            numbers = np.concatenate(kept)
            stored += len(numbers)
            own = np.isin(numbers, live)
            count = int(own.sum())
            assert own[len(own) - count :].all()
            same(live[begin : begin + count], numbers[own])
            begin += count
            # An episode and a gap each take up to stack + 1 rows more; steps of 1 are the worst.
            assert count >= min(len(numbers), (s.length - s.stack) // (s.stack + 2))
        assert begin == len(live)
        assert stored == self.buffer.stored


def same(got: ndarray, expected: ndarray, what: str = "numbers") -> None:
    equal = (
        got.shape == expected.shape
        and ((got == expected) | ((got != got) & (expected != expected))).all()
    )
    assert equal, (what, got, expected)


def close(got: Any, expected: Any, rtol: float, atol: float = 0.0) -> None:
    assert (abs(got - expected) <= atol + rtol * abs(expected)).all(), (got, expected)


def run(case: Case, rounds: int) -> int:
    """One draw of the fuzz; returns how many transitions were compared."""
    for _ in range(rounds):
        for _ in range(int(case.rng.integers(1, 5))):
            case.store(int(case.rng.integers(case.setting.workers)))
        if case.rng.random() < 0.1:
            case.restore()
        case.check()
    return case.checked


@pytest.mark.parametrize("part", range(4))
def test_what_is_drawn_has_happened(part: int) -> None:
    checked, seed = 0, 0
    while checked < 75_000:
        case = Case(1_000_000 * part + seed)
        try:
            checked += run(case, 12)
        except Exception as error:
            error.add_note(f"seed {1_000_000 * part + seed}: {case.setting}")
            raise
        seed += 1
