"""Is every sequence that is drawn one that happened, with the memory that was acted with?

The fuzz of ``test_fuzz``, with a network that counts the steps since its memory was last reset.
From the memory of a window's first row and the flags of where episodes begin, it must arrive at
what was counted while acting, in each env step that is trained on and each bootstrapped from.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shoal.replay.buffer import SLOT
from shoal.replay.layout import Column, Layout, least_rows, with_priorities
from shoal.replay.sequences import SequenceBuffer
from shoal.spaces.base import MEMORY
from shoal.trajectory import Window, ndarray
from tests.replay.test_fuzz import GAMMA, ROWS, Case, close, run, same
from tests.worlds import difference

COUNT = f"{MEMORY}count"
ZERO = {COUNT: np.zeros(1, np.float32)}


class Counted(SequenceBuffer):
    """What is stored has the memory of a network that counts."""

    log: dict[str, ndarray]

    def store(self, worker: int, batch: Any) -> None:
        rows = batch["action"]
        own, then = self.log["count"][rows], self.log["next_count"][rows]
        ended = rows[batch["final_t"], batch["final_b"]]
        count = np.concatenate([own[:1], then])[..., None].astype(np.float32)
        final = (self.log["count"][ended] + 1)[..., None].astype(np.float32)
        obs, final = {**batch["obs"], COUNT: count}, {**batch["final"], COUNT: final}
        super().store(worker, {**batch, "obs": obs, "final": final})


class Sequences(Case):
    """See ``Case``."""

    buffer: Counted

    def made(self) -> Counted:
        if not hasattr(self, "window"):
            steps = int(self.rng.integers(1, 8))
            overlap, burn_in = int(self.rng.integers(steps)), int(self.rng.integers(0, 7))
            self.window = Window(steps, burn_in, overlap, 0.9)
            least = least_rows(self.window, self.setting.n_step, self.setting.stack)
            length = least + int(self.rng.choice([0, 20, 200, 2000]))
            self.setting = replace(self.setting, length=length)
            self.first = np.zeros(0)  # priorities of env steps
            self.given: dict[int, float] = {}  # those set later, of sequences
        s = self.setting
        stacked = ((s.stack, 1, 1), np.dtype(np.int32), s.stack)
        obs = {
            "image": Column(*stacked) if s.stack > 1 else Column((1,), np.dtype(np.int32)),
            "speed": Column((2,), np.dtype(np.float32)),
            COUNT: Column((1,), np.dtype(np.float32)),
        }
        layout = with_priorities(Layout(obs, Column((), np.dtype(np.int32))))
        options: Any = {"n_step": s.n_step, "gamma": GAMMA, "alpha": s.alpha}
        capacity = s.length * self.slots
        made = Counted(layout, self.slots, capacity, self.window, ZERO, **options)
        made.log = self.log
        return made

    def replace(self, worker: int) -> None:
        super().replace(worker)
        self.buffer.log = self.log

    def note(self, rows: ndarray, priority: ndarray | None) -> None:
        stored = self.log["stored"]
        stored[rows] = True
        self.log["goes_on"][:-1] = stored[:-1] & stored[1:]
        self.log["goes_on"][ROWS - 1 :: ROWS] = False
        self.first = np.append(self.first, np.full(len(stored) - len(self.first), np.nan))
        if priority is not None:
            self.first[rows] = priority

    # ------------------------------------------------------------ what is looked at

    def check(self) -> None:
        found = self.buffer.everything()
        starts = found.batch["action"][:, 0] if len(found.rows) else np.zeros(0, np.int64)
        assert len(np.unique(starts)) == len(starts) == self.buffer.size
        self.newest(starts)
        if not len(starts):
            return
        self.compare(found.batch)
        self.drawn_by(found.rows, starts)
        u = self.rng.random((2, 4))
        drawn = self.buffer.draw(u, 0.4)
        self.compare(drawn.batch)
        numbers = drawn.batch["action"][:, 0]
        assert np.isin(numbers, starts).all()
        if self.setting.alpha:
            value = self.values(drawn.rows).reshape(2, 4)
            weight = (value / value.min(1, keepdims=True)) ** -0.4
            close(drawn.batch["weight"].reshape(2, 4), weight, rtol=1e-5)
            self.store(int(self.rng.integers(self.setting.workers)))  # meanwhile
            now = self.buffer.everything().batch["action"][:, 0]
            there = np.isin(numbers, now)
            priority = self.rng.uniform(0.01, 4.0, len(numbers))
            assert self.buffer.set_priorities(drawn.rows, priority) == int((~there).sum())
            self.given |= dict(zip(numbers[there].tolist(), priority[there], strict=True))

    def values(self, rows: ndarray) -> ndarray:
        """What rows are drawn by."""
        slot, row = np.divmod(rows, SLOT)
        leaves = slot * self.buffer.length + row % self.buffer.length
        return self.buffer.likelihood(leaves) * self.buffer.mass / self.buffer.size

    def drawn_by(self, rows: ndarray, starts: ndarray) -> None:
        for start, value in zip(starts.tolist(), self.values(rows).tolist(), strict=True):
            steps = self.steps(start)
            own = self.first[start : start + min(steps, self.window.steps)]
            if start in self.given:
                expected = self.given[start]
            elif np.isnan(own).any():
                continue  # the highest so far
            else:
                expected = 0.9 * own.max() + 0.1 * own.mean()
            close(value, expected**self.setting.alpha, rtol=1e-5)

    def steps(self, start: int) -> int:
        """Env steps from there on, until an episode or what was stored of it ends."""
        log, at = self.log, start
        while not (log["terminated"][at] or log["truncated"][at]) and log["goes_on"][at]:
            at += 1
        return at + 1 - start

    def compare(self, batch: Any) -> None:
        log, window, n = self.log, self.window, self.setting.n_step
        burn_in = window.burn_in
        for j, start in enumerate(batch["action"][:, 0].tolist()):
            steps = self.steps(start)
            valid = min(steps, window.steps)
            same(batch["mask"][j], (np.arange(window.steps) < valid).astype(np.float32), "mask")
            counts = self.counted(batch["obs"][COUNT][j, 0], batch["begins"][j])
            for t in range(valid):
                row, taken = start + t, min(n, steps - t)
                assert batch["action"][j, t] == row
                following = range(row, row + taken)
                total = sum(GAMMA**k * log["reward"][i] for k, i in enumerate(following))
                end = row + taken - 1
                discount = 0.0 if log["terminated"][end] else GAMMA**taken
                close(batch["reward"][j, t], total, rtol=1e-5, atol=1e-5)
                close(batch["discount"][j, t], discount, rtol=1e-5)
                self.seen_at(batch, j, burn_in + t, log["frames"][row])
                assert counts[burn_in + t] == log["count"][row]
                if discount:
                    then = batch["then"][j, t]
                    self.seen_at(batch, j, then, log["after"][end])
                    assert counts[then] == log["count"][end] + 1
                self.checked += 1
            for back in range(1, burn_in + 1):  # the prefix, as far as its episode goes back
                row = start - back
                if row < 0 or not log["goes_on"][row] or log["count"][row + 1] == 0:
                    break
                self.seen_at(batch, j, burn_in - back, log["frames"][row])

    def counted(self, count: float, begins: ndarray) -> list[float]:
        """What the network counts along a window."""
        found = []
        for begin in begins:
            count = 0.0 if begin else count
            found.append(count)
            count += 1
        return found

    def seen_at(self, batch: Any, j: int, at: int, frames: ndarray) -> None:
        for leaf, x in self.seen(frames[None]).items():
            same(batch["obs"][leaf][j, at][None], x, leaf)

    def newest(self, live: ndarray) -> None:
        """Of each slot the newest whole sequences, without a hole, as many as there is room for."""
        log, window, n = self.log, self.window, self.setting.n_step
        stride, known = window.steps - window.overlap, 0
        for firsts in self.owner:
            wanted: list[int] = []
            linked = False  # to the row before
            at, stop = -1, -1
            for first in firsts:
                linked = False
                for row in range(first, first + ROWS):
                    if not log["stored"][row]:
                        linked = False
                        continue
                    if not linked and log["count"][row]:
                        at = sound = row + window.burn_in
                    elif not linked or log["count"][row] == 0:
                        at = sound = row
                    stop = row
                    if log["mask"][row] and row == at:
                        wanted.append(row)
                        at += stride
                    if log["terminated"][row] or log["truncated"][row]:
                        at = max(row + 1, sound)
                    linked = True
            open_end = not (log["terminated"][stop] or log["truncated"][stop])
            if open_end and log["mask"][stop]:  # the rest of it may still come
                wanted = [
                    row
                    for row in wanted
                    if row + window.steps + n - 2 <= stop or row + self.steps(row) - 1 < stop
                ]
            own = np.isin(wanted, live)
            count = int(own.sum())
            known += count
            assert own[len(own) - count :].all(), (wanted, live)
            if wanted and self.setting.episode > 90 and self.setting.longest > 30:
                assert count or self.setting.length < 100
        assert known == len(live), (known, live)


@pytest.mark.parametrize("part", range(2))
def test_what_is_drawn_has_happened(part: int) -> None:
    checked, seed = 0, 0
    while checked < 40_000:
        case = Sequences(1_000_000 * part + seed)
        try:
            checked += run(case, 8)
        except Exception as error:
            error.add_note(f"seed {1_000_000 * part + seed}: {case.setting} {case.window}")
            raise
        seed += 1


@pytest.mark.parametrize("seed", range(6))
def test_a_rollback_is_as_if_nothing_had_happened(seed: int) -> None:
    """Fragments, gaps and priorities after a mark are undone bit for bit, and go on as before."""
    case = Sequences(40 + seed)
    for _ in range(6):
        case.store(int(case.rng.integers(case.setting.workers)))
    buffer = case.buffer
    buffer.forget(buffer.changes)
    before, mark = copy.deepcopy(buffer.get_state()), buffer.changes
    size, mass = buffer.size, buffer.mass
    for _ in range(3):
        case.store(int(case.rng.integers(case.setting.workers)))
        if buffer.size:
            rows = buffer.draw(case.rng.random((1, 5))).rows
            buffer.set_priorities(rows, case.rng.random(5) + 0.1)
    buffer.rollback(mark)
    kept = copy.deepcopy(buffer.get_state())
    assert difference(kept, before) == ""
    assert (buffer.size, buffer.mass, buffer.changes) == (size, mass, mark)
