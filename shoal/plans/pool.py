"""Past selves and others to play against, and how strong each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from shoal.config.self_play import FIXED, POOL, RANDOM, SelfPlay
from shoal.errors import ConfigError
from shoal.trajectory import ndarray

START = 1200.0  # Elo of the first self, and of every opponent that is not a past self
_K = 2.0  # Elo points at stake in one game
_FADE = 0.99  # of older games in a win rate
_OWN = "learner", "pool", "random", "opponent"  # whose ratings stand in every report


class Pool:
    """Keeps the newest ``pool`` selves, with their results against the present one.

    Beside them others that are added by name, and stay until they are removed. Elo ratings are of
    the learner (which goes on) and of every opponent; who joins begins with the learner's. What one
    wins in a game the other loses. Only the random player, which never changes, keeps its rating:
    without such a fixed point all ratings rise, as past selves leave with less than they came with.
    """

    def __init__(self, settings: SelfPlay) -> None:
        self.settings = settings
        self.saved: dict[int, dict[str, ndarray]] = {}  # weights by number
        self.names: dict[int, str] = {}  # of those that are no past selves
        self.next = 0  # number of the next self
        self.due = 0  # env steps at which it is kept
        self.elo = START
        self.ratings: dict[int, float] = {}
        self.won: dict[int, tuple[float, float]] = {}  # points and games, older ones fading

    def keep(self, weights: Mapping[str, ndarray], env_steps: int) -> None:
        """Keep these weights if it is time; the oldest ones leave."""
        every = self.settings.every
        if every is None or env_steps < self.due:
            return
        self.due = env_steps + every
        self._join(weights)
        for number in self.selves[: -self.settings.pool]:
            self._leave(number)

    def add(self, name: str, weights: Mapping[str, ndarray]) -> None:
        """Weights of an opponent by name; if there is one of this name, in the place of its own.

        Raises ConfigError for what can be no name of an opponent.
        """
        if not name.isidentifier() or name in _OWN:
            raise ConfigError(
                f"{name!r} cannot be the name of an opponent",
                None,
                f"use letters, digits and _; {', '.join(_OWN)} stand in reports already",
            )
        number = next((n for n, other in self.names.items() if other == name), None)
        if number is None:
            self.names[self._join(weights)] = name
        else:
            self.saved = {**self.saved, number: dict(weights)}

    def remove(self, name: str) -> None:
        """Let the opponent of this name leave. Raises ConfigError if there is none."""
        number = next((n for n, other in self.names.items() if other == name), None)
        if number is None:
            raise ConfigError(
                f"there is no opponent {name!r}",
                None,
                f"there are: {', '.join(self.names.values()) or 'none'}",
            )
        self.names.pop(number)
        self._leave(number)

    @property
    def selves(self) -> list[int]:
        """Numbers of the past selves, the oldest first."""
        return sorted(self.saved.keys() - self.names.keys())

    def _join(self, weights: Mapping[str, ndarray]) -> int:
        number = self.next
        self.saved = {**self.saved, number: dict(weights)}
        self.ratings[number] = self.elo
        self.next += 1
        return number

    def _leave(self, number: int) -> None:
        self.saved = {k: x for k, x in self.saved.items() if k != number}
        self.ratings.pop(number)
        self.won.pop(number, None)

    def weights(self) -> dict[str, ndarray]:
        """What workers need: the opponents' weights, and the odds of each."""
        found = {
            f"{POOL}{number}/{name}": x
            for number, own in self.saved.items()
            for name, x in own.items()
        }
        numbers = sorted(self.saved)
        return {
            **found,
            f"{POOL}numbers": np.array(numbers, np.int64),
            f"{POOL}odds": odds([self.win_rate(n) for n in numbers], self.settings.prefer),
        }

    def take(self, games: Iterable[tuple[int, float]]) -> None:
        """Count games against opponents by number: 1 for a win of the learner, .5 for a draw."""
        for number, points in games:
            if number >= 0 and number not in self.saved:
                continue  # it has left meanwhile
            rating = self.ratings.setdefault(number, START)
            gain = _K * (points - expected(self.elo, rating))
            self.elo += gain
            if number != RANDOM:
                self.ratings[number] = rating - gain
            won, played = self.won.get(number, (0.0, 0.0))
            self.won[number] = won * _FADE + points, played * _FADE + 1

    def win_rate(self, number: int) -> float:
        """Points of a game of the learner's against it; with one draw assumed before all games."""
        won, played = self.won.get(number, (0.0, 0.0))
        return (won + 0.5) / (played + 1.0)

    def metrics(self) -> dict[str, float]:
        """Ratings and win rates, by kind of opponent."""
        past = [self.ratings[number] for number in self.selves]
        rates = [self.win_rate(number) for number in self.selves]
        found = {
            "elo/learner": self.elo,
            "elo/pool": sum(past) / max(len(past), 1),
            "elo/random": self.ratings.get(RANDOM, START),
            "win_rate/pool": sum(rates) / max(len(rates), 1),
            "win_rate/random": self.win_rate(RANDOM),
            "pool/size": float(len(past)),
        }
        for number, name in self.names.items():
            found[f"elo/{name}"] = self.ratings[number]
            found[f"win_rate/{name}"] = self.win_rate(number)
        if self.settings.opponent is not None:
            found["elo/opponent"] = self.ratings.get(FIXED, START)
            found["win_rate/opponent"] = self.win_rate(FIXED)
        return found

    def get_state(self) -> dict[str, Any]:
        """All of it; weights are not copied."""
        return {
            "saved": {str(number): dict(own) for number, own in self.saved.items()},
            "names": {str(number): name for number, name in self.names.items()},
            "next": self.next,
            "due": self.due,
            "elo": self.elo,
            "ratings": {str(number): x for number, x in self.ratings.items()},
            "won": {str(number): list(x) for number, x in self.won.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``get_state``."""
        self.saved = {int(k): dict(x) for k, x in state["saved"].items()}
        self.names = {int(k): str(x) for k, x in state["names"].items()}
        self.next, self.due, self.elo = state["next"], state["due"], state["elo"]
        self.ratings = {int(k): float(x) for k, x in state["ratings"].items()}
        self.won = {int(k): (float(x[0]), float(x[1])) for k, x in state["won"].items()}


def expected(rating: float, other: float) -> float:
    """Points that a player with this Elo rating expects in a game against the other."""
    return float(1.0 / (1.0 + 10.0 ** ((other - rating) / 400.0)))


def odds(win_rates: list[float], prefer: str) -> ndarray:
    """Probability of each opponent, [n], from the learner's win rates x against them.

    f_hard(x) = (1 - x)^2, f_var(x) = x (1 - x), or 1 (Vinyals et al. 2019, Methods,
    "Prioritized fictitious self-play"); uniform if all are 0.
    """
    x = np.asarray(win_rates, np.float64)
    weight = {"hard": (1 - x) ** 2, "even": x * (1 - x), "uniform": np.ones_like(x)}[prefer]
    total = weight.sum()
    return weight / total if total > 0 else np.full(len(x), 1 / max(len(x), 1))
