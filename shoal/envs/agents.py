"""Environments of several agents: a slot is one agent in one copy of the environment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.envs.agent_group import Group, copied
from shoal.envs.base import NDArray, Obs, Step
from shoal.envs.checks import check_flag, check_reward, convert, where_is
from shoal.envs.copies import Copies
from shoal.envs.pettingzoo import Events, copy_of
from shoal.envs.state import MAX_REPLAY, set_generator
from shoal.errors import CheckpointError, EnvError
from shoal.spaces.base import ACTION_MASK, STATE, Spaces

Assign = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]  # agents -> those of each group
ALL = ""  # the group of all agents, where there is only one


class AgentsEnv(Copies):
    """Copies of a PettingZoo environment, stepped in a loop; each agent of a copy has a slot.

    An agent that is not asked for an action has no transition in that step (`Step.valid`). Where
    agents take turns, `Step.waits` says whose last action has not been answered yet. An episode of
    a slot is from the agent's first observation to its `terminated` or `truncated`; a copy whose
    agents have all ended begins anew in the same step. Every episode of a copy begins with a seed
    of its own, and is known by it and the actions, as in `SerialEnv`.

    With several groups (agents of different policies), `step_groups` steps all of them, and `group`
    shows one as a vector environment of its own.

    Args:
        create: makes one copy, given its number; not called for those in `made`.
        assign: which agents form which group; None: all form one.
        seeds: of the episodes, in the order in which they begin; a copy for which none is left
            stands still.
        central: groups whose critic sees the environment's `state()`.

    Raises EnvError without `possible_agents`; SpaceError for spaces that are not supported, or that
    differ within a group.
    """

    frame_stack = 1
    reward_clip: float | None = None
    spec: Any = None
    spaces: Spaces  # of all agents, if they form one group
    slots: int  # likewise

    def __init__(
        self,
        create: Callable[[int], Any],
        copies: int,
        *,
        id: str,
        assign: Assign | None = None,
        seed: int | None = None,
        seeds: Iterable[int] | None = None,
        made: tuple[Any, ...] = (),
        central: Collection[str] = (),
    ) -> None:
        super().__init__(create, copies, id=id, seed=seed, seeds=seeds, made=made)
        with self._closed_on_error():
            self._setup(assign, central)

    def _setup(self, assign: Assign | None, central: Collection[str]) -> None:
        first = self.envs[0]
        self.agents = tuple(first.possible_agents)
        if not self.agents:
            raise EnvError(
                f"{self.id!r} has no agents: its possible_agents are empty",
                where=where_is(first, "__init__"),
                fix="name all agents that there can be in possible_agents",
            )
        self._copies = [copy_of(env) for env in self.envs]
        self.takes_turns = self._copies[0].takes_turns
        named = {ALL: self.agents} if assign is None else assign(self.agents)
        self.groups = {
            name: Group(name, agents, first, self.id, self.copies) for name, agents in named.items()
        }
        self._seat = {
            agent: (group, i)
            for group in self.groups.values()
            for i, agent in enumerate(group.agents)
        }
        self._acting: list[tuple[str, ...]] = [()] * self.copies
        self._still = [False] * self.copies
        self._env_steps = [0] * self.copies
        self.over = np.zeros(self.copies, bool)  # episodes of copies that ended in the last step
        try:
            events = self._copies[0].reset(0)
        except (Exception, SystemExit) as error:
            self._blame(error, "reset", 0)
        for group in self.groups.values():
            infos = [info for agent, (_, info) in events.seen.items() if agent in group.agents]
            infos += [x for a, x in getattr(first, "infos", {}).items() if a in group.agents]
            state = self._state_space() if group.name in central else None
            group.prepare(any(ACTION_MASK in info for info in infos), state)
        self._central = [group for group in self.groups.values() if group.state is not None]
        if len(self.groups) == 1:
            self.spaces, self.slots = self._only.spaces, self._only.slots

    def _state_space(self) -> Any:
        """The space of `state()`. Raises EnvError for an environment that has none."""
        space = getattr(self.envs[0], "state_space", None)
        if space is None:
            raise EnvError(
                f"a central critic sees the environment's state(), and {self.id!r} has none: "
                "there is no state_space",
                where=where_is(self.envs[0], "__init__"),
                fix="leave out algorithm.central, or give the environment state() and state_space",
            )
        return space

    def _write_state(self, copy: int, agents: Iterable[str]) -> None:
        """The state of a copy, beside what these agents see."""
        if not self._central:
            return
        value = self.envs[copy].state()
        for agent in agents:
            group, slot = self._slot(copy, agent)
            if group.state is not None:
                group.rows.arrays[STATE][slot] = convert(group.state, value)

    # ------------------------------------------------------------------ one group: a VectorEnv

    @property
    def _only(self) -> Group:
        (group,) = self.groups.values()
        return group

    @property
    def acts(self) -> NDArray:
        """bool [slots]: who is asked for an action now, if they form one group."""
        return self._only.acts.copy()

    @property
    def episode_seeds(self) -> list[int | None]:
        """Seed of the running episode of each slot's copy."""
        return [seed for seed in self._seeds for _ in self.agents]

    @property
    def seeds(self) -> list[int]:
        """Seed of the running episode of each copy."""
        return list(self._seeds)

    def reset(self, seed: int | None = None) -> Obs:
        """Begin a new episode in every copy; see `VectorEnv.reset`."""
        return self.reset_groups(seed)[self._only.name]

    def play(self, seeds: Sequence[int]) -> Obs:
        """Begin these episodes, one in each copy; see `VectorEnv.play`."""
        self._given = iter([int(seed) for seed in seeds])
        return self.reset()

    def step(self, action: NDArray) -> Step:
        """Step every copy once; see `VectorEnv.step`."""
        name = self._only.name
        return self.step_groups({name: action})[name]

    # ------------------------------------------------------------------ all groups

    def reset_groups(self, seed: int | None = None) -> dict[str, Obs]:
        """Begin a new episode in every copy; observations by group."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._still = [False] * self.copies
        for group in self.groups.values():
            group.acts[:], group.waits[:] = False, False
        for copy in range(self.copies):
            self._begin(copy)
        for group in self.groups.values():
            self._check(group, "reset")
        return {name: copied(group.rows.arrays) for name, group in self.groups.items()}

    def step_groups(self, actions: Mapping[str, NDArray]) -> dict[str, Step]:
        """One action in policy form for every slot, by group; who does not act is not asked."""
        taken = {}
        for name, group in self.groups.items():
            group.clear()
            group.log.append(actions[name])
            taken[name] = group.to_env(actions[name])
        self.over = np.zeros(self.copies, bool)
        for copy in range(self.copies):
            if self._still[copy]:
                continue
            try:
                self._advance(copy, taken)
            except (Exception, SystemExit) as error:
                self._blame(error, "step", copy)
        return {name: self._finish(group) for name, group in self.groups.items()}

    def _advance(self, copy: int, taken: Mapping[str, Any]) -> None:
        given = {}
        for agent in self._acting[copy]:
            group, i = self._seat[agent]
            given[agent] = taken[group.name][copy * len(group.agents) + i]
        events = self._copies[copy].step(given)
        self._env_steps[copy] += 1
        self._take(copy, events)
        if not events.acting:
            self.over[copy] = True
            self._begin(copy)

    def _take(self, copy: int, events: Events) -> None:
        """Write down what a step of a copy brought."""
        for agent in self._acting[copy]:
            group, slot = self._slot(copy, agent)
            group.acts[slot], group.waits[slot] = False, True
        for agent, reward in events.rewards.items():
            group, slot = self._slot(copy, agent)
            group.reward[slot] = check_reward(reward)
        self._write_state(copy, events.ended)
        for agent, (terminated, truncated) in events.ended.items():
            group, slot = self._slot(copy, agent)
            group.terminated[slot] = check_flag("terminated", terminated)
            group.truncated[slot] = check_flag("truncated", truncated)
            group.waits[slot] = False
            group.rows.write(slot, *events.seen[agent], True)
            group.finals.append((slot, _row(group.rows.arrays, slot)))
            if group.spaces.masked:  # nothing is chosen here, and a policy may look all the same
                group.rows.arrays[ACTION_MASK][slot] = True
        self._show(copy, events)

    def _show(self, copy: int, events: Events) -> None:
        """Observations of those who act next."""
        self._acting[copy] = events.acting
        self._write_state(copy, events.acting)
        for agent in events.acting:
            group, slot = self._slot(copy, agent)
            group.rows.write(slot, *events.seen[agent])
            group.acts[slot], group.waits[slot] = True, False

    def _slot(self, copy: int, agent: str) -> tuple[Group, int]:
        if agent not in self._seat:
            raise EnvError(
                f"there is an agent {agent!r}, which is none of possible_agents",
                fix=f"name it there, beside {', '.join(map(repr, self.agents))}",
            )
        group, i = self._seat[agent]
        return group, copy * len(group.agents) + i

    def _finish(self, group: Group) -> Step:
        final = group.final()
        if final is not None:
            fault = group.checks.obs(final[1])
            if fault is not None:
                self._blame(fault[1], "step", int(final[0][fault[0]]) // len(group.agents))
        self._check(group, "step")
        return Step(
            dict(group.rows.arrays),
            group.reward,
            group.terminated,
            group.truncated,
            group.acted,
            final,
            waits=group.waits if self.takes_turns else None,
        )

    def _begin(self, copy: int) -> None:
        seed = self._next_seed()
        if seed is None:
            self._acting[copy], self._still[copy] = (), True
            return
        self._seeds[copy], self._env_steps[copy] = seed, 0
        for group in self.groups.values():
            for slot in group.slots_of(copy):
                group.log.begin(slot)
        try:
            events = self._copies[copy].reset(seed)
            if not events.acting:
                raise EnvError(
                    "the episode is over before an agent has acted",
                    fix="let reset fill `agents`",
                )
            self._show(copy, events)
        except (Exception, SystemExit) as error:
            self._blame(error, "reset", copy)

    # ------------------------------------------------------------------ state

    def get_state(self) -> dict[str, Any]:
        """RNG, and for each copy its episode's seed and actions, by group."""
        actions: dict[str, dict[str, NDArray]] = {}
        for name, group in self.groups.items():
            kept = {str(slot): group.log.actions(slot) for slot in range(group.slots)}
            actions[name or "all"] = {slot: x for slot, x in kept.items() if x is not None}
        obs = {
            name or "all": copied(group.rows.arrays) | {"~acts": group.acts.copy()}
            for name, group in self.groups.items()
        }
        state = {
            "kind": "agents",
            "rng": self._rng.bit_generator.state,
            "seeds": list(self._seeds),
            "actions": actions,
            "groups": obs,
        }
        if len(self.groups) == 1:
            state["obs"] = copied(self._only.rows.arrays)
        return state

    def set_state(self, state: dict[str, Any]) -> Obs:
        """Go on from `get_state`; see `VectorEnv.set_state`."""
        return self.set_state_groups(state)[self._only.name]

    def set_state_groups(self, state: dict[str, Any]) -> dict[str, Obs]:
        """The same for all groups: every copy's episode is played again, action by action.

        A copy that does not come to the observations it had warns and begins a new episode.
        """
        seeds = state.get("seeds")
        named = {name or "all": group for name, group in self.groups.items()}
        if (
            state.get("kind") != "agents"
            or not isinstance(seeds, list)
            or len(seeds) != self.copies
            or set(state["actions"]) != set(named)
        ):
            raise CheckpointError(
                f"this is no state of {self.copies} copies of {self.id!r} with these policies",
                fix="restore with the same environment, policies and number of copies",
            )
        set_generator(self._rng, state["rng"])
        self._seeds = [int(seed) for seed in seeds]
        self._still = [False] * self.copies
        for name, group in named.items():
            saved, like = state["actions"][name], group.spaces
            nothing = np.zeros((0, *like.action_shape), like.action_dtype)
            group.log.restore([np.asarray(saved.get(str(i), nothing)) for i in range(group.slots)])
            for path, x in group.rows.arrays.items():
                x[:] = state["groups"][name][path]
            group.acts[:], group.waits[:] = False, False

        def resume(copy: int) -> str | None:
            reason = self._resume(copy, named, state)
            if reason is not None:  # nobody acts or waits until the copy begins anew
                for group in self.groups.values():
                    rows = list(group.slots_of(copy))
                    group.acts[rows], group.waits[rows] = False, False
            return reason

        self._resume_all(resume)
        return {name: copied(group.rows.arrays) for name, group in self.groups.items()}

    def _resume(self, copy: int, named: Mapping[str, Group], state: Any) -> str | None:
        """Bring one copy to where its episode was; the reason if that fails."""
        logs = {}
        for name, group in named.items():
            slots = group.slots_of(copy)
            if any(str(slot) not in state["actions"][name] for slot in slots):
                return f"it was longer than {MAX_REPLAY} steps, which are not kept"
            logs[group.name] = [
                group.to_env(np.asarray(state["actions"][name][str(slot)])) for slot in slots
            ]
        steps = len(next(iter(logs.values()))[0])
        events = self._copies[copy].reset(self._seeds[copy])
        self._show(copy, events)
        for t in range(steps):
            given = {}
            for agent in self._acting[copy]:
                group, i = self._seat[agent]
                given[agent] = logs[group.name][i][t]
            events = self._copies[copy].step(given)
            if not events.acting:
                return f"replayed with the same seed and actions it ended after {t + 1} steps"
            for group in named.values():
                group.clear()
            self._take(copy, events)
        self._env_steps[copy] = steps
        for name, group in named.items():
            rows, saved = list(group.slots_of(copy)), state["groups"][name]
            acts = group.acts[rows]
            same = np.array_equal(acts, saved["~acts"][rows])
            for path, x in group.rows.arrays.items():
                same = same and np.array_equal(x[rows][acts], saved[path][rows][acts])
            if not same:
                return (
                    "replayed with the same seed and actions it came to other observations: "
                    "reset(seed=...) does not determine the episode"
                )
        return None

    # ------------------------------------------------------------------ checks

    def _check(self, group: Group, method: str) -> None:
        fault = group.checks.obs(group.rows.arrays)
        fault = fault or group.checks.mask(group.rows.arrays, ~group.acts)
        if fault is not None:
            copy, i = divmod(fault[0], len(group.agents))
            fault[1].add_note(f"of the agent {group.agents[i]!r}")
            self._blame(fault[1], method, copy)

    def _moment(self, copy: int) -> str:
        acting = ", ".join(map(repr, self._acting[copy])) or "nobody"
        return f"env step {self._env_steps[copy]} of the episode, in which {acting} acted"


def _row(arrays: Obs, slot: int) -> Obs:
    return {path: x[slot].copy() for path, x in arrays.items()}
