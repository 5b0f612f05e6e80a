"""Who plays whom in a worker's games of two: the learner, its past selves, and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shoal.algorithms.base import Algorithm, Model
from shoal.algorithms.by_policy import split
from shoal.algorithms.fixed import RANDOM as RANDOMLY
from shoal.algorithms.fixed import Fixed
from shoal.config.self_play import FIXED, POOL, RANDOM, SELF, SelfPlay
from shoal.envs import Step, VectorEnv
from shoal.envs.agents import AgentsEnv
from shoal.envs.state import set_generator
from shoal.envs.wrapper import Wrapper
from shoal.errors import CheckpointError, ConfigError
from shoal.trajectory import Obs, ndarray


def games_of_two(world: VectorEnv, settings: SelfPlay) -> AgentsEnv:
    """The environment, if it is a game of two. Raises ConfigError, and closes it, if it is not."""
    if isinstance(world, AgentsEnv) and len(world.agents) == 2 and world.max_agents is None:
        return world
    world.close()
    named = f"the agents {', '.join(world.agents)}" if world.agents else "no agents"
    raise ConfigError(
        f"self_play.pool is {settings.pool}, but self-play is between two agents, and {world.id!r} "
        f"has {named}",
        None,
        "leave it out, or take a game of two, without a view",
    )


class SelfPlayEnv(Wrapper):
    """Copies of a game of two as the learner sees them: some of its slots are played by opponents.

    The opponent of a game is drawn as it begins, and met with either side in turn; in games against
    itself (`SELF`) the learner has both sides. A slot that an opponent plays has no transitions, no
    rewards and no episodes.

    Raises ConfigError for a policy with memory.
    """

    def __init__(
        self, world: AgentsEnv, settings: SelfPlay, algorithm: Algorithm, model: Model, seed: int
    ) -> None:
        if model.net.memory:
            raise ConfigError(
                "self-play against past selves needs a network without memory",
                "network.memory",
                "leave out network.memory, or self_play.pool",
            )
        super().__init__(world)
        self.world = world
        self._settings, self._algorithm, self._model = settings, algorithm, model
        self._fixed = {RANDOM: self._other("random", RANDOMLY)}
        if settings.opponent is not None:
            self._fixed[FIXED] = self._other("opponent", settings.opponent)
        self._rng = np.random.default_rng(seed)
        self._past: dict[int, dict[str, ndarray]] = {}
        self._odds: ndarray = np.zeros(0)
        self._numbers: list[int] = []
        self._against: ndarray = np.full(world.copies, SELF)  # opponent of each copy's game
        self._side: ndarray = np.zeros(world.copies, np.int64)  # of the learner, of two
        self._next: dict[int, int] = {}  # side in the next game, by opponent
        self._score: ndarray = np.zeros((world.copies, 2))
        self._games: list[tuple[int, float]] = []
        self._obs: Obs = {}

    def _other(self, name: str, what: Any) -> Fixed:
        return Fixed(name, what, self.spaces, self.agents, self.id)

    # ------------------------------------------------------------------ who plays whom

    def set_weights(self, weights: Mapping[str, ndarray]) -> None:
        """Take the opponents as they are. Games against one that left go on with the oldest."""
        own = {k.removeprefix(POOL): x for k, x in weights.items() if k.startswith(POOL)}
        self._numbers = own.pop("numbers").tolist()
        self._odds = own.pop("odds")
        self._past = {int(number): x for number, x in split(own).items()}
        left = (self._against >= 0) & ~np.isin(self._against, self._numbers)
        self._against = np.where(left, min(self._numbers, default=SELF), self._against)

    def games(self) -> list[tuple[int, float]]:
        """Games that ended since the last call: opponent, and the learner's points."""
        found, self._games = self._games, []
        return found

    def _begin(self, copies: ndarray) -> None:
        """New games in these copies."""
        begins = np.zeros((len(self._side), 2), bool)
        begins[copies] = True
        for player in self._fixed.values():
            player.reset(begins.reshape(-1))
        for copy in copies.tolist():
            drawn = self._draw()
            side = self._next.get(drawn, 0)
            self._next[drawn] = 1 - side
            self._against[copy], self._side[copy], self._score[copy] = drawn, side, 0.0

    def _draw(self) -> int:
        u, rated, which = self._rng.random(3)
        if u < self._settings.latest or not self._numbers:
            return SELF
        if u < self._settings.latest + self._settings.rated:
            return list(self._fixed)[int(rated * len(self._fixed))]
        at = int(np.searchsorted(np.cumsum(self._odds), which, side="right"))
        return int(self._numbers[min(at, len(self._numbers) - 1)])

    @property
    def learns(self) -> ndarray:
        """bool [B]: slots that are the learner's."""
        own = np.zeros((len(self._side), 2), bool)
        own[np.arange(len(self._side)), self._side] = True
        own[self._against == SELF] = True
        return own.reshape(-1)

    def _answered(self, action: ndarray, learns: ndarray) -> ndarray:
        """The learner's actions, with those of its opponents in their slots."""
        theirs = ~learns & self.world.acts
        if not theirs.any():
            return action
        out, against = action.copy(), self._against.repeat(2)
        for number in np.unique(against[theirs]).tolist():
            mine = theirs & (against == number)
            if number in self._fixed:
                out[mine] = self._fixed[number].choose(self._obs, self._rng, mine)[mine]
                continue
            seen = {path: x[mine] for path, x in self._obs.items()}
            noise = self._model.dist.noise(self._rng, (int(mine.sum()),))
            out[mine] = self._algorithm.act(self._model, self._past[number], seen, noise)[0]
        return out

    # ------------------------------------------------------------------ a vector environment

    def reset(self, seed: int | None = None) -> Obs:
        """See `VectorEnv.reset`."""
        self._obs, self._games = self.world.reset(seed), []
        self._begin(np.arange(self.world.copies))
        return self._obs

    def play(self, seeds: Sequence[int]) -> Obs:
        """See `VectorEnv.play`."""
        self._obs = self.world.play(seeds)
        return self._obs

    def step(self, action: ndarray) -> Step:
        """See `VectorEnv.step`."""
        learns = self.learns
        step = self.world.step(self._answered(action, learns))
        self._obs = {path: x.copy() for path, x in step.obs.items()}
        self._score += step.reward.reshape(-1, 2)
        ended = np.flatnonzero(self.world.over)
        for copy in ended.tolist():
            number, side = int(self._against[copy]), int(self._side[copy])
            if number != SELF:
                ahead = self._score[copy, side] - self._score[copy, 1 - side]
                self._games.append((number, 0.5 + 0.5 * float(np.sign(ahead))))
        self._begin(ended)
        final = step.final
        if final is not None:
            kept = learns[final[0]]
            rows = {path: x[kept] for path, x in final[1].items()}
            final = (final[0][kept], rows) if kept.any() else None
        assert step.valid is not None  # agents' rows always say so
        return step._replace(
            reward=np.where(learns, step.reward, 0).astype(np.float32),
            terminated=step.terminated & learns,
            truncated=step.truncated & learns,
            valid=step.valid & learns,
            final=final,
            waits=None if step.waits is None else step.waits & learns,
        )

    def get_state(self) -> dict[str, Any]:
        """The environment's, and the running games."""
        inner = self.world.get_state()
        return {
            "kind": "self-play",
            "env": inner,
            "obs": inner["obs"],
            "rng": self._rng.bit_generator.state,
            "against": self._against.copy(),
            "side": self._side.copy(),
            "next": {str(number): side for number, side in self._next.items()},
            "score": self._score.copy(),
            "fixed": {str(number): x.get_state() for number, x in self._fixed.items()},
        }

    def set_state(self, state: dict[str, Any]) -> Obs:
        """See `VectorEnv.set_state`."""
        if state.get("kind") != "self-play":
            raise CheckpointError(
                f"this is no state of {self.id!r} under self-play",
                fix="restore with the same self_play.pool",
            )
        set_generator(self._rng, state["rng"])
        self._against, self._side = state["against"].copy(), state["side"].copy()
        self._next = {int(number): side for number, side in state["next"].items()}
        self._score, self._games = state["score"].copy(), []
        for number, player in self._fixed.items():
            player.set_state(state["fixed"][str(number)])
        self._obs = self.world.set_state(state["env"])
        return self._obs
