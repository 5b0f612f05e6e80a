"""Does AlphaZero learn to play tic-tac-toe without a mistake?"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from shoal.games.base import State, ndarray, take
from shoal.games.search import random_moves
from shoal.games.tic_tac_toe import TicTacToe
from shoal.policy import Policy
from shoal.trainer import Trainer

pytestmark = pytest.mark.learning

GAME = TicTacToe()
LINES = [0o7, 0o70, 0o700, 0o111, 0o222, 0o444, 0o421, 0o124]


@cache
def value(mine: int, theirs: int) -> int:
    """Of a position for its mover, with best play: 1, 0 or -1."""
    if any(theirs & line == line for line in LINES):
        return -1
    free = [1 << cell for cell in range(9) if not (mine | theirs) >> cell & 1]
    return max((-value(theirs, mine | cell) for cell in free), default=0)


def values(state: State) -> ndarray:
    pairs = zip(state["mine"].tolist(), state["theirs"].tolist(), strict=True)
    return np.array([value(*pair) for pair in pairs])


def minimax(state: State, rng: np.random.Generator) -> ndarray:
    """Any of the best moves."""
    legal = GAME.legal(state)
    worth = np.full(legal.shape, -2)
    games, moves = np.nonzero(legal)
    worth[games, moves] = -values(GAME.play(take(state, games), moves))
    return random_moves(worth == worth.max(1, keepdims=True), rng)


def openings(games: int, rng: np.random.Generator) -> tuple[State, ndarray]:
    """Positions after up to three random moves that are not lost for us, and our side, 0 or 1."""
    found: list[State] = []
    while len(found) < games:
        state = GAME.start(1)
        for _ in range(rng.integers(4)):
            state = GAME.play(state, random_moves(GAME.legal(state), rng))
        ours = GAME.mover(state)[0] == len(found) % 2
        if values(state)[0] * (1 if ours else -1) >= 0:
            found.append(state)
    return {k: np.concatenate([x[k] for x in found]) for k in found[0]}, np.arange(games) % 2


def results(policy: Policy, games: int, seed: int) -> dict[int, int]:
    """How many games against minimax are won (1), drawn (0) and lost (-1)."""
    rng = np.random.default_rng(seed)
    (state, us), counts = openings(games, rng), {1: 0, 0: 0, -1: 0}
    while len(us):
        ours = GAME.mover(state) == us
        moves = minimax(state, rng)
        if ours.any():
            moves[ours] = policy.act(GAME.seen(take(state, ours)))
        state = GAME.play(state, moves)
        over = GAME.over(state)
        sign = np.where(GAME.mover(state) == us, 1, -1)[over]
        for result in (sign * GAME.returns(take(state, over))).tolist():
            counts[int(result)] += 1
        state, us = take(state, ~over), us[~over]
    return counts


def test_it_never_loses_against_minimax_and_draws_with_itself() -> None:
    """100 games from random openings, with 100 simulations; at first it loses 30 to 45."""
    with Trainer("alphazero", "tic_tac_toe", tuned=True, learner="jax") as trainer:
        fresh = trainer.policy
        for _ in trainer:
            pass
        learned = trainer.policy
    for policy in (fresh, learned):
        policy.algorithm = replace(policy.algorithm, simulations=100)
    counts = results(learned, 100, seed=0)
    assert counts[-1] == 0 and counts[1] > 5, counts
    assert results(fresh, 100, seed=0)[-1] > 20
    state = GAME.start(1)
    while not GAME.over(state)[0]:
        state = GAME.play(state, np.asarray(learned.act(GAME.seen(state))))
    assert GAME.returns(state)[0] == 0
