"""Environments of several agents: a slot is one agent in one copy of the environment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.envs.agent_group import Group, copied, shared
from shoal.envs.base import NDArray, Obs, Step
from shoal.envs.checks import check_flag, check_reward, convert, where_is
from shoal.envs.copies import Copies
from shoal.envs.pettingzoo import Events, copy_of
from shoal.envs.seats import PolicyOf, Seats, seats_of
from shoal.envs.state import MAX_REPLAY, set_generator
from shoal.errors import CheckpointError, ConfigError, EnvError
from shoal.spaces.base import ACTION_MASK, STATE, Spaces

Assign = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]  # agents -> those of each group
ALL = ""  # the group of all agents, where there is only one
Place = tuple[Group, int]  # of an agent: its group and slot


class AgentsEnv(Copies):
    """Copies of a PettingZoo environment, stepped in a loop; each agent of a copy has a slot.

    An agent that is not asked for an action has no transition in that step (`Step.valid`). Where
    agents take turns, `Step.waits` says whose last action has not been answered yet. An episode of
    a slot is from the agent's first observation to its `terminated` or `truncated`; a copy whose
    agents have all ended begins anew in the same step. Every episode of a copy begins with a seed
    of its own, and is known by it and the actions, as in `SerialEnv`.

    With several groups (agents of different policies), `step_groups` steps all of them, and `group`
    shows one as a vector environment of its own.

    Without `possible_agents` a slot is a seat, which agents take one after another: see `Seats`.
    `agents` are then the names of the seats.

    Args:
        create: makes one copy, given its number; not called for those in `made`.
        assign: which agents form which group; None: all form one.
        seeds: of the episodes, in the order in which they begin; a copy for which none is left
            stands still.
        central: groups whose critic sees the environment's `state()`.
        max_agents: seats of each group in a copy, without `possible_agents`.
        policy_of: the group of an agent that joins later, where `assign` has named several.

    Raises EnvError with neither `possible_agents` nor `max_agents`, ConfigError with both;
    SpaceError for spaces that are not supported, or that differ within a group.
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
        max_agents: int | None = None,
        policy_of: PolicyOf | None = None,
    ) -> None:
        super().__init__(create, copies, id=id, seed=seed, seeds=seeds, made=made)
        self.max_agents = max_agents
        with self._closed_on_error():
            self._setup(assign, central, policy_of)

    def _setup(
        self, assign: Assign | None, central: Collection[str], policy_of: PolicyOf | None
    ) -> None:
        first = self.envs[0]
        known = tuple(getattr(first, "possible_agents", ()))
        self._refuse_number(known)
        self._copies = [copy_of(env) for env in self.envs]
        self.takes_turns = self._copies[0].takes_turns
        events = None if known else self._first()
        present = known or tuple(first.agents)
        if not present:
            raise _over()
        named = {ALL: present} if assign is None else self._assigned(assign, present)
        seats = None if self.max_agents is None else seats_of(named, self.max_agents)
        self.groups = {
            name: Group(
                name,
                agents if seats is None else seats[name],
                shared(name, agents, first, self.id),
                self.copies,
            )
            for name, agents in named.items()
        }
        groups = self.groups.values()
        self.agents = known or tuple(agent for group in groups for agent in group.agents)
        self._places: list[dict[str, Place]] = [
            {
                agent: (group, slot)
                for group in groups
                for agent, slot in zip(group.agents, group.slots_of(copy), strict=True)
            }
            for copy in range(self.copies)
        ]
        self._seats: Seats | None = None
        if self.max_agents is not None:
            self._seats = Seats(self.groups, self.envs, self._places, policy_of, self.id)
        self._acting: list[tuple[str, ...]] = [()] * self.copies
        self._still = [False] * self.copies
        self._env_steps = [0] * self.copies
        self.over = np.zeros(self.copies, bool)  # episodes of copies that ended in the last step
        events = events or self._first()
        for group in groups:
            own = named[group.name]
            infos = [info for agent, (_, info) in events.seen.items() if agent in own]
            infos += [x for a, x in getattr(first, "infos", {}).items() if a in own]
            state = self._state_space() if group.name in central else None
            group.prepare(any(ACTION_MASK in info for info in infos), state)
        self._central = [group for group in self.groups.values() if group.state is not None]
        if len(self.groups) == 1:
            self.spaces, self.slots = self._only.spaces, self._only.slots

    def _refuse_number(self, known: Sequence[str]) -> None:
        """Raise an error if the number of agents is given twice, or not at all."""
        if known and self.max_agents is not None:
            raise ConfigError(
                f"rollout.max_agents is {self.max_agents}, but nothing reads it: {self.id!r} names "
                "its possible_agents",
                where_is(self.envs[0], "__init__"),
                "leave it out",
            )
        if not known and self.max_agents is None:
            raise EnvError(
                f"{self.id!r} names no possible_agents, so that nobody knows how many agents there "
                "can be at once",
                where=where_is(self.envs[0], "__init__"),
                fix="set rollout.max_agents (--max-agents N): the most that a policy has at once; "
                "or name all agents in possible_agents",
            )

    def _first(self) -> Events:
        """What the first copy begins with, to learn of its agents and their infos."""
        try:
            return self._copies[0].reset(0)
        except (Exception, SystemExit) as error:
            self._blame(error, "reset", 0)

    def _assigned(self, assign: Assign, present: Sequence[str]) -> Mapping[str, Sequence[str]]:
        try:
            return assign(present)
        except EnvError as error:
            if self.max_agents is not None:
                error.add_note(
                    "these are the agents of the first reset: the first of each policy tells its "
                    "spaces"
                )
            raise

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
            group, slot = self._places[copy][agent]
            given[agent] = taken[group.name][slot]
        events = self._copies[copy].step(given)
        self._env_steps[copy] += 1
        self._take(copy, events)
        if not events.acting:
            self.over[copy] = True
            self._begin(copy)

    def _take(self, copy: int, events: Events) -> None:
        """Write down what a step of a copy brought."""
        if self._seats is not None:
            events = self._seats.join(copy, events)
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
        if self._seats is not None:
            self._seats.leave(copy, events.ended)

    def _show(self, copy: int, events: Events) -> None:
        """Observations of those who act next."""
        self._acting[copy] = events.acting
        self._write_state(copy, events.acting)
        for agent in events.acting:
            group, slot = self._slot(copy, agent)
            group.rows.write(slot, *events.seen[agent])
            group.acts[slot], group.waits[slot] = True, False

    def _slot(self, copy: int, agent: str) -> Place:
        place = self._places[copy].get(agent)
        if place is None:
            raise EnvError(
                f"there is an agent {agent!r}, which is none of possible_agents",
                fix=f"name it there, beside {', '.join(map(repr, self.agents))}",
            )
        return place

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
            events = self._reset(copy, seed)
            if not events.acting:
                raise _over()
            self._show(copy, events)
        except (Exception, SystemExit) as error:
            self._blame(error, "reset", copy)

    def _reset(self, copy: int, seed: int) -> Events:
        """Begin an episode of a copy; those who act in it have their seats."""
        events = self._copies[copy].reset(seed)
        return events if self._seats is None else self._seats.begin(copy, events)

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
            or any(len(state["groups"][name]["~acts"]) != x.slots for name, x in named.items())
        ):
            raise CheckpointError(
                f"this is no state of {self.copies} copies of {self.id!r} with these policies",
                fix="restore with the same environment, policies, number of copies and max_agents",
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
        events = self._reset(copy, self._seeds[copy])
        self._show(copy, events)
        for t in range(steps):
            given = {}
            for agent in self._acting[copy]:
                group, slot = self._places[copy][agent]
                given[agent] = logs[group.name][slot % len(group.agents)][t]
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


def _over() -> EnvError:
    return EnvError("the episode is over before an agent has acted", fix="let reset fill `agents`")


def _row(arrays: Obs, slot: int) -> Obs:
    return {path: x[slot].copy() for path, x in arrays.items()}
