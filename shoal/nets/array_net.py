"""The built-in network: encoders of images, hidden layers, and one output for each head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.errors import NetworkError
from shoal.nets.base import Head
from shoal.nets.cells import Cell
from shoal.nets.cnn import ENCODERS, Impala, Nature
from shoal.nets.init import Param, initialise, ndarray
from shoal.nets.inputs import Image, append, vector
from shoal.nets.mlp import MLP, linear
from shoal.nets.network import Network
from shoal.ops.kernels import Array, namespace
from shoal.spaces import axes
from shoal.spaces.base import Leaf, Spaces

CHUNK = 64  # images that NumPy convolves at once: 2048 Atari frames would take a gigabyte


Encoder = type[Nature] | type[Impala]


class Trunk:
    """Encodes the images, joins the vector to their features, and applies the hidden layers."""

    def __init__(
        self,
        name: str,
        network: Network,
        images: Iterable[tuple[Image, Encoder]],
        vector: int,
        whole: bool = True,
    ) -> None:
        self.name = name
        dense = whole or vector > 0
        self.encoders: list[tuple[str, Nature | Impala]] = [
            (image.path, encoder(f"{name}/{image.path}", image.shape, dense))
            for image, encoder in images
        ]
        size = sum(encoder.size for _, encoder in self.encoders) + vector
        hidden = network.hidden if vector else ()
        self.mlp = MLP(name, size, hidden if whole else hidden[:-1], network.activation)
        # What is left for each head: the last of the hidden layers, or the encoders' own.
        last = sum(encoder.features for _, encoder in self.encoders)
        self.left = () if whole else hidden[-1:] if vector else (last,)
        self.activation = network.activation if vector else "relu"

    def parameters(self) -> Iterator[Param]:
        for _, encoder in self.encoders:
            yield from encoder.parameters()
        yield from self.mlp.parameters()

    def __call__(self, xp: Any, params: Any, images: Any, vector: Any) -> Array:
        x = vector
        if self.encoders:
            features = [encoder(xp, params, images[path]) for path, encoder in self.encoders]
            x = _join(xp, features if vector is None else [*features, vector])
        return self.mlp(xp, params, x)


class ArrayNet:
    """A built-in network; see `Net`. Runs unchanged on NumPy, JAX and PyTorch.

    Parameters of a shared trunk are named ``"<trunk>/..."``, of separate ones after their head;
    ``"<head>/out/w"`` and ``"/b"`` are the last layer. Weights are ``[in, out]``.
    """

    framework = None
    frozen: frozenset[str] = frozenset()
    memory: Mapping[str, ndarray] = {}

    def __init__(
        self,
        network: Network,
        leaves: Sequence[Leaf],
        heads: Mapping[str, Head],
        trunk: str = "trunk",
    ) -> None:
        encoders = {leaf.path: _encoder(network, leaf) for leaf in leaves}
        found = [encoder for encoder in encoders.values() if encoder]
        if network.encoder in ENCODERS and not found:
            raise _no_image(network, leaves)
        self._leaves = [(leaf.path, leaf.shape) for leaf in leaves]
        self._path, shape = self._leaves[0]
        self._ndim = 1 + len(shape)
        self._vectors = [vector(leaf) for leaf in leaves if not encoders[leaf.path]]
        self._single = len(leaves) == len(self._vectors) == 1
        self._images = [Image(leaf) for leaf in leaves if encoders[leaf.path]]
        divided = any(head.own for head in heads.values())
        self.shared = shared = (
            (bool(found) or divided) if network.shared is None else network.shared
        )
        size = sum(part.size for part in self._vectors)
        pairs = list(zip(self._images, found, strict=True))
        names = [trunk] if shared else list(heads)
        own = shared and any(head.own for head in heads.values())
        trunks = {name: Trunk(name, network, pairs, size, not own) for name in names}
        self._cells = self._recurrent(network, trunks.values())
        behind = {name: self._cells.get(name, each.mlp).size for name, each in trunks.items()}
        self._private = {
            name: MLP(name, behind[trunk], trunks[trunk].left, trunks[trunk].activation)
            for name in (heads if own else ())
        }
        self._heads = {
            name: (
                trunks[trunk if shared else name],
                f"{name}/out/w",
                f"{name}/out/b",
                f"{name}/free" if head.free else None,
            )
            for name, head in heads.items()
        }
        self._parameters = [p for trunk in trunks.values() for p in trunk.parameters()]
        self._parameters += [p for cell in self._cells.values() for p in cell.parameters()]
        for name, head in heads.items():
            size = behind[self._heads[name][0].name]
            if own:
                size = self._private[name].size
                self._parameters += self._private[name].parameters()
            self._parameters += linear(f"{name}/out", size, head.size, head.gain)
            if head.free:
                self._parameters.append(Param(f"{name}/free", (head.free,), None))

    def _recurrent(self, network: Network, trunks: Iterable[Trunk]) -> dict[str, Cell]:
        """The cells behind the trunks, by their names."""
        return {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape, _ in self._parameters}

    def init(self, rng: np.random.Generator) -> dict[str, ndarray]:
        return initialise(self._parameters, rng)

    def __call__(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        x = obs[self._path]
        if x.ndim != self._ndim:
            return self._on_rows(params, obs, heads)
        xp = namespace(x)
        return self._outputs(xp, params, self._features(xp, params, obs, heads), heads)

    def _features(
        self, xp: Any, params: Any, obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> dict[str, Array]:
        """What the trunks of these heads make of rows [N, ...]: {trunk: [N, size]}."""
        if self._single:  # the acting of most policies: every microsecond here is paid per env step
            images, joined = None, self._vectors[0](xp, params, obs[self._path])
        else:
            images, joined = self._inputs(xp, params, obs)
        features: dict[str, Array] = {}
        for head in heads:
            trunk = self._heads[head][0]
            if trunk.name not in features:
                features[trunk.name] = trunk(xp, params, images, joined)
        return features

    def _outputs(
        self, xp: Any, params: Any, features: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        """Outputs [N, size + free] of these heads for what stands before them."""
        outs = []
        for head in heads:
            trunk, w, b, free = self._heads[head]
            x = features[trunk.name]
            if self._private:
                x = self._private[head](xp, params, x)
            out = x @ params[w] + params[b]
            if out.dtype != params[w].dtype:  # products may be in bfloat16, what comes after never
                out = xp.astype(out, params[w].dtype)
            outs.append(out if free is None else append(xp, out, params[free]))
        return tuple(outs)

    def statistics(
        self, params: Mapping[str, Array], reference: Mapping[str, Array]
    ) -> dict[str, Array]:
        """What virtual batch normalisation needs: see ``cnn.convolved``.

        ``reference`` are images {path: [N, *shape]}, of every leaf that is one.
        """
        seen: dict[str, Array] = {}
        for image in self._images:
            x = reference[image.path]
            xp = namespace(x)
            for trunk in {head[0].name: head[0] for head in self._heads.values()}.values():
                dict(trunk.encoders)[image.path](xp, params, image(xp, params, x), seen)
        return seen

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of the leaves that are convolved."""
        return tuple(image.path for image in self._images)

    @property
    def dense(self) -> bool:
        """Whether it is made of matrix products only, so that ``each`` can be called."""
        return not self._images and not self._cells

    def each(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        """What ``__call__`` computes, with parameters of their own for each row of ``obs``.

        Those are ``[N, in, out]`` and ``[N, 1, out]`` instead of ``[in, out]`` and ``[out]``;
        normalisation is the same for all. One batched matrix product for each layer.
        """
        xp = namespace(obs[self._path])
        _, joined = self._inputs(xp, params, obs)
        trunks = {self._heads[head][0].name: self._heads[head][0] for head in heads}
        features = {
            name: trunk(xp, params, None, joined[:, None]) for name, trunk in trunks.items()
        }
        return tuple(out[:, 0] for out in self._outputs(xp, params, features, heads))

    def _inputs(self, xp: Any, params: Any, obs: Mapping[str, Array]) -> tuple[Any, Any]:
        """Images by their paths, and the vector of all other leaves (None without any)."""
        images = {leaf.path: leaf(xp, params, obs[leaf.path]) for leaf in self._images}
        parts = [leaf(xp, params, obs[leaf.path]) for leaf in self._vectors]
        return images, _join(xp, parts) if parts else None

    def _on_rows(
        self, params: Mapping[str, Array], obs: Mapping[str, Array], heads: tuple[str, ...]
    ) -> tuple[Array, ...]:
        """Any leading axes, as one: [T, B] rows of a trajectory are one matrix to multiply."""
        x = obs[self._path]
        lead = tuple(x.shape[: x.ndim + 1 - self._ndim])
        n = math.prod(lead)
        xp = namespace(x)
        rows = {path: xp.reshape(obs[path], (n, *shape)) for path, shape in self._leaves}
        if self._images and xp is np and n > CHUNK:
            chunks = (slice(i, i + CHUNK) for i in range(0, n, CHUNK))
            parts = [self(params, {k: x[c] for k, x in rows.items()}, heads) for c in chunks]
            outs = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
        else:
            outs = self(params, rows, heads)
        return tuple(xp.reshape(out, (*lead, out.shape[-1])) for out in outs)


def _join(xp: Any, parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)


def _encoder(network: Network, leaf: Leaf) -> Encoder | None:
    """What encodes this leaf; None: it is a vector. Raises NetworkError if it is too small."""
    found, wanted = axes.grid(leaf), network.encoder
    asked = wanted in ENCODERS  # for an encoder asked for by name, a board is an image too
    board = asked and len(leaf.shape) > 2
    if found is None or wanted == "mlp" or not (axes.image(leaf) or board):
        return None
    side = min(leaf.shape[axis] for axis in found)
    fitting = {name: encoder for name, encoder in ENCODERS.items() if side >= encoder.least}
    if not asked:
        return next(iter(fitting.values()), None)
    if wanted not in fitting and axes.image(leaf):
        least = ENCODERS[wanted].least
        others = [f'encoder="{name}"' for name in (*fitting, "mlp")]
        raise NetworkError(
            f'encoder="{wanted}" needs images of at least {least}x{least} pixels, but the '
            f"observation {leaf.path!r} is {leaf.dtype} {list(leaf.shape)}",
            f"observation {leaf.path!r}",
            f"use {' or '.join(others)}, or larger images",
        )
    return fitting.get(wanted)


def _no_image(network: Network, found: Sequence[Leaf]) -> NetworkError:
    leaves = ", ".join(f"{leaf.path!r} {leaf.dtype} {list(leaf.shape)}" for leaf in found)
    least = ENCODERS[network.encoder].least
    return NetworkError(
        f'encoder="{network.encoder}" needs an image, a Box of 3 or 4 axes, of which two are at '
        f"least {least}, but the observation has only {leaves}",
        "observation",
        'use encoder="auto" or "mlp"',
    )


def describe_inputs(network: Any, spaces: Spaces) -> list[str]:
    """One line for each leaf that a built-in network scales or convolves, for the user."""
    lines = []
    for leaf in spaces.leaves if isinstance(network, Network) else ():
        encoder, scale = _encoder(network, leaf), axes.scale(leaf)
        done = [] if encoder is None else [f"an image for the {encoder.__name__} network"]
        if scale is not None:
            low, high = (np.unique(x) for x in (leaf.low, leaf.high))
            bounds = f"{low[0]:g}..{high[0]:g}" if len(low) == len(high) == 1 else "its bounds"
            to = "[0, 1]" if not np.any(scale[0]) else "[-1, 1]"
            done.append(f"{bounds} scaled to {to}")
        if done:
            shape = "x".join(map(str, leaf.shape)) or "number"
            lines.append(f"observation {leaf.path!r} ({leaf.dtype} {shape}): {', '.join(done)}")
    return lines
