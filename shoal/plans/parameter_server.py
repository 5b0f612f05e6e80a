"""A parameter server: the weights lie in shards, workers pull them and push gradients.

Gorila's plan (Nair et al. 2015, arXiv:1507.04296, section 4), after DistBelief. Slices travel from
shard to worker and back without a look at them in this process, which hands on references to all
that is not small. A shard applies what comes in the order in which it comes, each at its own
version.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

from shoal.algorithms.base import Algorithm
from shoal.config.bounds import check_bounds, setting
from shoal.fleet.base import Fleet, results
from shoal.fleet.shard import Outliers, Shard, cut, joined
from shoal.learners.base import Learner
from shoal.plans.async_gradients import one_gradient
from shoal.plans.base import Clock, Run, Update, Work, metrics_of, work


@dataclass(frozen=True)
class ParameterServer:
    """How many shards there are, and which gradients they refuse."""

    name: Literal["parameter_server"] = "parameter_server"  # name of the plan
    shards: int = setting(2, least=1)  # slices of the weights, one process each
    max_lag: int = setting(20, least=0)  # drop gradients that are more updates of a shard old
    outlier_std: float | None = setting(None, above=0)  # drop if |loss| is further above its mean
    outlier_warmup: int = setting(100, least=2)  # gradients before outliers are dropped
    sync_every: int = setting(10, least=1)  # gradients between copies to the learner, and reports

    exact = False
    learns_on_workers = True

    def __post_init__(self) -> None:
        check_bounds(self, "plan.")

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        """Whatever goes through a batch several times."""
        return one_gradient(algorithm)

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        return parameter_server(fleet, learner, run, self)


def parameter_server(
    fleet: Fleet, learner: Learner, run: Run, options: ParameterServer
) -> Generator[Update]:
    """Hand slices to and fro; one ``Update`` for every ``sync_every`` gradients.

    A shard that dies is replaced by one that begins at the last copy.
    """
    run.abandon()
    state = learner.get_state()
    optimiser = replace(run.algorithm.optimiser, clip_norm=None)  # workers clip: they see it whole

    def shard(index: int, restart: int) -> Shard:
        return Shard(
            optimiser, *cut(optimiser, state, index, options.shards), options.max_lag, restart
        )

    outliers = Outliers(options.outlier_std, options.outlier_warmup)
    done: list[Work] = []
    episodes: list[tuple[float, int]] = []
    told: list[dict[str, float]] = []
    clock, applied = Clock(), 0

    def pulled() -> tuple[object, ...]:  # the weight edge: shards -> the worker that samples next
        return run.hyper(), run.aux(), results(shards.map("pull")), applied

    with closing(fleet.spawn(shard, options.shards, "shard")) as shards:
        for worker, gradient in fleet.stream("gradient_of", pulled):
            sample = gradient.sample
            done.append(work(worker, sample, applied - sample.version))
            clock.waited(done[-1:], fleet.concurrency)
            run.take(sample)
            episodes += sample.episodes
            if gradient.values is None:  # remembered; nothing is learned yet
                run.trained([sample], learner.gradient_steps + len(told))
                continue
            hyper = run.hyper()
            taken = []
            if not outliers.reject(gradient.metrics["loss"]):
                pushed = [(piece, hyper["lr"]) for piece in gradient.values]
                taken = results(shards.attempt("push", pushed))
            clock("learn")
            if True not in taken:
                done[-1].lag = None
                if run.remembers:
                    run.trained([sample], learner.gradient_steps + len(told))
                else:
                    run.drop(sample)
                continue
            applied += 1
            run.counters.replayed_steps += gradient.replayed
            run.trained([sample], learner.gradient_steps + len(told) + 1)
            told.append({**gradient.metrics, "accepted_shards": taken.count(True) / len(taken)})
            if len(told) == options.sync_every:
                state = joined(optimiser, state, results(shards.map("get_state")), len(told))
                learner.adopt(state)
                learner.set_aux(run.aux())
                clock("broadcast")
                means = {name: sum(m[name] for m in told) / len(told) for name in told[0]}
                yield Update(
                    metrics_of(means, hyper),
                    episodes,
                    clock.take(),
                    done,
                    fleet.concurrency,
                    fleet.queued,
                )
                done, episodes, told = [], [], []
                clock = Clock()  # whoever looked at the update took his own time
