"""What a worker samples (a trajectory) and what a learner trains on (a batch).

A trajectory is time-major, ``[T, B]``: T env steps of B slots. A batch is what the algorithm's
``postprocess`` makes of it: a dict of row-major arrays ``[N, ...]`` (N = T * B rows), the entry
``"obs"`` being itself a flat dict of arrays, one per leaf of the observation space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

ndarray = npt.NDArray[Any]
Obs = dict[str, ndarray]
Batch = dict[str, Any]


class Episodes(Protocol):
    """Whole episodes, each a batch as ``Trajectory.steps`` gives it, of one slot."""

    def __len__(self) -> int:
        """Number of episodes."""

    def __iter__(self) -> Iterator[Batch]:
        """One after the other."""


class Window(NamedTuple):
    """What is drawn of a replay buffer for a recurrent network: a sequence of env steps.

    See R2D2 (Kapturowski et al. 2019, ICLR, section 2.3).
    """

    steps: int  # env steps that are trained on
    burn_in: int  # those before them, from which the memory at the first one follows
    overlap: int  # env steps that a sequence has in common with the next one of its episode
    eta: float  # priority: eta max + (1 - eta) mean of those of its env steps


@dataclass
class Trajectory:
    """T consecutive env steps of B slots, as they were sampled by one set of weights.

    Every observation is stored once: row t acted on ``obs[t]`` and was followed by ``obs[t + 1]``,
    except where the environment had already started its next episode by itself; there the
    observation that really followed stands in ``final``.
    """

    obs: Obs  # {leaf: [T + 1, B, ...]}
    action: ndarray  # [T, B] or [T, B, dim]
    reward: ndarray  # [T, B] float32
    terminated: ndarray  # [T, B] bool: the task ended here, nothing follows
    truncated: ndarray  # [T, B] bool: a time limit cut the episode here, its value goes on
    valid: ndarray  # [T, B] bool: False where a row was only an environment's own reset
    final_t: ndarray  # [K] int: rows t ...
    final_b: ndarray  # [K] int: ... and slots b of
    final: Obs  # {leaf: [K, ...]}: the observations that followed when not obs[t + 1]
    version: int = 0  # of the weights that acted
    records: dict[str, ndarray] = field(default_factory=dict)  # {name: [T, B, ...]} of ``act``
    goes_on: ndarray | None = None  # [T, B] bool: ``terminated`` is a lost life; None: never is
    fragment: tuple[int, int] = 0, 0  # of its worker: how often it was replaced, and a count

    @property
    def last(self) -> ndarray:
        """[T, B] bool: the episode ended after this row, for any reason."""
        return self.terminated | self.truncated

    @property
    def over(self) -> ndarray:
        """[T, B] bool: as ``last``, except that an episode goes on where only a life was lost."""
        return self.last if self.goes_on is None else self.last & ~self.goes_on

    @property
    def begins(self) -> ndarray:
        """[T + 1, B] bool: an episode began between the row before and this observation.

        The first row does not know: its memory is the initial one if an episode begins there.
        """
        out = np.zeros((len(self.valid) + 1, *self.valid.shape[1:]), bool)
        out[1:] = ~self.valid
        out[self.final_t + 1, self.final_b] = True
        return out

    def steps(self, records: Iterable[str] = ()) -> Batch:
        """The env steps as they are, in the form in which a replay buffer stores them.

        ``records`` are the names of those that it keeps.
        """
        return {
            "obs": self.obs,
            "action": self.action,
            "reward": self.reward.astype(np.float32, copy=False),
            "terminated": self.terminated,
            "truncated": self.truncated,
            "mask": self.valid,
            "records": {name: self.records[name] for name in records},
            "final_t": self.final_t,
            "final_b": self.final_b,
            "final": self.final,
            "fragment": np.array(self.fragment),
        }

    def rows(self) -> Obs:
        """The observations acted on, flattened to rows: {leaf: [T * B, ...]}."""
        return {path: flat(x[:-1]) for path, x in self.obs.items()}

    def values(self, value: Callable[[Obs], ndarray]) -> tuple[ndarray, ndarray]:
        """``(v_tm1, v_t)``, each [T, B]: of the observations acted on and of those that followed.

        ``value`` maps observations ``{leaf: [..., *shape]}`` to values ``[...]``; it is called once
        on all T + 1 rows, or the last of them if the policy recorded the others ("v"),
        and once on the few finals.
        """
        if "v" in self.records:
            last = value({path: x[-1:] for path, x in self.obs.items()})
            v = np.concatenate([self.records["v"], last])
        else:
            v = value(self.obs)
        v_t = v[1:]
        if len(self.final_t):
            v_t = v_t.copy()
            v_t[self.final_t, self.final_b] = value(self.final)
        return v[:-1], v_t


def flat(x: ndarray) -> ndarray:
    """[T, B, ...] -> [T * B, ...]."""
    return x.reshape(-1, *x.shape[2:])


def chunks(x: ndarray, length: int) -> ndarray:
    """[T, B, ...] -> [ceil(T / length) * B, length, ...], zeros where T ends within a chunk."""
    steps, slots = x.shape[:2]
    count = -(-steps // length)
    if missing := count * length - steps:
        x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
    parts = np.swapaxes(x.reshape(count, length, *x.shape[1:]), 1, 2)
    return np.ascontiguousarray(parts).reshape(count * slots, length, *x.shape[2:])


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Join batches of several workers along their rows."""
    if len(batches) == 1:
        return batches[0]
    out: Batch = {}
    for key, first in batches[0].items():
        if isinstance(first, dict):
            out[key] = concatenate([b[key] for b in batches])
        else:
            out[key] = np.concatenate([b[key] for b in batches])
    return out


def shape(batch: Batch) -> Any:
    """The shape of a batch's mask, [N] or [N, L]; of batches by policy, the shape of each."""
    if "mask" in batch:
        return batch["mask"].shape
    return {name: own["mask"].shape for name, own in batch.items()}


def select(batch: Batch, rows: Any) -> Batch:
    """The given rows (an index or boolean array of the batch's own library) of every entry."""
    return {k: select(x, rows) if isinstance(x, dict) else x[rows] for k, x in batch.items()}


def pad(batch: Batch, n: int) -> Batch:
    """Append rows of zeros up to n; their ``mask`` is 0, so that no loss sees them."""
    out: Batch = {}
    for key, x in batch.items():
        if isinstance(x, dict):
            out[key] = pad(x, n)
        else:
            out[key] = np.concatenate([x, np.zeros((n - len(x), *x.shape[1:]), x.dtype)])
    return out
