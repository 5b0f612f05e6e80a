"""One copy out of a vector environment, for evaluation and video."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class SingleCopy(gymnasium.Env[Any, Any]):
    """The first copy of a `gymnasium.vector.VectorEnv`, as a single environment.

    The other copies, if there are any, do the same and are not looked at. Reset it when an episode
    has ended: what follows depends on the vector environment's autoreset mode.
    """

    def __init__(self, vector: Any) -> None:
        self.vector = vector
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self.metadata = vector.metadata
        self.render_mode = getattr(vector, "render_mode", None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        obs, info = self.vector.reset(seed=seed, options=options)
        return self._first(obs), self._info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`; on an end, `obs` may be the next episode's."""
        obs, reward, terminated, truncated, info = self.vector.step(self.batch(action))
        flags = bool(terminated[0]), bool(truncated[0])
        return self._first(obs), float(reward[0]), *flags, self._info(info)

    def batch(self, action: Any) -> Any:
        """The same action for every copy, in the form that the vector environment takes."""
        from gymnasium.vector.utils import concatenate, create_empty_array

        copies = self.vector.num_envs
        empty: Any = create_empty_array(self.action_space, n=copies)
        return concatenate(self.action_space, [action] * copies, empty)

    def render(self) -> Any:
        """A frame of this copy."""
        frames = self.vector.render()
        return frames[0] if isinstance(frames, tuple | list) else frames

    def close(self) -> None:
        """Close the vector environment."""
        self.vector.close()

    def _first(self, obs: Any) -> Any:
        from gymnasium.vector.utils import iterate

        return next(iter(iterate(self.vector.observation_space, obs)))

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        """The entries of this copy; those that are marked as another's are left out."""
        copies = self.vector.num_envs
        return {
            key: value[0]
            for key, value in info.items()
            if isinstance(value, np.ndarray)
            and len(value) == copies
            and not (key.startswith("_") and key[1:] in info)
            and bool(np.asarray(info.get(f"_{key}", [True]))[0])
        }
