"""Search in many games at once: what the trees of ``ops.search`` grow from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

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
