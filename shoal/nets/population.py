"""Many policies at once: a network with parameters of its own for each row of observations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shoal.nets.array_net import ArrayNet
from shoal.nets.base import Net
from shoal.ops.kernels import Array, ndarray


class Population:
    """N sets of parameters of one network, given as a matrix [N, size].

    A network of fully connected layers is computed for all of them together; any other one after
    the other.

    Args:
        like: the parameters by name, in the order in which they stand in a row.
        shared: what else the network reads, the same for all (normalisation).
        reference: images by which convolutions are normalised, with statistics for each set of
            parameters.
    """

    def __init__(
        self,
        net: Net,
        matrix: ndarray,
        like: Mapping[str, ndarray],
        shared: Mapping[str, ndarray],
        reference: Mapping[str, ndarray] | None = None,
    ) -> None:
        self._net = net
        self._together = net if isinstance(net, ArrayNet) and net.dense else None
        rows = _views(matrix, like, 1 if self._together else 0)
        self._params = {**shared, **rows}
        self._alone = []
        if self._together is None:
            own = [{name: x[i] for name, x in rows.items()} for i in range(len(matrix))]
            self._alone = [{**shared, **params} for params in own]
            if reference and isinstance(net, ArrayNet):
                self._alone = [{**x, **net.statistics(x, reference)} for x in self._alone]

    def __call__(self, obs: Mapping[str, Array], heads: tuple[str, ...]) -> tuple[ndarray, ...]:
        """Outputs [N, size] of these heads, row i of ``obs`` by the parameters of row i."""
        if self._together is not None:
            return self._together.each(self._params, obs, heads)
        outs = [
            self._net(params, {path: x[i : i + 1] for path, x in obs.items()}, heads)
            for i, params in enumerate(self._alone)
        ]
        return tuple(np.concatenate(rows) for rows in zip(*outs, strict=True))


def _views(matrix: ndarray, like: Mapping[str, ndarray], axes: int) -> dict[str, ndarray]:
    """The columns of the matrix as arrays [N, *shape]; vectors get ``axes`` axes in front."""
    out, at = {}, 0
    for name, x in like.items():
        shape = ((1,) * axes if x.ndim == 1 else ()) + x.shape
        out[name] = matrix[:, at : at + x.size].reshape(len(matrix), *shape)
        at += x.size
    return out
