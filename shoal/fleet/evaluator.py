"""A worker that evaluates perturbations: whole episodes of many perturbed policies at once.

It knows the weights as well as the learner does: of every generation it is told the few numbers
that the step was made from. What it finds depends on the generation and on which directions it is
asked for, not on what it did before, so that any worker can do any other's share.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from shoal.algorithms.base import Model
from shoal.algorithms.evolved import choose
from shoal.config.config import Config
from shoal.envs.base import ENDLESS
from shoal.errors import EnvError
from shoal.fleet.sample import Sample
from shoal.fleet.world import make_world
from shoal.learners.evolver import Evolver, Recipe
from shoal.nets.factory import build
from shoal.nets.population import Population
from shoal.ops.moments import Moments
from shoal.process import interrupts
from shoal.spaces import axes
from shoal.spaces.base import ACTION_MASK, Spaces
from shoal.trajectory import Obs, ndarray

APART = 4  # env steps between two images of a reference batch


class Job(NamedTuple):
    """What a member is asked for: these chunks of a generation."""

    version: int  # of the weights that are perturbed
    chunks: tuple[int, ...]  # each of as many directions as fit; -1: the weights as they are
    sigma: float
    cap: int | None  # env steps after which a perturbed policy's episode is cut
    since: int = 0  # version of the weights before the first of ``recipes``
    recipes: tuple[Recipe, ...] = ()  # of the steps from there to ``version``


@dataclass
class Evaluation:
    """What became of one chunk."""

    chunk: int
    holds: int  # version of the weights that the member has; below the job's: it could not do it
    sample: Sample  # what the run counts; no batch
    scores: ndarray = field(default_factory=lambda: np.zeros((0, 2)))  # [k, 2], of + and -
    lengths: ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    moments: dict[str, Moments] = field(default_factory=dict)  # of observations


def learner_of(config: Config, model: Model, params: Mapping[str, ndarray]) -> Evolver:
    """The learner of a run, the same in every process."""
    size, pairs = config.plan.table_size, config.rollout.envs_per_worker // 2
    statistics = getattr(model.net, "statistics", None)
    return Evolver(config.algorithm, params, config.seed, size, pairs, model.net.frozen, statistics)


class Stateless:
    """A member whose results do not depend on what it did before: nothing is saved or undone."""

    def rollback(self, fragments: int) -> None:
        """Nothing that was evaluated has left a trace."""

    def get_state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``get_state``."""


class Evaluating(Stateless, ABC):
    """Catches up with the learner, and evaluates what it is asked for; ``_evaluated`` says how."""

    def __init__(self, learner: Evolver) -> None:
        self.learner = learner
        self.beat = 0  # how far it has come: tells from outside that it is alive

    def set_weights(self, state: Mapping[str, Any], version: int) -> None:
        """Go on from a learner's state."""
        self.learner.set_state(state)

    def evaluate(self, job: Job) -> list[Evaluation]:
        """Catch up with the generation, and evaluate these chunks of it."""
        if job.since <= self.learner.version:
            for recipe in job.recipes[self.learner.version - job.since :]:
                self.learner.evolve(recipe)
        version = self.learner.version
        if version == job.version:
            return [self._evaluated(job, chunk) for chunk in job.chunks]
        nothing = Sample({}, 0, 0, job.version, [], {})
        return [Evaluation(chunk, version, nothing) for chunk in job.chunks]

    def refer(self, count: int) -> Obs:
        """What virtual batch normalisation refers to, {path: [count, ...]}: {} if nothing does."""
        return {}

    @abstractmethod
    def _evaluated(self, job: Job, chunk: int) -> Evaluation:
        """What becomes of one chunk of the present generation."""

    def close(self) -> None:
        """Let go of the noise table."""
        self.learner.close()


class Evaluator(Evaluating):
    """Plays episodes of perturbed policies: half as many directions at once as it has slots."""

    def __init__(self, config: Config, index: int, env: Any = None, restart: int = 0) -> None:
        rollout = config.rollout
        self.config, self.index = config, index
        self._idle_since = perf_counter()
        self.env, self._own_spaces = make_world(config, env, index, config.seed)
        self.model: Model = config.algorithm.model(self.env.spaces, build)
        params = config.algorithm.init(self.model, np.random.default_rng([config.seed, 0]))
        super().__init__(learner_of(config, self.model, params))
        self._measured = [
            leaf.path
            for leaf in self.env.spaces.leaves
            if rollout.normalise_obs and leaf.kind == "box" and not axes.image(leaf)
        ]

    def get_spaces(self) -> Spaces:
        """Spaces of the environment, as it was made here; a view may show less of it."""
        return self._own_spaces

    def _evaluated(self, job: Job, chunk: int) -> Evaluation:
        version, idle = job.version, perf_counter() - self._idle_since
        draws, slots = self.learner.draws(), self.env.slots
        part = self.learner.part(chunk)
        at, seeds = draws.at[part], draws.seeds[part].reshape(-1)
        if chunk < 0:
            at = at[:0]
            seeds = np.random.default_rng([self.config.seed, 2, version]).integers(
                2**31, size=slots
            )
        try:
            found = self._play(job, chunk, at, seeds)
        except (Exception, SystemExit) as error:
            what = "the weights as they are"
            if chunk >= 0:
                what = f"directions {part.start} to {part.start + len(at) - 1}, at {at.tolist()} of"
                what += " the noise table; copies 2k and 2k + 1 add and subtract the k-th of them"
            error.add_note(f"evaluating generation {version}, {what}")
            raise
        found.sample.times["idle"] = idle
        self._idle_since = perf_counter()
        return found

    def _play(self, job: Job, chunk: int, at: ndarray, seeds: ndarray) -> Evaluation:
        """One episode in each slot that has a seed, by its own policy."""
        algorithm, model, env, slots = self.config.algorithm, self.model, self.env, self.env.slots
        start = perf_counter()
        weights, perturbs = self.learner.weights(), chunk >= 0
        policies = self._policies(at, job.sigma) if perturbs else None
        rng = np.random.default_rng([self.config.seed, 3, job.version, max(chunk, 0)])
        noisy = perturbs and algorithm.acts_with_noise
        cap = job.cap if perturbs and job.cap is not None else ENDLESS
        measured = self._measured if perturbs and self._measures(chunk) else []
        playing = np.arange(slots) < len(seeds)
        returns, scores = np.zeros(slots), np.zeros(slots)
        lengths = np.zeros(slots, np.int64)
        seen: list[tuple[Obs, ndarray]] = []
        steps = 0
        obs = env.play(seeds.tolist())
        acted = 0.0
        while playing.any() and steps < cap:
            interrupts.check()
            now = perf_counter()
            noise = model.dist.noise(rng, (slots,)) if noisy else None
            if policies is None:
                action, _ = algorithm.act(model, weights, obs, noise)
            else:
                action = choose(model, policies(obs, ("pi",))[0], obs, noise)
            acted += perf_counter() - now
            before = {path: obs[path].copy() for path in measured}
            step = env.step(action)
            counted = playing if step.valid is None else playing & step.valid
            if measured:
                seen.append((before, counted))
            returns += np.where(counted, step.reward, 0.0)
            scores += np.where(counted, algorithm.score(step.reward), 0.0)
            lengths += counted
            playing = playing & ~(step.over & counted)
            obs = step.obs
            steps += 1
            self.beat += slots
            if steps == ENDLESS:
                raise EnvError(
                    f"an episode of {env.id!r} has not ended within {ENDLESS:,} env steps",
                    None,
                    "give the environment a time limit, or set algorithm.cap",
                )
        moments = self._moments(seen)
        ended = [(float(returns[i]), int(lengths[i])) for i in range(len(seeds))]
        played = int(lengths.sum())
        spent = perf_counter() - start - acted
        sample = Sample(
            {},
            played,
            played if perturbs else 0,
            job.version,
            ended if perturbs else [],
            {},
            {"env": spent, "act": acted},
        )
        pairs = (returns if not perturbs else scores)[: len(seeds)].reshape(-1, 2)
        return Evaluation(
            chunk, job.version, sample, pairs, lengths[: len(seeds)].reshape(-1, 2), moments
        )

    def _policies(self, at: ndarray, sigma: float) -> Population:
        """The perturbed policies, one for each slot; slots that are left over repeat the first."""
        learner, slots = self.learner, self.env.slots
        matrix = learner.perturbed(at, sigma)
        if len(matrix) < slots:
            rest = np.repeat(matrix[:1], slots - len(matrix), axis=0)
            matrix = np.concatenate([matrix, rest])
        net, weights, reference = self.model.net, learner.weights(), learner.reference
        return Population(net, matrix, learner.like, weights, reference)

    def refer(self, count: int) -> Obs:
        """Images for virtual batch normalisation, {path: [count, ...]}, from random actions."""
        paths = getattr(self.model.net, "images", ())
        if not paths:
            return {}
        rng = np.random.default_rng([self.config.seed, 4])
        slots, dist = self.env.slots, self.model.dist
        obs = self.env.play(rng.integers(2**31, size=slots).tolist())
        seen: list[Obs] = []
        while len(seen) * slots < count:
            for _ in range(APART):
                noise, flat = dist.noise(rng, (slots,)), np.zeros((slots, dist.n_out), np.float32)
                obs = self.env.step(dist.sample(flat, noise, obs.get(ACTION_MASK))).obs
            seen.append({path: obs[path].copy() for path in paths})
        return {path: np.concatenate([x[path] for x in seen])[:count] for path in paths}

    def _moments(self, seen: list[tuple[Obs, ndarray]]) -> dict[str, Moments]:
        """Moments of all observations that were acted on."""
        if not seen:
            return {}
        counted = np.stack([valid for _, valid in seen])
        return {
            path: Moments.of(np.stack([obs[path] for obs, _ in seen])[counted])
            for path in self._measured
        }

    def _measures(self, chunk: int) -> bool:
        """Whether observations of this chunk are measured: of the first, and of some others."""
        share = self.config.algorithm.measured_share
        return chunk == 0 or math.floor((chunk + 1) * share) > math.floor(chunk * share)

    def close(self) -> None:
        """End the environments, too."""
        self.env.close()
        super().close()
