"""Agents that take turns: from the env steps of a world to the steps of each agent.

An agent's step goes from its action to its next observation, while others act. What it is given
until then belongs to that action (PettingZoo's cumulative rewards). Until it is complete, a step is
kept here, from one fragment to the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from shoal.trajectory import Batch, Trajectory, ndarray, pad, select

_SHAPES = 16  # sizes that a batch of T * B rows can have, so that few programs are compiled


class Turns:
    """Steps of B slots that are not complete yet: at most one of each slot."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.clear()

    def clear(self) -> None:
        """Forget them: new episodes begin."""
        self._row: dict[str, Any] = {}  # obs, action, records, reward, valid of them, [B, ...]

    def steps(self, trajectory: Trajectory, waits: ndarray) -> Trajectory:
        """The complete steps of each slot, one after another: [T + 1, B], fewer of them valid.

        ``waits`` [B] are the slots whose last action is unanswered at the end. What is earned
        before an agent's first action counts as its first action's reward. If a slot has fewer
        steps than rows, the last of them bootstraps, and ``goes_on`` says that no episode ended
        there.
        """
        t = self._joined(trajectory)
        rows, slots = t.valid.shape
        order = np.cumsum(t.valid, 0) - 1  # number of the step that is the newest at each row
        last = t.last
        obs = {path: x.copy() for path, x in t.obs.items()}
        action = t.action.copy()
        records = {name: x.copy() for name, x in t.records.items()}
        reward = np.zeros(t.reward.shape, np.float32)
        valid, terminated, truncated, cut = (np.zeros(t.valid.shape, bool) for _ in range(4))
        finals: list[tuple[int, int, dict[str, ndarray]]] = []
        ends = {key: k for k, key in enumerate(zip(t.final_t, t.final_b, strict=True))}
        pending = np.zeros(slots, bool)
        kept = {
            "obs": {path: x[0].copy() for path, x in t.obs.items()},
            "action": t.action[0].copy(),
            "records": {name: x[0].copy() for name, x in t.records.items()},
            "reward": np.zeros(slots, np.float32),
        }
        for b in range(slots):
            at = np.flatnonzero(t.valid[:, b])
            n = len(at)
            owner, early = _owners(order[:, b], at, last[:, b])
            earned = np.zeros(n, np.float64)
            mine = owner >= 0
            np.add.at(earned, owner[mine], t.reward[mine, b])
            kept["reward"][b] = t.reward[early, b].sum(dtype=np.float64)
            complete = n
            if n and waits[b]:
                complete, pending[b] = n - 1, True
                for path, x in t.obs.items():
                    kept["obs"][path][b] = x[at[-1], b]
                for name, x in t.records.items():
                    kept["records"][name][b] = x[at[-1], b]
                kept["action"][b], kept["reward"][b] = t.action[at[-1], b], earned[-1]
            for path, x in t.obs.items():
                following = x[at[complete], b] if complete < n else x[-1, b]
                obs[path][complete:, b] = following
                obs[path][:complete, b] = x[at[:complete], b]
            action[:complete, b] = t.action[at[:complete], b]
            for name, x in t.records.items():
                records[name][:complete, b] = x[at[:complete], b]
            reward[:complete, b] = earned[:complete]
            valid[:complete, b] = True
            for e in np.flatnonzero(last[:, b]).tolist():
                k = int(owner[e])
                if k >= 0:  # else the agent's episode ended before it ever acted
                    terminated[k, b], truncated[k, b] = t.terminated[e, b], t.truncated[e, b]
                    row = ends[e, b]
                    finals.append((k, b, {path: x[row] for path, x in t.final.items()}))
            k = complete - 1
            if 0 <= k < rows - 1 and not (terminated[k, b] or truncated[k, b]):
                truncated[k, b] = cut[k, b] = True
                finals.append((k, b, {path: x[complete, b] for path, x in obs.items()}))
        self._row = {**kept, "valid": pending}
        return replace(
            t,
            obs=obs,
            action=action,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            final_t=np.array([k for k, _, _ in finals], np.int64),
            final_b=np.array([b for _, b, _ in finals], np.int64),
            final={
                path: np.stack([row[path] for *_, row in finals]) if finals else x[:0]
                for path, x in t.final.items()
            },
            records=records,
            goes_on=cut,
        )

    def _joined(self, t: Trajectory) -> Trajectory:
        """The fragment behind a row of what was kept; without any, nothing happened in that row."""
        row = self._row or {
            "obs": {path: x[0] for path, x in t.obs.items()},
            "action": t.action[0],
            "records": {name: x[0] for name, x in t.records.items()},
            "reward": np.zeros(self._slots, np.float32),
            "valid": np.zeros(self._slots, bool),
        }

        def join(first: ndarray, rest: ndarray) -> ndarray:
            return np.concatenate([first[None].astype(rest.dtype, copy=False), rest])

        none = np.zeros(self._slots, bool)
        return replace(
            t,
            obs={path: join(row["obs"][path], x) for path, x in t.obs.items()},
            action=join(row["action"], t.action),
            reward=join(row["reward"], t.reward),
            terminated=join(none, t.terminated),
            truncated=join(none, t.truncated),
            valid=join(row["valid"], t.valid),
            final_t=t.final_t + 1,
            records={name: join(row["records"][name], x) for name, x in t.records.items()},
        )

    def get_state(self) -> dict[str, Any]:
        """What is kept, as it is."""
        return dict(self._row)

    def set_state(self, state: dict[str, Any], same: ndarray) -> None:
        """The inverse of ``get_state``; slots that are not the ``same`` begin new episodes."""
        self._row = dict(state)
        if self._row:
            self._row["valid"] = self._row["valid"] & same
            self._row["reward"] = np.where(same, self._row["reward"], 0).astype(np.float32)


def _owners(order: ndarray, at: ndarray, last: ndarray) -> tuple[ndarray, ndarray]:
    """Number of the step that the reward of each row belongs to, int [rows]; -1: to none.

    That is the newest step at that row, ``order``, if the agent's episode is still the same; else
    the next of the same episode. And the rows whose rewards wait for a step that is still to come,
    bool [rows]. Steps begin in the rows ``at``; episodes end with the rows ``last``.
    """
    episode = np.cumsum(last) - last
    owner = np.full(len(order), -1)
    for number in (order + 1, order):  # the second is taken if both are possible
        there = (number >= 0) & (number < len(at))
        there[there] = episode[at[number[there]]] == episode[there]
        owner[there] = number[there]
    early = (owner < 0) & (order == len(at) - 1) & (episode == last.sum())
    return owner, early


def dense(batch: Batch) -> Batch:
    """A batch without the rows that hold nothing, filled up to one of a few sizes."""
    mask = batch["mask"]
    held = mask.reshape(len(mask), -1).any(1)
    step = max(1, len(mask) // _SHAPES)
    size = max(step, -(-int(np.count_nonzero(held)) // step) * step)
    if size >= len(mask):
        return batch
    found = select(batch, np.flatnonzero(held))
    return pad(found, size)
