"""The dataclasses of a whole run: one tree of frozen dataclasses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shoal.config.bounds import check_bounds, is_number, require, setting
from shoal.config.replay import Replay
from shoal.config.self_play import SelfPlay

_DEVICE = re.compile(r"auto|(cpu|cuda)(:\d+)?")


class Frozen(Mapping[str, Any]):
    """A mapping that cannot be changed, and that processes can send to each other."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items = dict(items or {})

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True)
class Rollout:
    """How the environments are sampled."""

    workers: int = setting(0, least=0)  # processes that sample; 0: sample in this process
    envs_per_worker: int = setting(8, least=1)  # copies of the environment in each worker
    fragment_length: int = setting(128, least=1)  # env steps of each copy between two batches
    normalise_obs: bool = False  # scale observations by their running mean and std
    scale_reward: bool = False  # divide rewards by the running std of the return
    clip_reward: float | Literal["auto"] | None = setting(
        "auto", above=0, help="clip rewards to +- this; auto: 1 on Atari"
    )
    env_kwargs: Mapping[str, Any] = field(default_factory=Frozen)  # arguments of the environment
    max_agents: int | None = setting(
        None, least=1, help="agents of a policy at once; only without possible_agents"
    )
    hide: tuple[int | str, ...] = ()  # not shown to the policy: entries 1,3 or leaf or leaf:1,3
    previous: bool = False  # the previous action and reward join the observation

    def __post_init__(self) -> None:
        check_bounds(self, "rollout.")
        ok = isinstance(self.env_kwargs, Mapping) and all(type(k) is str for k in self.env_kwargs)
        require(ok, "rollout.env_kwargs", self.env_kwargs, "a mapping of argument names to values")
        both = bool(self.scale_reward) and is_number(self.clip_reward)
        fix = "'auto' or none if rollout.scale_reward is on: scaled rewards are clipped already"
        require(not both, "rollout.clip_reward", self.clip_reward, fix)
        object.__setattr__(self, "env_kwargs", Frozen(self.env_kwargs))
        known = isinstance(self.hide, tuple) and all(type(x) in (int, str) for x in self.hide)
        require(known, "rollout.hide", self.hide, "a tuple of entries and names of leaves")


@dataclass(frozen=True)
class Stop:
    """When a run ends: at the first of these that is met; none means never."""

    return_mean: float | None = setting(None)  # of an evaluation; without: of 100 episodes
    env_steps: int | None = setting(None, least=1)  # env steps sampled
    seconds: float | None = setting(None, above=0)  # wall-clock time of the run

    def __post_init__(self) -> None:
        check_bounds(self, "stop.")


@dataclass(frozen=True)
class Checkpointing:
    """When a run writes a checkpoint, and how many it keeps."""

    every_seconds: float = setting(60.0, above=0)  # wall-clock time between two checkpoints
    every_iterations: int | None = setting(None, least=1)  # or this number of reports
    keep: int = setting(2, least=1)  # number of newest checkpoints to keep

    def __post_init__(self) -> None:
        check_bounds(self, "checkpointing.")


@dataclass(frozen=True)
class Evaluation:
    """Evaluation while training: the greedy policy, in environments of its own."""

    every: int | None = setting(None, least=1)  # env steps between two evaluations; none: none
    episodes: int = setting(10, least=1)  # whole episodes in one evaluation
    video_every: int | None = setting(None, least=1)  # env steps between two films; none: none
    on_error: Literal["stop", "continue"] = "stop"  # what the run does if an evaluation fails

    def __post_init__(self) -> None:
        check_bounds(self, "evaluation.")
        known = isinstance(self.on_error, str) and self.on_error in ("stop", "continue")
        require(known, "evaluation.on_error", self.on_error, "'stop' or 'continue'")


@dataclass(frozen=True)
class Cluster:
    """Where the workers run; without workers (rollout.workers=0), sampling is in this process."""

    address: str | None = None  # of a Ray cluster; none: RAY_ADDRESS, else Ray on this machine
    in_process: bool = False  # run all workers in this process, in turn (to debug)
    cpus_per_worker: float | None = setting(None, least=0)  # reserved; none: 1 (in an actor: 0)
    timeout: float = setting(60.0, above=0)  # seconds without an env step: the worker is replaced
    restarts_per_minute: int = setting(10, least=0)  # worker deaths; more end the run

    def __post_init__(self) -> None:
        check_bounds(self, "cluster.")

    @property
    def joined(self) -> str | None:
        """Address of the workers' Ray cluster; None: they run on this machine."""
        return None if self.in_process else self.address or os.environ.get("RAY_ADDRESS")


@dataclass(frozen=True)
class Config:
    """A whole run: an algorithm under a plan on an environment."""

    system: str  # name of the system: an algorithm under a plan
    env: str | Mapping[str, Any] | Callable[..., Any]  # Gymnasium id, module:Class, or a callable
    algorithm: Any  # a frozen dataclass of hyperparameters
    plan: Any  # a frozen dataclass of options
    rollout: Rollout = Rollout()
    replay: Replay = Replay()
    self_play: SelfPlay = SelfPlay()
    cluster: Cluster = Cluster()
    stop: Stop = Stop()
    checkpointing: Checkpointing = Checkpointing()
    evaluation: Evaluation = Evaluation()
    learner: Literal["auto", "jax", "torch"] = "auto"  # framework that computes gradients
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"  # of matrix products
    device: str = "auto"  # of the learner: auto, cpu, cuda or cuda:N; workers act on their CPU
    seed: int = setting(0, least=0)  # of all random numbers in the run
    report_every: int | None = setting(None, least=1)  # env steps in one report; none: 2,000

    def __post_init__(self) -> None:
        check_bounds(self)
        ok = isinstance(self.learner, str) and self.learner in ("auto", "jax", "torch")
        require(ok, "learner", self.learner, "'auto', 'jax' or 'torch'")
        ok = isinstance(self.precision, str) and self.precision in ("float32", "tf32", "bfloat16")
        require(ok, "precision", self.precision, "'float32', 'tf32' or 'bfloat16'")
        ok = isinstance(self.device, str) and _DEVICE.fullmatch(self.device) is not None
        require(ok, "device", self.device, "'auto', 'cpu', 'cuda' or 'cuda:N'")
