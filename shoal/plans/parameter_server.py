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

from shoal.config.bounds import setting
from shoal.fleet.base import Fleet, results
from shoal.fleet.weight_shard import Outliers, WeightShard, cut, joined
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run


@dataclass(frozen=True)
class ParameterServer(Plan):
    """How many shards there are, and which gradients they refuse.

    A shard that dies is replaced by one that begins at the last copy.
    """

    name: Literal["parameter_server"] = "parameter_server"  # name of the plan
    shards: int = setting(2, least=1)  # slices of the weights, one process each
    max_lag: int = setting(20, least=0)  # drop gradients that are more updates of a shard old
    outlier_std: float | None = setting(None, above=0)  # drop if |loss| is further above its mean
    outlier_warmup: int = setting(100, least=2)  # gradients before outliers are dropped
    sync_every: int = setting(10, least=1)  # gradients between copies to the learner, and reports

    offers = frozenset({"trajectories", "on-policy", "replay"})

    def member(self) -> type:
        from shoal.fleet.learning import LearningWorker

        return LearningWorker

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        run.abandon()
        state = learner.get_state()
        optimiser = replace(
            run.algorithm.optimiser, clip_norm=None
        )  # workers clip: they see it all

        def shard(index: int, restart: int) -> WeightShard:
            own = cut(optimiser, state, index, self.shards)
            return WeightShard(optimiser, *own, self.max_lag, restart)

        def pulled(worker: int) -> tuple[object, ...]:
            # the weight edge: shards -> the worker that samples next
            return run.hyper(), run.aux(), results(shards.map("pull")), applied

        outliers = Outliers(self.outlier_std, self.outlier_warmup)
        tally = Tally(fleet, learner, run)
        accepted: list[dict[str, float]] = []  # metrics of the gradients since the last copy
        applied = 0
        with closing(fleet.spawn(shard, self.shards, "shard")) as shards:
            for worker, gradient in fleet.stream("gradient_of", pulled):
                sample = gradient.sample
                tally.take([(worker, sample)], version=applied)
                if gradient.values is None:  # it was stored; nothing is learned yet
                    tally.trained([sample], len(accepted))
                    continue
                hyper = run.hyper()
                taken: list[bool] = []
                if not outliers.reject(gradient.metrics["loss"]):
                    pushed = [(piece, hyper["lr"]) for piece in gradient.values]
                    taken = results(shards.map("push", each=pushed, retry=False))
                tally.clock("learn")
                if True not in taken:
                    tally.refuse()
                    if run.remembers:
                        tally.trained([sample], len(accepted))
                    else:
                        run.drop(sample)
                    continue
                applied += 1
                run.counters.replayed_steps += gradient.replayed
                shares = {"accepted_shards": taken.count(True) / len(taken)}
                accepted.append({**gradient.metrics, **shares})
                tally.trained([sample], len(accepted))
                if len(accepted) == self.sync_every:
                    copies = results(shards.map("get_state"))
                    state = joined(optimiser, state, copies, len(accepted))
                    learner.adopt(state)
                    learner.set_aux(run.aux())
                    tally.clock("broadcast")
                    means = {k: sum(m[k] for m in accepted) / len(accepted) for k in accepted[0]}
                    accepted = []
                    yield from tally.report(means, hyper)
