"""Policies that do not learn, beside those that do."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np

from shoal.errors import ConfigError, EnvError
from shoal.ops import distributions
from shoal.spaces.base import ACTION_MASK
from shoal.trajectory import Obs, ndarray

RANDOM = "random"  # a policy that takes any legal action


class Fixed:
    """A policy that does not learn: random, a loaded one, or a function of an observation."""

    def __init__(self, name: str, what: Any, spaces: Any, agents: Sequence[str], id: str) -> None:
        self.name, self._id = name, id
        # What it remembers is of these agents: others act by the same policy, and it is evaluated.
        self._what = copy(what) if hasattr(what, "choose") else what
        self._spaces, self._agents = spaces, agents
        self._dist = distributions.for_space(spaces.action_kind, spaces.action_n, spaces.action_dim)
        if hasattr(what, "choose") and what.spaces.to_json() != spaces.local.to_json():
            raise ConfigError(
                f"the loaded policy {name!r} was trained with other spaces than those of "
                f"{agents[0]!r}",
                None,
                f"its spaces: {what.spaces.observation}, {what.spaces.action}; the agent's: "
                f"{spaces.observation}, {spaces.action}",
            )

    def choose(self, obs: Obs, rng: Any, acts: ndarray) -> ndarray:
        """Actions in policy form, of all slots; those that do not act have any.

        ``rng`` is a generator, or one for each slot.
        """
        slots, what = len(acts), self._what
        if hasattr(what, "choose"):
            return np.asarray(what.choose(obs, rng, acts))
        if what == RANDOM:
            flat = np.zeros((slots, self._dist.n_out), np.float32)
            if isinstance(rng, np.random.Generator):
                noise = self._dist.noise(rng, (slots,))
            else:
                noise = np.stack([self._dist.noise(each, ()) for each in rng])
            return np.asarray(self._dist.sample(flat, noise, obs.get(ACTION_MASK)))
        spaces = self._spaces
        out = np.zeros((slots, *spaces.action_shape), spaces.action_dtype)
        for slot in np.flatnonzero(acts).tolist():
            taken = what(spaces.nest({path: x[slot] for path, x in obs.items()}))
            out[slot] = self._checked(taken, obs, slot)
        return out

    def reset(self, slots: ndarray | None = None) -> None:
        """Forget what was seen where an episode begins (bool [B]); None: everywhere."""
        if hasattr(self._what, "reset"):
            self._what.reset(slots)

    def get_state(self) -> Obs:
        """What it remembers, {leaf: [slots, ...]}; {} without memory."""
        return dict(getattr(self._what, "remembered", {}))

    def set_state(self, state: Obs) -> None:
        """The inverse of ``get_state``."""
        if hasattr(self._what, "remembered"):
            self._what.remembered = dict(state)

    def _checked(self, taken: Any, obs: Obs, slot: int) -> ndarray:
        """An action of the user's function, which must be one, and a legal one."""
        spaces = self._spaces
        agent = self._agents[slot % len(self._agents)]
        why = None if spaces.action.contains(_like(taken, spaces)) else "is none"
        if why is None and ACTION_MASK in obs and spaces.action_kind == "discrete":
            legal = obs[ACTION_MASK][slot]
            if not legal[int(taken) - int(spaces.action.start)]:
                why = f"is not legal there: {np.flatnonzero(legal).tolist()} are"
        if why is not None:
            raise EnvError(
                f"the policy {self.name!r} gave the agent {agent!r} of {self._id!r} the action "
                f"{taken!r}, which {why}",
                None,
                f"return one of {spaces.action}, as the observation's action mask allows",
            )
        return np.asarray(spaces.from_env(taken))


def _like(taken: Any, spaces: Any) -> Any:
    """A number or array of the space's dtype, if it can be one."""
    if spaces.action_kind == "discrete":
        whole = isinstance(taken, int | np.integer) or getattr(taken, "shape", None) == ()
        return int(taken) if whole and not isinstance(taken, bool) else taken
    return np.asarray(taken, spaces.action.dtype)
