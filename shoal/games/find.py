"""From what a user writes to a game."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shoal.config.trust import OPEN_SPIEL, find
from shoal.errors import EnvError, SpaceError, cut, nearest
from shoal.games.base import Game, GameSpaces
from shoal.games.check import check_game
from shoal.games.connect_four import ConnectFour
from shoal.games.open_spiel import OpenSpielGame
from shoal.games.tic_tac_toe import TicTacToe
from shoal.spaces.base import Spaces

GAMES: dict[str, type[Game]] = {game.name: game for game in (TicTacToe, ConnectFour)}


def is_game(env: Any) -> bool:
    """Whether a name is that of a game of Shoal's or OpenSpiel's, so that no code is imported."""
    if isinstance(env, Mapping):
        return is_game(env.get("id"))
    return isinstance(env, str) and (env in GAMES or env.startswith(OPEN_SPIEL))


def find_game(env: str | Callable[..., Any] | Mapping[str, Any], kwargs: Mapping[str, Any]) -> Game:
    """The game that ``env`` names, made with the arguments ``kwargs``.

    ``env`` is a game of Shoal's ("connect_four"), one of OpenSpiel's ("open_spiel:breakthrough"),
    a user's own class, or function that returns a ``Game``, also by name ("module:Name",
    "folder/file.py:Name"), or ``{"id": any of these, "kwargs": {...}}``.

    Raises EnvError for anything else, for a game that hides something from its players, and for a
    user's own that breaks the contract.
    """
    if isinstance(env, Mapping):
        return find_game(env.get("id", ""), {**env.get("kwargs", {}), **kwargs})
    game = _made(env, kwargs)
    if game.hides is not None:
        raise EnvError(
            f"the game {game.name} hides {game.hides}, and a search looks at whole positions",
            fix="take a game of perfect information, such as connect_four",
        )
    return game


def game_of(spaces: Spaces) -> Game:
    """The game whose spaces these are. Raises SpaceError for any others."""
    if isinstance(spaces, GameSpaces):
        game: Game = spaces.game
        return game
    raise SpaceError(
        "AlphaZero searches games, as they are, and these spaces are of none",
        f"observation space: {spaces.observation}",
        "train it on a game, without rollout.hide and rollout.previous",
    )


def _made(env: Any, kwargs: Mapping[str, Any]) -> Game:
    if isinstance(env, str) and env.startswith(OPEN_SPIEL):
        return OpenSpielGame(env.removeprefix(OPEN_SPIEL), kwargs)
    if isinstance(env, str) and ":" not in env:
        if env not in GAMES:
            near = nearest(env, list(GAMES))
            raise EnvError(
                f"{env!r} is no game, and AlphaZero plays games",
                fix=(f"did you mean {near!r}? " if near else "") + f"there are {', '.join(GAMES)}",
            )
        env = GAMES[env]
    create = find(env, "game", EnvError) if isinstance(env, str) else env
    if not callable(create):
        raise EnvError(
            f"{cut(repr(create), 80)} makes no game", fix="give its class, or a function"
        )
    name = getattr(create, "__qualname__", repr(create))
    try:
        game = create(**kwargs)
    except TypeError as error:
        if not kwargs:
            raise
        what = f"the game {name} cannot be made with the arguments {sorted(kwargs)}: {error}"
        raise EnvError(what, fix="correct env_kwargs") from error
    if not isinstance(game, Game):
        raise EnvError(
            f"{name} made {cut(repr(game), 80)}, which is no game",
            fix="derive its class from shoal.games.base.Game",
        )
    if type(game) not in GAMES.values():
        check_game(game)
    return game
