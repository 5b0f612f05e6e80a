"""A run: what is neither in workers nor in the learner. Counters, randomness, moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from shoal.algorithms.by_policy import join, split
from shoal.config.replay import Replay
from shoal.config.schedule import at
from shoal.errors import ConfigError
from shoal.fleet.sample import Sample
from shoal.ops.moments import Moments
from shoal.plans.pool import Pool
from shoal.replay.counts import Replayed
from shoal.spaces.base import OWN
from shoal.trajectory import Episodes, ndarray

FAR = 2.0**14  # standard deviations from 0 at which float32 rounds to a thousandth of one


@dataclass
class Counters(Replayed):
    """What a run has done so far. Always: sampled = trained + dropped + in flight (the rest).

    These are agent steps. With one agent, they are env steps too.
    """

    env_steps: int = 0  # steps of environments
    agent_steps: int = 0  # sampled: actions of agents, with what followed on them
    trained_steps: int = 0  # in plans that replay: stored, to be trained on again and again
    dropped_steps: int = 0
    gradient_steps: int = 0
    episodes: int = 0
    lost_steps: int = 0  # stored ones that died with a replay shard

    # Transitions in the hands of members that label. Always: pulled = labelled + unlabelled + those
    # on their way.
    pulled_steps: int = 0  # drawn, to be labelled
    labelled_steps: int = 0
    unlabelled_steps: int = 0  # their labels died with a member
    expired_steps: int = 0  # labelled, and not trained on: their labels were too old


@dataclass
class Run:
    """The moving parts of a run that are neither in workers nor in the learner."""

    algorithm: Any  # an ``Algorithm`` of the kind that the plan runs
    rng: np.random.Generator
    total_env_steps: int | None  # of the whole run, where it is known: what annealing refers to
    counters: Counters = field(default_factory=Counters)
    moments: dict[str, Moments] = field(default_factory=dict)
    origins: dict[str, ndarray] = field(
        default_factory=dict
    )  # of leaves far from 0; see Leaf.narrow
    fragments: int = 0  # that each worker has sampled, in the plans that wait for all of them
    model: Any = None  # the algorithm's
    slots: Any = 1  # of all workers; with several policies, by policy
    replay: Replay = field(default_factory=Replay)
    demos: Episodes = ()  # demonstrations to replay, episode by episode
    local_replay: Any = None  # a LocalReplay or PolicyReplay, if the plan ``replays``
    pool: Pool | None = None  # past selves, if it is self-play
    replay_bytes: int = 0  # size of the replay buffer, in this process or elsewhere
    counted: dict[str, int] = field(default_factory=dict)  # by the run that this is a part of

    @property
    def progress(self) -> float:
        """Part of the whole run that is done, in [0, 1]; 0 if its length is not known."""
        total = self.total_env_steps
        return min(self.counters.env_steps / total, 1.0) if total else 0.0

    @property
    def offline_left(self) -> int:
        """Gradient steps to take on demonstrations alone before anything is sampled."""
        return max(self.replay.offline_steps - self.counters.gradient_steps, 0)

    @property
    def demo_ratio(self) -> float:
        """Probability that what is drawn is a demonstration, now."""
        return 1.0 if self.offline_left else at(self.replay.demo_ratio, self.progress)

    def hyper(self) -> dict[str, float]:
        """The algorithm's annealed hyperparameters, now; and replay's."""
        hyper: dict[str, float] = self.algorithm.hyper(self.progress)
        if self.remembers and self.replay.alpha:
            hyper["beta"] = at(self.replay.beta, self.progress)
        return hyper

    @property
    def remembers(self) -> bool:
        """Whether the algorithm learns from a replay buffer."""
        return "replay" in self.algorithm.needs

    @property
    def buffer(self) -> Any:
        """The replay buffer, if it is in this process."""
        return None if self.local_replay is None else self.local_replay.buffer

    def aux(self) -> dict[str, ndarray]:
        """What policies act with besides the parameters, now."""
        exploration = self.algorithm.exploration(self.counters.env_steps, self.slots)
        return {**self.normalisation(), **exploration}

    def observe(self, moments: dict[str, Moments]) -> None:
        """Merge what a worker saw into the run's moments; exact, whatever the order."""
        for name, new in moments.items():
            old = self.moments.get(name)
            self.moments[name] = new if old is None else old.merge(new)

    def set_origins(self) -> None:
        """Fix what is subtracted from observations too far from 0 for the precision of float32."""
        for name, leaf in self._leaves():
            if leaf.wide and name in self.moments:
                moments = self.moments[name]
                far = np.abs(moments.mean) > FAR * moments.std()
                if far.any():
                    origin = np.where(far, moments.mean, 0.0)
                    self.origins[name] = np.asarray(origin, np.float32)
        if self.origins and self.demos:
            raise ConfigError(
                f"the observations {sorted(self.origins)} lie too far from 0 to be normalised in "
                "float32, and demonstrations are stored already",
                None,
                "leave rollout.normalise_obs out",
            )

    def _leaves(self) -> Iterator[tuple[str, Any]]:
        """All leaves of observations, by the names of their moments."""
        if self.model is None:
            return
        if not self.algorithm.parts:
            yield from ((leaf.path, leaf) for leaf in self.model.spaces.leaves)
        for policy in self.algorithm.parts:
            for leaf in self.model[policy].spaces.leaves:
                yield f"{policy}/{leaf.path}", leaf

    def normalisation(self) -> dict[str, ndarray]:
        """What a network normalises by: "norm/<leaf>/mean", "/std" and, far from 0, "/origin".

        Rewards are scaled by the deviation of returns, which stands under the path of no leaf. Of
        several policies, each name begins with that of its policy.
        """
        parts = self.algorithm.parts
        if not parts:
            return normalisation(self.algorithm, self.moments, self.origins)
        moments, origins = split(self.moments), split(self.origins)
        found = {
            name: normalisation(part, moments.get(name, {}), origins.get(name, {}))
            for name, part in parts.items()
        }
        return join(found)

    def take(self, sample: Sample) -> None:
        """Count what a worker sampled; from now on it is in flight."""
        self.observe(sample.moments)
        if self.pool is not None:
            self.pool.take(sample.games)
        self.counters.env_steps += sample.env_steps
        self.counters.agent_steps += sample.agent_steps
        self.counters.episodes += len(sample.episodes)

    def trained(self, samples: Sequence[Sample], gradient_steps: int) -> None:
        """Count what an update has trained on; rows that the batch did not hold were dropped."""
        for sample in samples:
            self.counters.trained_steps += sample.trained_steps
            self.counters.dropped_steps += sample.agent_steps - sample.trained_steps
        self.counters.gradient_steps = gradient_steps

    def drop(self, sample: Sample) -> None:
        """Count what will not be trained on: it is too old, or its worker died."""
        self.counters.dropped_steps += sample.agent_steps

    def abandon(self) -> None:
        """What was in flight when the plan last ended is gone."""
        counters = self.counters
        counters.dropped_steps = counters.agent_steps - counters.trained_steps
        counters.unlabelled_steps = counters.pulled_steps - counters.labelled_steps

    def add(self, parts: Iterable[Run]) -> None:
        """Count what the policies' own runs have counted since this was last asked."""
        for own in parts:
            if own is self:
                return
            for name in _SHARED:
                now = getattr(own.counters, name)
                more = now - own.counted.get(name, 0)
                setattr(self.counters, name, getattr(self.counters, name) + more)
                own.counted[name] = now
            own.counters.env_steps = self.counters.env_steps

    def get_state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "counters": asdict(self.counters),
            "fragments": self.fragments,
            "moments": {name: m.arrays() for name, m in self.moments.items()},
            "origins": dict(self.origins),
            **({} if self.pool is None else {"pool": self.pool.get_state()}),
            **({} if self.local_replay is None else {"replayed": self.local_replay.get_counts()}),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        vars(self.counters).update(state["counters"])  # others hold them too
        self.fragments = state["fragments"]
        self.moments = {name: Moments.from_arrays(m) for name, m in state["moments"].items()}
        self.origins = dict(state["origins"])
        if self.pool is not None:
            self.pool.set_state(state["pool"])
        if self.local_replay is not None:
            self.local_replay.set_counts(state["replayed"])


_SHARED = "trained_steps", "dropped_steps", "lost_steps", "replayed_steps"


def policy_runs(run: Run) -> dict[str, Run]:
    """A run of each policy, which counts what becomes of its transitions; of one alone, the run."""
    if not run.algorithm.parts:
        return {"": run}
    return {
        name: Run(
            part,
            run.rng,
            run.total_env_steps,
            Counters(env_steps=run.counters.env_steps),
            model=run.model[name],
            slots=run.slots[name],
            replay=run.replay,
        )
        for name, part in run.algorithm.parts.items()
    }


def normalisation(
    algorithm: Any, moments: Mapping[str, Moments], origins: Mapping[str, ndarray]
) -> dict[str, ndarray]:
    """See ``Run.normalisation``, of one policy."""
    out: dict[str, ndarray] = {}
    for name, found in moments.items():
        std = found.std() if name == OWN else algorithm.deviation(found)
        out[f"norm/{name}/std"] = np.asarray(std, np.float32)
        if name != OWN:
            mean = found.mean - origins.get(name, 0.0)
            out[f"norm/{name}/mean"] = np.asarray(mean, np.float32)
    return out | {f"norm/{name}/origin": x for name, x in origins.items()}
