"""What stands around a vector environment, and is one itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shoal.envs.base import NDArray, Obs, Step, VectorEnv


class Wrapper:
    """Passes everything on; subclasses say what they change."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.id, self.slots, self.spaces, self.spec = env.id, env.slots, env.spaces, env.spec
        self.agents, self.takes_turns = env.agents, env.takes_turns
        self.frame_stack, self.reward_clip = env.frame_stack, env.reward_clip

    @property
    def episode_seeds(self) -> list[int | None]:
        """Those of the environment."""
        return self.env.episode_seeds

    def reset(self, seed: int | None = None) -> Obs:
        """See `VectorEnv.reset`."""
        return self._first(self.env.reset(seed))

    def play(self, seeds: Sequence[int]) -> Obs:
        """See `VectorEnv.play`."""
        return self._first(self.env.play(seeds))

    def step(self, action: NDArray) -> Step:
        """See `VectorEnv.step`."""
        return self.env.step(action)

    def get_state(self) -> dict[str, Any]:
        """The environment's."""
        return self.env.get_state()

    def set_state(self, state: dict[str, Any]) -> Obs:
        """See `VectorEnv.set_state`."""
        return self.env.set_state(state)

    def render(self) -> Any:
        """A frame of the first copy, as the environment draws it."""
        return self.env.render()

    @property
    def fps(self) -> float | None:
        """Frames of `render` in a second, if the environment says."""
        return self.env.fps

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _first(self, obs: Obs) -> Obs:
        """What is observed where every slot begins an episode, of what the environment shows."""
        return obs
