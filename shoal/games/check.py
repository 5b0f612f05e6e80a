"""Whether a user's own game keeps the contract: a few random games of it are played."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.errors import EnvError, cut
from shoal.games.base import Game, State, ndarray, take
from shoal.games.search import random_moves

GAMES, MOST = 8, 1000  # that are played, and moves of each


def check_game(game: Game) -> None:
    """Raise EnvError, with the method and what it should return, for the first fault."""
    for name, fits, wanted in (
        ("actions", _whole, "the number of moves, an int"),
        ("longest", _whole, "the number of moves of a game, at most, an int"),
        ("shape", _shape, "the shape of an observation, a tuple of ints"),
    ):
        value = getattr(game, name, None)
        if not fits(value):
            raise _fault(game, name, f"is {cut(repr(value), 80)}", f"set it to {wanted}")
    if game.hides is not None:
        return
    rng, state = np.random.default_rng(0), game.start(GAMES)
    _state(game, "start", state, GAMES, None)
    if state["moves"].any():
        raise _fault(game, "start", 'returned a state with "moves" above 0', "count from 0")
    first = {name: x[:1].copy() for name, x in state.items()}
    for _ in range(min(game.longest, MOST)):
        before = {name: x.copy() for name, x in state.items()}
        _seen(game, state)
        after = _played(game, state, random_moves(game.legal(state), rng), first)
        wrote = [name for name, x in before.items() if not _same(x, state[name])]
        if wrote:
            what = f"wrote to the entry {wrote[0]!r} of the state that it was given"
            raise _fault(game, "play or observe", what, "copy what you change")
        state = take(after, ~game.over(after))
        if not len(state["moves"]):
            return
    if game.longest <= MOST:
        what = f"is {game.longest}, but a random game was not over then"
        raise _fault(game, "longest", what, "correct it, or over()")


def _played(game: Game, state: State, moves: ndarray, first: State) -> State:
    """The states after these moves, and the results of those that are over, checked."""
    games = len(moves)
    after = game.play(state, moves)
    _state(game, "play", after, games, first)
    if not (after["moves"] == state["moves"] + 1).all():
        raise _fault(game, "play", 'did not add 1 to "moves"', "count the moves made")
    over, mover = game.over(after), game.mover(after)
    _array(game, "over", over, (games,), "b")
    _array(game, "mover", mover, (games,), "iu")
    if not np.isin(mover, (0, 1)).all():
        raise _fault(game, "mover", f"returned {mover.tolist()}", "return 0 or 1")
    if over.any():
        result = game.returns(take(after, over))
        _array(game, "returns", result, (int(over.sum()),), "f")
        if not (abs(result) <= 1).all():
            what = f"returned {result.tolist()}"
            raise _fault(game, "returns", what, "return results in [-1, 1]: 1 for a win")
    return after


def _seen(game: Game, state: State) -> None:
    """What is seen of states that are not over."""
    games, seen, legal = len(state["moves"]), game.observe(state), game.legal(state)
    _array(game, "observe", seen, (games, *game.shape), np.dtype(game.dtype).kind)
    _array(game, "legal", legal, (games, game.actions), "b")
    if not legal.any(1).all():
        what = "allows no move in a game that is not over"
        raise _fault(game, "legal", what, "allow one, or let over() end the game")
    if not np.isfinite(seen).all():
        raise _fault(game, "observe", "returned a number that is not finite", "correct it")
    if game.told:
        again = game.position(seen)
        differs = [k for k in state if again is None or not _same(again.get(k), state[k])]
        if differs:
            what = f"returned another {differs[0]!r} than was observed"
            raise _fault(game, "position", what, "correct it, or leave the method out")


def _state(game: Game, method: str, state: Any, games: int, first: State | None) -> None:
    """A dict of arrays, with "moves"; of the dtypes and shapes of ``first``."""
    entries = state if isinstance(state, dict) else {}
    arrays = all(
        isinstance(x, np.ndarray) and x.shape[:1] == (games,) and x.dtype.kind in "biuf"
        for x in entries.values()
    )
    if not arrays or "moves" not in entries:
        raise _fault(
            game,
            method,
            f"returned {cut(repr(state), 80)}",
            f'return a dict of arrays [{games}, ...] of numbers, among them "moves"',
        )
    forms = [{k: (x.dtype, x.shape[1:]) for k, x in each.items()} for each in (first or {}, state)]
    if first is not None and forms[0] != forms[1]:
        what = f"returned a state of the form {forms[1]}, and start() one of {forms[0]}"
        raise _fault(game, method, what, "keep names, dtypes and shapes")


def _array(game: Game, method: str, x: Any, shape: tuple[int, ...], kinds: str) -> None:
    fits = isinstance(x, np.ndarray) and x.shape == shape and x.dtype.kind in kinds
    if not fits:
        names = {"b": "bool", "f": "float32", "iu": "int8"}
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else cut(repr(x), 80)
        wanted = f"{names.get(kinds, game.dtype)} {list(shape)}"
        raise _fault(game, method, f"returned {got}", f"return an array {wanted}")


def _same(x: Any, other: ndarray) -> bool:
    floats = other.dtype.kind == "f"
    return isinstance(x, np.ndarray) and np.array_equal(x, other, equal_nan=floats)


def _whole(x: Any) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool) and bool(x > 0)


def _shape(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) > 0 and all(map(_whole, x))


def _fault(game: Game, name: str, what: str, fix: str) -> EnvError:
    cls = type(game)
    where = f"{cls.__module__}:{cls.__qualname__}"
    return EnvError(f"the game {game.name} breaks its contract: {name} {what}", where, fix)
