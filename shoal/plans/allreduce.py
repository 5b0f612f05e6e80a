"""All-reduce: every worker is a learner, and all of them take every gradient step together.

DD-PPO's plan (Wijmans et al. 2020, arXiv:1911.00357, section 3): workers sample, each on its own;
in every gradient step they average their gradients and apply the same, so that their weights stay
equal to the bit. Nothing but gradients travels, and no weights are ever sent.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

from shoal.algorithms.base import Algorithm
from shoal.fleet.base import Fleet, results
from shoal.fleet.collective import Broken
from shoal.learners.base import Learner
from shoal.plans.base import Clock, Run, Update, Work, metrics_of, replays, work

ATTEMPTS = 3  # at an update, or a meeting, that fail in a row though no rank died


@dataclass(frozen=True)
class Allreduce:
    """The plan has no options."""

    name: Literal["allreduce"] = "allreduce"  # name of the plan

    exact = True
    learns_on_workers = True

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Whatever is to remember: each rank trains on what the shared weights have sampled."""
        return replays(algorithm)

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        return allreduce(fleet, learner, run)


def allreduce(fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
    """Let all ranks sample and update together; one ``Update`` each time round.

    ``learner`` is a copy of what all ranks hold. When one of them dies, the others give the update
    up; all who are there begin again from the copy, and what was sampled for it is dropped.

    Raises Broken when ranks that live do not reach each other.
    """
    ranks = failures = 0  # that have met and hold the same weights; and in a row, without a death
    done: list[Work] = []
    episodes: list[tuple[float, int]] = []
    clock = Clock()
    while True:
        if ranks != fleet.size or not ranks:
            fleet.broadcast(learner.weights(), learner.version)
            ranks, broken = meet(fleet, learner)
            failures = _failures(failures, broken)
            clock("broadcast")
            continue
        hyper = run.hyper()
        gathered = fleet.attempt("gather", [(run.fragments, run.normalisation())] * ranks)
        trained: list[Any] = []
        sampled = [(worker, sample) for worker, sample in gathered if sample is not None]
        samples = results(sampled)
        if len(sampled) == fleet.size == ranks:  # nobody died, nobody came back
            trained = results(fleet.attempt("train", [(hyper, ranks)] * ranks))
        broken = [result.broken for result in trained if result is not None]
        whole = len(broken) == ranks and not any(broken)
        for sample, result in zip(samples, trained, strict=False):
            for part, seconds in ({} if result is None else result.times).items():
                sample.times[part] = sample.times.get(part, 0.0) + seconds
        turn = [work(i, sample, 0 if whole else None) for i, sample in sampled]
        busy = fleet.concurrency if ranks == 1 else ranks  # in one process too: they are threads
        clock.waited(turn, busy)
        done += turn
        for sample in samples:
            run.take(sample)
            episodes += sample.episodes
        if not whole:
            for sample in samples:
                run.drop(sample)
            failures = _failures(failures, broken if len(broken) == ranks else [])
            ranks = 0  # meet anew
            continue
        failures = 0
        run.fragments += 1
        learner.adopt(trained[0].state)
        learner.set_aux(run.normalisation())
        run.trained(samples, learner.gradient_steps)
        clock("transfer")
        yield Update(
            metrics_of(trained[0].metrics, hyper),
            episodes,
            clock.take(),
            done,
            busy,
        )
        done, episodes = [], []
        clock = Clock()  # whoever looked at the update took his own time


def meet(fleet: Fleet, learner: Learner) -> tuple[int, list[str]]:
    """Give all ranks the same state and let them find each other.

    Returns how many there are, or 0; and, if none died meanwhile, what each had against it.
    """
    group, state = fleet.collective(), learner.get_state()
    joined = results(fleet.attempt("join", [(group, rank, state) for rank in range(group.size)]))
    if len(joined) < group.size or None in joined:
        return 0, []
    return 0 if any(joined) else group.size, joined


def _failures(before: int, broken: list[str]) -> int:
    """Failures in a row, with what each rank says of the newest attempt; [] where one died."""
    if not any(broken):
        return before
    if before + 1 == ATTEMPTS:
        raise Broken(
            f"the ranks lost each other {ATTEMPTS} times in a row, though none has died: "
            f"{next(filter(None, broken))}",
            None,
            "see that their nodes reach each other over the network on any port, or use a plan "
            "without a collective: async_gradients, sync_samples",
        )
    return before + 1
