"""The learner of algorithms that learn from returns: NumPy, and no gradient.

Every process that has one comes to the same weights, bit for bit: what a step needs is a few
numbers for each direction (a ``Recipe``), for the directions themselves follow from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from shoal.algorithms.evolved import Evolved
from shoal.errors import ConfigError
from shoal.learners.noise_table import NoiseTable
from shoal.learners.state import Learned, LearnerState
from shoal.ops.evolution import combine
from shoal.ops.packing import Packing, pack, unpack
from shoal.trajectory import ndarray

# Names in aux, which goes into checkpoints.
CAP, EVALUATED, REFERENCE = "evolution/cap", "evolution/evaluated", "evolution/reference/"
Statistics = Callable[[Mapping[str, ndarray], Mapping[str, ndarray]], dict[str, ndarray]]


class Recipe(NamedTuple):
    """What a step of one generation is made from."""

    weights: ndarray  # float32 [directions]
    lr: float
    aux: dict[str, ndarray]  # normalisation after the generation

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + 8 + sum(x.nbytes for x in self.aux.values())


class Draws(NamedTuple):
    """What is random in a generation."""

    at: ndarray  # int64 [directions]: where in the noise table each direction begins
    seeds: ndarray  # int64 [directions, 2]: of the environments' episodes


class Evolver(Learned):
    """Parameters, the optimiser's state, and the noise that perturbs them.

    Args:
        algorithm: what it learns.
        params: where it begins.
        seed: makes the directions of every generation, whose number is the version of the weights.
        table_size: numbers in the noise table.
        pairs: directions that are evaluated together, in one chunk.
        frozen: names of parameters that are not perturbed.
        statistics: makes those of virtual batch normalisation of parameters and a reference batch.

    Raises ConfigError if the noise table is smaller than the parameters.
    """

    def __init__(
        self,
        algorithm: Evolved,
        params: Mapping[str, ndarray],
        seed: int,
        table_size: int,
        pairs: int,
        frozen: frozenset[str] = frozenset(),
        statistics: Statistics | None = None,
    ) -> None:
        self._statistics = statistics
        self._measured: tuple[Any, dict[str, ndarray]] = None, {}  # of which parameters, and what
        self.algorithm, self.seed, self.pairs = algorithm, seed, pairs
        self.like = {name: x for name, x in params.items() if name not in frozen}
        self.size = sum(x.size for x in self.like.values())
        if self.size > table_size:
            what = f"plan.table_size is {table_size:,}, but there are {self.size:,} parameters"
            raise ConfigError(what, None, f"make it {10 * self.size:,} or more")
        self._packing = Packing(algorithm.optimiser, self.like)
        self._table = NoiseTable(table_size)
        aux = {name: x for name, x in params.items() if name in frozen}
        state = LearnerState(self.like, algorithm.optimiser.init(self.like), aux)
        super().__init__(type(algorithm).__name__, state, dict, dict)

    @property
    def chunks(self) -> int:
        """In how many parts the directions of a generation are evaluated."""
        return -(-self.algorithm.directions // self.pairs)

    def part(self, chunk: int) -> slice:
        """The directions of one of them."""
        return slice(chunk * self.pairs, (chunk + 1) * self.pairs)

    def draws(self, version: int | None = None) -> Draws:
        """The random numbers of a generation; None is the present one."""
        version = self.version if version is None else version
        rng = np.random.default_rng([self.seed, 1, version])
        n, last = self.algorithm.directions, self._table.values.size - self.size
        return Draws(rng.integers(0, last + 1, n), rng.integers(0, 2**31, (n, 2)))

    @property
    def reference(self) -> dict[str, ndarray]:
        """The reference batch by the paths of its leaves; {} if there is none."""
        aux = self._now.aux
        return {k.removeprefix(REFERENCE): x for k, x in aux.items() if k.startswith(REFERENCE)}

    def weights(self) -> dict[str, ndarray]:
        """What the unperturbed policy acts with, statistics of its reference batch included."""
        return {**super().weights(), **self._virtual()}

    def get_state(self) -> dict[str, Any]:
        """The same are part of what is saved: a policy is loaded without its learner."""
        state = super().get_state()
        return {**state, "aux": {**state["aux"], **self._virtual()}}

    def _virtual(self) -> dict[str, ndarray]:
        reference, params = self.reference, self._now.params
        if self._statistics is None or not reference:
            return {}
        if self._measured[0] is not params:
            self._measured = params, self._statistics(params, reference)
        return self._measured[1]

    def theta(self) -> ndarray:
        """All parameters as one vector, float32 [size]."""
        return np.asarray(pack(self._now.params), np.float32)

    def perturbed(self, at: ndarray, sigma: float) -> ndarray:
        """The parameters with each of these directions added and subtracted: [2 len(at), size]."""
        rows = np.lib.stride_tricks.sliding_window_view(self._table.values, self.size)
        steps = np.float32(sigma) * rows[at]
        theta = self.theta()
        return np.stack([theta + steps, theta - steps], axis=1).reshape(-1, self.size)

    def evolve(self, recipe: Recipe) -> float:
        """Take the step of the present generation; returns the norm of the step's direction.

        If all weights are 0 the generation says nothing, and the parameters stay as they are.
        """
        now, norm = self._now, 0.0
        params, optimiser = now.params, now.optimiser
        stepped = bool(np.any(recipe.weights))
        if stepped:
            at = self.draws().at
            gradient = -combine(recipe.weights, self._table.values, at, self.size)
            decay = self.algorithm.decay(self.theta())
            found = unpack(gradient if decay is None else gradient + decay, params)
            packed, slots, length = self.algorithm.optimiser.update(
                self._packing.pack(params),
                self._packing.pack(found),
                self._packing.pack_slots(optimiser),
                np.float32(recipe.lr),
            )
            params, optimiser = self._packing.unpack(packed), self._packing.unpack_slots(slots)
            norm = float(length)
        self._commit(params, optimiser, int(stepped), norm)
        self.set_aux(recipe.aux)
        return norm

    @property
    def cap(self) -> int | None:
        """Env steps after which perturbed episodes are cut, now; None: never."""
        first = self.algorithm.first_cap
        return None if first is None else int(self._now.aux.get(CAP, first))

    @property
    def evaluated(self) -> float | None:
        """Mean return of the last episodes of unperturbed weights; None before there are any."""
        found = self._now.aux.get(EVALUATED)
        return None if found is None else float(found)

    def note(self, lengths: ndarray, returns: ndarray) -> None:
        """Take note of the lengths of perturbed episodes [n, 2], and of unperturbed returns."""
        aux = {}
        if self.cap is not None:
            aux[CAP] = np.asarray(self.algorithm.next_cap(self.cap, lengths))
        if returns.size:
            aux[EVALUATED] = np.asarray(returns.mean())
        self.set_aux(aux)

    def close(self) -> None:
        """Let go of the noise table."""
        self._table.close()
