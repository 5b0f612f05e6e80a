"""Tree search guided by a policy and a value: PUCT over a batch of trees, as arrays.

Silver et al. 2018 (Science 362, "AlphaZero"; arXiv:1712.01815), with the constants of its published
pseudocode. B trees grow together: N(s, a), W(s, a) and P(s, a) are arrays [B, nodes, actions], and
the two walks of a simulation, down to a leaf and back, are compiled. Down a tree in NumPy, level by
level, would cost a dozen array operations for each level of the deepest of them.

Values are those of the player to move at their node; ``mover`` says who that is, so that a walk
back changes the sign where the player changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from shoal.ops.kernels import Array, namespace, ndarray

NONE = -1  # in the place of a child that was not visited yet
_FORBIDDEN = -1e8  # logit of an illegal move


@dataclass(frozen=True)
class Puct:
    """The constants of a search."""

    c_base: float = 19652.0
    c_init: float = 1.25
    virtual_loss: float = 1.0  # losses that a leaf's path counts while others are looked for


def rate(visits: Array, c_base: float, c_init: float) -> Array:
    """C(s) sqrt(N(s)), by which priors are weighed at a node of N(s) visits."""
    return (np.log((1.0 + visits + c_base) / c_base) + c_init) * np.sqrt(visits)


def score(total: Array, visits: Array, prior: Array, weight: Array) -> Array:
    """Q(s, a) + U(s, a) for W(s, a), N(s, a), P(s, a) and the node's ``rate``.

    Q = W / N, 0 for what was not visited; U = rate P / (1 + N).
    """
    return total / np.maximum(visits, 1.0) + weight * prior / (1.0 + visits)


_rate = njit(cache=True, nogil=True)(rate)
_score = njit(cache=True, nogil=True)(score)


def legal_softmax(logits: Array, legal: Array) -> Array:
    """Probabilities [..., actions] of the legal moves (bool); those of all others are 0."""
    xp = namespace(logits)
    z = xp.where(legal, logits, xp.full_like(logits, _FORBIDDEN))
    p = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
    p = xp.where(legal, p, xp.zeros_like(p))
    return p / xp.sum(p, axis=-1, keepdims=True)


def dirichlet(rng: np.random.Generator, legal: ndarray, alpha: float | None) -> ndarray:
    """Noise over the legal moves of each row, float32 [B, actions].

    Without ``alpha`` it is 10 over the number of legal moves, which gives about the paper's values
    for chess, shogi and Go.
    """
    shape: ndarray = 10.0 / legal.sum(-1, keepdims=True) if alpha is None else np.array(alpha)
    drawn = np.where(legal, rng.standard_gamma(np.broadcast_to(shape, legal.shape)), 0.0)
    drawn = np.maximum(drawn, legal * 1e-30)  # a tiny alpha may give nothing but zeros
    noise: ndarray = drawn / drawn.sum(-1, keepdims=True)
    return noise.astype(np.float32)


@dataclass(frozen=True)
class RootNoise:
    """What a move of self-play draws: Dirichlet's noise at the root, and which move is made.

    The noise of a move are a Gamma(``alpha``) number for each action, which are Dirichlet's once
    those of the legal moves are divided by their sum, and a uniform one.
    """

    n_out: int  # actions
    alpha: float

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Trailing shape of the noise of one move."""
        return (self.n_out + 1,)

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> ndarray:
        """Noise for moves of leading axes ``shape``: float32 ``[*shape, actions + 1]``."""
        gamma = rng.standard_gamma(self.alpha, (*shape, self.n_out), np.float32)
        return np.concatenate([gamma, rng.random((*shape, 1), np.float32)], axis=-1)

    def sample(self, out: Array, noise: Array, mask: Array | None = None) -> Array:
        """Any legal move."""
        drawn = noise[..., :-1]
        return (drawn if mask is None else np.where(mask, drawn, -1.0)).argmax(-1)


def mixed(prior: ndarray, legal: ndarray, noise: ndarray, share: float) -> ndarray:
    """(1 - share) P + share Dir(alpha), [B, actions], of ``RootNoise.noise`` [B, actions + 1]."""
    drawn = np.where(legal, np.maximum(noise[:, :-1], 1e-30), 0.0)
    mixture: ndarray = (1.0 - share) * prior + share * drawn / drawn.sum(-1, keepdims=True)
    return mixture


def visit_policy(visits: ndarray, temperature: ndarray | float) -> ndarray:
    """pi(a) = N(a)^(1/t) / sum_b N(b)^(1/t), [B, actions]; all on the most visited for t = 0.

    ``temperature`` is one number, or one for each row.
    """
    t = np.broadcast_to(np.asarray(temperature, np.float64), visits.shape[:1])[:, None]
    share = visits / visits.max(-1, keepdims=True)
    best = np.zeros(share.shape)
    best[np.arange(len(best)), share.argmax(-1)] = 1.0
    powers = np.where(t > 0, share ** (1.0 / np.where(t > 0, t, 1.0)), best)
    policy: ndarray = powers / powers.sum(-1, keepdims=True)
    return policy.astype(np.float32)


class Tree:
    """B trees of at most ``nodes`` nodes, and the newest paths down them. Node 0 is the root.

    A leaf that was reached has a place and no children until ``expand`` or ``end`` say what it is;
    the value it is given there is what every later visit of a game that is over returns too.
    """

    def __init__(self, trees: int, nodes: int, actions: int, puct: Puct = Puct()) -> None:
        each = trees, nodes, actions
        self.puct = puct
        self.children = np.full(each, NONE, np.int32)
        self.visits = np.zeros(each, np.float32)  # N(s, a)
        self.total = np.zeros(each, np.float32)  # W(s, a)
        self.prior = np.zeros(each, np.float32)  # P(s, a); below 0 where a move is illegal
        self.count = np.zeros((trees, nodes), np.float32)  # N(s), its own evaluation included
        self.value = np.zeros((trees, nodes), np.float32)
        self.mover = np.zeros((trees, nodes), np.int8)
        self.expanded = np.zeros((trees, nodes), bool)
        self.size = np.ones(trees, np.int32)
        self._loss = 0.0
        self._depth = np.empty((trees, 0), np.int32)  # of the newest paths

    def expand(
        self,
        trees: ndarray,
        nodes: ndarray,
        logits: ndarray,
        legal: ndarray,
        value: ndarray,
        mover: ndarray,
    ) -> None:
        """Nodes [N] of trees [N] have these values [N], and P = softmax over the legal moves.

        ``logits`` and ``legal`` are [N, actions].
        """
        _expand(
            self.prior,
            self.value,
            self.mover,
            self.expanded,
            trees,
            nodes,
            np.ascontiguousarray(logits, np.float32),
            legal,
            np.ascontiguousarray(value, np.float32),
            mover,
        )

    def end(self, trees: ndarray, nodes: ndarray, value: ndarray, mover: ndarray) -> None:
        """The games are over at these nodes [N], with these results for ``mover``."""
        self.value[trees, nodes] = value
        self.mover[trees, nodes] = mover

    def root_visits(self) -> ndarray:
        """N(root, a): float32 [B, actions]."""
        return self.visits[:, 0]

    def descend(self, leaves: int = 1) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """Walk to ``leaves`` leaves of each tree.

        Returns (tree, parent, action, leaf) of the new ones, each [N].

        With several of them, each path counts ``virtual_loss`` losses until
        ``backup``, so that the others look elsewhere; they may still meet.
        """
        trees, nodes = self.count.shape
        self._loss = self.puct.virtual_loss if leaves > 1 else 0.0
        if self._depth.shape[1] != leaves:
            self._nodes = np.empty((trees, leaves, nodes), np.int32)
            self._moves = np.empty((trees, leaves, nodes), np.int32)
            self._depth = np.empty((trees, leaves), np.int32)
        new = np.empty((trees * leaves, 4), np.int64)
        found = _descend(
            self.children,
            self.visits,
            self.total,
            self.prior,
            self.count,
            self.expanded,
            self.size,
            self.puct.c_base,
            self.puct.c_init,
            self._loss,
            self._nodes,
            self._moves,
            self._depth,
            new,
        )
        tree, parent, action, leaf = np.ascontiguousarray(new[:found].T)
        return tree, parent, action, leaf

    def backup(self) -> None:
        """Walk back from the newest leaves: N += 1, W += the leaf's value for who moved there."""
        _backup(
            self.visits,
            self.total,
            self.count,
            self.value,
            self.mover,
            self._loss,
            self._nodes,
            self._moves,
            self._depth,
        )


@njit(cache=True, nogil=True)
def _expand(
    prior: ndarray,
    values: ndarray,
    movers: ndarray,
    expanded: ndarray,
    trees: ndarray,
    nodes: ndarray,
    logits: ndarray,
    legal: ndarray,
    value: ndarray,
    mover: ndarray,
) -> None:
    """``legal_softmax``, written to its place; below 0 where a move is illegal."""
    for i in range(len(trees)):
        b, node = trees[i], nodes[i]
        most, total = -np.inf, 0.0
        for a in range(logits.shape[1]):
            if legal[i, a]:
                most = max(most, logits[i, a])
        for a in range(logits.shape[1]):
            p = np.exp(logits[i, a] - most) if legal[i, a] else -1.0
            total += max(p, 0.0)
            prior[b, node, a] = p
        for a in range(logits.shape[1]):
            if prior[b, node, a] >= 0.0:
                prior[b, node, a] /= total
        values[b, node], movers[b, node] = value[i], mover[i]
        expanded[b, node] = True


@njit(cache=True, nogil=True)
def _descend(
    children: ndarray,
    visits: ndarray,
    total: ndarray,
    prior: ndarray,
    count: ndarray,
    expanded: ndarray,
    size: ndarray,
    c_base: float,
    c_init: float,
    loss: float,
    nodes: ndarray,
    moves: ndarray,
    depth: ndarray,
    new: ndarray,
) -> int:
    """Write the paths to ``nodes``, ``moves`` and ``depth``, new leaves to ``new``: how many."""
    trees, leaves = depth.shape
    actions = visits.shape[2]
    found = 0
    for b in range(trees):
        for k in range(leaves):
            node, d = 0, 0
            nodes[b, k, 0] = 0
            while expanded[b, node]:
                weight = _rate(count[b, node], c_base, c_init)
                best, most = -1, -np.inf
                for a in range(actions):
                    if prior[b, node, a] >= 0.0:
                        x = _score(total[b, node, a], visits[b, node, a], prior[b, node, a], weight)
                        if x > most:
                            best, most = a, x
                visits[b, node, best] += loss
                total[b, node, best] -= loss
                count[b, node] += loss
                child = children[b, node, best]
                if child < 0:
                    child = size[b]
                    size[b] += 1
                    children[b, node, best] = child
                    new[found, 0] = b
                    new[found, 1] = node
                    new[found, 2] = best
                    new[found, 3] = child
                    found += 1
                moves[b, k, d] = best
                node = child
                d += 1
                nodes[b, k, d] = node
            depth[b, k] = d
    return found


@njit(cache=True, nogil=True)
def _backup(
    visits: ndarray,
    total: ndarray,
    count: ndarray,
    value: ndarray,
    mover: ndarray,
    loss: float,
    nodes: ndarray,
    moves: ndarray,
    depth: ndarray,
) -> None:
    """Along the paths that ``_descend`` wrote."""
    trees, leaves = depth.shape
    for b in range(trees):
        for k in range(leaves):
            d = depth[b, k]
            leaf = nodes[b, k, d]
            v, who = value[b, leaf], mover[b, leaf]
            count[b, leaf] += 1
            for i in range(d - 1, -1, -1):
                node, a = nodes[b, k, i], moves[b, k, i]
                visits[b, node, a] += 1 - loss
                total[b, node, a] += loss + (v if mover[b, node] == who else -v)
                count[b, node] += 1 - loss
