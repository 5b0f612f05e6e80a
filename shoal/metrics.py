"""Reports of a run: one flat vocabulary for console, JSON lines and TensorBoard."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.config.config import Stop
from shoal.fleet.base import Stats
from shoal.plans.base import Update, Work
from shoal.plans.run import Counters

WINDOW = 100  # episodes that return_mean, return_min, ... cover
WORKER_PARTS = ("env", "act", "postprocess", "gradient", "idle")
PARTS = ("wait", "transfer", "learn", "broadcast")


class Report(dict[str, Any]):
    """What one call of ``Trainer.train`` did: a flat dict whose ``repr`` is one line."""

    def __repr__(self) -> str:
        shown = ("env_steps", "episodes", "return_mean", "steps_per_s")
        parts = [f"{name}={self[name]:.6g}" for name in shown if self.get(name) is not None]
        return f"<Report: {', '.join(parts)}, {len(self)} entries>"


@dataclass
class Recorder:
    """Gathers the updates between two reports, and the last 100 episodes of the run."""

    episodes: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    wall_s: float = 0.0  # of the run so far, over all its resumptions
    reported: int = 0  # env steps at the last report
    returns: dict[str, deque[float]] = field(default_factory=dict)  # of 100 episodes, by policy
    labelled: int = 0  # transitions labelled at the last report
    _updates: list[Update] = field(default_factory=list)

    def add(self, update: Update) -> None:
        self.episodes.extend(update.episodes)
        for policy, new in update.returns.items():
            self.returns.setdefault(policy, deque(maxlen=WINDOW)).extend(new)
        self._updates.append(update)

    def abandon(self, seconds: float) -> None:
        """Drop the updates since the last report: the call that made them failed.

        Their seconds and episodes still count.
        """
        self._updates = []
        self.wall_s += seconds

    def window_full(self) -> bool:
        """Whether return_mean covers 100 episodes."""
        return len(self.episodes) == WINDOW

    def return_mean(self) -> float | None:
        """Mean over the last 100 episodes; None before the first has ended."""
        n = len(self.episodes)
        return sum(r for r, _ in self.episodes) / n if n else None

    def settled_return(self) -> float | None:
        """The same; None until it is the mean of 100 episodes."""
        return self.return_mean() if self.window_full() else None

    def met(self, stop: Stop, env_steps: int, mean: float | None) -> str | None:
        """Which stop condition holds: "return", "steps", "seconds", or None.

        ``mean`` is the return that counts, if there is one yet.
        """
        if stop.return_mean is not None and mean is not None and mean >= stop.return_mean:
            return "return"
        if stop.env_steps is not None and env_steps >= stop.env_steps:
            return "steps"
        if stop.seconds is not None and self.wall_s >= stop.seconds:
            return "seconds"
        return None

    def report(self, counters: Counters, env_steps: int, seconds: float, stats: Stats) -> Report:
        """The report on ``env_steps`` env steps and ``seconds`` since the last one.

        Times are shares of those seconds. For concurrent workers they are means over the workers
        and add up to 1 (``WORKER_PARTS``), as do those of the learner's process (``PARTS``). If all
        take turns in one process (``concurrency`` 0), both together add up to 1 and idle is 0. A
        sample counts when it arrives, so the busy shares of a single report may add up to more.
        """
        updates, self._updates = self._updates, []
        done = [work for update in updates for work in update.work]
        self.wall_s += seconds
        self.reported = counters.env_steps
        returns = [r for r, _ in self.episodes]
        lengths = [n for _, n in self.episodes]
        lags = [work.lag for work in done if work.lag is not None]  # of what was trained on
        concurrency = updates[-1].concurrency if updates else 0
        report = Report(
            {
                "env_steps": counters.env_steps,
                "agent_steps": counters.agent_steps,
                "gradient_steps": counters.gradient_steps,
                "trained_steps": counters.trained_steps,
                "dropped_steps": counters.dropped_steps,
                "replayed_steps": counters.replayed_steps,
                "lost_steps": counters.lost_steps,
                "in_flight_steps": counters.agent_steps
                - counters.trained_steps
                - counters.dropped_steps,
                "out_of_bounds_steps": sum(sum(work.outside.values()) for work in done),
                "episodes": counters.episodes,
                "return_mean": self.return_mean(),
                "return_min": min(returns, default=None),
                "return_max": max(returns, default=None),
                "length_mean": sum(lengths) / len(lengths) if lengths else None,
                "steps_per_s": env_steps / max(seconds, 1e-9),
                "policy_lag_mean": sum(lags) / max(len(lags), 1),
                "policy_lag_max": max(lags, default=0),
                "queue_depth_mean": sum(u.queue for u in updates) / max(len(updates), 1),
                "queue_depth_max": max((u.queue for u in updates), default=0),
                "worker_restarts": sum(stats.restarts.values()),
                "lost_calls": stats.lost_calls,
                "concurrency": concurrency,
                "wall_s": self.wall_s,
            }
        )
        if counters.pulled_steps:
            report |= self._labels(counters, seconds)
        for part, share in _shares(done, seconds * max(concurrency, 1)).items():
            # Workers that take turns in one process wait for each other: that is no idleness.
            report[f"time/{part}"] = 0.0 if part == "idle" and not concurrency else share
        for part in PARTS:
            spent = sum(u.times.get(part, 0.0) for u in updates)
            report[f"time/{part}"] = spent / max(seconds, 1e-9)
        report.update(_by_worker(done, seconds, stats))
        report.update(_means([u.metrics for u in updates]))
        for policy, own in self.returns.items():
            report[f"{policy}/return_mean"] = sum(own) / len(own) if own else None
        return report

    def _labels(self, counters: Counters, seconds: float) -> dict[str, Any]:
        """How transitions go through members that label."""
        new, self.labelled = counters.labelled_steps - self.labelled, counters.labelled_steps
        on_the_way = counters.pulled_steps - counters.labelled_steps - counters.unlabelled_steps
        return {
            "labels/per_s": new / max(seconds, 1e-9),
            "labels/pulled": counters.pulled_steps,
            "labels/labelled": counters.labelled_steps,
            "labels/dropped": counters.unlabelled_steps,
            "labels/in_flight": on_the_way,
            "labels/expired": counters.expired_steps,
        }

    def get_state(self) -> dict[str, Any]:
        return {
            "returns": [r for r, _ in self.episodes],
            "lengths": [n for _, n in self.episodes],
            "wall_s": self.wall_s,
            "reported": self.reported,
            "labelled": self.labelled,
            "by_policy": {policy: list(own) for policy, own in self.returns.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        pairs = zip(state["returns"], state["lengths"], strict=True)
        self.episodes = deque(pairs, maxlen=WINDOW)
        self.wall_s, self.reported = state["wall_s"], state["reported"]
        self.labelled = state["labelled"]
        kept = state["by_policy"].items()
        self.returns = {policy: deque(own, maxlen=WINDOW) for policy, own in kept}
        self._updates = []


def _shares(done: list[Work], seconds: float) -> dict[str, float]:
    """Shares of ``seconds`` that workers spent on each part.

    A worker may have been idle before those seconds began, since the start or while the last report
    was read; its idle time is cut to the seconds that the others leave.
    """
    spent = {part: sum(w.times.get(part, 0.0) for w in done) for part in WORKER_PARTS}
    busy = sum(spent.values()) - spent["idle"]
    spent["idle"] = min(spent["idle"], max(seconds - busy, 0.0))
    return {part: x / max(seconds, 1e-9) for part, x in spent.items()}


def _by_worker(done: list[Work], seconds: float, stats: Stats) -> dict[str, Any]:
    """Per worker: env steps per second, lag, restarts, and shares of the time."""
    report: dict[str, Any] = {}
    for worker in sorted({work.worker for work in done}):
        own = [work for work in done if work.worker == worker]
        name = f"worker/{worker}"
        report[f"{name}/steps_per_s"] = sum(w.env_steps for w in own) / max(seconds, 1e-9)
        report[f"{name}/lag_max"] = max((w.lag for w in own if w.lag is not None), default=0)
        report[f"{name}/restarts"] = stats.restarts.get(worker, 0)
        report |= {f"{name}/{part}": x for part, x in _shares(own, seconds).items()}
    return report


def _means(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the updates that have it; gradient steps are counted elsewhere.

    An update without a gradient step has none, and of several policies only those that took one.
    """
    found: dict[str, list[float]] = {}
    for own in metrics:
        for name, x in own.items():
            if name != "gradient_steps":
                found.setdefault(name, []).append(x)
    return {
        (name if "/" in name else f"learn/{name}"): sum(own) / len(own)
        for name, own in found.items()
    }


class Oddities:
    """Warnings about a run, each given once; the metrics count how often it happens."""

    def __init__(self) -> None:
        self._said = set[str]()

    def of(self, update: Update, warnings: Mapping[str, str]) -> list[str]:
        """New warnings after this update; ``warnings`` has the text for each metric above 0."""
        found = {
            name: text for name, text in warnings.items() if update.metrics.get(name, 0.0) > 0.0
        }
        for path in {path for work in update.work for path in work.outside}:
            found[f"bounds {path}"] = (
                f"the environment's observations {path!r} exceed the bounds of its space: "
                "correct the space, or clip them (out_of_bounds_steps counts the env steps)"
            )
        new = [text for name, text in found.items() if name not in self._said]
        self._said |= found.keys()
        return new
