"""Games of ``shoal.games`` as environments: by the player to move, or by both in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from shoal.envs.base import NDArray
from shoal.games.base import LEAF, Game, put, take
from shoal.spaces.base import ACTION_MASK

PLAYERS = "first", "second"
STILL = -1  # in the place of a move


class GameVector(VectorEnv[Any, Any, Any]):
    """B games side by side, each an episode in which the player to move acts and sees.

    So one policy plays both sides. The last move earns its player what the game returns; all others
    earn 0. A game whose move is ``STILL`` stays as it is.
    """

    def __init__(self, game: Game, num_envs: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.game, self.num_envs = game, num_envs
        self.single_observation_space = game.spaces.observation
        self.single_action_space = game.spaces.action
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state = game.start(num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin all games, or those of ``options["reset_mask"]``."""
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.state = put(self.state, mask, self.game.start(int(np.count_nonzero(mask))))
        return self.game.seen(self.state), {}

    def step(self, actions: NDArray) -> tuple[Any, NDArray, NDArray, NDArray, dict[str, Any]]:
        """One move of every game that does not stand still."""
        actions, acted = np.asarray(actions), self.game.mover(self.state)
        moves = actions != STILL
        if moves.all():
            self.state = self.game.play(self.state, actions)
        else:
            after = self.game.play(take(self.state, moves), actions[moves])
            self.state = put(self.state, moves, after)
        over = self.game.over(self.state)
        reward = np.zeros(self.num_envs, np.float32)
        if over.any():
            ended = take(self.state, over)
            same = self.game.mover(ended) == acted[over]
            reward[over] = np.where(same, 1.0, -1.0) * self.game.returns(ended)
        return self.game.seen(self.state), reward, over, np.zeros_like(over), {}

    def get_state(self) -> dict[str, Any]:
        """The games as they stand."""
        return {"games": self.game.pack(self.state)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.state = self.game.unpack(np.asarray(state["games"], np.uint8))


class GameTurns:
    """One game with PettingZoo's interface for agents that take turns, "first" and "second".

    Its ``state()`` is what searches need that an observation does not tell, if there is such.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "game", "render_modes": []}
    render_mode = None

    def __init__(self, game: Game) -> None:
        self.game = game
        self.possible_agents = list(PLAYERS)
        self.agents: list[str] = []
        self.state_space = game.spaces.state

    def observation_space(self, agent: str) -> Any:
        """The same for both."""
        return self.game.spaces.observation

    def action_space(self, agent: str) -> Any:
        """The same for both."""
        return self.game.spaces.action

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        """Begin a game."""
        self._state = self.game.start(1)
        self.agents = list(PLAYERS)
        self.agent_selection = PLAYERS[0]
        self._results: dict[str, float] = {}  # of a game that is over

    def state(self) -> NDArray:
        """The game as it stands, in the form of ``Game.pack``."""
        packed: NDArray = self.game.pack(self._state)[0]
        return packed

    def last(self) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """What the selected player sees and has earned, and whether the game is over."""
        who = self.agent_selection
        seen = {LEAF: self.game.observe(self._state)[0]}
        seen[ACTION_MASK] = self.game.legal(self._state)[0].astype(np.int8)
        return seen, self._results.get(who, 0.0), bool(self._results), False, {}

    def step(self, action: Any) -> None:
        """The selected player's move; None of one whose game is over, who leaves."""
        if self._results:
            self.agents.remove(self.agent_selection)
            if self.agents:
                self.agent_selection = self.agents[0]
            return
        self._state = self.game.play(self._state, np.array([action]))
        next_ = int(self.game.mover(self._state)[0])
        self.agent_selection = PLAYERS[next_]
        if self.game.over(self._state)[0]:
            result = float(self.game.returns(self._state)[0])
            self._results = {PLAYERS[next_]: result, PLAYERS[1 - next_]: -result}

    def agent_iter(self) -> Iterator[str]:
        """The players in turn, until both have left."""
        while self.agents:
            yield self.agent_selection

    def close(self) -> None:
        """There is nothing to close."""
