"""Are the rules of the games right? Counted, checked against OpenSpiel, and turned around."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.errors import EnvError
from shoal.games.base import Game, State, take
from shoal.games.find import find_game, is_game
from shoal.games.search import random_moves
from shoal.spaces.base import ACTION_MASK

OWN = ("tic_tac_toe", "connect_four")


def children(game: Game, state: State) -> State:
    state = take(state, ~game.over(state))
    parents, moves = np.nonzero(game.legal(state))
    return game.play(take(state, parents), moves)


def test_perft_of_connect_four() -> None:
    game = find_game("connect_four", {})
    state, counts = game.start(1), []
    for _ in range(7):
        state = children(game, state)
        counts.append(len(game.mover(state)))
    assert counts == [7, 49, 343, 2401, 16807, 117649, 823536]  # at the 7th, someone has won


def test_all_games_of_tic_tac_toe() -> None:
    game = find_game("tic_tac_toe", {})
    state, results = game.start(1), {-1.0: 0, 0.0: 0, 1.0: 0}
    for _ in range(9):
        state = children(game, state)
        ended = take(state, game.over(state))
        first = np.where(game.mover(ended) == 0, 1, -1) * game.returns(ended)
        for result in results:
            results[result] += int(np.count_nonzero(first == result))
    assert results == {1.0: 131184, -1.0: 77904, 0.0: 46080}


@pytest.mark.parametrize("name", OWN)
def test_every_random_game_is_that_of_openspiel(name: str) -> None:
    pyspiel = pytest.importorskip("pyspiel")
    game, rng = find_game(name, {}), np.random.default_rng(0)
    state = game.start(200)
    others = [pyspiel.load_game(name).new_initial_state() for _ in range(200)]
    while len(others):
        legal, moves = game.legal(state), random_moves(game.legal(state), rng)
        for mask, other in zip(legal, others, strict=True):
            assert np.flatnonzero(mask).tolist() == other.legal_actions()
        for other, move in zip(others, moves.tolist(), strict=True):
            other.apply_action(move)
        state = game.play(state, moves)
        over, mover = game.over(state), game.mover(state)
        assert over.tolist() == [other.is_terminal() for other in others]
        for i in np.flatnonzero(over).tolist():
            assert game.returns(take(state, [i]))[0] == others[i].player_return(int(mover[i]))
        others = [other for other, ended in zip(others, over, strict=True) if not ended]
        state = take(state, ~over)


@pytest.mark.parametrize("name", OWN)
def test_a_game_turned_around_is_the_same_game(name: str) -> None:
    game, rng = find_game(name, {}), np.random.default_rng(1)
    assert game.symmetries is not None
    cells, moves = game.symmetries
    ways = len(cells)
    assert len({tuple(x) for x in cells}) == ways
    assert np.array_equal(cells[0], np.arange(cells.shape[1]))
    plain, turned = game.start(ways), game.start(ways)
    while not game.over(plain).any():
        seen = game.observe(plain).reshape(ways, -1)
        assert np.array_equal(
            np.take_along_axis(seen, cells, 1), game.observe(turned).reshape(ways, -1)
        )
        legal = game.legal(plain)
        assert np.array_equal(np.take_along_axis(legal, moves, 1), game.legal(turned))
        action = random_moves(legal[:1], rng)[0]
        plain = game.play(plain, np.full(ways, action))
        turned = game.play(turned, np.argmax(moves == action, axis=1))
        assert np.array_equal(game.over(plain), game.over(turned))


@pytest.mark.parametrize("name", [*OWN, "open_spiel:breakthrough(rows=5,columns=4)"])
def test_functions_of_a_game_write_to_no_state(name: str) -> None:
    if name.startswith("open_spiel"):
        pytest.importorskip("pyspiel")
    game, rng = find_game(name, {}), np.random.default_rng(2)
    state = game.start(8)
    for _ in range(4):
        before = {k: x.copy() for k, x in state.items()}
        shown = game.show(state)
        after = game.play(state, random_moves(game.legal(state), rng))
        game.observe(state), game.over(state), game.returns(take(state, game.over(state)))
        assert all(np.array_equal(before[k], state[k]) for k in state)
        assert game.show(state) == shown
        state = after


@pytest.mark.parametrize("name", OWN)
def test_the_mover_sees_its_own_cells_first(name: str) -> None:
    game = find_game(name, {})
    state = game.play(game.start(1), np.array([3]))
    seen = game.observe(state)[0]
    assert seen[0].sum() == 0 and seen[1].sum() == 1  # the other has moved
    state = game.play(state, np.array([4]))
    seen = game.observe(state)[0]
    assert seen[0].sum() == 1 and seen[1].sum() == 1
    assert game.spaces.flatten(game.seen(state))[ACTION_MASK].shape == (1, game.actions)


def test_openspiels_observation_says_who_moves() -> None:
    pytest.importorskip("pyspiel")
    game = find_game("open_spiel:breakthrough", {"rows": 5, "columns": 4})
    state = game.start(2)
    assert not game.observe(state)[:, -1].any()
    assert (game.observe(game.play(state, random_moves(game.legal(state), RNG)))[:, -1] == 1).all()
    assert game.observe(state).shape == (2, *game.shape)


RNG = np.random.default_rng(3)


@pytest.mark.parametrize("name", ["open_spiel:kuhn_poker", "open_spiel:phantom_ttt"])
def test_a_game_that_hides_something_is_refused_by_its_name(name: str) -> None:
    pytest.importorskip("pyspiel")
    with pytest.raises(EnvError, match=f"{name} hides what only the other player knows"):
        find_game(name, {})


class Secret(find_game("tic_tac_toe", {}).__class__):  # type: ignore[misc]
    """A user's game that does not show all."""

    name = "secret"
    hides = "the other's cells"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (Secret, "secret hides the other's cells"),
        ("connect_for", "did you mean 'connect_four'"),
        ("CartPole-v1", "'CartPole-v1' is no game"),
        (dict, "which is no game"),
        (3, "makes no game"),
        ("tests.games.test_rules:RNG", "makes no game"),
    ],
)
def test_what_is_no_game_is_said_to_be_none(what: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        find_game(what, {})


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("open_spiel:chss", {}, "did you mean open_spiel:chess"),
        ("open_spiel:breakthrough", {"row": 5}, "its parameters: columns, rows"),
        ("open_spiel:backgammon", {}, "has moves of chance"),
        ("open_spiel:goofspiel", {}, "hides|same time"),
        ("open_spiel:solitaire", {}, "hides|another number of players"),
    ],
)
def test_openspiels_other_games_are_refused(name: str, kwargs: Any, message: str) -> None:
    pytest.importorskip("pyspiel")
    with pytest.raises(EnvError, match=message):
        find_game(name, kwargs)


def test_names_of_games_are_no_names_of_code() -> None:
    assert (
        is_game("connect_four") and is_game("open_spiel:chess") and is_game({"id": "tic_tac_toe"})
    )
    assert not is_game("CartPole-v1") and not is_game("my.module:Game") and not is_game(dict)


def test_people_can_read_and_write_moves() -> None:
    game = find_game("connect_four", {})
    state = game.start(1)
    for text in ("4", "4", "5"):
        move = game.read(state, text)
        assert move is not None
        state = game.play(state, np.array([move]))
    assert game.read(state, "8") is None and game.read(state, "x") is None
    assert game.show(state).splitlines()[-3:] == [". . . o . . .", ". . . x x . .", "1 2 3 4 5 6 7"]
