"""Games of two between a policy and an opponent, with either side in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from shoal.algorithms.fixed import Fixed
from shoal.config.trust import absolute
from shoal.envs import make_for_evaluation
from shoal.errors import EnvError, ShoalError
from shoal.evaluation import COPIES, Progress, check_group, play_agents, summary
from shoal.policy import Policy

if TYPE_CHECKING:
    from shoal.envs.agents import AgentsEnv


def match(
    policy: Policy,
    opponent: Any,
    env: str | Callable[..., Any] | Mapping[str, Any],
    games: int = 100,
    *,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    explore: bool = False,
) -> dict[str, Any]:
    """Play ``games`` of two agents against an opponent, half of them with either side.

    ``opponent`` is "random", another policy, or a function from an observation to an action. The
    policy takes its most likely actions; samples with ``explore``. The winner is who earns more.

    Returns ``games, wins, draws, losses``, ``points`` (of a game: a draw is half of one), and the
    same by side, under the names of the agents.

    Raises EnvError for what is no game of two agents, ShoalError for no games, and what
    ``shoal.evaluate`` does.
    """
    if games < 1:
        raise ShoalError(f"games is {games}", None, "play at least 1")
    sides: dict[str, dict[str, float]] = {}
    for me, you, played in _halves(policy, opponent, games, (env, env_kwargs, seed), explore):
        sides[me] = _counted([earned[me] - earned[you] for _, _, earned in played])
    total = {name: sum(own[name] for own in sides.values()) for name in _NAMES}
    total["points"] = (total["wins"] + total["draws"] / 2) / games
    return {**total, "games": games, "sides": sides}


_NAMES = "wins", "draws", "losses"


def returns_against(
    policy: Policy,
    opponent: Any,
    env: str | Callable[..., Any] | Mapping[str, Any],
    games: int,
    *,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The same games as ``evaluate`` tells of episodes: what the policy earned, and the lengths."""
    halves = _halves(policy, opponent, games, (env, env_kwargs, seed), False, progress)
    return summary([(earned[me], n) for me, _, played in halves for _, n, earned in played])


def _halves(
    policy: Policy,
    opponent: Any,
    games: int,
    place: Any,
    explore: bool,
    progress: Progress | None = None,
) -> Iterator[tuple[str, str, list[Any]]]:
    """With either side its agent, the opponent's, and the games: return, length, all returns."""
    env, kwargs, seed = place
    for side, number in enumerate((games - games // 2, games // 2)):
        if number:
            own = absolute(env), kwargs, seed + side * games
            yield _half(policy, opponent, side, number, own, explore, progress)


def _half(
    policy: Policy,
    opponent: Any,
    side: int,
    number: int,
    place: Any,
    explore: bool,
    progress: Progress | None,
) -> tuple[str, str, list[Any]]:
    """The games with one side."""
    env, kwargs, seed = place

    def assign(agents: Sequence[str]) -> dict[str, tuple[str, ...]]:
        if len(agents) != 2:
            raise EnvError(
                f"a match is between two agents, and there are {len(agents)}: {', '.join(agents)}",
                None,
                "take a game of two",
            )
        return {"policy": (agents[side],), "opponent": (agents[1 - side],)}

    seeds = range(seed, seed + number)
    copies = min(number, COPIES)
    both = {"policy": policy, "opponent": opponent}
    central = [name for name, player in both.items() if getattr(player, "searches", False)]
    made = make_for_evaluation(env, copies, seeds, kwargs=kwargs, assign=assign, central=central)
    world = cast("AgentsEnv", made)
    try:
        own, other = world.groups["policy"], world.groups["opponent"]
        check_group(policy, own.spaces, world.id)
        players = {
            "policy": policy,
            "opponent": Fixed("opponent", opponent, other.spaces, other.agents, world.id),
        }
        stream = seed if explore else None
        played = play_agents(players, world, number, stream, progress=progress)
    finally:
        world.close()
    return own.agents[0], other.agents[0], played


def _counted(ahead: list[float]) -> dict[str, float]:
    return {
        "wins": sum(x > 0 for x in ahead),
        "draws": sum(x == 0 for x in ahead),
        "losses": sum(x < 0 for x in ahead),
    }
