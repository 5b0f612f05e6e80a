"""``shoal play``: a game against a trained policy, in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shoal.app.commands import command
from shoal.app.options import Parser
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.games.base import Game
    from shoal.policy import Policy


def _options() -> Parser:
    parser = Parser(
        "shoal play",
        "DIR [options]",
        "Play the game that a run has learned, against its policy. You begin unless --second. "
        "Settings of how it acts are options: --simulations 0 is the network alone.",
    )
    parser.option("folder", metavar="DIR", help="run folder, or one checkpoint in it")
    command.best(parser)
    parser.option("--second", action="store_true", help="the policy begins")
    command.own_code(parser)
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    import shoal
    from shoal.algorithms.alphazero import AlphaZero
    from shoal.games.find import game_of

    args, pairs = parser.read(argv)
    policy = shoal.load(
        args.folder,
        env=args.env,
        network=args.network,
        algorithm=args.algorithm,
        trust=args.trust,
        best=args.best,
        **command.acting(parser, args, pairs),
    )
    if not isinstance(policy.algorithm, AlphaZero):
        raise ConfigError(
            f"{args.folder} has {type(policy.algorithm).__name__}, which plays no game in the "
            "terminal",
            None,
            "give the folder of a run of alphazero; shoal.match plays others",
        )
    return play(policy, game_of(policy.spaces), 1 if args.second else 0)


def play(policy: Policy, game: Game, person: int) -> int:
    """One game; ``person`` is 0 for who begins, else 1. The end of the input ends it."""
    state = game.start(1)
    while not game.over(state)[0]:
        if int(game.mover(state)[0]) == person:
            print(game.show(state))
            chosen = _asked(game, state)
            if chosen is None:
                print("\nthe game was left")
                return 0
        else:
            chosen = int(policy.act({name: x[0] for name, x in game.seen(state).items()}))
            print(f"it plays {game.move_name(state, chosen)}")
        state = game.play(state, np.array([chosen]))
    print(game.show(state))
    result = float(game.returns(state)[0])
    result = result if int(game.mover(state)[0]) == person else -result
    print("you win" if result > 0 else "you lose" if result < 0 else "a draw")
    return 0


def _asked(game: Game, state: dict[str, np.ndarray]) -> int | None:
    """The person's move, asked for until it is legal; None at the end of the input."""
    names = [game.move_name(state, int(a)) for a in np.flatnonzero(game.legal(state)[0])]
    while True:
        try:
            text = input(f"your move ({', '.join(names)}): ")
        except EOFError:
            return None
        chosen = game.read(state, text)
        if chosen is not None:
            return chosen
        print(f"{text.strip()!r} is no legal move")


COMMAND = command.Command("play", "play a game against a trained policy", _options, _run)
