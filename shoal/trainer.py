"""The trainer: joins an algorithm, a plan, a fleet and a learner; only this file knows them all."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self, cast
from weakref import WeakSet

import numpy as np

from shoal.checkpoint import files as checkpoint
from shoal.config.config import Config
from shoal.config.settings import named, to_dict
from shoal.errors import CheckpointError, ConfigError, ShoalError
from shoal.evaluating import Evaluations
from shoal.evaluation import evaluate
from shoal.fleet.base import results
from shoal.fleet.create import beside, create_fleet
from shoal.games.find import find_game
from shoal.learners.choose import copy_of_ranks, learner_of
from shoal.metrics import Oddities, Recorder, Report
from shoal.nets.factory import build
from shoal.plans.create import create_run
from shoal.plans.pool import Pool
from shoal.plans.updates import Updates
from shoal.policy import Policy, Team, policy_for
from shoal.process import interrupts
from shoal.replay.settings import saved as saves
from shoal.spaces.view import View
from shoal.systems.configure import change, configure, differences, settable
from shoal.systems.saved import Saved, own_policy

log = logging.getLogger("shoal.trainer")

REPORT_STEPS = 2000  # env steps in one report, at least
OFFLINE_STEPS = 500  # gradient steps in one report, before anything is sampled
OFFLINE_EPISODES = 100  # of the evaluation between learning from demonstrations alone and sampling
_running: WeakSet[Trainer] = WeakSet()


class Trainer:
    """Trains one agent: ``Trainer("ppo", env="CartPole-v1", lr=1e-3).train()``.

    ``system`` is a system's name or an algorithm (``PPO(lr=1e-3)``), or a whole ``Config``; it and
    ``env`` may stand in ``config`` instead, and so a run's ``config.json`` repeats that run. Other
    keywords are fields of the configuration, found by name wherever they stand
    (``workers=2``, ``fragment_length=64``); ``config`` is a nested dict or a YAML or JSON file of
    the same; ``tuned=True`` starts from settings known to do well here. Code that a file names is
    imported only with ``trust=True``, or if it is named here too. ``stop_return``,
    ``stop_steps`` and ``stop_seconds`` end the iteration over reports.

    Raises ConfigError, EnvError, SpaceError or NetworkError before anything is trained.
    """

    def __init__(
        self,
        system: str | Config | Any = None,
        env: str | Callable[..., Any] | None = None,
        *,
        config: Mapping[str, Any] | str | Path | None = None,
        plan: Any = None,
        tuned: bool = False,
        trust: bool = False,
        stop_return: float | None = None,
        stop_steps: int | None = None,
        stop_seconds: float | None = None,
        **fields: Any,
    ) -> None:
        given = {"stop_return": stop_return, "stop_steps": stop_steps, "stop_seconds": stop_seconds}
        fields |= {name: x for name, x in given.items() if x is not None}
        self.config = configure(
            system, env, config, fields, plan=plan, use_tuned=tuned, trust=trust
        )
        self._env = env if callable(env) else self.config.env
        self._setup()

    def _setup(self) -> None:
        if self.config.algorithm.plays:  # refused here; and workers can send it to this process
            find_game(self._env, self.config.rollout.env_kwargs)
        with interrupts.deferred():
            self.fleet, self._close = create_fleet(self.config, self._env)
            try:
                self._join()
                interrupts.check()
            except BaseException:
                self._close()
                raise
            _running.add(self)

    def _join(self) -> None:
        """What the workers' environments decide: spaces, model, learner."""
        config, algorithm = self.config, self.config.algorithm
        self._own_spaces: Any = results(self.fleet.map("get_spaces"))[0]
        self.view = View(config.rollout.hide, config.rollout.previous)
        self.spaces = self._own_spaces  # as the policy sees them
        if self.view:
            self.spaces = self.view.of(self._own_spaces).spaces
        self.model = algorithm.model(self.spaces, build)
        self.run = create_run(config, self.model, self.fleet)
        self.recorder = Recorder()
        self._odd = Oddities()
        params = algorithm.init(self.model, self.run.rng)
        self.learner: Any = config.plan.learner(config, self.model, params)
        self.framework: str = config.learner  # that differentiates, once chosen
        if self.learner is None:
            members = self.fleet.size, beside(config)
            own = copy_of_ranks(config) if config.plan.collective else config
            self.framework, self.learner = learner_of(own, self.model, params, *members)
        measures = config.rollout.normalise_obs or config.rollout.scale_reward
        self.updates = Updates(config.plan, self.fleet, self.learner, self.run, measures=measures)
        self.evaluations = Evaluations(config, self._env, self.fleet, self._own_spaces)

    def train(self, between: Callable[[], None] | None = None) -> Report:
        """Train for ``report_every`` env steps (2,000) and one update at least; returns the report.

        While it learns from demonstrations alone (``replay.offline_steps``), for 500 gradient
        steps; the report that ends that has "offline/return_mean", of an evaluation of 100
        episodes.

        ``between`` is called between any two updates; the trainer can be saved there.

        Ctrl-C ends it between two env steps, two updates or two looks at workers. If it ends
        early, the trainer is as after its last whole update: it can be saved and can go on.
        """
        if not self.fleet.size:
            raise ShoalError("this trainer was stopped", None, "Trainer.restore(...) goes on")
        with interrupts.deferred():
            return self._train(between)

    def _train(self, between: Callable[[], None] | None) -> Report:
        recorder, start, counters = self.recorder, perf_counter(), self.run.counters
        evaluations, evaluated = self.evaluations, dict[str, Any]()
        before, taken = counters.env_steps, counters.gradient_steps
        offline = self.run.offline_left > 0
        every = self.config.report_every or REPORT_STEPS
        while True:
            try:
                interrupts.check()
                # Before an update, only what was still due when a run that goes on was saved.
                evaluated = evaluated or evaluations.advance(counters, self.learner.weights)
                update = next(self.updates)
                recorder.add(update)
                evaluated = evaluated or evaluations.advance(counters, self.learner.weights)
            except BaseException as error:
                recorder.abandon(perf_counter() - start)
                if not isinstance(error, KeyboardInterrupt) and interrupts.behind(error):
                    raise KeyboardInterrupt from error
                raise
            for text in self._odd.of(update, self.config.algorithm.warnings):
                log.warning("%s", text)
            # Reports of a run that goes on after an interruption are at the same env steps.
            env_steps = counters.env_steps
            due = bool(evaluated) or env_steps >= recorder.reported + every
            if offline:  # nothing is sampled yet
                ended = not self.run.offline_left
                due = ended or counters.gradient_steps >= taken + OFFLINE_STEPS
            if due or self.stopped_by() is not None:
                break
            if between is not None:
                between()
        seconds = perf_counter() - start
        report = recorder.report(counters, env_steps - before, seconds, self.fleet.stats)
        if evaluations.on:
            report["time/evaluate"] = evaluations.take_seconds() / max(seconds, 1e-9)
            if self.stopped_by() is not None:
                evaluated |= evaluations.finish(counters, self.learner.weights)
        report |= evaluated
        if offline and not self.run.offline_left:
            found = self.evaluate(OFFLINE_EPISODES)
            report |= {f"offline/{name}": found[name] for name in ("return_mean", "return_std")}
        return report

    def stopped_by(self) -> str | None:
        """Which stop condition holds now: "return", "steps", "seconds", or None.

        The return is that of the newest evaluation. Without evaluation while training it is that of
        training, and counts only once it is the mean of 100 episodes.
        """
        evaluations, recorder = self.evaluations, self.recorder
        mean = evaluations.return_mean if evaluations.evaluates else recorder.settled_return()
        return recorder.met(self.config.stop, self.run.counters.env_steps, mean)

    def __iter__(self) -> Iterator[Report]:
        """Reports until a stop condition holds."""
        while self.stopped_by() is None:
            yield self.train()

    def __repr__(self) -> str:
        config, steps = self.config, self.run.counters.env_steps
        return f"<Trainer: {config.system} on {named(config.env)}, {steps:,} env steps>"

    @property
    def policy(self) -> Policy | Team:
        """The policy as it is now; with policies by agent, all of them."""
        weights, config = self.learner.weights(), self.config
        return policy_for(config.algorithm, self._own_spaces, weights, config.seed, self.view)

    def evaluate(
        self, episodes: int = 10, seed: int | None = None, *, explore: bool = False
    ) -> dict[str, Any]:
        """Whole episodes with the policy as it is now; see ``shoal.evaluate``.

        In environments of its own, from seeds that training does not start from.
        """
        return evaluate(
            self.policy,
            self._env,
            episodes,
            seed=self.config.seed + 1_000_003 if seed is None else seed,
            env_kwargs=self.config.rollout.env_kwargs,
            max_agents=self.config.rollout.max_agents,
            explore=explore,
        )

    def save(self, path: str | Path, *, keep: int | None = None) -> Path:
        """Write a checkpoint below ``path``; returns its folder. Atomic: complete or not there.

        After an interruption it holds the last whole update. Ctrl-C is raised when it is written.
        """
        with interrupts.deferred():
            return self._save(Path(path), keep)

    def _save(self, path: Path, keep: int | None) -> Path:
        self.updates.settle()
        keep = self.config.checkpointing.keep if keep is None else keep
        state = {
            "replay": self.run.buffer.get_state() if self.saves_replay else {},
            "learner": self.learner.get_state(),
            "run": self.run.get_state(),
            "recorder": self.recorder.get_state(),
            "evaluations": self.evaluations.get_state(),
            "workers": self._workers(),
        }
        counters = self.run.counters
        return checkpoint.save(path, counters.env_steps, state, self._meta(asdict(counters)), keep)

    def _meta(self, counters: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint says of its run besides its state."""
        return {
            "system": self.config.system,
            "own_policy": own_policy(self.config.algorithm),
            "config": to_dict(self.config),
            "spaces": self._own_spaces.to_json(),
            "counters": dict(counters),
            "learner": self.framework,
        }

    def save_best(self, path: str | Path) -> Path:
        """Write the policy of the best evaluation so far to ``path/best``; returns that folder.

        It is good for ``load``, and takes the place of the one before. No run goes on from it: it
        has neither the optimiser's state nor what else training needs.

        Raises ShoalError if there was no evaluation since this trainer was made.
        """
        best = self.evaluations.best
        if best is None or best.weights is None or best.counters is None:
            raise ShoalError(
                "there is no evaluation whose policy could be saved",
                str(path),
                "train with evaluate_every=..., up to the first evaluation",
            )
        state = {"learner": {"params": best.weights, "aux": {}, "targets": {}}}
        found = {"return_mean": best.return_mean, "env_steps": best.env_steps}
        return checkpoint.save_best(Path(path), state, {**self._meta(best.counters), "best": found})

    @property
    def saves_replay(self) -> bool:
        """Whether checkpoints hold the replay buffer."""
        buffer = self.run.buffer
        return buffer is not None and saves(self.config.replay, buffer)

    def _workers(self) -> list[Any]:
        """The workers' states, if the plan is exact and the workers are there."""
        if not self.config.plan.exact or self.fleet.stats.ended:
            return []
        return results(self.fleet.map("get_state"))

    @classmethod
    def restore(
        cls,
        path: str | Path,
        env: str | Callable[..., Any] | None = None,
        *,
        network: Any = None,
        algorithm: Any = None,
        plan: Any = None,
        trust: bool = False,
        **fields: Any,
    ) -> Self:
        """Go on from a checkpoint or run folder, as if training had never stopped.

        ``env``, ``network``, ``algorithm`` and ``plan`` are needed if they were the user's own:
        the object, its class, or "module:Name". An algorithm or plan has the settings of the run.
        ``fields`` change the configuration (``stop_steps=1_000_000``, which then is the only
        stop); of ``env_kwargs``, those that are given replace the saved ones, and those that no
        file can hold must be given.

        A checkpoint may come from a stranger: code that it names is imported, and a cluster
        joined, only if the caller gives the name, or ``trust=True``.

        Raises CheckpointError when it is damaged, of another version, or of other spaces, and
        ConfigError for what must be given.
        """
        state, meta = checkpoint.load(Path(path))
        saved = Saved(path, meta, trust)
        saved.refuse_best()
        config = saved.config(env=env, network=network, algorithm=algorithm, plan=plan)
        view = View(config.rollout.hide, config.rollout.previous)
        objects = {"env": env, "algorithm.network": network}
        config = saved.changed(config, fields, [k for k, x in objects.items() if x is not None])
        if View(config.rollout.hide, config.rollout.previous) != view:
            raise ConfigError(
                "rollout.hide and rollout.previous cannot change when a run goes on",
                str(path),
                "start a new run with them",
            )
        trainer = cls(config, env if callable(env) else None)
        saved.refuse_other_spaces(trainer._own_spaces.to_json(), trainer.config.env)
        with checkpoint.blame(path):
            trainer.set_state(state)
        return trainer

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint in this trainer, with the settings that it has now.

        Weights, targets, the optimiser's state, normalisation, counters and, if saved, the replay
        buffer are the checkpoint's. Every setting is this trainer's: what a checkpoint says of
        settings is not read. One of the same seed goes on exactly as it would have; one of another
        seed (a member of a population copies another) goes on with fresh episodes and randomness of
        its own, so that the two do not sample the same.

        Raises CheckpointError when it is damaged, of another version, or does not fit.
        """
        state, meta = checkpoint.load(Path(path))
        saved = Saved(path, meta)
        saved.refuse_best()
        saved.refuse_other_spaces(self._own_spaces.to_json(), self.config.env)
        if (view := View(**saved.view())) != self.view:
            raise CheckpointError(
                f"the policy of this checkpoint saw something else ({view or 'everything'}) than "
                f"this trainer's ({self.view or 'everything'})",
                str(path),
                "load one of the same rollout.hide and rollout.previous",
            )
        with checkpoint.blame(path):
            seed = int(meta["config"]["seed"])
        same = seed == self.config.seed and self.config.plan.exact
        self.updates.close()
        self.fleet.settle()
        with checkpoint.blame(path):
            self.set_state(state if same else {**state, "workers": []})
        if not same:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Fresh episodes, and randomness that depends on the seed and the env steps so far."""
        number = self.run.counters.env_steps
        self.run.rng = np.random.default_rng([self.config.seed, 0, number])
        self.fleet.map("begin", self.config.seed, number)
        self.updates.restart()

    def set(self, **fields: Any) -> None:
        """Change settings from the next update on: ``trainer.set(lr=1e-4)``.

        Those that no compiled program and no worker holds: an algorithm's schedules (``lr``,
        ``clip``, ``entropy_coef``), ``replay.beta``, stops, ``report_every``, ``checkpointing``,
        ``seed``. Checkpoints hold the new values, and ``restore`` goes on with them.

        Raises ConfigError, with nothing changed, for any other setting.
        """
        config = change(self.config, fields, self.run.counters.env_steps)
        lasting = [path for path in differences(self.config, config) if not settable(config, path)]
        if lasting:
            raise ConfigError(
                f"{lasting[0]} cannot change while this trainer runs",
                None,
                "begin a new one; `Trainer.restore` takes the weights over where they fit",
            )
        reseeded, self.config = config.seed != self.config.seed, config
        self.run.algorithm, self.run.replay = config.algorithm, config.replay
        self.run.total_env_steps = config.stop.env_steps
        if reseeded:
            self._begin_anew()

    def add_opponent(self, name: str, policy: Policy | Team) -> None:
        """Play against this policy too, beside past selves, from the next update on.

        For self-play (``pool=...``): it is drawn as they are, by ``prefer``, and rated by its name,
        in "elo/NAME" and "win_rate/NAME" of reports. One of the same name takes the place of the
        one before, and goes on with its rating. The policy is copied as it is now; checkpoints hold
        it. Without past selves (``every=None``) only those added are opponents.

        Raises ConfigError without self-play, for a policy of another network or of other spaces,
        and for what can be no name.
        """
        pool, where, own = self._pool(), f"opponent {name!r}", cast("Policy", self.policy)
        if not isinstance(policy, Policy):
            kind = type(policy).__name__
            raise ConfigError(f"the {where} is a {kind}", None, "give one Policy")
        if policy.spaces.to_json() != own.spaces.to_json():
            raise ConfigError(
                f"the {where} was trained with other spaces",
                None,
                f"its spaces: {policy.spaces.observation}, {policy.spaces.action}; this trainer's: "
                f"{own.spaces.observation}, {own.spaces.action}",
            )
        if policy.acts_like != own.acts_like:
            raise ConfigError(
                f"the {where} acts by another network or algorithm than this trainer's policy",
                None,
                "train it with the same algorithm.network",
            )
        self.updates.settle()
        pool.add(name, policy.weights)
        self.updates.mark()

    def remove_opponent(self, name: str) -> None:
        """Play no more games against it. Raises ConfigError if nobody of that name was added."""
        pool = self._pool()
        self.updates.settle()
        pool.remove(name)
        self.updates.mark()

    def _pool(self) -> Pool:
        """The pool. Raises ConfigError without self-play."""
        if self.run.pool is None:
            raise ConfigError(
                "opponents are added to a pool, and this trainer has none",
                None,
                "begin with self-play: pool=10",
            )
        return self.run.pool

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over what ``save`` wrote."""
        self.learner.set_state(state["learner"])
        self.run.set_state(state["run"])
        self.recorder.set_state(state["recorder"])
        self.evaluations.set_state(state["evaluations"])
        if state["replay"]:
            self.run.buffer.set_state(state["replay"])
        else:  # the replay buffer was not saved: as at the beginning, it is filled first
            self.run.counters.learning_from = None
            if self.run.local_replay is not None:
                self.run.local_replay.refill()
            if self.run.remembers and self.learner.gradient_steps:
                log.warning("the checkpoint holds no replay buffer: it is filled anew first")
        if len(state["workers"]) == self.fleet.size:
            self.fleet.map("set_state", each=[(own,) for own in state["workers"]])
        else:  # other workers, which have sampled nothing yet
            self.run.fragments = 0
        self.updates.restart()

    def resize(self, workers: int) -> None:
        """Change the number of workers: new ones join, or the last ones leave.

        Samples of leaving workers that the plan has not taken yet are not counted.

        Raises ConfigError for a trainer whose only worker is this process, and if there is no room
        for more.
        """
        fanout = self.config.plan.fanout
        if workers < 1 or self.config.rollout.workers == 0:
            raise ConfigError(
                f"cannot go on with {workers} workers: this trainer has "
                f"{self.config.rollout.workers or 'none besides itself'}",
                None,
                "begin with rollout.workers >= 1, and keep at least one",
            )
        if fanout is not None and max(workers, self.config.rollout.workers) > fanout:
            raise ConfigError(
                f"cannot go on with {workers} workers: more than plan.fanout, {fanout}, form a "
                "tree, which keeps its size",
                None,
                "save, and restore with workers=...",
            )
        self.fleet.resize(workers)
        rollout = replace(self.config.rollout, workers=workers)
        self.config = replace(self.config, rollout=rollout)  # a resumed run starts with this number

    def stop(self) -> None:
        """End the workers and their environments, and Ray where this trainer started it."""
        self.updates.close()
        self.evaluations.close()
        self._close()
        _running.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


@atexit.register
def _stop_all() -> None:
    """Stop all trainers while the modules that an unfinished update needs are still loaded."""
    for trainer in list(_running):
        if not trainer.updates.running:
            trainer.stop()
