"""The contract of spaces: what a policy sees and does, as flat dicts of arrays.

Observations are always `{path: array [..., *leaf.shape]}`, whatever the nesting of the space; an
action mask is the entry `"action_mask"` of that dict. Actions have a *policy form* (what a
distribution yields: int64 [...], int64 [..., k], or float32 [..., dim] in [-1, 1] if bounded) that
`Spaces.to_env` turns into what `env.step` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]
ACTION_MASK = "action_mask"
MEMORY = "~memory/"  # prefix of a policy's recurrent state, beside the leaves
STATE = "~state"  # the whole environment, for a central critic or a search, beside the leaves
OWN = ""  # the path of no leaf: an entry of Shoal's beside leaves, with which no key can collide


@dataclass(frozen=True)
class Leaf:
    """One input of a network.

    `kind` is "box", "discrete", "multidiscrete" or "multibinary"; `n` holds the number of choices
    of each discrete component (of shape () or [len(n)]), and `start` their smallest values, which
    are subtracted on the way in. `keys` leads from the environment's observation to the leaf, whose
    shape there is `raw` (a MultiDiscrete may have several axes; here it has one). `dtype` is that
    of the environment's arrays, `low` and `high` are the bounds of a Box, [*shape].
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    keys: tuple[str | int, ...] = ()
    raw: tuple[int, ...] = ()
    low: Any = field(default=None, compare=False, repr=False)
    high: Any = field(default=None, compare=False, repr=False)

    def takes(self, obs: Any) -> bool:
        """Whether an array, with any leading axes, needs no conversion."""
        shape = self.shape
        return (
            obs.__class__ is np.ndarray
            and obs.dtype == self.dtype
            and obs.shape[obs.ndim - len(shape) :] == shape
        )

    @cached_property
    def wide(self) -> bool:
        """Whether float32 holds fewer digits than the environment gives (float64, int64, ...)."""
        dtype = self.dtype
        return self.kind == "box" and dtype != np.float32 and dtype.itemsize >= 4

    @property
    def stored(self) -> np.dtype[Any]:
        """dtype in which observations are stored and trained on."""
        return np.dtype(np.float32) if self.wide else self.dtype

    def narrow(self, x: NDArray, params: Mapping[str, Any]) -> NDArray:
        """`x [..., *shape]` as it is stored, of dtype `stored`.

        The array `params["norm/<path>/origin"]`, if there is one, is subtracted first: timestamps
        of 1.7e9 would be the same number in float32 for two minutes. Does nothing to what is
        narrow already.
        """
        if not self.wide or x.dtype == np.float32:
            return x
        origin = params.get(f"norm/{self.path}/origin")
        return (x if origin is None else x - origin).astype(np.float32)


class Spaces(Protocol):
    """Observation and action space of one copy of an environment."""

    @property
    def observation(self) -> Any:
        """The environment's own space of observations."""

    @property
    def action(self) -> Any:
        """The environment's own space of actions."""

    @property
    def masked(self) -> bool:
        """Whether observations have an action mask."""

    @property
    def mask_space(self) -> Any:
        """Space of the mask, if it is a key of a Dict observation; else None."""

    @property
    def state(self) -> Any:
        """Space of the whole environment's state, if a central critic sees it; else None."""

    @property
    def local(self) -> Spaces:
        """What an agent sees itself: the same without the state."""

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Inputs of the network, in the order of the space; behind them the `STATE`."""

    @property
    def action_kind(self) -> str:
        """ "discrete", "multidiscrete" or "box"."""

    @property
    def action_n(self) -> tuple[int, ...]:
        """Number of choices of each component; () for a box."""

    @property
    def action_dim(self) -> int:
        """Numbers in one action in policy form."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Trailing shape of an action in policy form: () or (action_dim,)."""

    @property
    def action_dtype(self) -> np.dtype[Any]:
        """dtype of an action in policy form: float32 for a box, else int64."""

    def flatten(self, obs: Any) -> dict[str, NDArray]:
        """One observation, or a batch of them, as `{path: [..., *shape]}`; checked."""

    def flatten_mask(self, mask: Any) -> NDArray:
        """An action mask of the environment as bool [..., sum(action_n)]; checked."""

    def narrow(self, obs: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Observations as they are stored and trained on; see `Leaf.narrow`."""

    def nest(self, flat: Mapping[str, Any]) -> Any:
        """The environment's own structure of flat arrays of any library."""

    def to_env(self, action: Any) -> NDArray:
        """Actions in policy form [..., *action_shape] as `env.step` takes them."""

    def from_env(self, action: Any) -> NDArray:
        """What `env.step` took, with any leading axes, in policy form."""

    def clip(self, action: NDArray) -> NDArray:
        """Actions of a Box in policy form, within the bounds that `to_env` keeps to."""

    @property
    def action_bounds(self) -> tuple[NDArray, NDArray]:
        """Least and most of each component of a Box in policy form, [action_dim]."""

    def to_json(self) -> dict[str, Any]:
        """Both spaces as JSON values."""
