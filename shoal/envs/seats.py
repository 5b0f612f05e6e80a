"""Seats for agents that are not known in advance: an agent has one while its episode lasts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from shoal.envs.agent_group import Group, refuse_other
from shoal.envs.checks import check_reward
from shoal.envs.pettingzoo import Events
from shoal.errors import EnvError

PolicyOf = Callable[[str], str]  # the name of an agent -> that of its policy


def seats_of(policies: Iterable[str], number: int) -> dict[str, tuple[str, ...]]:
    """The names of the seats of each policy in a copy; "" is the one policy of all agents."""
    return {name: tuple(f"{name or 'agent'} {i}" for i in range(number)) for name in policies}


class Seats:
    """Who has which seat, in every copy: decided by the events of the copy's episode alone.

    An agent that joins takes the first seat of its policy that is free; one that has been left in
    the same step comes after those that were free before. What it earned by then is told with its
    first action, so that a seat that was left in the same step has the rewards of one agent only.

    Args:
        groups: by policy.
        envs: the copies.
        places: of each copy, where its agents have their seats; it is changed here.
        policy_of: None: there is one group, "".
        id: name of the environment.
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        envs: Sequence[Any],
        places: Sequence[dict[str, tuple[Group, int]]],
        policy_of: PolicyOf | None,
        id: str,
    ) -> None:
        self._groups, self._envs, self._places, self._id = groups, envs, places, id
        self._policy_of = policy_of or (lambda agent: "")
        self._first: dict[str, str] = {}  # agent that told the spaces, by policy
        for agent in envs[0].agents:
            self._first.setdefault(self._policy_of(agent), agent)
        self._early: list[dict[str, float]] = [{} for _ in envs]  # rewards before an agent acted
        for place in places:
            place.clear()

    def begin(self, copy: int, events: Events) -> Events:
        """All seats of the copy are free, and those who act first take theirs."""
        self._places[copy].clear()
        self._early[copy] = {}
        for agent in events.acting:
            self._sit(copy, agent, ())
        return events

    def join(self, copy: int, events: Events) -> Events:
        """Seats for those who join in this step, and each one's rewards, also of before.

        Raises EnvError for more agents than seats and for a reward of an agent that is not there;
        SpaceError for an agent with other spaces than its policy has.
        """
        places, rewards = self._places[copy], dict(events.rewards)
        for agent, reward in self._early[copy].items():
            rewards[agent] = check_reward(rewards.get(agent, 0.0)) + reward
        self._early[copy] = {}
        for agent in events.ended:  # its last observation and reward need a seat of this step
            if agent not in places:
                self._sit(copy, agent, ())
        for agent in events.acting:
            if agent not in places:
                self._sit(copy, agent, events.ended)
                self._early[copy][agent] = check_reward(rewards.pop(agent, 0.0))
        for agent in [agent for agent in rewards if agent not in places]:
            if check_reward(rewards.pop(agent)):
                raise EnvError(
                    f"there is a reward of the agent {agent!r}, which is not there",
                    fix="pay agents until the step in which their episode ends",
                )
        return events._replace(rewards=rewards)

    def leave(self, copy: int, agents: Iterable[str]) -> None:
        """The seats of these agents are free."""
        for agent in agents:
            del self._places[copy][agent]

    def _sit(self, copy: int, agent: str, leaving: Collection[str]) -> None:
        """Give an agent its seat, that of one who is ``leaving`` if there is no other."""
        places, env = self._places[copy], self._envs[copy]
        name = self._policy_of(agent)
        group = self._groups[name]
        refuse_other(name, self._first[name], group.spaces, agent, env, self._id)
        free = self._free(copy, group, places) or self._free(
            copy, group, {other: place for other, place in places.items() if other not in leaving}
        )
        if not free:
            there = {agent, *(a for a in env.agents if self._policy_of(a) == name)}
            there |= {other for other, (own, _) in places.items() if own is group}
            what = f"the policy {name!r}" if name else "the policy"
            raise EnvError(
                f"{what} has {len(there)} agents at once, and rollout.max_agents is "
                f"{len(group.agents)}: {', '.join(map(repr, sorted(there)))}",
                fix=f"set it to as many as there can be: --max-agents {len(there)}",
            )
        places[agent] = group, free[0]

    def _free(self, copy: int, group: Group, places: Mapping[str, tuple[Group, int]]) -> list[int]:
        taken = {slot for own, slot in places.values() if own is group}
        return [slot for slot in group.slots_of(copy) if slot not in taken]
