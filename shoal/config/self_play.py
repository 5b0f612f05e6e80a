"""Settings of self-play: against whom an agent plays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from shoal.config.bounds import check_bounds, require, setting

POOL = "pool/"  # what names of past selves' weights begin with
SELF, RANDOM, FIXED = -1, -2, -3  # numbers of opponents that are no past selves


@dataclass(frozen=True)
class SelfPlay:
    """A pool of past selves as opponents, in games of two agents.

    `Trainer.add_opponent` adds others to them. Defaults of ML-Agents (Juliani et al. 2018,
    arXiv:1809.02627), but for ``prefer``: prioritised fictitious self-play (Vinyals et al. 2019,
    Nature 575, Methods).
    """

    pool: int = setting(0, least=0)  # past selves to play against; 0: no self-play
    every: int | None = setting(20_000, least=1)  # env steps between two that are kept; none: none
    latest: float = setting(0.5, least=0, most=1)  # part of the games in which both sides learn
    prefer: Literal["hard", "even", "uniform"] = "hard"  # past selves: that win, are equal, or any
    rated: float = setting(0.05, least=0, most=1)  # part of the games against random and opponent
    opponent: Any = None  # a loaded policy or a function, to be rated against too

    def __post_init__(self) -> None:
        check_bounds(self, "self_play.")
        known = self.prefer in ("hard", "even", "uniform")
        require(known, "self_play.prefer", self.prefer, "'hard', 'even' or 'uniform'")
        together = self.latest + self.rated <= 1
        require(together, "self_play.rated", self.rated, "at most 1 - self_play.latest")
        fits = self.opponent is None or callable(self.opponent) or hasattr(self.opponent, "choose")
        require(fits, "self_play.opponent", self.opponent, "a loaded policy or a function")
