"""Search in many games at once: what the trees of ``ops.search`` grow from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from shoal.games.base import Game, State, ndarray, take
from shoal.ops.search import Puct, Tree

Evaluate = Callable[[State], tuple[ndarray, ndarray]]
"""Of positions that are not over: logits of moves [N, actions], and the mover's values [N]."""


class Found(NamedTuple):
    """What a search found for each of B positions."""

    visits: ndarray  # float32 [B, actions], of the moves there
    value: ndarray  # float32 [B]: what the mover expects, the mean of all simulations


class Search:
    """Simulations of a game from many positions at once.

    ``leaves`` positions of each tree are evaluated together: more of them make larger batches for
    the network, from a search that knows less while it looks for them.
    """

    def __init__(
        self, game: Game, simulations: int, leaves: int = 1, puct: Puct | None = None
    ) -> None:
        self.game, self.simulations, self.leaves = game, simulations, leaves
        self.puct = puct or Puct()

    def __call__(
        self,
        state: State,
        evaluate: Evaluate,
        noise: Callable[[ndarray, ndarray], ndarray] | None = None,
    ) -> Found:
        """Search from these positions, none of which is over.

        ``noise(prior, legal)``, both [B, actions], changes the priors of the roots. A position at
        which a game is over is never evaluated.
        """
        game, trees = self.game, len(next(iter(state.values())))
        tree = Tree(trees, self.simulations + 1, game.actions, self.puct)
        held = {
            name: np.empty((trees, self.simulations + 1, *x.shape[1:]), x.dtype)
            for name, x in state.items()
        }
        self._grow(tree, held, state, evaluate, np.arange(trees), np.zeros(trees, np.int64))
        if noise is not None:
            legal = tree.prior[:, 0] >= 0
            changed = noise(np.maximum(tree.prior[:, 0], 0.0), legal)
            tree.prior[:, 0] = np.where(legal, changed, np.float32(-1.0))
        tree.count[:, 0] = 1.0
        done = 0
        while done < self.simulations:
            leaves = min(self.leaves, self.simulations - done)
            at, parent, action, leaf = tree.descend(leaves)
            if len(at):
                before = {name: x[at, parent] for name, x in held.items()}
                self._grow(tree, held, game.play(before, action), evaluate, at, leaf)
            tree.backup()
            done += leaves
        total = tree.total[:, 0].sum(-1) + tree.value[:, 0]
        return Found(tree.root_visits(), total / tree.count[:, 0])

    def _grow(
        self,
        tree: Tree,
        held: State,
        state: State,
        evaluate: Evaluate,
        at: ndarray,
        nodes: ndarray,
    ) -> None:
        """Put these positions at their nodes, with what is known of them."""
        game = self.game
        for name, x in state.items():
            held[name][at, nodes] = x
        over, mover = game.over(state), game.mover(state)
        if over.any():
            ended = take(state, over)
            tree.end(at[over], nodes[over], game.returns(ended), mover[over])
            if over.all():
                return
            state, at, nodes, mover = take(state, ~over), at[~over], nodes[~over], mover[~over]
        logits, value = evaluate(state)
        tree.expand(at, nodes, logits, game.legal(state), value, mover)


class Evaluated:
    """Evaluations of a game's positions that were made before, while the network stays the same.

    Searches of successive moves, and of games that began alike, meet the same positions again: half
    of all in connect four with a new network, four of five with a trained one. A position
    that occurs twice in one call is evaluated once. The key of a position is ``Game.pack``.
    """

    def __init__(self, game: Game, nbytes: int = 1 << 24) -> None:
        self.game = game
        words = -(-game.pack(game.start(1)).shape[1] // 8)
        slots = 1 << max(nbytes // (8 + 8 * words + 4 * (game.actions + 1)), 1).bit_length() - 1
        self._keys = np.zeros((slots, 1 + words), np.uint64)
        self._known = np.empty((slots, game.actions + 1), np.float32)  # logits, value
        self._free = slots // 2  # beyond that, it takes long to find a slot

    def __call__(self, state: State, evaluate: Evaluate) -> tuple[ndarray, ndarray]:
        """What ``evaluate`` says of these positions."""
        packed = self.game.pack(state)
        if len(packed) > self._free:
            self._keys[:, 0] = 0
            self._free = len(self._keys) // 2
            if len(packed) > self._free:
                return evaluate(state)
        keys = np.zeros((len(packed), 8 * self._keys.shape[1] - 8), np.uint8)
        keys[:, : packed.shape[1]] = packed
        slots, new = places(keys.view(np.uint64), self._keys)
        if len(new):
            at = slots[new]
            self._free -= len(new)
            try:
                logits, value = evaluate(state if len(new) == len(keys) else take(state, new))
            except BaseException:
                self._keys[:, 0] = 0
                raise
            self._known[at, :-1], self._known[at, -1] = logits, value
        known = self._known.take(slots, 0)
        return known[:, :-1], known[:, -1]


@njit(cache=True, nogil=True)
def places(keys: ndarray, table: ndarray) -> tuple[ndarray, ndarray]:
    """The slots of keys, uint64 [N, n], and the rows of those that are new, which it enters.

    ``table`` [slots, 1 + n], whose length is a power of two, holds a mark that is not 0 where a
    slot is taken, and its key.
    """
    rows, words = keys.shape
    slots, new, found = np.empty(rows, np.int64), np.empty(rows, np.int64), 0
    last, one, half = np.uint64(len(table) - 1), np.uint64(1), np.uint64(32)
    for i in range(rows):
        mixed = np.uint64(0)
        for j in range(words):  # as in MurmurHash3 (Appleby 2011): each word, and then all of it
            mixed = (mixed ^ keys[i, j]) * np.uint64(0xFF51AFD7ED558CCD)
            mixed ^= mixed >> half
        slot = mixed & last
        while table[slot, 0] != 0:
            same = True
            for j in range(words):
                same &= table[slot, 1 + j] == keys[i, j]
            if same:
                break
            slot = (slot + one) & last
        if table[slot, 0] == 0:
            table[slot, 0] = one
            table[slot, 1:] = keys[i]
            new[found] = i
            found += 1
        slots[i] = slot
    return slots, new[:found]


def uniform(game: Game) -> Evaluate:
    """Every move is as good as any other, and nothing is known of values."""

    def evaluate(state: State) -> tuple[ndarray, ndarray]:
        games = len(next(iter(state.values())))
        return np.zeros((games, game.actions), np.float32), np.zeros(games, np.float32)

    return evaluate


def rollouts(game: Game, rng: np.random.Generator) -> Evaluate:
    """Every move is as good as any other, and a random game from there tells the value."""

    def evaluate(state: State) -> tuple[ndarray, ndarray]:
        first = game.mover(state)
        value = np.zeros(len(first), np.float32)
        playing = np.arange(len(first))
        while len(playing):
            state = game.play(state, random_moves(game.legal(state), rng))
            over = game.over(state)
            ended = playing[over]
            last = take(state, over)
            result = game.returns(last)
            value[ended] = np.where(game.mover(last) == first[ended], result, -result)
            playing, state = playing[~over], take(state, ~over)
        return np.zeros((len(first), game.actions), np.float32), value

    return evaluate


def random_moves(legal: ndarray, rng: np.random.Generator) -> ndarray:
    """One of the legal moves (bool [B, actions]) of each game, all alike: int64 [B]."""
    moves: ndarray = np.where(legal, rng.random(legal.shape), -1.0).argmax(-1)
    return moves
