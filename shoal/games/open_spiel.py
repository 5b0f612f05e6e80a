"""Games of OpenSpiel (Lanctot et al. 2019, arXiv:1908.09453), which steps them one at a time.

A state of Shoal's holds OpenSpiel's own states as an array of objects; packed, it is the moves that
led there, played again when it is unpacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.config.trust import OPEN_SPIEL
from shoal.errors import EnvError, nearest
from shoal.games.base import Game, State, ndarray

INSTALL = 'pip install "shoal[games]"'


class OpenSpielGame(Game):
    """One of OpenSpiel's games, for two players in turn without chance, under its own parameters.

    Observed is the tensor of the player to move; its last plane (or, for a vector, its last entry)
    is added here, and says who that is: 0 for the player who began, else 1.

    Raises EnvError if OpenSpiel is not installed, has no such game, or if the game is another kind.
    """

    dtype = np.float32

    def __init__(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        try:
            import pyspiel  # type: ignore[import-not-found]
        except ImportError as error:
            what = f"the game {OPEN_SPIEL}{name} cannot be made: OpenSpiel is not installed"
            raise EnvError(what, fix=INSTALL) from error
        self.name = OPEN_SPIEL + name
        short = name.partition("(")[0]
        known = pyspiel.registered_names()
        if short not in known:
            close = nearest(short, known)
            hint = f"did you mean {OPEN_SPIEL}{close}?"
            fix = hint if close else "pyspiel.registered_names() has all"
            raise EnvError(f"OpenSpiel has no game {short!r}", fix=fix)
        try:
            game = pyspiel.load_game(name, dict(parameters)) if parameters else None
            self._game = pyspiel.load_game(name) if game is None else game
        except Exception as error:  # OpenSpiel's own, which has no public type
            allowed = ", ".join(pyspiel.load_game(short).get_parameters()) or "none"
            raise EnvError(
                f"the game {self.name} cannot be made: {error}", fix=f"its parameters: {allowed}"
            ) from error
        self._refuse(pyspiel)
        self.actions = self._game.num_distinct_actions()
        self.longest = self._game.max_game_length()
        self._dtype = np.min_scalar_type(self.actions)  # of moves, and of what stands for none
        shape = tuple(self._game.observation_tensor_shape())
        planes = shape[0] + 1 if len(shape) == 3 else int(np.prod(shape)) + 1
        self.shape = (planes, *shape[1:]) if len(shape) == 3 else (planes,)

    def _refuse(self, pyspiel: Any) -> None:
        """Raise EnvError for what is no game of two players in turn that all ends in one result."""
        kind = self._game.get_type()
        of = {
            "is for another number of players": self._game.num_players() == 2,
            "lets players move at the same time": kind.dynamics == kind.Dynamics.SEQUENTIAL,
            "has moves of chance": kind.chance_mode == kind.ChanceMode.DETERMINISTIC,
            "is no zero-sum game": kind.utility == kind.Utility.ZERO_SUM,
            "has rewards before its end": kind.reward_model == kind.RewardModel.TERMINAL,
            "has no observation tensor": kind.provides_observation_tensor,
        }
        wrong = [what for what, fits in of.items() if not fits]
        if kind.information != kind.Information.PERFECT_INFORMATION:
            self.hides = "what only the other player knows"
        elif wrong:
            raise EnvError(
                f"the game {self.name} {wrong[0]}",
                fix="take a game of two players in turn, zero-sum, without chance: "
                "open_spiel:breakthrough",
            )

    def start(self, games: int) -> State:
        first = self._game.new_initial_state()
        mover = np.full(games, first.current_player(), np.int8)
        return self._state([first] * games, mover, np.zeros(games, np.int32))

    def _state(self, states: list[Any], mover: ndarray, moves: ndarray) -> State:
        held = np.empty(len(states), object)
        held[:] = states
        return {"state": held, "mover": mover, "moves": moves}

    def observe(self, state: State) -> ndarray:
        out = np.empty((len(state["mover"]), *self.shape), np.float32)
        own = out[:, :-1].reshape(len(out), -1)
        for i, (x, mover) in enumerate(zip(state["state"], state["mover"].tolist(), strict=True)):
            own[i] = x.observation_tensor(mover)
        out[:, :-1] = own.reshape(out[:, :-1].shape)
        out[:, -1] = state["mover"].reshape(-1, *(1,) * (out.ndim - 2))
        return out

    def legal(self, state: State) -> ndarray:
        out = np.zeros((len(state["mover"]), self.actions), bool)
        for i, x in enumerate(state["state"]):
            out[i, x.legal_actions()] = True
        return out

    def play(self, state: State, action: ndarray) -> State:
        pairs = zip(state["state"], action.tolist(), strict=True)
        after = [x.child(move) for x, move in pairs]
        ended = 1 - state["mover"]  # of a game that is over, the player who did not end it
        mover = np.array([x.current_player() for x in after], np.int8)
        mover = np.where(mover < 0, ended, mover)
        return self._state(after, mover, state["moves"] + np.int32(1))

    def over(self, state: State) -> ndarray:
        return np.fromiter((x.is_terminal() for x in state["state"]), bool, len(state["state"]))

    def mover(self, state: State) -> ndarray:
        return state["mover"]

    def returns(self, state: State) -> ndarray:
        pairs = zip(state["state"], state["mover"].tolist(), strict=True)
        return np.array([x.player_return(mover) for x, mover in pairs], np.float32)

    def pack(self, state: State) -> ndarray:
        out = np.full((len(state["moves"]), self.longest), self.actions, self._dtype)
        for row, x in zip(out, state["state"], strict=True):
            history = x.history()
            row[: len(history)] = history
        return out.view(np.uint8)

    def unpack(self, packed: ndarray) -> State:
        states, movers = [], []
        histories = np.ascontiguousarray(packed).view(self._dtype)
        moves = (histories != self.actions).sum(1).astype(np.int32)
        for history, count in zip(histories.tolist(), moves.tolist(), strict=True):
            x, mover = self._game.new_initial_state(), 0
            for move in history[:count]:
                mover = x.current_player()
                x.apply_action(move)
            states.append(x)
            movers.append(1 - mover if x.is_terminal() else x.current_player())
        return self._state(states, np.array(movers, np.int8), moves)

    def show(self, state: State) -> str:
        return str(state["state"][0]).rstrip()

    def move_name(self, state: State, action: int) -> str:
        text: str = state["state"][0].action_to_string(int(state["mover"][0]), action)
        return text
