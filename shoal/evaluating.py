"""Evaluation while training: when it is due, who plays the episodes, and the best so far.

The trainer says how far it has come; what is due then is evaluated with the weights of that moment.
Where workers sample on their own, a member of the fleet plays the episodes beside them, and its
result is taken when it has come. Otherwise this process plays them, between two updates.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, NamedTuple, cast

import numpy as np

from shoal.algorithms.fixed import RANDOM
from shoal.config.config import Config
from shoal.envs.registry import register
from shoal.errors import cut
from shoal.evaluation import evaluate, rehearse
from shoal.fleet.base import Fleet, Stream
from shoal.fleet.create import registered
from shoal.fleet.failure import Failure
from shoal.fleet.local import LocalFleet
from shoal.plans.run import Counters
from shoal.policy import Policy, Team, policy_for
from shoal.process import interrupts
from shoal.spaces.view import View
from shoal.trajectory import ndarray
from shoal.versus import returns_against

log = logging.getLogger("shoal.evaluating")

FIRST_SEED = 2**31  # training draws the seeds of its episodes below
LOOK = 0.05  # seconds between two looks at whether an evaluation has ended
NICE = 10  # Samplers go first: on CPUs that are all busy it gets about a tenth of their share.


class Job(NamedTuple):
    """What is to be played with the weights published last."""

    env_steps: int  # at which the weights were taken
    evaluates: bool
    films: bool


@dataclass
class Result:
    """What came of a job."""

    found: dict[str, Any]  # what ``evaluate`` returns
    video: bytes | None = None  # an .mp4 file
    error: Failure | BaseException | None = None  # that an environment raised


class EvaluationWorker:
    """Plays whole episodes of the greedy policy. The same weights give the same returns.

    ``apart``: in a process of its own, which does not hold up those that sample.
    """

    def __init__(
        self,
        config: Config,
        env: Any,
        spaces: Any,
        known: Any,
        apart: bool,
        index: int,
        restart: int,
    ) -> None:
        register(known)
        self._config, self._env, self._spaces, self._apart = config, env, spaces, apart
        self._policy: Policy | Team | None = None
        self.beat = 0  # env steps so far: tells from outside that it is alive
        self.seed = first_seed(config.seed)
        if apart and hasattr(os, "nice"):
            os.nice(NICE)
        if not restart:
            with tempfile.TemporaryDirectory() as folder:
                films = config.evaluation.video_every is not None
                rehearse(
                    env,
                    self.seed,
                    env_kwargs=config.rollout.env_kwargs,
                    assign=config.algorithm.assign if config.algorithm.parts else None,
                    max_agents=config.rollout.max_agents,
                    policy_of=config.algorithm.policy_of if config.algorithm.parts else None,
                    video=Path(folder, "first.mp4") if films else None,
                )

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """Play with these from now on."""
        if self._policy is None:
            config = self._config
            view = View(config.rollout.hide, config.rollout.previous)
            algorithm, seed = config.algorithm, config.seed
            self._policy = policy_for(algorithm, self._spaces, weights, seed, view)
        self._policy.set_weights(weights)

    def evaluate(self, job: Job) -> Result:
        """Play the episodes, and film the first of them if the job says so."""
        try:
            return self._played(job)
        except (Exception, SystemExit) as error:
            interrupts.check()  # it may be what became of a signal: the film's encoder gets it too
            error.add_note(f"evaluating the weights of {job.env_steps:,} env steps")
            if not self._apart:
                return Result({}, error=error)
            return Result({}, error=Failure.of(error, f"in the evaluator (process {os.getpid()})"))

    def _played(self, job: Job) -> Result:
        config, policy, against = self._config, self._policy, opponent(self._config)
        assert policy is not None, "weights come before the first job"
        episodes = config.evaluation.episodes if job.evaluates else 1
        same: dict[str, Any] = {
            "seed": self.seed,
            "env_kwargs": config.rollout.env_kwargs,
            "progress": self._alive,
        }
        found: dict[str, Any] = {}
        if job.evaluates and against is not None:
            found = returns_against(cast("Policy", policy), against, self._env, episodes, **same)
            episodes = 1
        if found and not job.films:
            return Result(found)
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder, "episode.mp4") if job.films else None
            most = config.rollout.max_agents
            played = evaluate(
                policy, self._env, episodes, video=video, video_episodes=1, max_agents=most, **same
            )
            return Result(found or played, None if video is None else video.read_bytes())

    def _alive(self, ended: int, env_steps: int) -> None:
        interrupts.check()
        self.beat += 1

    def close(self) -> None:
        """Nothing is held between two evaluations."""


def first_seed(seed: int) -> int:
    """The seed of the first episode of each evaluation, in a run of this seed.

    Evaluations begin with the same episodes, so that they differ by the weights alone.
    """
    return FIRST_SEED + int(np.random.default_rng([seed, 1_000_003]).integers(2**30))


def opponent(config: Config) -> Any:
    """Whom a policy that learns by playing against itself is evaluated against; None otherwise.

    Against itself it earns nothing on average, however well it plays.
    """
    settings = config.self_play
    if not settings.pool and not config.algorithm.plays:
        return None
    return RANDOM if settings.opponent is None else settings.opponent


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    return_mean: float
    env_steps: int  # at which its weights were taken
    weights: Mapping[str, ndarray] | None = None  # None: they were saved earlier
    counters: Mapping[str, Any] | None = None  # of the run at that moment


class Evaluations:
    """The evaluations of a run, one at a time. What is due while one is going on begins after it.

    Args:
        fleet: of the run; the evaluator is spawned from it if the run does not wait for workers.
        spaces: of the environment, as it is.

    Raises what an evaluation would raise at its beginning, in its environment or its video.
    """

    def __init__(self, config: Config, env: Any, fleet: Fleet, spaces: Any) -> None:
        self._config = config
        self._settings = settings = config.evaluation
        self.evaluates = settings.every is not None
        self.on = self.evaluates or settings.video_every is not None
        self.evaluated = self.filmed = 0  # env steps at the newest that is complete
        self.return_mean: float | None = None  # of the newest evaluation
        self.best: Best | None = None
        self.video: tuple[int, bytes] | None = None  # the newest film, and its env steps
        self._job: Job | None = None  # that is played now
        self._late, self._seconds, self._look_at = False, 0.0, 0.0
        self._stream: Stream | None = None
        if not self.on:
            return
        rollout, cluster = config.rollout, config.cluster
        apart = rollout.workers > 0 and not cluster.in_process and not config.plan.exact
        known = registered(env) if apart else ()
        make = partial(EvaluationWorker, config, env, spaces, known, apart)
        name = "evaluator"
        self._fleet: Fleet = (
            fleet.spawn(make, 1, name, aside=True) if apart else LocalFleet(make, 1, name)
        )

    def advance(
        self, counters: Counters, weights: Callable[[], Mapping[str, ndarray]]
    ) -> dict[str, Any]:
        """Begin what is due, with these weights, and take what has come: entries of a report.

        Raises what an environment raised, unless the run is to go on.
        """
        if not self.on:
            return {}
        start = perf_counter()
        try:
            self._begin(counters, weights)
            return {} if self._job is None else self._take(wait=False)
        finally:
            self._seconds += perf_counter() - start

    def finish(
        self, counters: Counters, weights: Callable[[], Mapping[str, ndarray]]
    ) -> dict[str, Any]:
        """Wait for what is played now; or for what is due with these weights, in its place."""
        every, now = self._settings.every, counters.env_steps
        if self._job is not None and _due(every, self._job.env_steps, now):
            self._forget()
        self._begin(counters, weights)
        return {} if self._job is None else self._take(wait=True)

    def take_seconds(self) -> float:
        """Seconds of this process that evaluation has taken since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _begin(self, counters: Counters, weights: Callable[[], Mapping[str, ndarray]]) -> None:
        now, settings = counters.env_steps, self._settings
        job = Job(
            now,
            _due(settings.every, self.evaluated, now),
            _due(settings.video_every, self.filmed, now),
        )
        if self._job is not None:
            late = _due(settings.every, self._job.env_steps, now)
            if late and not self._late:
                log.warning(
                    "an evaluation takes longer than %s env steps: there will be fewer",
                    f"{settings.every:,}",
                )
                self._late = True
        elif job.evaluates or job.films:
            taken = weights()
            self._fleet.publish(taken, now)
            self._fleet.send()
            self._taken, self._job = Best(0.0, now, taken, asdict(counters)), job

    def _take(self, wait: bool) -> dict[str, Any]:
        """What came of the job, if it has come or is waited for."""
        if self._stream is None:
            self._stream = self._fleet.stream("evaluate", self._next)
        try:
            if wait:
                came: tuple[int, Result] | None = next(self._stream)
            else:
                now = monotonic()
                if now >= self._look_at:
                    self._look_at = now + LOOK
                    self._stream.look()
                came = next(self._stream.come)
        except BaseException:
            self._forget()
            raise
        return {} if came is None else self._came(came[1])

    def _next(self, member: int) -> tuple[Job] | None:
        """The job, again if the evaluator died with it."""
        return None if self._job is None else (self._job,)

    def _came(self, result: Result) -> dict[str, Any]:
        job, self._job = self._job, None
        assert job is not None, "only a job that is waited for comes back"
        if result.error is not None:
            error = result.error
            error = error.revive() if isinstance(error, Failure) else error
            if self._settings.on_error == "stop":
                raise error
            text = cut(f"{type(error).__name__}: {error}")
            log.warning("the evaluation at %s env steps failed: %s", f"{job.env_steps:,}", text)
        self.filmed = job.env_steps if job.films else self.filmed
        self.evaluated = job.env_steps if job.evaluates else self.evaluated
        if result.error is not None:
            return {}
        found = self._evaluated(job, result.found) if job.evaluates else {}
        if result.video is not None:
            self.video = job.env_steps, result.video
            found["video/env_steps"] = job.env_steps
        return found

    def _evaluated(self, job: Job, found: Mapping[str, Any]) -> dict[str, Any]:
        """Entries of a report."""
        self.return_mean = mean = float(found["return_mean"])
        if not math.isnan(mean) and (self.best is None or mean > self.best.return_mean):
            taken = self._taken
            self.best = Best(mean, job.env_steps, taken.weights, taken.counters)
        report = {name: found[name] for name in ("return_mean", "return_std", "length_mean")}
        report["env_steps"] = job.env_steps
        algorithm = self._config.algorithm
        if algorithm.parts:
            agents, means = found["agents"], found.get("policies")
            if means is None:
                own = algorithm.assign(list(agents)).items()
                means = {name: float(np.mean([agents[x] for x in group])) for name, group in own}
            report |= {f"{policy}/return_mean": mean for policy, mean in means.items()}
        return {f"evaluation/{name}": x for name, x in report.items()}

    def _forget(self) -> None:
        """Wait no more for what is played now; it is due again."""
        stream, self._stream, self._job = self._stream, None, None
        if stream is not None:
            stream.close()

    def get_state(self) -> dict[str, Any]:
        best = self.best
        return {
            "evaluated": self.evaluated,
            "filmed": self.filmed,
            "return_mean": self.return_mean,
            "best": None if best is None else [best.return_mean, best.env_steps],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._forget()
        self.evaluated, self.filmed = state["evaluated"], state["filmed"]
        self.return_mean, self.video = state["return_mean"], None
        self.best = None if state["best"] is None else Best(*state["best"])

    def close(self) -> None:
        """End the evaluator."""
        if self.on:
            self._forget()
            self._fleet.close()


def _due(every: int | None, done: int, now: int) -> bool:
    """Whether a multiple of ``every`` lies after ``done``, up to ``now``."""
    return every is not None and now // every > done // every
