"""Can a user's own game be played, and is it refused where it breaks the contract?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.envs import make
from shoal.errors import EnvError
from shoal.games.base import Game, State, ndarray, take
from shoal.games.find import find_game
from shoal.games.search import random_moves
from tests.worlds import difference


class Twice(Game):
    """Eleven moves, each player two in a row. Who said "yes" (1) more often wins."""

    actions, shape, longest = 2, (2,), 11

    def start(self, games: int) -> State:
        return {"moves": np.zeros(games, np.int16), "said": np.zeros((games, 2), np.float64)}

    def observe(self, state: State) -> ndarray:
        more = np.diff(state["said"])[:, 0] > 0
        return np.stack([more, self.mover(state)], 1).astype(np.uint8)

    def legal(self, state: State) -> ndarray:
        return np.ones((len(state["moves"]), 2), bool)

    def play(self, state: State, action: ndarray) -> State:
        said = state["said"].copy()
        said[np.arange(len(said)), self.mover(state)] += action
        return {"moves": state["moves"] + np.int16(1), "said": said}

    def mover(self, state: State) -> ndarray:
        return (state["moves"] // 2 % 2).astype(np.int8)

    def over(self, state: State) -> ndarray:
        return state["moves"] == 11

    def returns(self, state: State) -> ndarray:
        me, games = self.mover(state), np.arange(len(state["moves"]))
        return np.sign(state["said"][games, me] - state["said"][games, 1 - me]).astype(np.float32)


@pytest.mark.parametrize(
    "what", [Twice, "tic_tac_toe", "connect_four", "open_spiel:breakthrough(rows=4,columns=3)"]
)
def test_states_come_back_from_bytes(what: Any) -> None:
    if isinstance(what, str) and ":" in what:
        pytest.importorskip("pyspiel")
    game, rng = find_game(what, {}), np.random.default_rng(0)
    state = game.start(20)
    assert game.pack(take(state, slice(0))).shape == (0, game.pack(state).shape[1])
    while len(state["moves"]):
        again = game.unpack(game.pack(state))
        parts = [{k: x for k, x in each.items() if k != "state"} for each in (state, again)]
        assert difference(*parts) == "" and game.show(again) == game.show(state)
        for method in (game.observe, game.legal, game.over, game.mover):
            assert np.array_equal(method(again), method(state))
        state = game.play(state, random_moves(game.legal(state), rng))
        state = take(state, ~game.over(state))


def test_the_last_mover_earns_the_result_though_it_would_move_again() -> None:
    world = make(Twice, 4, plays=True)
    world.reset()
    for number in range(11):  # "yes" is said by the first, the second, nobody, both
        who = number // 2 % 2
        step = world.step(np.array([1 - who, who, 0, 1]))
    assert step.terminated.all() and step.reward.tolist() == [-1.0, 1.0, 0.0, -1.0]


def broken(**methods: Any) -> type[Game]:
    return type("Broken", (Twice,), methods)


def written(self: Any, state: State, action: ndarray) -> State:
    state["said"][:] += 1
    return Twice.play(self, state, action)


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ({"actions": 2.5}, r"actions is 2\.5"),
        ({"shape": 3}, "shape is 3"),
        ({"longest": 5}, "longest is 5, but a random game was not over then"),
        ({"start": lambda self, games: [1]}, r"start returned \[1\]"),
        ({"start": lambda self, games: {"moves": np.ones(games, int)}}, "above 0"),
        ({"observe": lambda self, state: np.zeros((8, 3), np.uint8)}, "observe returned uint8"),
        ({"observe": lambda self, state: np.zeros((8, 2))}, r"observe returned float64 \[8, 2\]"),
        ({"legal": lambda self, state: np.zeros((8, 2), bool)}, "legal allows no move"),
        ({"legal": lambda self, state: np.ones((8, 2))}, r"legal returned float64 \[8, 2\]"),
        ({"play": written}, "play or observe wrote to the entry 'said'"),
        ({"play": lambda self, state, action: state}, 'did not add 1 to "moves"'),
        ({"play": lambda self, state, action: {"moves": state["moves"] + 1}}, "of the form"),
        ({"over": lambda self, state: state["moves"]}, "over returned int16"),
        ({"mover": lambda self, state: state["moves"]}, "mover returned"),
        ({"returns": lambda self, state: np.full(8, 2.0)}, r"returns returned \[2\.0"),
        ({"position": lambda self, seen: None}, "position returned another 'moves'"),
    ],
)
def test_a_game_that_breaks_the_contract_is_refused(methods: dict[str, Any], told: str) -> None:
    with pytest.raises(EnvError, match=f"the game Broken breaks its contract: .*{told}"):
        find_game(broken(**methods), {})
