"""Demonstrations from a Minari data set, as a replay buffer stores what was sampled.

Minari (https://minari.farama.org) is the field's format: JSON beside HDF5 arrays, without pickle.
Nothing that a data set names is imported: it must say its spaces, because Minari would otherwise
make the environment that it names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import DemoError, ShoalError, SpaceError, cut, did_you_mean
from shoal.spaces.base import ACTION_MASK, Leaf, Spaces
from shoal.spaces.gym import GymSpaces
from shoal.spaces.view import ALL, View
from shoal.trajectory import Batch, Obs, ndarray

BEYOND = 1e-3  # of a Box's range: actions that far outside are rounding, and are clipped
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, AssertionError, NotImplementedError)


@dataclass(frozen=True)
class Demos:
    """Episodes of a Minari data set that fits an environment; iterating reads and checks them.

    Each is a batch as ``Trajectory.steps`` gives it, of one slot: ``obs`` {leaf: [T + 1, 1, ...]},
    the last of which is what followed, ``action`` in policy form and ``reward`` [T, 1], and so on.
    Nothing is recorded beside them. Raises DemoError for an episode that is damaged or has gaps.
    """

    folder: Path  # that holds Minari's files
    spaces: Spaces  # the environment's own
    view: View
    clip: float | None
    weights: Mapping[str, ndarray]
    episodes: int
    steps: int  # env steps of all of them
    _storage: Any = field(repr=False)

    def __len__(self) -> int:
        return self.episodes

    def __iter__(self) -> Iterator[Batch]:
        with _readable(self.folder):
            found = iter(self._storage.get_episodes(range(self.episodes)))
        for number in range(self.episodes):
            with _readable(self.folder, number):
                episode = next(found)
            yield self._batch(episode, number)

    def _batch(self, episode: Mapping[str, Any], number: int) -> Batch:
        """One episode, checked, under the view and with rewards as they are trained on."""
        flaw = _Flaw(f"{self.folder}, episode {number}")
        reward = np.asarray(episode["rewards"])
        steps = len(reward) if reward.ndim == 1 else 0
        if not steps:
            raise flaw("rewards", f"has the shape {list(reward.shape)}: it has no env step")
        flaw.unless_finite("rewards", reward)
        terminated, truncated = (
            flaw.flags(name, episode[name], steps) for name in ("terminations", "truncations")
        )
        over = terminated | truncated
        if not over[-1] or over[:-1].any():
            at = int(np.argmax(over)) if over.any() else None
            where = "nowhere" if at is None else f"at env step {at}"
            raise flaw(
                "terminations, truncations",
                f"end it {where}, but it holds {steps} env steps: it has gaps",
            )
        action = self._actions(episode["actions"], steps, flaw)[:, None]
        own = self._observations(episode, steps, flaw)
        lens = self.view.of(self.spaces)
        reward = reward.astype(np.float32)[:, None]
        obs = lens({path: x[:, None] for path, x in own.items()})
        first, later = lens.initial((1, 1)), lens.previous(action, reward)
        obs |= {path: np.concatenate([x, later[path]]) for path, x in first.items()}
        if self.clip is not None:
            reward = np.clip(reward, -self.clip, self.clip)
        obs = lens.spaces.narrow(obs, self.weights)
        return {
            "obs": obs,
            "action": action,
            "reward": reward,
            "terminated": terminated[:, None],
            "truncated": truncated[:, None],
            "mask": np.ones((steps, 1), bool),
            "records": {},
            "final_t": np.zeros(0, np.int64),
            "final_b": np.zeros(0, np.int64),
            "final": {path: x[:0, 0] for path, x in obs.items()},
            "fragment": np.array([0, number]),
        }

    def _actions(self, actions: Any, steps: int, flaw: _Flaw) -> ndarray:
        """Actions in policy form, [T, ...]."""
        spaces, actions = self.spaces, np.asarray(actions)
        shape, floats = (steps, *spaces.action.shape), spaces.action_kind == "box"
        if actions.shape != shape or actions.dtype.kind not in ("fiu" if floats else "iub"):
            found = f"are {actions.dtype} {list(actions.shape)}"
            raise flaw("actions", f"{found}, expected {spaces.action.dtype} {list(shape)}")
        flaw.unless_finite("actions", actions)
        taken = spaces.from_env(actions)
        if floats:
            low, high = spaces.action_bounds
            inside = (taken >= low - 2 * BEYOND) & (taken <= high + 2 * BEYOND)
            out = spaces.clip(taken)
        else:
            inside = (taken >= 0) & (taken < np.reshape(spaces.action_n, spaces.action_shape))
            out = taken
        if not inside.all():
            at = int(np.argmin(inside.reshape(steps, -1).all(1)))
            raise flaw("actions", f"hold {actions[at]} at env step {at}, outside {spaces.action}")
        return out

    def _observations(self, episode: Mapping[str, Any], steps: int, flaw: _Flaw) -> Obs:
        """Observations {leaf: [T + 1, ...]}, the last one included."""
        spaces = self.spaces
        try:
            flat = spaces.flatten(episode["observations"])
            if spaces.masked and spaces.mask_space is None:
                flat[ACTION_MASK] = spaces.flatten_mask((episode["infos"] or {})[ACTION_MASK])
        except KeyError as error:
            raise flaw(
                f'infos["{ACTION_MASK}"]', "is missing, but the environment gives action masks"
            ) from error
        except ShoalError as error:
            raise flaw("observations", f"do not fit: {error.what}") from error
        for path, x in flat.items():
            name = "observations" if path == "obs" else f"observations {path!r}"
            if len(x) == steps:
                raise flaw(name, f"are {steps}, for {steps} env steps: the last one is missing")
            if len(x) != steps + 1:
                raise flaw(name, f"are {len(x)}, for {steps} env steps: expected {steps + 1}")
            flaw.unless_finite(name, x)
        for leaf in spaces.leaves:
            x = flat[leaf.path]
            if leaf.n and not ((x >= 0) & (x < np.reshape(leaf.n, leaf.shape))).all():
                raise flaw(f"observations {leaf.path!r}", "hold choices that the space has not")
        return flat


def read(
    source: str | Path,
    spaces: Spaces,
    view: View = ALL,
    *,
    clip: float | None = None,
    weights: Mapping[str, ndarray] = {},
) -> Demos:
    """Demonstrations for an environment of these spaces, its own ones.

    Args:
        source: a folder that ``shoal record`` or Minari wrote, or a data set's name in Minari's
            local database (MINARI_DATASETS_PATH, ~/.minari/datasets); nothing is downloaded.
        view: the run's, which is applied to what the data set holds: hidden entries are left out,
            and the previous actions and rewards are the data's own.
        clip: rewards are clipped to plus or minus this, as in training.
        weights: may hold the origins of normalised observations; see `Leaf.narrow`.

    Raises DemoError, with the file, the field and the shapes, if it is missing, empty, damaged, or
    does not fit; ConfigError if the view does not.
    """
    view.of(spaces)
    folder = _folder(source)
    described = _described(folder)
    library = minari()
    with _readable(folder):
        storage = library.dataset.minari_storage.MinariStorage.read(folder)
        episodes, steps = int(described["total_episodes"]), int(described["total_steps"])
    try:
        found = GymSpaces(storage.observation_space, storage.action_space)
    except SpaceError as error:
        raise DemoError(f"the demonstrations do not fit: {error.what}", str(folder)) from error
    _check_spaces(folder, found, spaces)
    if not episodes or not steps:
        raise DemoError("the data set holds no episodes", str(folder), "record some: shoal record")
    return Demos(folder, spaces, view, clip, weights, episodes, steps, storage)


def minari() -> Any:
    """The package. Raises DemoError, with what to install, if it is not there."""
    try:
        import h5py  # noqa: F401  (its format here)
        import minari.dataset.minari_storage
    except ImportError as error:
        raise DemoError(
            f"demonstrations are read and written by Minari, which cannot be imported: {error}",
            None,
            f'{sys.executable} -m pip install "shoal[demos]"',
        ) from error
    return minari


def _folder(source: str | Path) -> Path:
    """The folder with Minari's files."""
    database = minari().storage.datasets_root_dir.get_dataset_path("")
    for folder in (Path(source), database / source):
        for inside in (folder, folder / "data"):
            if (inside / "metadata.json").is_file():
                return inside
    near = did_you_mean(str(source), minari().list_local_datasets())
    raise DemoError(
        f"{str(source)!r} is neither a folder with a Minari data set nor one in {database}",
        None,
        f"{near}give what `shoal record` wrote, or fetch one first: minari download {source}",
    )


def _described(folder: Path) -> dict[str, Any]:
    """A data set's metadata, as far as it is needed before Minari reads it."""
    with _readable(folder):
        found = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        lacking = {"total_episodes", "total_steps", "data_format", "minari_version"} - set(found)
    if lacking:
        what = f"the data set does not say its {', '.join(sorted(lacking))}"
        raise DemoError(what, str(folder), "write it again")
    if not all(isinstance(found.get(f"{k}_space"), str) for k in ("observation", "action")):
        raise DemoError(
            "the data set does not say its spaces, and making the environment that it names would "
            "run code",
            str(folder),
            "write it again with observation_space and action_space",
        )
    known = minari().supported_dataset_versions
    if found["minari_version"] not in known:
        raise DemoError(
            f"the data set is of Minari {cut(str(found['minari_version']), 20)}, which the "
            f"installed Minari {minari().__version__} does not read",
            str(folder),
            "install the version that wrote it",
        )
    return dict(found)


def _check_spaces(folder: Path, found: GymSpaces, wanted: Spaces) -> None:
    """Raise DemoError unless a data set's spaces are the environment's; bounds may differ."""
    pairs = (
        ("observations", found.observation, wanted.observation, _leaves(found) == _leaves(wanted)),
        ("actions", found.action, wanted.action, _action(found) == _action(wanted)),
    )
    for name, own, other, same in pairs:
        if not same:
            raise DemoError(
                f"the demonstrations do not fit the environment: their {name} are {own}, the "
                f"environment's {other}",
                str(folder),
                "take demonstrations of this environment",
            )


def _leaves(spaces: Spaces) -> list[tuple[Any, ...]]:
    def form(leaf: Leaf) -> tuple[Any, ...]:
        return leaf.path, leaf.kind, leaf.raw, leaf.n, leaf.start, leaf.dtype.kind == "f"

    return sorted(map(form, spaces.leaves))


def _action(spaces: Spaces) -> tuple[Any, ...]:
    start = np.reshape(getattr(spaces.action, "start", 0), -1).tolist()
    return spaces.action_kind, spaces.action.shape, spaces.action_n, any(start) and start


@contextmanager
def _readable(folder: Path, episode: int | None = None) -> Iterator[None]:
    """Whatever fails in reading is a DemoError that names the file."""
    try:
        yield
    except (*_UNREADABLE, StopIteration) as error:
        where = str(folder) if episode is None else f"{folder}, episode {episode}"
        why = f"{type(error).__name__}: {cut(str(error), 200)}"
        raise DemoError(f"the data set cannot be read: {why}", where, "write it again") from error


class _Flaw:
    """Errors about the fields of one episode."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __call__(self, name: str, what: str) -> DemoError:
        return DemoError(f"the field {name}: {what}", self._where, "leave the episode out")

    def unless_finite(self, name: str, x: ndarray) -> None:
        if x.dtype.kind not in "fiub":
            raise self(name, f"is {x.dtype}, expected numbers")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            at = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(1)))
            raise self(name, f"is not finite at row {at}")

    def flags(self, name: str, value: Any, steps: int) -> ndarray:
        """bool [T]."""
        x: ndarray = np.asarray(value)
        if x.shape != (steps,) or x.dtype.kind not in "b":
            raise self(name, f"is {x.dtype} {list(x.shape)}, expected bool [{steps}]")
        return x
