"""Workers of several policies that share their environments."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from shoal.algorithms.by_policy import join, split
from shoal.algorithms.fixed import Fixed
from shoal.algorithms.policies import Models
from shoal.config.config import Config
from shoal.envs import Step, make
from shoal.envs.agent_group import Group
from shoal.envs.agents import AgentsEnv
from shoal.fleet.parcel import Parcel
from shoal.fleet.sample import Sample
from shoal.fleet.worker import Worker
from shoal.spaces.team import TeamSpaces
from shoal.trajectory import Obs, ndarray

T = TypeVar("T")


class GroupEnv:
    """The agents of one policy as a vector environment, which others step.

    ``reset`` and ``set_state`` show what is there; the whole world is reset elsewhere.
    """

    frame_stack = 1
    reward_clip: float | None = None
    spec: Any = None
    fps: float | None = None

    def __init__(self, world: AgentsEnv, group: Group) -> None:
        self._world, self._group = world, group
        self.id, self.spaces, self.slots = world.id, group.spaces, group.slots
        self.agents, self.takes_turns = group.agents, world.takes_turns

    @property
    def episode_seeds(self) -> list[int | None]:
        """Those of the copies."""
        return [seed for seed in self._world.seeds for _ in self.agents]

    def reset(self, seed: int | None = None) -> Obs:
        """What is observed now."""
        return {path: x.copy() for path, x in self._group.rows.arrays.items()}

    def play(self, seeds: Sequence[int]) -> Obs:
        """What is observed now."""
        return self.reset()

    def set_state(self, state: dict[str, Any]) -> Obs:
        """What is observed now."""
        return self.reset()

    def step(self, action: ndarray) -> Step:
        """See `VectorEnv.step`: only for a world of this group alone."""
        return self._world.step_groups({self._group.name: action})[self._group.name]

    def get_state(self) -> dict[str, Any]:
        """Nothing: the world's is saved once."""
        return {}

    def render(self) -> Any:
        """A frame of the first copy."""
        return self._world.render()

    def close(self) -> None:
        """Nothing: the world is closed once."""


class Team:
    """A `Worker` for each policy that learns, all on the same copies of an environment.

    They sample in lock step: each tells the actions of its own agents, and is sent what came of
    them. Their samples are joined to one, whose batch is by policy.
    """

    def __init__(self, config: Config, index: int, env: Any = None, restart: int = 0) -> None:
        algorithm, rollout = config.algorithm, config.rollout
        own = [1 + index, restart] if restart else [1 + index]
        self.rng = np.random.default_rng([config.seed, *own])
        made: Any = make(
            config.env if env is None else env,
            rollout.envs_per_worker,
            kwargs=rollout.env_kwargs,
            seed=int(self.rng.integers(2**31)),
            worker=index,
            assign=algorithm.assign,
            central=[name for name, part in algorithm.parts.items() if part.central],
            max_agents=rollout.max_agents,
            policy_of=algorithm.policy_of,
        )
        self.env: AgentsEnv = made
        try:
            self._join(config, index, restart)
        except BaseException:
            self.env.close()
            raise

    def _join(self, config: Config, index: int, restart: int) -> None:
        algorithm, groups = config.algorithm, self.env.groups
        self.config = config
        self.env.reset_groups(int(self.rng.integers(2**31)))
        self.fixed = {
            name: Fixed(name, what, groups[name].spaces, groups[name].agents, self.env.id)
            for name, what in algorithm.fixed.items()
        }
        self.workers: dict[str, Worker] = {}
        self._seed = [config.seed, 1 + index, restart]
        for number, (name, part) in enumerate(algorithm.parts.items()):
            world = GroupEnv(self.env, groups[name])
            worker = Worker(replace(config, algorithm=part), index, None, restart, world)
            worker.rng = np.random.default_rng([*self._seed, number])
            self.workers[name] = worker
        self._first = next(iter(self.workers.values()))
        self._before: dict[str, Any] = {}  # state before the newest fragment
        self._unfinished = False  # see ``Worker``
        self.model = Models({name: worker.model for name, worker in self.workers.items()})

    @property
    def idle_since(self) -> float:
        """When its last call ended."""
        return self._first.idle_since

    @idle_since.setter
    def idle_since(self, now: float) -> None:
        for worker in self.workers.values():
            worker.idle_since = now

    @property
    def beat(self) -> int:
        """Env steps so far: tells from outside that it is alive."""
        return self._first.beat

    @property
    def fragments(self) -> int:
        """Sampled so far."""
        return self._first.fragments

    def get_spaces(self) -> TeamSpaces:
        """Spaces of the policies that learn."""
        return TeamSpaces({name: worker.get_spaces() for name, worker in self.workers.items()})

    def get_layout(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Stacked frames and slots, by policy; see `Worker.get_layout`."""
        found = {name: worker.get_layout() for name, worker in self.workers.items()}
        return {k: stacks for k, (stacks, _) in found.items()}, {
            k: slots for k, (_, slots) in found.items()
        }

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """Act with these from the next env step on."""
        own = split(weights)
        for name, worker in self.workers.items():
            worker.set_weights(own.get(name, {}), version)

    def sample(self, number: int | None = None) -> Sample:
        """Sample one fragment of every policy; see `Worker.sample`."""
        found, env_time, act_time = self._play(
            {name: worker.sampling(number) for name, worker in self.workers.items()}
        )
        samples = {name: sample for name, (sample, _) in found.items()}
        return self._joined(samples, env_time, act_time)

    def sample_apart(self) -> Sample:
        """The same; each policy's batch stays here until its receiver fetches it."""
        found, env_time, act_time = self._play(
            {name: worker.sampling(None) for name, worker in self.workers.items()}
        )
        own = {name: self.workers[name].prioritised(*both) for name, both in found.items()}
        sample = self._joined(own, env_time, act_time)
        return replace(sample, batch={name: Parcel(x.batch) for name, x in own.items()})

    def probe(self, env_steps: int) -> Sample:
        """Random actions of the policies that learn; see `Worker.probe`."""
        found, env_time, act_time = self._play(
            {name: worker.probing(env_steps) for name, worker in self.workers.items()}
        )
        self.env.reset_groups(int(self.rng.integers(2**31)))
        for worker in self.workers.values():
            worker.start_episodes()
        return self._joined(found, env_time, act_time)

    def _play(
        self, sampling: Mapping[str, Generator[ndarray, Step, T]]
    ) -> tuple[dict[str, T], float, float]:
        """What all of these return, stepped together; and the seconds in environments and policies.

        They end with the same env step. Fragments that did not come to their end are undone first,
        as in `Worker`.
        """
        if self._unfinished:
            self.set_state(self._before)
        self._before, self._unfinished = self._states(), True
        actions = {name: next(steps) for name, steps in sampling.items()}
        found: dict[str, T] = {}
        env_time = act_time = 0.0
        while not found:
            start = perf_counter()
            for name, policy in self.fixed.items():
                group = self.env.groups[name]
                actions[name] = policy.choose(group.rows.arrays, self.rng, group.acts.copy())
            then = perf_counter()
            steps = self.env.step_groups(actions)
            act_time, env_time = act_time + then - start, env_time + perf_counter() - then
            for name, policy in self.fixed.items():
                final = steps[name].final
                if final is not None:
                    begins = np.zeros(self.env.groups[name].slots, bool)
                    begins[final[0]] = True
                    policy.reset(begins)
            for name, worker_steps in sampling.items():
                try:
                    actions[name] = worker_steps.send(steps[name])
                except StopIteration as done:
                    found[name] = done.value
        self._unfinished = False
        return found, env_time, act_time

    def _joined(self, found: Mapping[str, Sample], env_time: float, act_time: float) -> Sample:
        first, every = next(iter(found.values())), list(found.values())
        times = {
            "env": env_time,
            "act": act_time + sum(sample.times["act"] for sample in every),
            "postprocess": sum(sample.times.get("postprocess", 0.0) for sample in every),
            "idle": first.times.get("idle", 0.0),
        }
        return Sample(
            {name: sample.batch for name, sample in found.items()},
            first.env_steps,
            sum(sample.trained_steps for sample in every),
            first.version,
            [episode for sample in every for episode in sample.episodes],
            join({name: sample.moments for name, sample in found.items()}),
            times,
            join({name: sample.outside for name, sample in found.items()}),
            sum(sample.agent_steps for sample in every),
            {name: [x for x, _ in sample.episodes] for name, sample in found.items()},
            steps={name: sample.agent_steps for name, sample in found.items()},
        )

    def begin(self, seed: int, number: int) -> None:
        """Fresh episodes, with randomness that depends on these two."""
        _, index, restart = self._seed
        self.rng = np.random.default_rng([seed, index, restart, number])
        self.env.reset_groups(int(self.rng.integers(2**31)))
        for i, worker in enumerate(self.workers.values()):
            worker.begin(seed, number)
            worker.rng = np.random.default_rng([seed, index, restart, number, i])
        for policy in self.fixed.values():
            policy.reset()
        self._unfinished = False

    def rollback(self, fragments: int) -> None:
        """Undo the newest fragment if it is past this count."""
        if self.fragments > fragments:
            self.set_state(self._before)
            for worker in self.workers.values():
                worker.fragments = fragments

    def _states(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "world": self.env.get_state(),
            "workers": {name: worker.get_state() for name, worker in self.workers.items()},
            "fixed": {name: policy.get_state() for name, policy in self.fixed.items()},
        }

    def get_state(self) -> dict[str, Any]:
        """All that the next fragment depends on, but for the weights."""
        return self._states()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there: the same fragments will follow."""
        self.rng.bit_generator.state = state["rng"]
        self.env.set_state_groups(state["world"])
        for name, worker in self.workers.items():
            worker.set_state(state["workers"][name])
        for name, policy in self.fixed.items():
            policy.set_state(state["fixed"][name])
        self._unfinished = False

    def close(self) -> None:
        """End the environments."""
        self.env.close()
