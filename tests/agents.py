"""PettingZoo environments whose agents come, go and take turns at random, and that keep count."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, OrderEnforcingWrapper

NAMES = ("ann", "bob", "cleo", "dan")


class _Random:
    """What both forms share: spaces, and the count of what each agent did and was given."""

    metadata: ClassVar[dict[str, Any]] = {"name": "random_lives", "render_modes": []}
    render_mode = None

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.possible_agents = list(names)
        self.seen, self.choices = spaces.Box(-1000, 1000, (3,), np.float32), spaces.Discrete(3)
        self.state_space = spaces.Box(0, 10_000, (2,), np.float32)
        self.earned: Counter[str] = Counter()  # over all episodes that have ended
        self.acted: Counter[str] = Counter()
        self.now: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self.episodes = 0

    def observation_space(self, agent: str) -> Any:
        return self.seen

    def action_space(self, agent: str) -> Any:
        return self.choices

    def state(self) -> Any:
        return np.array([self.t, len(self.agents)], np.float32)

    def _start(self, seed: int | None) -> None:
        self.rng = np.random.default_rng(seed)
        self.now = Counter(), Counter()
        self.t = 0

    def _end(self) -> None:
        earned, acted = self.now
        self.earned.update(earned)
        self.acted.update(acted)
        self.episodes += 1

    def _pay(self, agent: str) -> float:
        return int(self.rng.integers(-5, 6))

    def _obs(self, agent: str) -> Any:
        number = self.possible_agents.index(agent)
        return np.array([number, self.t, self.now[1][agent]], np.float32)


class Together(_Random, ParallelEnv):
    """Agents join at any time, leave at any time (ended or cut off), and are paid whole numbers."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self._start(seed)
        count = int(self.rng.integers(1, len(self.possible_agents) + 1))
        self.agents = self.possible_agents[:count]
        self.waiting = self.possible_agents[count:]
        return {a: self._obs(a) for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        assert set(actions) == set(self.agents)
        self.t += 1
        rewards = {a: self._pay(a) for a in self.agents}
        for agent, reward in rewards.items():
            self.now[0][agent] += reward
            self.now[1][agent] += 1
        ended = {a: bool(self.rng.random() < 0.1) for a in self.agents}
        cut = {a: bool(self.rng.random() < 0.1) for a in self.agents}
        here = list(self.agents)
        left = [a for a in here if not (ended[a] or cut[a])]
        if left and self.waiting and self.rng.random() < 0.3:
            new = self.waiting.pop()
            left.append(new)
            rewards[new], ended[new], cut[new] = 0, False, False
        seen = {a: self._obs(a) for a in (*here, *(a for a in left if a not in here))}
        self.agents = left
        if not left:
            self._end()
        return seen, rewards, ended, cut, {a: {} for a in seen}


class InTurn(_Random, AECEnv):
    """Whoever is next is drawn; anybody may be paid or end while another acts."""

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self._start(seed)
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {a: {} for a in self.agents}
        self.agent_selection = str(self.rng.choice(self.agents))

    def observe(self, agent: str) -> Any:
        return self._obs(agent)

    def _leaves(self, action: Any) -> bool:
        """Whether the agent whose turn it is had ended; then it leaves."""
        agent = self.agent_selection
        if not (self.terminations[agent] or self.truncations[agent]):
            return False
        self._was_dead_step(action)
        if not self.agents:
            self._end()
        return True

    def step(self, action: Any) -> None:
        if self._leaves(action):
            return
        agent = self.agent_selection
        assert action in (0, 1, 2)
        self.t += 1
        self.now[1][agent] += 1
        self._cumulative_rewards[agent] = 0
        self.rewards = {a: self._pay(a) for a in self.agents}
        for a, reward in self.rewards.items():
            self.now[0][a] += reward
            if self.rng.random() < 0.05:
                self.terminations[a] = True
            elif self.rng.random() < 0.05:
                self.truncations[a] = True
        self._accumulate_rewards()
        alive = [a for a in self.agents if not (self.terminations[a] or self.truncations[a])]
        self.agent_selection = str(self.rng.choice(alive)) if alive else self.agents[0]
        self._deads_step_first()


class Cycle(InTurn):
    """All that are there act in turn; at the end of a cycle they are paid, and some may leave."""

    metadata: ClassVar[dict[str, Any]] = {"name": "cycle", "is_parallelizable": True}

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        super().reset(seed, options)
        self.agent_selection = self.agents[0]

    def step(self, action: Any) -> None:
        if self._leaves(action):
            return
        agent = self.agent_selection
        self.t += 1
        self.now[1][agent] += int(action) + 1  # so that observations depend on the actions
        self._cumulative_rewards[agent] = 0
        at = self.agents.index(agent) + 1
        self.agent_selection = self.agents[at % len(self.agents)]
        self.rewards = dict.fromkeys(self.agents, 0)
        if at == len(self.agents):
            for a in self.agents:
                self.rewards[a] = self._pay(a)
                self.terminations[a] = bool(self.rng.random() < 0.15)
                self.truncations[a] = bool(self.rng.random() < 0.1)
            self._accumulate_rewards()
            left = [a for a in self.agents if not (self.terminations[a] or self.truncations[a])]
            self.agent_selection = (left or self.agents)[0]
            self._deads_step_first()


def parallel_env() -> Any:
    """The cycle as PettingZoo makes it parallel."""
    return aec_to_parallel(OrderEnforcingWrapper(AssertOutOfBoundsWrapper(Cycle())))


class Alone(ParallelEnv):
    """A Gymnasium environment as one of a single agent."""

    metadata: ClassVar[dict[str, Any]] = {"name": "alone"}
    render_mode = None

    def __init__(self, id: str = "CartPole-v1", name: str = "me") -> None:
        self.env = gymnasium.make(id, disable_env_checker=True)
        self.possible_agents, self._name = [name], name

    def observation_space(self, agent: str) -> Any:
        return self.env.observation_space

    def action_space(self, agent: str) -> Any:
        return self.env.action_space

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        obs, info = self.env.reset(seed=seed)
        return {self._name: obs}, {self._name: info}

    def step(self, actions: dict[str, Any]) -> Any:
        results = self.env.step(actions[self._name])
        if results[2] or results[3]:
            self.agents = []
        return tuple({self._name: x} for x in results)

    def close(self) -> None:
        self.env.close()
