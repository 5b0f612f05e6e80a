"""Evolution: workers evaluate perturbed weights, the learner recombines what they found.

Salimans et al. 2017 (arXiv:1703.03864), Algorithm 2. All wait for all, once in a generation, but no
worker has a share of its own: who is free takes the next perturbations. Weights travel once; after
that each worker takes the steps itself, from a few numbers for each direction.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shoal.algorithms.base import Algorithm, Model
from shoal.algorithms.evolved import Evolved
from shoal.config.bounds import setting
from shoal.config.config import Config
from shoal.config.schedule import at
from shoal.errors import ConfigError
from shoal.fleet.base import Fleet, results
from shoal.fleet.dispatch import Dispatcher
from shoal.fleet.evaluator import Evaluation, Evaluator, Job, learner_of
from shoal.learners.base import Weights
from shoal.learners.evolver import REFERENCE, Evolver, Recipe
from shoal.plans.base import Plan, Tally, Update
from shoal.plans.run import Run

LOG = 100_000  # bytes of steps that a new worker is told on top of the weights, at least
ROUNDS = 4  # calls of a member that heads others, in one generation


@dataclass(frozen=True)
class Evolution(Plan):
    """How perturbations are evaluated, and what travels."""

    name: Literal["evolution"] = "evolution"  # name of the plan
    table_size: int = setting(25_000_000, least=1)  # numbers in the noise table (paper: 250M)
    evaluation_share: float = setting(
        0.01, least=0, most=1
    )  # of episodes, with the weights as they are (paper: 0.003)
    fanout: int | None = setting(64, least=2)  # workers that one process calls; more form a tree
    rebuild: bool = True  # workers take each step themselves; else they are sent the weights

    exact = True
    offers = frozenset({"returns"})
    probes = False

    def member(self) -> type:
        return Evaluator

    def refuses(self, algorithm: type[Algorithm]) -> str | None:
        if not issubclass(algorithm, Evolved):
            return "it learns by gradients of a loss, and here there is nothing but returns"
        return super().refuses(algorithm)

    def conflict(self, config: Config) -> ConfigError | None:
        slots = config.rollout.envs_per_worker
        if slots % 2 == 0:
            return None
        what = f"rollout.envs_per_worker is {slots}, but perturbations are evaluated in pairs"
        return ConfigError(what, None, "make it even")

    def learner(self, config: Config, model: Model, params: Weights) -> Evolver:
        return learner_of(config, model, params)

    def run(self, fleet: Fleet, learner: Evolver, run: Run) -> Generator[Update]:
        tally, algorithm = Tally(fleet, learner, run), run.algorithm
        workers = Dispatcher(fleet, self._each(fleet, learner, run))
        if algorithm.reference and not learner.reference:
            found = results(fleet.map("refer", algorithm.reference))[0]  # the same of every worker
            learner.set_aux({f"{REFERENCE}{path}": x for path, x in found.items()})
        workers.publish(learner.get_state(), learner.version, send=True)
        whole = max(sum(x.nbytes for x in learner.weights().values()), LOG)
        try:
            while True:
                own = {name: at(getattr(algorithm, name), run.progress) for name in ("lr", "sigma")}
                hyper = {**own, **run.hyper()}
                chunks = (*range(learner.chunks), *self._extra(learner))
                job = Job(learner.version, chunks, hyper["sigma"], learner.cap)
                tally.clock("broadcast")
                found = self._counted(list(workers.gather(job)), workers, tally, run)
                perturbed = [each for each in found if each.chunk >= 0]
                scores = np.concatenate([each.scores for each in perturbed])
                weights = algorithm.weigh(scores).astype(np.float32)
                recipe = Recipe(weights, hyper["lr"], run.aux())
                tally.clock("transfer")
                norm = learner.evolve(recipe)
                tally.trained([each.sample for each in found])
                learner.note(
                    np.concatenate([each.lengths for each in perturbed]),
                    np.array([score for x in found if x.chunk < 0 for score in x.scores.flat]),
                )
                tally.clock("learn")
                workers.step(recipe)  # the weight edge: a few numbers, with each worker's next call
                if not self.rebuild or workers.log_bytes > whole:
                    workers.publish(learner.get_state(), learner.version, send=not self.rebuild)
                run.fragments += 1
                evaluated = learner.evaluated
                known = {} if evaluated is None else {"evaluated/return_mean": evaluated}
                yield from tally.report({"step_norm": norm, **known}, hyper)
        finally:
            workers.close()

    def _each(self, fleet: Fleet, learner: Evolver, run: Run) -> int:
        """Chunks in one call: one; of a member that heads others, some for each of those."""
        each = math.ceil(run.slots / (2 * learner.pairs) / max(fleet.size, 1))
        rounds = learner.chunks // (ROUNDS * fleet.size * each)
        return each * max(rounds, 1) if each > 1 else 1

    def _extra(self, learner: Evolver) -> tuple[int, ...]:
        """A chunk of episodes of the weights as they are, if one is due; the first at once."""
        share = self.evaluation_share * 2 * learner.algorithm.directions / (2 * learner.pairs)
        due = math.floor((learner.version + 1) * share) > math.floor(learner.version * share)
        return (-1,) if due or (learner.version == 0 and share) else ()

    def _counted(
        self, came: list[tuple[int, Evaluation]], workers: Dispatcher, tally: Tally, run: Run
    ) -> list[Evaluation]:
        """What came, in an order that does not depend on who was quicker, counted by the run."""
        came.sort(key=lambda pair: pair[1].chunk)
        tally.take([(member, each.sample) for member, each in came])
        late, workers.stale = workers.stale, []
        tally.take([(member, each.sample) for member, each in late], max_lag=-1)
        for _, each in late:
            run.drop(each.sample)
        first = not run.moments
        for _, each in came:
            run.observe(each.moments)
        if first:
            run.set_origins()
        return [each for _, each in came]
