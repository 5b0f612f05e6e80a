"""A vector environment as a policy sees it: see `shoal.spaces.view`."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.envs.base import NDArray, Obs, Step, VectorEnv
from shoal.envs.wrapper import Wrapper
from shoal.errors import CheckpointError, ConfigError
from shoal.spaces.view import Lens, View


def seen(env: VectorEnv, view: View) -> VectorEnv:
    """The environment under a view; itself, where that shows everything.

    Raises ConfigError, and closes the environment, if the view hides what it does not have.
    """
    if not view:
        return env
    try:
        if view.previous and env.takes_turns:
            raise ConfigError(
                f"rollout.previous is on, but the agents of {env.id!r} take turns: the action "
                "before an observation was another agent's",
                None,
                "leave it out; a network with memory remembers its own actions",
            )
        return ViewedEnv(env, view.of(env.spaces))
    except BaseException:
        env.close()
        raise


class ViewedEnv(Wrapper):
    """A vector environment whose observations are those of a view.

    What came before an observation is all zero in the rows that a reset gave, whichever step of an
    episode's end they stand in; a lost life that the game goes on after is no such end.
    """

    def __init__(self, env: VectorEnv, lens: Lens) -> None:
        super().__init__(env)
        self._lens, self.spaces = lens, lens.spaces
        self.spec = None  # it would make an environment without the view
        self._previous: Obs = {}  # what came before the present observations

    def step(self, action: NDArray) -> Step:
        """See `VectorEnv.step`."""
        step = self.env.step(action)
        self._previous = self._lens.previous(action, step.reward)
        final = step.final
        if final is not None:
            slots, last = final
            before = {path: x[slots] for path, x in self._previous.items()}
            final = slots, {**self._lens(last), **before}
        for x in self._previous.values():
            if step.valid is not None:
                x[~step.valid] = 0
            if final is not None:
                x[final[0]] = 0
        return step._replace(obs=self._joined(step.obs), final=final)

    def get_state(self) -> dict[str, Any]:
        """The environment's, and what came before the present observations."""
        inner = self.env.get_state()
        return {
            "kind": "view",
            "env": inner,
            "previous": dict(self._previous),
            "obs": {**self._lens(inner["obs"]), **self._previous},
        }

    def set_state(self, state: dict[str, Any]) -> Obs:
        """See `VectorEnv.set_state`. Nothing came before an episode that begins anew."""
        previous = self._lens.initial((self.slots,))
        kept = state.get("previous")
        if (
            state.get("kind") != "view"
            or not isinstance(kept, dict)
            or {path: x.shape for path, x in kept.items()}
            != {path: x.shape for path, x in previous.items()}
        ):
            raise CheckpointError(
                f"this is no state of {self.slots} copies of {self.id!r} under this view",
                fix="restore with the same rollout.hide and rollout.previous",
            )
        obs = self.env.set_state(state["env"])
        same = np.ones(self.slots, bool)
        for path, x in obs.items():
            same &= (x == state["env"]["obs"][path]).reshape(self.slots, -1).all(1)
        for path, x in kept.items():
            previous[path][same] = x[same]
        self._previous = previous
        return self._joined(obs)

    def _first(self, obs: Obs) -> Obs:
        self._previous = self._lens.initial((self.slots,))
        return self._joined(obs)

    def _joined(self, obs: Obs) -> Obs:
        """What is seen of the environment's observations, with what came before them."""
        return {**self._lens(obs), **self._previous}
