"""PettingZoo's worlds of agents that are generated as they go, with spaces that stay, and counts.

The originals draw new spaces at every reset, which nothing can learn from.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo.test.example_envs import generated_agents_env_v0, generated_agents_parallel_v0

SEATS = 8  # agents that are there at once, at most


class _Counts:
    """Observations tell who sees them; who acted and what each was given is counted."""

    np_random: Any
    agents: list[str]
    num_steps: int

    def __init__(self, cycles: int = 6) -> None:
        self.now: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self.past = self.now  # earned and acted, of the episode that ended last
        self.told: Counter[str] = Counter()  # of all episodes, to agents that have acted
        self.early: Counter[str] = Counter()  # before an agent of this episode acted
        self.steps: Counter[str] = Counter()
        self.episodes = -1
        super().__init__(max_cycles=cycles)  # type: ignore[call-arg]

    def add_type(self) -> str:
        name: str = super().add_type()  # type: ignore[misc]
        box = spaces.Box(0, 1000, (3,), np.float32)
        self._obs_spaces[name], self._act_spaces[name] = box, spaces.Discrete(3)  # type: ignore[attr-defined]
        return name

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.past, self.now = self.now, (Counter(), Counter())
        self.early.clear()
        self.episodes += 1
        return super().reset(seed, options)  # type: ignore[misc]

    def observe(self, agent: str) -> Any:
        kind, number = agent.removeprefix("type").split("_")
        return np.array([int(kind), int(number), self.now[1][agent]], np.float32)

    def _tell(self, agent: str, reward: int) -> None:
        if self.now[1][agent]:
            self.told[agent] += reward + self.early.pop(agent, 0)
        else:
            self.early[agent] += reward

    def _acts(self, agent: str) -> None:
        self.now[1][agent] += 1
        self.steps[agent] += 1


class Crowd(_Counts, generated_agents_parallel_v0.parallel_env):
    """All act together. Whoever leaves may be replaced in the same step, and is paid from then."""

    def step(self, actions: Any) -> Any:
        assert set(actions) == set(self.agents)
        for agent in actions:
            self._acts(agent)
        self.num_steps += 1
        draw = self.np_random
        cut = self.num_steps >= self.max_cycles
        ended = {a: bool(draw.random() < 0.2) for a in self.agents}
        here = list(self.agents)
        self.agents = [a for a in here if not (ended[a] or cut)]
        while not cut and len(self.agents) < SEATS and draw.random() < 0.6:
            self.add_agent(str(draw.choice(self.types)))
        there = dict.fromkeys([*here, *self.agents])
        rewards = {a: int(draw.integers(-5, 6)) for a in there}
        for agent, reward in rewards.items():
            self.now[0][agent] += reward
            self._tell(agent, reward)
        seen = {a: self.observe(a) for a in there}
        ended = {a: ended.get(a, False) for a in there}
        return seen, rewards, ended, {a: cut for a in there}, {a: {} for a in there}


class Queue(_Counts, generated_agents_env_v0.raw_env):
    """Whoever is next is drawn; all may be paid, leave or be joined by others meanwhile.

    The original selects agents that have left, if several leave in one cycle.
    """

    def step(self, action: Any) -> None:
        agent, draw = self.agent_selection, self.np_random
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._acts(agent)
        self.num_steps += 1
        self._cumulative_rewards[agent] = 0
        for a in self.agents:
            self.rewards[a] = int(draw.integers(-5, 6))
            self.now[0][a] += self.rewards[a]
            self.terminations[a] = bool(draw.random() < 0.05)
            self.truncations[a] = self.num_steps >= 4 * self.max_cycles
        self._accumulate_rewards()
        alive = [a for a in self.agents if not (self.terminations[a] or self.truncations[a])]
        if alive and len(alive) < SEATS and draw.random() < 0.8:
            alive.append(self.add_agent(str(draw.choice(self.types))))
        self.agent_selection = str(draw.choice(alive)) if alive else self.agents[0]
        self._deads_step_first()

    def last(self, observe: bool = True) -> Any:
        found = super().last(observe)
        self._tell(self.agent_selection, int(found[1]))
        return found
