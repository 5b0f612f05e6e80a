"""A worker: environments and the policy that acts in them.

Its verbs are the RLlib paper's (arXiv:1712.09381, section 3): sample, set_weights, get_state,
set_state. It acts in NumPy and imports no learning framework, unless the network is a user's own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from shoal.algorithms.base import Model
from shoal.algorithms.memory import Memory
from shoal.config.config import Config
from shoal.config.self_play import POOL
from shoal.envs import Step, VectorEnv
from shoal.envs.base import ENDLESS
from shoal.envs.checks import Bounds
from shoal.envs.game import STILL
from shoal.errors import EnvError
from shoal.fleet.opponents import SelfPlayEnv, games_of_two
from shoal.fleet.parcel import Parcel
from shoal.fleet.sample import Sample
from shoal.fleet.turns import Turns, dense
from shoal.fleet.world import make_world
from shoal.nets.factory import build
from shoal.ops.moments import Moments
from shoal.process import interrupts
from shoal.replay.layout import column, layout_of
from shoal.spaces import axes
from shoal.spaces.base import ACTION_MASK, OWN, Spaces
from shoal.trajectory import Batch, Obs, Trajectory, ndarray

T = TypeVar("T")
REWARD_CLIP = 10.0  # of scaled rewards, in standard deviations (PPO detail 31)


class Recording:
    """A trajectory in the making. Copies what it is given: environments reuse their arrays."""

    def __init__(self, obs: Obs) -> None:
        self.latest: Obs = {path: x.copy() for path, x in obs.items()}  # to act on next
        self._obs = {path: [x] for path, x in self.latest.items()}
        self._columns: tuple[list[ndarray], ...] = ([], [], [], [], [])
        self._final_t: list[ndarray] = [np.zeros(0, np.int64)]
        self._final_b: list[ndarray] = [np.zeros(0, np.int64)]
        self._final: dict[str, list[ndarray]] = {p: [x[:0]] for p, x in self.latest.items()}
        self._records: dict[str, list[ndarray]] = {}
        self._goes_on: list[ndarray] = []  # of every step, or of none
        self.waits: ndarray | None = None  # of the newest step

    def add(
        self, action: ndarray, step: Step, valid: ndarray, records: Mapping[str, ndarray]
    ) -> None:
        """One env step of every slot; ``records`` are what ``act`` returned beside the action."""
        actions, rewards, terminated, truncated, valids = self._columns
        if step.final is not None:
            slots, last = step.final
            self._final_t.append(np.full(len(slots), len(actions)))
            self._final_b.append(slots.copy())
            for path, x in last.items():
                self._final[path].append(x.copy())
        actions.append(action)
        rewards.append(step.reward.copy())
        terminated.append(step.terminated.copy())
        truncated.append(step.truncated.copy())
        valids.append(valid)
        if step.goes_on is not None:
            self._goes_on.append(step.goes_on.copy())
        self.waits = step.waits
        for name, x in records.items():
            self._records.setdefault(name, []).append(x)
        self.latest = {path: x.copy() for path, x in step.obs.items()}
        for path, x in self.latest.items():
            self._obs[path].append(x)

    def trajectory(self, version: int) -> Trajectory:
        """All of it, time-major."""
        action, reward, terminated, truncated, valid = map(np.stack, self._columns)
        return Trajectory(
            obs={path: np.stack(x) for path, x in self._obs.items()},
            action=action,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            final_t=np.concatenate(self._final_t),
            final_b=np.concatenate(self._final_b),
            final={path: np.concatenate(x) for path, x in self._final.items()},
            version=version,
            records={name: np.stack(x) for name, x in self._records.items()},
            goes_on=np.stack(self._goes_on) if self._goes_on else None,
        )


class Worker:
    """Steps its slots and postprocesses what it saw.

    ``index`` makes its randomness its own, ``restart`` that of each of its replacements. ``world``
    takes the place of environments of its own.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        env: Any = None,
        restart: int = 0,
        world: VectorEnv | None = None,
    ) -> None:
        rollout = config.rollout
        self.config, self.index, self.restart = config, index, restart
        own = [1 + index, restart] if restart else [1 + index]
        self.rng = np.random.default_rng([config.seed, *own])
        self.beat = 0  # env steps of all slots together so far: tells from outside that it is alive
        self.idle_since = perf_counter()  # when its last call ended
        seed = int(self.rng.integers(2**31))
        self.env, self._own_spaces = (
            make_world(config, env, index, seed) if world is None else (world, world.spaces)
        )
        self._bounds = Bounds(self.env.spaces)
        clip: Any = rollout.clip_reward
        if clip == "auto":
            clip = None if rollout.scale_reward else self.env.reward_clip
        self.reward_clip: float | None = clip
        self.model: Model = config.algorithm.model(self.env.spaces, build)
        self._opponents: SelfPlayEnv | None = None
        if config.self_play.pool:
            agents = games_of_two(self.env, config.self_play)
            own_seed = int(self.rng.integers(2**31))
            self._opponents = SelfPlayEnv(
                agents, config.self_play, config.algorithm, self.model, own_seed
            )
            self.env = self._opponents
        self._policy_memory = Memory(config.algorithm, self.model)
        self.weights: dict[str, ndarray] = {}
        self.version = 0
        self.fragments = 0  # sampled so far
        self._trained = frozenset[str]()
        self._before: dict[str, Any] | None = None  # state before the newest fragment
        self._restore: dict[str, Any] | None = None  # state to go back to before the next one
        self._unfinished = False  # the newest fragment has begun, and not come to its end
        self._turns = Turns(self.env.slots) if self.env.takes_turns else None
        self.start_episodes()

    def get_spaces(self) -> Spaces:
        """Spaces of the environment, as it was made here; a view may show less of it."""
        return self._own_spaces

    def get_reward_clip(self) -> float | None:
        """What rewards are clipped to."""
        return self.reward_clip

    def get_layout(self) -> tuple[dict[str, int], int]:
        """What a replay buffer must know: lengths of stacked frames by leaf, and slots."""
        return self.get_stacks(), self.env.slots

    def get_stacks(self) -> dict[str, int]:
        """Lengths of stacked frames, by leaf."""
        stack = self.env.frame_stack
        return {self.env.spaces.leaves[0].path: stack} if stack > 1 else {}

    def start_episodes(self) -> None:
        """Fresh episodes in every slot."""
        slots = self.env.slots
        first = self.env.reset(seed=int(self.rng.integers(2**31)))
        self.obs: Obs = {**first, **self._policy_memory.begin((slots,))}
        self.returns = np.zeros(slots)  # of the running episodes, raw
        self.lengths = np.zeros(slots, np.int64)
        self.discounted = np.zeros(slots)  # running discounted return, for reward scaling
        if self._turns is not None:
            self._turns.clear()

    def begin(self, seed: int, number: int) -> None:
        """Fresh episodes, with randomness that depends on these two."""
        self.rng = np.random.default_rng([seed, 1 + self.index, self.restart, number])
        self.fragments, self._before, self._restore, self._unfinished = 0, None, None, False
        self.start_episodes()

    def set_weights(self, weights: Mapping[str, ndarray], version: int) -> None:
        """Act with these from the next env step on."""
        if self._opponents is not None:
            self._opponents.set_weights(weights)
            weights = {name: x for name, x in weights.items() if not name.startswith(POOL)}
        self.weights, self.version = {**weights, **self._explores(weights)}, version

    def _explores(self, weights: Mapping[str, ndarray]) -> dict[str, ndarray]:
        """This worker's part of what each environment of the run explores with."""
        found, slots = {}, self.env.slots
        for name, x in weights.items():
            if name.startswith("explore/") and x.ndim:
                first = self.index * slots % len(x)  # one that joined later shares another's part
                found[name] = x[first : first + slots]
        return found

    def sample(self, number: int | None = None) -> Sample:
        """Sample one fragment with the current weights and postprocess it.

        ``number`` of the fragment, in the plans that wait for all workers; by it ``rollback`` knows
        what to undo, in workers that joined later too.
        """
        return self.play(self.sampling(number))[0]

    def sampling(self, number: int | None) -> Generator[ndarray, Step, tuple[Sample, Trajectory]]:
        """The same as a generator, which yields the actions of every env step and is sent the step.

        It also returns the trajectory that the batch was made of.
        """
        idle = perf_counter() - self.idle_since
        self._begin(number)
        algorithm, rollout = self.config.algorithm, self.config.rollout
        if algorithm.whole_episodes:
            self.start_episodes()
        trajectory, waits, env_steps, times = yield from self._collect(
            rollout.fragment_length, algorithm.whole_episodes
        )
        start = perf_counter()
        episodes = self._account(trajectory)
        if self._turns is not None:
            trajectory = self._turns.steps(trajectory, waits)
        moments = self._moments(trajectory)
        seen = {path: x[:-1] for path, x in trajectory.obs.items()}
        outside = self._bounds.outside(seen, trajectory.valid)
        spaces = self.env.spaces
        trajectory.obs = spaces.narrow(trajectory.obs, self.weights)
        trajectory.final = spaces.narrow(trajectory.final, self.weights)
        if rollout.scale_reward:
            std = self.weights[f"norm/{OWN}/std"]
            trajectory.reward = np.clip(trajectory.reward / std, -REWARD_CLIP, REWARD_CLIP)
        elif self.reward_clip is not None:
            trajectory.reward = np.clip(trajectory.reward, -self.reward_clip, self.reward_clip)
        batch = algorithm.postprocess(self.model, self.weights, trajectory)
        times["postprocess"] = perf_counter() - start
        times["idle"] = idle
        trained, acted = int(np.count_nonzero(batch["mask"])), env_steps
        if self.env.agents:
            acted = int(np.count_nonzero(trajectory.valid))
            # Ranks of a collective take as many gradient steps: their batches stay of one size.
            if "replay" not in algorithm.needs and not self.config.plan.collective:
                batch = dense(batch)
        self.idle_since = perf_counter()
        counts = env_steps, trained, self.version
        sample = Sample(batch, *counts, episodes, moments, times, outside, acted)
        if self._opponents is not None:
            sample.games = self._opponents.games()
        return sample, trajectory

    def play(self, actions: Generator[ndarray, Step, T]) -> T:
        """Take these actions in the environments, until there are no more."""
        try:
            action = next(actions)
            while True:
                action = actions.send(self.env.step(action))
        except StopIteration as done:
            result: T = done.value
            return result

    def sample_apart(self) -> Sample:
        """Sample one fragment; its batch stays here until its receiver fetches it.

        Where transitions are drawn by priority, they get their first one here, by the weights that
        sampled them (Horgan et al. 2018, arXiv:1803.00933, section 3).
        """
        sample = self.prioritised(*self.play(self.sampling(None)))
        return replace(sample, batch=Parcel(sample.batch))

    def prioritised(self, sample: Sample, trajectory: Trajectory) -> Sample:
        """A sample with the first priorities of its transitions, if they are drawn by priority."""
        if self.config.replay.alpha:
            start = perf_counter()
            sample.batch["priority"] = self._priorities(sample.batch, trajectory)
            self.idle_since = perf_counter()
            sample.times["postprocess"] += self.idle_since - start
        return sample

    def _priorities(self, batch: Batch, trajectory: Trajectory) -> ndarray:
        """Priorities of a fragment's transitions [T, B], from the loss with online targets.

        The last ones of a fragment bootstrap earlier than after n steps.
        """
        from shoal.replay.buffer import Buffer  # it compiles, which nobody else need wait for

        algorithm, model = self.config.algorithm, self.model
        params = {name: self.weights[name] for name in self._parameters()}
        columns = layout_of(algorithm, model, self.get_stacks())
        obs, final = dict(trajectory.obs), dict(trajectory.final)
        known, known_final = algorithm.known(model, params, trajectory)
        if known:  # it takes the observations' place; a mask stays one
            masks = [path for path in obs if path == ACTION_MASK]
            obs = {**known, **{path: obs[path] for path in masks}}
            final = {**known_final, **{path: final[path] for path in masks}}
            columns = replace(columns, obs={name: column(x) for name, x in obs.items()})
        steps, slots = batch["reward"].shape
        most = max(c.stack for c in columns.obs.values()) + 1  # rows that one env step can take
        capacity = slots * (steps + 2) * most
        buffer = Buffer(columns, slots, capacity, n_step=algorithm.n_step, gamma=algorithm.gamma)
        buffer.store(0, {**batch, "obs": obs, "final": final})
        drawn = buffer.everything().batch
        if known:
            for now, then in (("known", "obs"), ("next_known", "next_obs")):
                drawn[now] = {name: drawn[then].pop(name) for name in known}
        noise = algorithm.draw(model, self.rng, 1, len(drawn["reward"]))
        drawn["step"] = {name: x[0] for name, x in noise.items()}
        aux = {**self.weights, **algorithm.targets(params)}
        _, metrics = algorithm.loss(model, params, aux, drawn)
        found = np.ones((slots, steps), np.float32)
        found[batch["mask"].T] = metrics.rows["priority"]
        return np.ascontiguousarray(found.T)

    def _parameters(self) -> frozenset[str]:
        """Names of what is trained, of all that a policy acts with."""
        if not self._trained:
            made = self.config.algorithm.init(self.model, np.random.default_rng(0))
            self._trained = frozenset(made) - self.model.net.frozen
        return self._trained

    def probe(self, env_steps: int) -> Sample:
        """Random actions, for the first moments of observations and returns; then fresh episodes.

        Without them the first fragment would be seen through a normalisation that knows nothing.
        """
        return self.play(self.probing(env_steps))

    def probing(self, env_steps: int) -> Generator[ndarray, Step, Sample]:
        """The same as a generator, as ``sampling`` is one."""
        self._begin(None)
        trajectory, _, sampled, times = yield from self._collect(env_steps, False, policy=False)
        moments = self._moments(trajectory)
        acted = int(np.count_nonzero(trajectory.valid)) if self.env.agents else sampled
        self.start_episodes()
        return Sample({}, sampled, 0, self.version, [], moments, times, {}, acted)

    def _begin(self, number: int | None) -> None:
        """A new fragment: what ``rollback`` returns to is what is now.

        If the newest fragment was interrupted, it is undone first: its env steps were taken, but
        ``obs`` is still what was seen before them.
        """
        if self._unfinished and self._restore is None:
            self._restore = self._before
        if self._restore is not None:
            self.set_state(self._restore)
        if number is not None:
            self.fragments = number
        self._before = self._state()
        self._unfinished = True
        self.fragments += 1

    def _collect(
        self, length: int, whole_episodes: bool, policy: bool = True
    ) -> Generator[ndarray, Step, tuple[Trajectory, Any, int, dict[str, float]]]:
        """Step every slot ``length`` times; for whole episodes, then on until each has ended.

        Returns the trajectory, which slots wait for others, the env steps that happened and the
        seconds they took. A slot that is done while others go on is stepped along: that is counted,
        though not valid. Of games, which a search plays, it stands still.
        """
        model, act, env = self.model, self.config.algorithm.act, self.env
        slots, t, beyond, still = env.slots, 0, 0, self.config.algorithm.plays
        record = Recording(self.obs)
        running = np.ones(slots, bool)  # slots whose episodes are still wanted
        weights = dict(self.weights)  # what a search keeps for these ends with the fragment
        env_time = act_time = 0.0
        while t < length or (whole_episodes and running.any()):
            interrupts.check()
            now = perf_counter()
            if t % length == 0:
                noise = model.dist.noise(self.rng, (length, slots))
            obs = record.latest
            records: Obs = {}
            if policy and still and not running.all():
                action, records = self._playing(weights, running, obs, noise[t % length])
            elif policy:
                action, records = act(model, weights, obs, noise[t % length])
            else:
                flat = np.zeros((slots, model.dist.n_out), np.float32)
                action = model.dist.sample(flat, noise[t % length], obs.get("action_mask"))
            then = perf_counter()
            step = yield action
            env_time += perf_counter() - then
            act_time += then - now
            if self._policy_memory:
                memory, records = self._policy_memory.split(records) if policy else ({}, records)
                step = self._remember(step, memory or self._policy_memory.begin((slots,)), obs)
            valid = running.copy() if step.valid is None else step.valid & running
            record.add(action, step, valid, records)
            t += 1
            self.beat += slots
            if t == length + ENDLESS and whole_episodes:
                raise EnvError(
                    f"{type(self.config.algorithm).__name__} learns from whole episodes, but one "
                    f"of {self.env.id!r} has not ended within {ENDLESS:,} env steps",
                    None,
                    "give the environment a time limit, or take an algorithm that needs none: a2c",
                )
            if whole_episodes and t >= length:
                happened = slots if step.valid is None else np.count_nonzero(step.valid)
                beyond += 0 if still else int(happened - np.count_nonzero(valid))
                running &= ~step.over
        self.obs, self._unfinished = record.latest, False
        trajectory = record.trajectory(self.version)
        trajectory.fragment = self.restart, self.fragments - 1
        happened = int(np.count_nonzero(trajectory.valid)) + beyond
        if env.agents:
            happened = t * slots // len(env.agents)
        return trajectory, record.waits, happened, {"env": env_time, "act": act_time}

    def _playing(
        self, weights: dict[str, ndarray], running: ndarray, obs: Obs, noise: ndarray
    ) -> tuple[ndarray, Obs]:
        """Moves and records of the games that are ``running``; the others stand still."""
        own = {path: x[running] for path, x in obs.items()}
        moves, found = self.config.algorithm.act(self.model, weights, own, noise[running])
        action = np.full(len(running), STILL)
        records: Obs = {}
        action[running] = moves
        for name, x in found.items():
            records[name] = np.zeros((len(running), *x.shape[1:]), x.dtype)
            records[name][running] = x
        return action, records

    def _remember(self, step: Step, memory: Obs, before: Obs) -> Step:
        """The step with what the policy remembers after it, until an episode begins."""
        begins = np.zeros(self.env.slots, bool) if step.valid is None else ~step.valid
        if step.waits is not None:  # who did not act remembers what it did ``before``
            memory = {path: _where(~begins, x, before[path]) for path, x in memory.items()}
            begins[:] = False
        final = step.final
        if final is not None:
            slots, last = final
            begins = begins.copy()
            begins[slots] = True
            final = slots, {**last, **{path: x[slots] for path, x in memory.items()}}
        return step._replace(
            obs={**step.obs, **self._policy_memory.reset(memory, begins)}, final=final
        )

    def _account(self, trajectory: Trajectory) -> list[tuple[float, int]]:
        """Returns and lengths of the episodes that ended in this fragment, in order of time."""
        # An agent is also paid, and its episode may end, while others act.
        counts = trajectory.valid | bool(self.env.agents)
        reward = np.where(counts, trajectory.reward, 0.0).cumsum(0, dtype=np.float64)
        length = trajectory.valid.cumsum(0)
        ended = trajectory.over & counts
        from_return, from_length = -self.returns, -self.lengths
        episodes = []
        for t, b in zip(*np.nonzero(ended), strict=True):
            episodes.append(
                (float(reward[t, b] - from_return[b]), int(length[t, b] - from_length[b]))
            )
            from_return[b], from_length[b] = reward[t, b], length[t, b]
        self.returns, self.lengths = reward[-1] - from_return, length[-1] - from_length
        return episodes

    def _moments(self, trajectory: Trajectory) -> dict[str, Moments]:
        """Moments of this fragment's observations and running discounted returns, if needed."""
        rollout, moments = self.config.rollout, {}
        if rollout.normalise_obs:
            for leaf in self.model.spaces.leaves:
                if leaf.kind == "box" and not axes.image(leaf):
                    seen = trajectory.obs[leaf.path][:-1][trajectory.valid]
                    moments[leaf.path] = Moments.of(seen)
        if rollout.scale_reward:
            returns = np.empty(trajectory.reward.shape)
            for t, reward in enumerate(trajectory.reward):
                earned = self.discounted * self.config.algorithm.gamma + reward
                returns[t] = earned = np.where(trajectory.valid[t], earned, self.discounted)
                ended = trajectory.over[t] if self.env.takes_turns else trajectory.last[t]
                self.discounted = np.where(ended, 0.0, earned)
            moments[OWN] = Moments.of(returns[trajectory.valid])
        return moments

    def rollback(self, fragments: int) -> None:
        """Undo the newest fragment if it is past this count: it was interrupted or never used."""
        if self.fragments > fragments:
            self._restore, self.fragments = self._before, fragments

    def get_state(self) -> dict[str, Any]:
        """All that the next fragment depends on, but for the weights."""
        return self._state() if self._restore is None else self._restore

    def _state(self) -> dict[str, Any]:
        return {
            "fragments": self.fragments,
            "restart": self.restart,
            "rng": self.rng.bit_generator.state,
            "env": self.env.get_state(),
            "obs": dict(self.obs),
            "returns": self.returns,
            "lengths": self.lengths,
            "discounted": self.discounted,
            **({} if self._turns is None else {"turns": self._turns.get_state()}),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there: the same fragments will follow."""
        self.fragments, self.restart = state["fragments"], state["restart"]
        self.rng.bit_generator.state = state["rng"]
        obs = self.env.set_state(state["env"])
        # Slots whose episode could not be taken up again begin a new one, with nothing earned yet.
        same = np.ones(self.env.slots, bool)
        for path, x in obs.items():
            same &= (x == state["obs"][path]).reshape(self.env.slots, -1).all(1)
        if count := len(self.env.agents):  # the episodes of a copy's agents go on together
            same = same.reshape(-1, count).all(1).repeat(count)
        if self._turns is not None:
            self._turns.set_state(state["turns"], same)
        memory = {path: state["obs"][path] for path in self._policy_memory.initial}
        self.obs = {**obs, **self._policy_memory.reset(memory, ~same)}
        self.returns = np.where(same, state["returns"], 0.0)
        self.lengths = np.where(same, state["lengths"], 0)
        self.discounted = np.where(same, state["discounted"], 0.0)
        self._restore, self._unfinished = None, False

    def close(self) -> None:
        """End the environments."""
        self.env.close()


def _where(slots: ndarray, x: ndarray, other: ndarray) -> ndarray:
    """``x`` in these slots (bool [B]) and ``other`` elsewhere; both [B, ...]."""
    return np.where(slots.reshape(-1, *(1,) * (x.ndim - 1)), x, other)
