"""Gymnasium's spaces as Shoal's `Spaces`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import SpaceError
from shoal.ops.kernels import namespace
from shoal.spaces.base import ACTION_MASK, STATE, Leaf
from shoal.spaces.json import (
    MAX_CHOICES,
    MAX_ELEMENTS,
    NDArray,
    expect_keys,
    from_json,
    kind_of,
    malformed,
    shown,
    to_json,
    unsupported,
)
from shoal.spaces.leaf import cast, collect, leaf_of, path_of

_HUGE = 1e30  # bounds beyond this are a way to write "none" (np.finfo(np.float32).max)


class _Rescale(NamedTuple):
    """Box actions: `clip(a, below, above) * scale + offset`, all [dim]; only the clip if `unit`."""

    below: NDArray
    above: NDArray
    scale: NDArray
    offset: NDArray
    low: NDArray
    high: NDArray
    unit: bool


@dataclass(frozen=True)
class GymSpaces:
    """What a policy sees and does. Raises SpaceError for what Shoal does not support.

    Args:
        observation, action: Gymnasium spaces of one copy of the environment.
        masked: the environment gives `info["action_mask"]`. A top-level Dict observation key
            "action_mask" sets it by itself, and is a mask, not an input of the network.
        state: of the whole environment, which a central critic sees: one leaf more. Whoever has it
            puts it beside what `flatten` gives, which is of `local` spaces.
    """

    observation: Any
    action: Any
    masked: bool = False
    state: Any = None

    def __post_init__(self) -> None:
        kind = self.action_kind
        if self.mask_space is not None:
            object.__setattr__(self, "masked", True)
        if self.masked and kind == "box":
            raise SpaceError(
                f"the environment gives an action mask, but the action space is {self.action}",
                where='observation, "action_mask"',
                fix="masks need Discrete, MultiDiscrete or MultiBinary actions; rename the key",
            )
        size = None if self.mask_space is None else _mask_size(self.mask_space)
        if size not in (None, sum(self.action_n)):
            raise SpaceError(
                f"the action mask has {size} entries, but the action space {self.action} "
                f"has {sum(self.action_n)} choices",
                where='observation, "action_mask"',
                fix="give one entry per choice, those of all components one after another",
            )
        if not self.leaves:
            raise SpaceError(
                f"the observation space {self.observation} holds nothing to observe",
                where="observation",
                fix="add a Box, Discrete, MultiDiscrete or MultiBinary entry",
            )

    @cached_property
    def mask_space(self) -> Any:
        """Space of the mask in a Dict observation; None if there is none."""
        if kind_of(self.observation) != "dict":
            return None
        return self.observation.spaces.get(ACTION_MASK)

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Network inputs, in the order of the space. A space that is no Dict or Tuple is "obs"."""
        found: list[Leaf] = []
        collect(self.observation, (), found, skip=ACTION_MASK)
        size = sum(int(np.prod(leaf.shape)) for leaf in found)
        if size > MAX_ELEMENTS or sum(sum(leaf.n) for leaf in found) > MAX_CHOICES:
            limits = f"more than {MAX_ELEMENTS} numbers or {MAX_CHOICES} choices"
            raise unsupported(self.observation, "obs", limits)
        if self.state is not None:
            found.append(replace(leaf_of(self.state, ("state",)), path=STATE, keys=()))
        paths = [leaf.path for leaf in found]
        twice = {path for path in paths if paths.count(path) > 1} | ({ACTION_MASK} & set(paths))
        if twice:
            raise SpaceError(
                f"two entries of the observation space have the path {min(twice)!r}",
                where="observation",
                fix='rename one of the keys (a nested key is joined with "/")',
            )
        return tuple(found)

    @cached_property
    def local(self) -> GymSpaces:
        """What an agent sees itself: without the state."""
        return self if self.state is None else replace(self, state=None)

    @cached_property
    def action_kind(self) -> str:
        """ "discrete", "multidiscrete" (MultiBinary too: choices of 2) or "box"."""
        kind = kind_of(self.action)
        if kind in ("discrete", "multidiscrete", "multibinary"):
            leaf_of(self.action, ("action",))
            return "discrete" if kind == "discrete" else "multidiscrete"
        if kind == "box":
            if self.action.dtype.kind != "f":
                raise SpaceError(
                    f"the action space {self.action} is a Box of {self.action.dtype}",
                    where="action",
                    fix="use MultiDiscrete for whole numbers, or a Box of np.float32",
                )
            leaf_of(self.action, ("action",))
            return "box"
        raise unsupported(self.action, "action", "not an action Shoal can take")

    @cached_property
    def action_n(self) -> tuple[int, ...]:
        """Number of choices of each component; () for a Box."""
        if self.action_kind == "box":
            return ()
        if kind_of(self.action) == "multibinary":
            return (2,) * int(np.prod(self.action.shape))
        return leaf_of(self.action, ("action",)).n

    @cached_property
    def action_dim(self) -> int:
        """Numbers in one action in policy form: floats of a Box, components, 1 for Discrete."""
        return int(np.prod(self.action.shape)) if self.action_kind == "box" else len(self.action_n)

    @cached_property
    def action_shape(self) -> tuple[int, ...]:
        """Trailing shape of an action in policy form."""
        return () if self.action_kind == "discrete" else (self.action_dim,)

    @cached_property
    def action_dtype(self) -> np.dtype[Any]:
        """dtype of an action in policy form: float32 for a Box, else int64."""
        return np.dtype(np.float32 if self.action_kind == "box" else np.int64)

    def flatten(self, obs: Any) -> dict[str, NDArray]:
        """One observation, or a batch of them in Gymnasium's form, as `{path: [..., *shape]}`.

        Leading axes are kept. Raises SpaceError if the observation does not fit the space.
        """
        plain = self._plain
        if plain is not None and plain.takes(obs):
            return {plain.path: obs}
        flat = {leaf.path: cast(leaf, self._at(obs, leaf)) for leaf in self.leaves}
        if self.mask_space is not None:
            flat[ACTION_MASK] = self.flatten_mask(self._key(obs, ACTION_MASK, ACTION_MASK))
        return flat

    def narrow(self, obs: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Observations as they are stored and trained on: float32 if the environment's are wider.

        ``params`` may hold the origins of leaves; see `Leaf.narrow`.
        """
        if not any(leaf.wide for leaf in self.leaves):
            return dict(obs)
        return {**obs, **{x.path: x.narrow(obs[x.path], params) for x in self.leaves}}

    def flatten_mask(self, mask: Any) -> NDArray:
        """An action mask (an array, or a tuple of one per component) as bool [..., sum(n)]."""
        if isinstance(mask, tuple | list) and len(mask) and np.ndim(mask[0]):
            flat = np.concatenate([np.asarray(part) for part in mask], axis=-1)
        else:
            flat = np.asarray(mask)
        axes = len(getattr(self.mask_space, "shape", None) or (0,))
        if axes > 1:
            flat = flat.reshape(*flat.shape[:-axes], -1)
        if flat.dtype.kind not in "biuf" or flat.shape[-1:] != (sum(self.action_n),):
            raise SpaceError(
                f"the action mask is {flat.dtype} {list(flat.shape)}, "
                f"expected bool or int8 [{sum(self.action_n)}]",
                where='"action_mask"',
                fix="give one entry per choice, 1 where the action is allowed",
            )
        allowed: NDArray = flat != 0
        return allowed

    def nest(self, flat: Mapping[str, Any]) -> Any:
        """The environment's own structure (dict, tuple) of the arrays in `flat`, of any library.

        The inverse of `flatten` but for dtypes: a mask stays bool.
        """
        return self._nest(self.observation, (), flat)

    def to_env(self, action: Any) -> NDArray:
        """Actions in policy form [..., *action_shape] as what `env.step` takes.

        Discrete ones are shifted by the space's start. Components of a Box with two finite
        bounds are clipped to [-1, 1] and rescaled to [low, high], the others are clipped to the
        bound they have. The result has the space's shape and dtype behind the leading axes.
        """
        action, space = np.asarray(action), self.action
        out: NDArray
        if self.action_kind == "box":
            rescale, out = self._rescale, self.clip(action)
            if not rescale.unit:
                out = out * rescale.scale + rescale.offset
                out = np.minimum(np.maximum(out, rescale.low), rescale.high)  # rounding
            return out.reshape(action.shape[:-1] + space.shape).astype(space.dtype)
        if self.action_kind == "discrete":
            out = action + int(space.start) if space.start else action
            return out.astype(space.dtype, copy=False)[()]  # one action is a number, not an array
        out = action.reshape(action.shape[:-1] + space.shape) + getattr(space, "start", 0)
        return out.astype(space.dtype)

    def clip(self, action: NDArray) -> NDArray:
        """Actions of a Box in policy form, within the bounds that `to_env` keeps to."""
        rescale = self._rescale
        out: NDArray = np.minimum(np.maximum(action, rescale.below), rescale.above)
        return out

    def from_env(self, action: Any) -> NDArray:
        """What `env.step` took, with any leading axes, in policy form: the inverse of `to_env`.

        Bounds are not checked.
        """
        action, space = np.asarray(action), self.action
        shape = *action.shape[: action.ndim - len(space.shape)], *self.action_shape
        if self.action_kind != "box":
            action = action - np.asarray(getattr(space, "start", 0))
        out: NDArray = action.reshape(shape)
        if self.action_kind == "box" and not self._rescale.unit:
            out = (out - self._rescale.offset) / self._rescale.scale
        return out.astype(self.action_dtype)

    @property
    def action_bounds(self) -> tuple[NDArray, NDArray]:
        """Least and most of each component of a Box in policy form, [action_dim]."""
        return self._rescale.below, self._rescale.above

    def to_json(self) -> dict[str, Any]:
        return {
            "observation": to_json(self.observation),
            "action": to_json(self.action),
            "masked": self.masked,
            **({} if self.state is None else {"state": to_json(self.state)}),
        }

    @staticmethod
    def from_json(value: Any) -> GymSpaces:
        """Raises SpaceError for anything but what `to_json` writes."""
        more = {"state"} if isinstance(value, dict) and "state" in value else set()
        expect_keys(value, {"observation", "action", "masked"} | more, "spaces")
        if not isinstance(value["masked"], bool):
            raise malformed("spaces/masked", "expected true or false")
        observation = from_json(value["observation"], "observation")
        state = from_json(value["state"], "state") if more else None
        action = from_json(value["action"], "action")
        return GymSpaces(observation, action, value["masked"], state)

    @cached_property
    def _plain(self) -> Leaf | None:
        """The only leaf, where its arrays are taken as they are; sampling asks at every step."""
        leaf = self.leaves[0]
        plain = len(self.leaves) == 1 and leaf.kind == "box" and not leaf.keys
        return leaf if plain and not self.masked else None

    @cached_property
    def _rescale(self) -> _Rescale:
        space = self.action
        dtype = np.result_type(space.dtype, np.float32)
        low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
        bounded = (low > -_HUGE) & (high < _HUGE)
        bottom, top = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        scale, offset = (top - bottom) / 2, (top + bottom) / 2
        return _Rescale(
            below=np.where(bounded, -1.0, low).astype(dtype),
            above=np.where(bounded, 1.0, high).astype(dtype),
            scale=scale.astype(dtype),
            offset=offset.astype(dtype),
            low=low.astype(dtype),
            high=high.astype(dtype),
            unit=bool((scale == 1).all() and (offset == 0).all()),
        )

    def _at(self, obs: Any, leaf: Leaf) -> Any:
        for key in leaf.keys:
            obs = self._key(obs, key, leaf.path)
        return obs

    def _key(self, obs: Any, key: str | int, path: str) -> Any:
        try:
            return obs[key]
        except (KeyError, IndexError, TypeError) as error:
            raise SpaceError(
                f"the observation has no entry {path!r}: it is {shown(obs)}",
                where=f"observation, {path!r}",
                fix=f"give what the space says: {self.observation}",
            ) from error

    def _nest(self, space: Any, keys: tuple[str | int, ...], flat: Mapping[str, Any]) -> Any:
        kind = kind_of(space)
        if kind == "dict":
            parts = {key: part for key, part in space.spaces.items() if keys or key != ACTION_MASK}
            nested = {key: self._nest(part, (*keys, key), flat) for key, part in parts.items()}
            if len(parts) < len(space.spaces) and ACTION_MASK in flat:
                nested[ACTION_MASK] = flat[ACTION_MASK]
            return nested
        if kind == "tuple":
            return tuple(self._nest(s, (*keys, i), flat) for i, s in enumerate(space.spaces))
        x = flat[path_of(keys)]
        if kind == "discrete":
            return x + int(space.start) if space.start else x
        if kind == "multidiscrete":
            x = x if space.nvec.ndim == 1 else x.reshape((*x.shape[:-1], *space.shape))
            return x + namespace(x).asarray(space.start) if np.any(space.start) else x
        return x


def _mask_size(space: Any) -> int:
    parts = space.spaces if kind_of(space) == "tuple" else (space,)
    if any(kind_of(part) not in ("box", "multibinary", "multidiscrete") for part in parts):
        raise unsupported(space, ACTION_MASK, "not a mask: use MultiBinary, or a Tuple of them")
    return sum(int(np.prod(part.shape)) for part in parts)
