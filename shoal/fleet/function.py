"""A member that evaluates perturbations of a function's argument: what is no environment."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from shoal.errors import ShoalError
from shoal.fleet.evaluator import Evaluating, Evaluation, Job
from shoal.fleet.sample import Sample
from shoal.learners.evolver import Evolver
from shoal.process import interrupts
from shoal.trajectory import ndarray

THETA = "theta"  # the name of the one parameter


class Function(Evaluating):
    """Calls ``f`` for each perturbation. A call counts as one env step."""

    def __init__(
        self,
        f: Callable[[ndarray], Any],
        make_learner: Callable[[], Evolver],
        index: int = 0,
        restart: int = 0,
    ) -> None:
        super().__init__(make_learner())
        self._f = f

    def value(self) -> float:
        """What f says of the learner's theta."""
        learner = self.learner
        where = f"theta itself, after {learner.version} generations of seed {learner.seed}"
        return self._value(learner.theta(), where)

    def _evaluated(self, job: Job, chunk: int) -> Evaluation:
        start, perturbs = perf_counter(), chunk >= 0
        values = self._perturbed(job, chunk) if perturbs else [self.value()]
        self.beat += len(values)
        times = {"env": perf_counter() - start}
        sample = Sample({}, len(values), len(values) * perturbs, job.version, [], {}, times)
        scores = np.array(values).reshape(-1, 2 if perturbs else 1)
        return Evaluation(chunk, job.version, sample, scores, np.ones_like(scores, int))

    def _perturbed(self, job: Job, chunk: int) -> list[float]:
        """Values of the directions of a chunk, + and - in turn."""
        learner = self.learner
        part = learner.part(chunk)
        at = learner.draws().at[part]
        found = []
        for i, point in enumerate(learner.perturbed(at, job.sigma)):
            interrupts.check()
            direction, sign = part.start + i // 2, "-" if i % 2 else "+"
            where = (
                f"generation {job.version} of seed {learner.seed}, direction {direction}, {sign}, "
                f"at {at[i // 2]} of the noise table"
            )
            found.append(self._value(point, where))
        return found

    def _value(self, point: ndarray, where: str) -> float:
        """What f says there. Raises ShoalError if that is no finite number."""
        try:
            found = self._f(point.reshape(self.learner.like[THETA].shape))
        except Exception as error:
            error.add_note(f"in the evaluation of {where}")
            raise
        try:
            value = float(found)
        except (TypeError, ValueError) as error:
            what = f"the function returned {type(found).__name__}, and not one number"
            raise ShoalError(what, where, "return a float, larger ones being better") from error
        if not math.isfinite(value):
            fix = "return a finite number, for what cannot be evaluated a very low one"
            raise ShoalError(f"the function returned {value}", where, fix)
        return value
