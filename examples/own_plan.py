"""Your own plan, synchronous with backup workers (Chen et al. 2016, arXiv:1604.00981):

shoal train CartPole-v1 --system a2c --workers 2 --plan examples/own_plan.py:BackupWorkers"""

from collections.abc import Generator
from dataclasses import dataclass

from shoal.config.bounds import setting
from shoal.fleet.base import Fleet
from shoal.fleet.sample import Sample
from shoal.learners.base import Learner
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run
from shoal.trajectory import concatenate


@dataclass(frozen=True)
class BackupWorkers(Plan):
    name: str = "backup_workers"
    spare: int = setting(1, least=0)  # workers that an update does not wait for: the slowest

    def run(self, fleet: Fleet, learner: Learner, run: Run) -> Generator[Update]:
        run.abandon()
        tally = Tally(fleet, learner, run)
        tally.publish()
        came: dict[int, Sample] = {}
        stream = fleet.stream("sample", lambda i: None if i in came else ())
        for worker, sample in stream:
            if tally.take([(worker, sample)], max_lag=0):
                came[worker] = sample
            else:
                run.drop(sample)  # too late for its update
            if len(came) >= max(fleet.size - self.spare, 1):
                batch = concatenate([each.batch for each in came.values()])
                indices = run.algorithm.indices(run.model, run.rng, batch["mask"].shape)
                metrics, _ = learner.update(batch, indices, hyper := run.hyper())
                tally.trained(list(came.values()))
                tally.publish()
                came.clear()
                yield from tally.report(metrics, hyper)
