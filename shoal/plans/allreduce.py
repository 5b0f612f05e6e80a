"""All-reduce: every worker is a learner, and all of them take every gradient step together.

DD-PPO's plan (Wijmans et al. 2020, arXiv:1911.00357, section 3): workers sample, each on its own;
in every gradient step they average their gradients and apply the same, so that their weights stay
equal to the bit. Nothing but gradients travels, and no weights are ever sent.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shoal.fleet.base import Fleet, results
from shoal.fleet.collective import Broken
from shoal.fleet.sample import Sample
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run

ATTEMPTS = 3  # at an update, or a meeting, that fail in a row though no rank died


@dataclass(frozen=True)
class Allreduce(Plan):
    """The plan has no options.

    With ``device="cuda"`` each rank has a GPU of its own, and gradients are averaged from one to
    the other by NCCL (PyTorch), or by way of the hosts' memory (JAX).

    The learner is a copy of what all ranks hold. When one of them dies, the others give the update
    up; all who are there begin again from the copy, and what was sampled for it is dropped.

    Raises Broken when ranks that live do not reach each other.
    """

    name: Literal["allreduce"] = "allreduce"  # name of the plan

    exact = collective = True
    offers = Plan.offers | {"policies"}

    def member(self) -> type:
        from shoal.fleet.learning import LearningWorker

        return LearningWorker

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        ranks = failures = 0  # that have met and hold the same weights; and in a row, without death
        tally = Tally(fleet, learner, run)
        while True:
            if ranks != fleet.size or not ranks:
                tally.publish()
                ranks, broken = meet(fleet, learner)
                failures = _failures(failures, broken)
                tally.clock("broadcast")
                continue
            hyper = run.hyper()
            gather = [(run.fragments, run.aux())] * ranks
            gathered = fleet.map("gather", each=gather, retry=False)
            sampled = [(worker, sample) for worker, sample in gathered if sample is not None]
            trained: list[Any] = []
            if len(sampled) == fleet.size == ranks:  # nobody died, nobody came back
                trained = results(fleet.map("train", each=[(hyper, ranks)] * ranks, retry=False))
            _add_times(results(sampled), trained)
            tally.threads = ranks if ranks > 1 else 0  # that is what they are in one process
            samples = tally.take(sampled)
            broken = [result.broken for result in trained if result is not None]
            if len(broken) < ranks or any(broken):
                tally.refuse(len(samples))
                for sample in samples:
                    run.drop(sample)
                failures = _failures(failures, broken if len(broken) == ranks else [])
                ranks = 0  # meet anew
                continue
            failures = 0
            run.fragments += 1
            learner.adopt(trained[0].state)
            learner.set_aux(run.aux())
            tally.trained(samples)
            tally.clock("transfer")
            yield from tally.report(trained[0].metrics, hyper)


def meet(fleet: Fleet, learner: Learner) -> tuple[int, list[str]]:
    """Give all ranks the same state and let them find each other.

    Returns how many there are, or 0; and, if none died meanwhile, what each had against it.
    """
    group, state = fleet.collective(), learner.get_state()
    ranks = [(group, rank, state) for rank in range(group.size)]
    joined = results(fleet.map("join", each=ranks, retry=False))
    if len(joined) < group.size or None in joined:
        return 0, []
    return 0 if any(joined) else group.size, joined


def _add_times(samples: Sequence[Sample], trained: Sequence[Any]) -> None:
    """Seconds of the update to those of the samples it was made of."""
    for sample, result in zip(samples, trained, strict=False):
        for part, seconds in ({} if result is None else result.times).items():
            sample.times[part] = sample.times.get(part, 0.0) + seconds


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
