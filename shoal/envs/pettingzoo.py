"""PettingZoo's two interfaces as one: who acts next, and what came of the last actions.

Parallel environments ask all of their agents at once, AEC environments ("agent environment cycle")
one after the other (Terry et al. 2021, arXiv:2009.14471). This file imports no PettingZoo: an
environment brings it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from shoal.errors import EnvError, cut

_STARVED = 10_000  # moves of others after which an agent that is waiting is given up


class Events(NamedTuple):
    """What one step of an environment brought.

    ``acting`` are the agents that act next, in the environment's order; without any, the episode is
    over. ``seen`` holds an observation and an info for each of them, and for each agent whose
    episode has ended: its last. ``rewards`` are those that an agent earned since it last acted.
    ``ended`` says (terminated, truncated).
    """

    acting: tuple[str, ...]
    seen: dict[str, tuple[Any, Any]]
    rewards: dict[str, Any]
    ended: dict[str, tuple[Any, Any]]


class Copy(Protocol):
    """One copy of an environment."""

    env: Any
    takes_turns: bool  # an agent may have to wait for what follows on its action

    def reset(self, seed: int) -> Events:
        """Begin an episode."""

    def step(self, actions: Mapping[str, Any]) -> Events:
        """Take the actions of the agents that act, in the environment's form."""


def is_agents(made: Any) -> bool:
    """Whether an object has one of PettingZoo's interfaces."""
    return _reads(made) is not None


def _reads(made: Any) -> str | None:
    if callable(getattr(made, "last", None)) and callable(getattr(made, "agent_iter", None)):
        return "aec"
    names = "reset", "step", "observation_space", "action_space"
    return "parallel" if all(callable(getattr(made, name, None)) for name in names) else None


def copy_of(env: Any) -> Copy:
    """The environment as a copy."""
    return Turns(env) if _reads(env) == "aec" else Together(env)


class Together:
    """A parallel environment: the agents that are there act together."""

    takes_turns = False

    def __init__(self, env: Any) -> None:
        self.env = env
        self._step: Callable[[dict[str, Any]], Any] = _in_cycles(env) or env.step

    def reset(self, seed: int) -> Events:
        """See `Copy.reset`."""
        result = self.env.reset(seed=seed)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise EnvError(
                f"reset returned {cut(repr(result), 80)}, expected observations and infos by agent",
                fix="return two dicts, as pettingzoo.ParallelEnv says",
            )
        return self._events(*result, {}, {})

    def step(self, actions: Mapping[str, Any]) -> Events:
        """See `Copy.step`."""
        result = self._step(dict(actions))
        if not (isinstance(result, tuple) and len(result) == 5):
            raise EnvError(
                f"step returned {cut(repr(result), 80)}, expected a tuple of 5 dicts by agent",
                fix="return observations, rewards, terminations, truncations, infos",
            )
        obs, rewards, terminated, truncated, infos = result
        ended: dict[str, tuple[Any, Any]] = {}
        if any(terminated.values()) or any(truncated.values()):
            ended = {
                agent: (terminated.get(agent, False), truncated.get(agent, False))
                for agent in (*terminated, *(a for a in truncated if a not in terminated))
                if terminated.get(agent, False) or truncated.get(agent, False)
            }
        here = self.env.agents
        for agent in actions:
            if agent not in here and agent not in ended:
                raise EnvError(
                    f"the agent {agent!r} has left, but neither terminations nor truncations say "
                    "that its episode has ended",
                    fix="say in that step's terminations or truncations that it is over",
                )
        return self._events(obs, infos, rewards, ended)

    def _events(self, obs: Any, infos: Any, rewards: Any, ended: Any) -> Events:
        acting = tuple(agent for agent in self.env.agents if agent not in ended)
        seen = {}
        for agent in (*acting, *ended):
            if agent not in obs:
                raise EnvError(
                    f"there is no observation of the agent {agent!r}",
                    fix="give one to every agent that is there or whose episode has ended",
                )
            seen[agent] = obs[agent], infos.get(agent, {})
        return Events(acting, seen, rewards, ended)


_PETTINGZOO = "pettingzoo.utils.", "aec_to_parallel_wrapper"
_CHECKS = "OrderEnforcingWrapper", "AssertOutOfBoundsWrapper"  # they change nothing


def _in_cycles(env: Any) -> Callable[[dict[str, Any]], Any] | None:
    """The step of a parallel environment that PettingZoo made of an AEC one; None: it did not.

    The wrapper makes two observations of each agent a step, one of them for nobody, and every
    attribute is read through wrappers that only check what is checked here too. That can cost as
    much as the environment itself, so its agents are stepped in their cycle directly.
    """
    module, name = _PETTINGZOO
    if type(env).__name__ != name or not type(env).__module__.startswith(module):
        return None
    core = env.aec_env
    while type(core).__name__ in _CHECKS and type(core).__module__.startswith(module):
        core = core.env

    def step(actions: dict[str, Any]) -> Any:
        rewards: dict[str, Any] = dict.fromkeys(actions, 0)
        for agent in core.agents:
            if agent != core.agent_selection:
                raise EnvError(
                    f"{core.agent_selection!r} was to act, expected {agent!r}: the agents of an "
                    "environment that was made parallel act in a cycle, and leave at its end",
                    fix="give the AEC environment itself, not its parallel form",
                )
            core.step(actions[agent])
            for other in core.agents:
                rewards[other] = rewards.get(other, 0) + core.rewards[other]
        obs = {agent: core.observe(agent) for agent in core.agents}
        ends = {**core.terminations}, {**core.truncations}
        infos = {**core.infos}
        while core.agents and (agent := core.agent_selection) is not None:
            if not (core.terminations[agent] or core.truncations[agent]):
                break
            core.step(None)
        env.agents = core.agents
        return obs, rewards, *ends, infos

    return step


class Turns:
    """An AEC environment: one agent acts at a time."""

    takes_turns = True

    def __init__(self, env: Any) -> None:
        self.env = env
        self._waiting: dict[str, int] = {}  # agents that have acted -> moves of others since

    def reset(self, seed: int) -> Events:
        """See `Copy.reset`."""
        self.env.reset(seed=seed)
        self._waiting = {}
        return self._events()

    def step(self, actions: Mapping[str, Any]) -> Events:
        """See `Copy.step`."""
        ((agent, action),) = actions.items()
        self._waiting = {other: moves + 1 for other, moves in self._waiting.items()}
        self._waiting[agent] = 0
        self.env.step(action)
        return self._events()

    def _events(self) -> Events:
        """Let the dead leave, who are asked for None, until an agent is asked for an action."""
        env = self.env
        seen: dict[str, tuple[Any, Any]] = {}
        rewards: dict[str, Any] = {}
        ended: dict[str, tuple[Any, Any]] = {}
        while env.agents:
            agent = env.agent_selection
            obs, reward, terminated, truncated, info = env.last()
            if agent in ended:
                raise EnvError(
                    f"the agent {agent!r} has ended and taken its last step, and does not leave",
                    fix="remove it from `agents` there: see AECEnv._was_dead_step",
                )
            seen[agent], rewards[agent] = (obs, info), reward
            self._waiting.pop(agent, None)
            if not (terminated or truncated):
                self._refuse(_STARVED, "has not come in {moves:,} moves of others")
                return Events((agent,), seen, rewards, ended)
            ended[agent] = terminated, truncated
            env.step(None)
        self._refuse(0, "had not come when the episode was over")
        return Events((), seen, rewards, ended)

    def _refuse(self, least: int, why: str) -> None:
        """Raise EnvError if agents wait for as many moves of others."""
        left = {agent: moves for agent, moves in self._waiting.items() if moves >= least}
        if left:
            why = why.format(moves=max(left.values()))
            raise EnvError(
                f"the environment never returned to {', '.join(map(repr, left))}: what followed on "
                f"the last action {why}",
                fix="select every agent that has acted once more, with its reward; also for its "
                "last step, when its episode has ended",
            )
