"""Does the solver that agreement is measured with say the truth?"""

from __future__ import annotations

import numpy as np

from shoal.games.base import State, take
from shoal.games.connect_four import ConnectFour
from shoal.games.search import random_moves
from tools.connect_four_solver import CELLS, ILLEGAL, Solver

GAME = ConnectFour()


def minimax(state: State) -> int:
    """The mover's score without any cleverness: by how many stones of theirs the winner's comes."""
    if GAME.over(state)[0]:
        stones = int(state["mine"][0] | state["theirs"][0]).bit_count()
        return -((CELLS + 2 - stones) // 2) if GAME.returns(state)[0] else 0
    moves = np.flatnonzero(GAME.legal(state)[0])
    return max(-minimax(GAME.play(state, np.array([move]))) for move in moves)


def test_scores_are_those_of_minimax() -> None:
    """In 25 positions of 34 stones, among whose moves are won, drawn and lost ones."""
    rng, solver = np.random.default_rng(0), Solver()
    state = GAME.start(3000)
    for _ in range(34):
        state = take(state, ~GAME.over(state))
        state = GAME.play(state, random_moves(GAME.legal(state), rng))
    state = take(state, ~GAME.over(state))
    results = set()
    for i in range(25):
        one = take(state, [i])
        expected = np.full(7, ILLEGAL)
        for move in np.flatnonzero(GAME.legal(one)[0]):
            expected[move] = -minimax(GAME.play(one, np.array([move])))
        found = solver.scores(one["mine"][0], one["theirs"][0])
        assert found.tolist() == expected.tolist()
        results |= set(np.sign(expected[expected != ILLEGAL]).tolist())
    assert results == {-1, 0, 1}
