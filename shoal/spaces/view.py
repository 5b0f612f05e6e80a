"""What a policy sees of its environment: entries may be hidden, and what it did last may join.

A view belongs to the policy. What it makes of an environment's spaces is all that networks,
trajectories and the replay buffer know of the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import ConfigError, did_you_mean
from shoal.spaces.base import ACTION_MASK, Leaf, NDArray, Spaces
from shoal.spaces.gym import GymSpaces
from shoal.spaces.json import kind_of
from shoal.spaces.leaf import path_of

OBSERVATION, PREVIOUS_ACTION, PREVIOUS_REWARD = "observation", "previous_action", "previous_reward"
Obs = dict[str, NDArray]


@dataclass(frozen=True)
class View:
    """The settings ``rollout.hide`` and ``rollout.previous``; empty, it shows all there is.

    Args:
        hide: what the policy is not shown: a leaf's name ("speed", or "body" for all that lies
            below it), or entries of a vector ("speed:1", and numbers behind it for more of them).
            Where the observation is one vector, numbers are its entries: (1, 3).
        previous: the observation becomes the Dict of ``observation``, ``previous_action`` (one-hot
            for choices, MultiBinary; a Box's in policy form within its bounds) and
            ``previous_reward`` (float32 [1], as the environment gave it). Both are all zero where
            an episode begins. The action mask stays where it was.
    """

    hide: tuple[int | str, ...] = ()
    previous: bool = False

    def __bool__(self) -> bool:
        return bool(self.hide) or self.previous

    def __str__(self) -> str:
        parts = [f"not shown: {','.join(map(str, self.hide))}"] if self.hide else []
        parts += ["shown too: previous action and reward"] if self.previous else []
        return "; ".join(parts)

    def of(self, spaces: Spaces) -> Lens:
        """This view of an environment. Raises ConfigError for what it does not have to hide."""
        return Lens(self, spaces)


ALL = View()  # hides nothing, adds nothing


class Lens:
    """A view of one environment's observations.

    ``own`` are the environment's spaces, ``spaces`` what the policy sees.
    """

    def __init__(self, view: View, own: Spaces) -> None:
        self.own, self.spaces, self._view = own, own, view
        hidden = _hidden(own, view.hide)
        shown = [leaf for leaf in own.leaves if hidden.get(leaf.path) != set(range(_size(leaf)))]
        if not shown:
            raise ConfigError(
                f"rollout.hide is {_text(view.hide)}, which leaves nothing of the observation: "
                f"{_listed(own)}",
                None,
                "leave something to see",
            )
        if view:
            self.spaces = GymSpaces(_space(view, own, hidden), own.action, own.masked)
        # The order of leaves stays as it is.
        pairs = zip(shown, self.spaces.leaves[: len(shown)], strict=True)
        self._entries = [(a.path, b.path, _kept(a, hidden)) for a, b in pairs]
        self._component = np.repeat(np.arange(len(own.action_n)), own.action_n)
        self._choice = np.concatenate([np.zeros(0, np.int64), *map(np.arange, own.action_n)])

    def __call__(self, obs: Mapping[str, NDArray]) -> Obs:
        """What is not hidden of {leaf: [..., *shape]}, without what came before."""
        seen = {
            to: obs[path] if kept is None else obs[path][..., kept]
            for path, to, kept in self._entries
        }
        if ACTION_MASK in obs and self.own.masked:
            seen[ACTION_MASK] = obs[ACTION_MASK]
        return seen

    def initial(self, axes: tuple[int, ...]) -> Obs:
        """What came before an episode's first observation: zeros [*axes, ...]; {} if not shown."""
        if not self._view.previous:
            return {}
        leaves = self.spaces.leaves[len(self._entries) :]
        return {leaf.path: np.zeros((*axes, *leaf.shape), leaf.dtype) for leaf in leaves}

    def previous(self, action: NDArray, reward: Any) -> Obs:
        """What came before the observations behind these actions [..., *action_shape] in policy
        form and rewards [...], as arrays of their own; {} if it is not shown."""
        if not self._view.previous:
            return {}
        if self.own.action_kind == "box":
            taken = self.own.clip(action).astype(np.float32)
        else:
            parts = action.reshape(*np.shape(reward), len(self.own.action_n))
            taken = (parts[..., self._component] == self._choice).astype(np.int8)
        return {
            PREVIOUS_ACTION: taken,
            PREVIOUS_REWARD: np.array(reward, np.float32)[..., None],
        }


def _hidden(spaces: Spaces, hide: tuple[int | str, ...]) -> dict[str, set[int]]:
    """The hidden entries of each leaf. Raises ConfigError for those that do not exist."""
    leaves = {leaf.path: leaf for leaf in spaces.leaves}
    found: dict[str, set[int]] = {}
    leaf = spaces.leaves[0] if len(leaves) == 1 else None  # whose entries numbers alone are
    for item in map(str, hide):
        name, colon, number = item.rpartition(":")
        below = [path for path in leaves if path == item or path.startswith(f"{item}/")]
        if below and not (leaf is not None and item.isdecimal()):
            found |= {path: set(range(_size(leaves[path]))) for path in below}
            continue
        if colon and name in leaves:
            leaf, item = leaves[name], number
        if leaf is None or not item.isdecimal():
            raise ConfigError(
                f"rollout.hide is {_text(hide)}, but the observation has no {item!r}: "
                f"{_listed(spaces)}",
                None,
                f"{did_you_mean(item, leaves)}name a leaf, or entries of a vector: "
                f"{spaces.leaves[0].path}:0",
            )
        _check_entry(leaf, int(item), hide)
        found.setdefault(leaf.path, set()).add(int(item))
    return found


def _check_entry(leaf: Leaf, entry: int, hide: tuple[int | str, ...]) -> None:
    """Raise ConfigError if the leaf is no vector, or has no such entry."""
    what = f"rollout.hide is {_text(hide)}, but the observation {leaf.path!r} is {_form(leaf)}"
    if len(leaf.shape) != 1 or leaf.raw != leaf.shape:
        raise ConfigError(
            f"{what}, of which no single entries can be hidden",
            None,
            f"hide entries of vectors only, or all of it by its name, {leaf.path}, if others are "
            "left; or wrap the environment",
        )
    if entry >= leaf.shape[0]:
        raise ConfigError(
            f"{what}: it has no entry {entry}", None, f"its entries are 0 to {leaf.shape[0] - 1}"
        )


def _space(view: View, own: Spaces, hidden: Mapping[str, set[int]]) -> Any:
    """The observation space that is seen."""
    from gymnasium import spaces

    space = _shown(own.observation, (), hidden) if hidden else own.observation
    if not view.previous:
        return space
    mask = own.mask_space
    if mask is not None:
        space = spaces.Dict([(k, x) for k, x in space.spaces.items() if k != ACTION_MASK])
    action = (
        spaces.MultiBinary(sum(own.action_n))
        if own.action_n
        else spaces.Box(*own.action_bounds, dtype=np.float32)
    )
    parts = [
        (OBSERVATION, space),
        (PREVIOUS_ACTION, action),
        (PREVIOUS_REWARD, spaces.Box(-np.inf, np.inf, (1,), np.float32)),
    ]
    return spaces.Dict(parts + ([] if mask is None else [(ACTION_MASK, mask)]))


def _shown(space: Any, keys: tuple[str | int, ...], hidden: Mapping[str, set[int]]) -> Any:
    """A space without what is hidden in it; None if nothing is left."""
    from gymnasium import spaces

    kind = kind_of(space)
    if kind in ("dict", "tuple"):
        named = space.spaces.items() if kind == "dict" else enumerate(space.spaces)
        parts: list[Any] = [(key, _shown(part, (*keys, key), hidden)) for key, part in named]
        left = [(key, part) for key, part in parts if part is not None]
        if not left:
            return None
        return spaces.Dict(left) if kind == "dict" else spaces.Tuple([part for _, part in left])
    entries = hidden.get(path_of(keys))
    if entries is None:
        return space
    if len(entries) == int(np.prod(space.shape)):
        return None
    kept = [i for i in range(space.shape[0]) if i not in entries]
    if kind == "box":
        return spaces.Box(space.low[kept], space.high[kept], dtype=space.dtype)
    if kind == "multidiscrete":
        return spaces.MultiDiscrete(space.nvec[kept], space.dtype, start=space.start[kept])
    return spaces.MultiBinary(len(kept))


def _kept(leaf: Leaf, hidden: Mapping[str, set[int]]) -> NDArray | None:
    """Entries of a leaf that are seen; None: all."""
    if leaf.path not in hidden:
        return None
    return np.array([i for i in range(leaf.shape[0]) if i not in hidden[leaf.path]])


def _size(leaf: Leaf) -> int:
    return int(np.prod(leaf.shape))


def _text(hide: tuple[int | str, ...]) -> str:
    return repr(",".join(map(str, hide)))


def _form(leaf: Leaf) -> str:
    return f"{leaf.dtype} {list(leaf.shape)}"


def _listed(spaces: Spaces) -> str:
    return ", ".join(f"{leaf.path} {_form(leaf)}" for leaf in spaces.leaves)
