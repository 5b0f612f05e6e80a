"""Demonstrations of a policy, written as a Minari data set."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from shoal import __version__
from shoal.config.trust import absolute
from shoal.envs import Step, VectorEnv, make_for_evaluation, seen
from shoal.envs.wrapper import Wrapper
from shoal.errors import ConfigError, DemoError, ShoalError
from shoal.evaluation import COPIES, Progress, check_spaces, play, summary
from shoal.policy import Policy
from shoal.process.machine import cpus
from shoal.replay.demos import minari
from shoal.spaces.base import ACTION_MASK, Spaces
from shoal.spaces.json import kind_of

Obs = dict[str, Any]


def record(
    policy: Policy,
    env: str | Callable[..., Any] | Mapping[str, Any],
    episodes: int,
    out: str | Path,
    *,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    explore: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write whole episodes of a policy to the folder ``out``, which must be new or empty.

    The episodes are those of ``evaluate``, with its arguments. Observations (the last of each
    episode too), actions and rewards are the environment's own, whatever the policy sees of them;
    ``infos`` hold the action mask where it is there. ``minari.MinariDataset(out / "data")`` opens
    it; below Minari's database ``minari.load_dataset`` does, if the folder's name ends in a
    version ("cartpole-v0"), which then is the data set's. Frames are not compressed with loss.

    Returns what ``evaluate`` does, and ``env_steps``, ``dataset_id`` and ``path``, the folder with
    Minari's files.

    Raises what ``evaluate`` does, and DemoError if Minari is missing, the folder is in use, or
    Minari cannot write these spaces.
    """
    if episodes < 1:
        raise ShoalError(f"episodes is {episodes}", None, "record at least 1")
    library, out = minari(), Path(out).absolute()  # Minari joins relative paths twice
    _refuse_used(out)
    world = make_for_evaluation(
        absolute(env),
        min(episodes, COPIES),
        range(seed, seed + episodes),
        kwargs=env_kwargs,
        threads=cpus(),
    )
    name = dataset_id(out)
    try:
        if world.agents:
            raise ConfigError(
                f"{world.id!r} has several agents, and a Minari data set is of one",
                None,
                "record an environment of one agent",
            )
        check_spaces(policy, world)
        _refuse_keys(world.spaces)
        with _folder(out) as folder:
            store = _create(library, folder / "data", world)
            tape = Tape(world, episodes, lambda episode: _write(library, store, episode))
            viewed, stream = seen(tape, policy.view), seed if explore else None
            played = play(policy, viewed, episodes, stream, progress=progress)
            store.update_metadata(
                {
                    "dataset_id": name,
                    "minari_version": library.__version__,
                    "algorithm_name": type(policy.algorithm).__name__,
                    "description": f"{episodes} episodes of {world.id}, recorded by Shoal",
                    "shoal": {
                        "version": __version__,
                        "env": world.id,
                        "seed": seed,
                        "explore": explore,
                    },
                }
            )
    finally:
        world.close()
    steps = sum(length for _, length in played)
    return {
        **summary(played),
        "env_steps": steps,
        "dataset_id": name,
        "path": str(out / "data"),
    }


def dataset_id(out: Path) -> str:
    """The folder's name as Minari wants one: letters, digits, "-" and "_", and a version."""
    plain = re.sub(r"[^\w-]+", "-", out.resolve().name).strip("-") or "demos"
    return plain if re.search(r"-v\d+$", plain) else f"{plain}-v0"


class Tape(Wrapper):
    """A vector environment that hands over each episode when it has ended.

    Episodes are numbered in the order in which they begin, as ``evaluate`` does, and only the first
    of them are kept. What it hands over are the keyword arguments of Minari's ``EpisodeBuffer``.
    """

    def __init__(
        self, env: VectorEnv, episodes: int, save: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(env)
        self._episodes, self._save = episodes, save
        self._begun = 0
        self._open: list[_Episode | None] = []

    def step(self, action: Any) -> Step:
        """See `VectorEnv.step`."""
        step = self.env.step(action)
        taken = self.spaces.to_env(action)
        slots, last = step.final or (np.zeros(0, np.int64), {})
        followed = {int(slot): k for k, slot in enumerate(slots)}
        for slot, episode in enumerate(self._open):
            if step.valid is not None and not step.valid[slot]:
                self._open[slot] = self._new(slot, step.obs)
            elif episode is not None:
                k = followed.get(slot)
                obs, row = (step.obs, slot) if k is None else (last, k)
                episode.add(taken[slot], step, slot, obs, row)
        for slot in np.flatnonzero(step.over).tolist():
            ended = self._open[slot]
            if ended is not None:
                self._save(ended.fields(self.spaces))
            self._open[slot] = self._new(slot, step.obs) if slot in followed else None
        return step

    def set_state(self, state: dict[str, Any]) -> Obs:
        """The environment's; what is on the tape is from other episodes, and is dropped."""
        return self._first(self.env.set_state(state))

    def _first(self, obs: Obs) -> Obs:
        self._begun = 0
        self._open = [self._new(slot, obs) for slot in range(self.slots)]
        return obs

    def _new(self, slot: int, obs: Obs) -> _Episode | None:
        """The episode that begins in a slot, if it is to be kept."""
        self._begun += 1
        kept = self._begun <= self._episodes
        return _Episode(self.env.episode_seeds[slot], obs, slot) if kept else None


class _Episode:
    """One episode in the making; copies what it is given."""

    def __init__(self, seed: int | None, obs: Obs, slot: int) -> None:
        self.seed = seed
        self._obs: dict[str, list[Any]] = {path: [x[slot].copy()] for path, x in obs.items()}
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._flags: list[tuple[bool, bool]] = []

    def add(self, action: Any, step: Step, slot: int, obs: Obs, row: int) -> None:
        """One env step of this slot, and row ``row`` of what followed it."""
        goes_on = step.goes_on is not None and bool(step.goes_on[slot])
        self._actions.append(np.array(action))
        self._rewards.append(float(step.reward[slot]))
        self._flags.append(
            (bool(step.terminated[slot]) and not goes_on, bool(step.truncated[slot]))
        )
        for path, rows in self._obs.items():
            rows.append(obs[path][row].copy())

    def fields(self, spaces: Spaces) -> dict[str, Any]:
        """Arrays in the environment's own form: T actions and rewards, T + 1 observations."""
        flat = {path: np.stack(rows) for path, rows in self._obs.items()}
        mask = None
        if spaces.masked and spaces.mask_space is None:
            mask = {ACTION_MASK: flat.pop(ACTION_MASK)}
        terminated, truncated = np.array(self._flags, bool).T
        return {
            "seed": self.seed,
            "observations": _own(spaces.observation, spaces.nest(flat)),
            "actions": np.stack(self._actions),
            "rewards": np.array(self._rewards, np.float32),
            "terminations": terminated,
            "truncations": truncated,
            "infos": mask,
        }


def _own(space: Any, x: Any) -> Any:
    """Rows of observations in the dtypes and shapes of the environment's space, masks too."""
    kind = kind_of(space)
    if kind == "dict":
        return {key: _own(part, x[key]) for key, part in space.spaces.items()}
    if kind == "tuple":
        if isinstance(x, np.ndarray):  # a mask of several components lies in one row
            sizes = [int(np.prod(part.shape)) for part in space.spaces]
            x = np.split(x, np.cumsum(sizes)[:-1], axis=1)
        return tuple(_own(part, row) for part, row in zip(space.spaces, x, strict=True))
    return np.asarray(x).reshape(len(x), *space.shape).astype(space.dtype)


def _create(library: Any, folder: Path, world: VectorEnv) -> Any:
    """An empty data set for this environment."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a spec that JSON cannot hold: it is left out
            return library.dataset.minari_storage.MinariStorage.new(
                folder,
                observation_space=world.spaces.observation,
                action_space=world.spaces.action,
                env_spec=world.spec,
                data_format="hdf5",
                jpeg_encoding=False,
            )
    except (NotImplementedError, TypeError, ValueError) as error:
        raise DemoError(f"Minari cannot write these spaces: {error}", str(folder)) from error


def _write(library: Any, store: Any, episode: dict[str, Any]) -> None:
    store.update_episodes([library.data_collector.EpisodeBuffer(**episode)])


def _refuse_used(out: Path) -> None:
    """Raise DemoError if something is there already."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DemoError(f"{out} exists already", None, "record to a new folder")


def _refuse_keys(spaces: Spaces) -> None:
    """Raise DemoError for keys that HDF5 takes for groups below each other."""
    for leaf in spaces.leaves:
        if any("/" in str(key) for key in leaf.keys):
            raise DemoError(
                f"the observation's entry {leaf.path!r} has a key with '/', which HDF5 cannot name",
                None,
                "rename the key",
            )


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when it is complete, else is removed."""
    partial = out.parent / f".{out.name}.{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
