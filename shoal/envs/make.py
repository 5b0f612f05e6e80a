"""From what a user writes to a vector environment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shoal.envs.base import VectorEnv
from shoal.envs.pettingzoo import is_agents
from shoal.envs.source import find, unavailable
from shoal.errors import ConfigError, EnvError

if TYPE_CHECKING:
    from shoal.envs.agents import Assign
    from shoal.envs.seats import PolicyOf

FEW = (
    4  # copies; up to this number a loop is quicker (CartPole-v1: 19 us for one and 67 us for four,
)
# where Gymnasium's vector form takes 55 to 80 us for any number up to eight)


def make(
    env: str | Callable[..., Any] | Mapping[str, Any],
    slots: int,
    *,
    kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    threads: int = 1,
    worker: int = 0,
    assign: Assign | None = None,
    central: Collection[str] = (),
    max_agents: int | None = None,
    policy_of: PolicyOf | None = None,
    plays: bool = False,
) -> VectorEnv:
    """`slots` copies of an environment as one vector environment.

    Args:
        env: a Gymnasium id (`"CartPole-v1"`, `"ALE/Pong-v5"`, `"module:Id-v0"`); a PettingZoo
            module (`"pettingzoo:mpe2/simple_spread_v3"`, `"pettingzoo:classic/connect_four_v3"`); a
            callable that returns a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` or a PettingZoo
            environment; such a callable as `"module:name"` or `"folder/file.py:name"`; or
            `{"id": any of these, "kwargs": {...}}`.
        slots: number of copies.
        kwargs: arguments of the environment.
        seed: makes everything reproducible until `reset(seed)` does.
        threads: that may step the copies if the environment has threads (Atari); what is sampled
            does not depend on it.
        worker: number of the worker that the copies belong to.
        assign: which agents form which group, if there are several: see `AgentsEnv`.
        central: groups whose critic sees the environment's `state()`; "" is that of all agents.
        max_agents, policy_of: for agents that are not known in advance: see `AgentsEnv`.
        plays: of a game (`"tic_tac_toe"`), one slot for each copy, in which whoever moves acts;
            else a game has two agents in turn. Anything but a game is refused.

    A constructor or callable that names one of these parameters is given it, unless `kwargs` do:
    `worker_index`, the worker's number; `env_index`, the copy's number within the worker;
    `num_envs`, the number of copies, for a callable that returns a vector environment.

    Atari games are preprocessed as in the literature (`shoal.envs.atari`); arguments that only
    the raw environment has leave them raw. For more than a few copies of other ids, the vector form
    that they are registered with is used if it has the same spaces as the single environment and
    takes the same arguments; else the copies are stepped in a loop.

    Raises EnvError if it cannot be made, with what to install; SpaceError for spaces that are not
    supported. What the user's own code raises keeps its type and traceback.
    """
    from gymnasium.vector import VectorEnv as GymnasiumVector

    from shoal.envs.agents import AgentsEnv
    from shoal.envs.atari import make_vector
    from shoal.envs.native import NativeVector
    from shoal.envs.serial import SerialEnv

    if slots < 1:
        raise EnvError(f"cannot make {slots} copies of an environment", fix="make at least one")
    if plays:
        _refuse_number(str(env), max_agents)
        return _played(env, slots, kwargs or {}, seed)
    source = find(env, kwargs or {})
    source.worker = worker
    if source.atari is not None and not central:
        _refuse_number(source.id, max_agents)
        return make_vector(source.id, source.atari, slots, seed=seed, threads=threads)
    vector = source.vector(slots) if slots > FEW else None
    if vector is None:
        vector = source.create(0, slots)
    with source.located():
        if is_agents(vector):
            return AgentsEnv(
                source.create,
                slots,
                id=source.id,
                assign=assign,
                seed=seed,
                made=(vector,),
                central=central,
                max_agents=max_agents,
                policy_of=policy_of,
            )
        refuse_assigned(source.id, assign)
        _refuse_number(source.id, max_agents, vector)
        if central:
            vector.close()
            raise EnvError(
                f"a central critic sees the state() of an environment of several agents, and "
                f"{source.id!r} is none",
                fix="leave out algorithm.central",
            )
        if not isinstance(vector, GymnasiumVector):
            return SerialEnv(source.create, slots, id=source.id, seed=seed, made=(vector,))
        world = NativeVector(vector, id=source.id, seed=seed)
    if world.slots != slots:
        world.close()
        raise EnvError(
            f"{source.id!r} made a vector environment of {world.slots} copies, not {slots}",
            where=source.where,
            fix=f"give it a parameter num_envs, or ask for {world.slots} copies",
        )
    return world


def _played(env: Any, slots: int, kwargs: Mapping[str, Any], seed: int | None) -> VectorEnv:
    """Copies of a game as whoever moves sees them."""
    from shoal.envs.game import GameVector
    from shoal.envs.native import NativeVector
    from shoal.games.find import find_game

    game = find_game(env, kwargs)
    return NativeVector(GameVector(game, slots), id=game.name, seed=seed, spaces=game.spaces)


def make_for_evaluation(
    env: str | Callable[..., Any] | Mapping[str, Any],
    slots: int,
    seeds: range,
    *,
    kwargs: Mapping[str, Any] | None = None,
    threads: int = 1,
    render_mode: str | None = None,
    assign: Assign | None = None,
    central: Collection[str] = (),
    max_agents: int | None = None,
    policy_of: PolicyOf | None = None,
) -> VectorEnv:
    """What `make` makes, for whole episodes; with `render_mode`, the first copy renders.

    `seeds` are those of the episodes, in the order in which they begin; copies for which none is
    left stand still. A vector environment draws its own from the first of them, and may have
    another number of copies than `slots`. Atari games end with the last life only. `worker_index`
    is -1, which no worker has that trains.

    Raises what `make` does; also EnvError if it does not render in that mode.
    """
    from gymnasium.vector import VectorEnv as GymnasiumVector

    from shoal.envs.agents import AgentsEnv
    from shoal.envs.atari import make_whole
    from shoal.envs.native import NativeVector
    from shoal.envs.serial import SerialEnv

    source = find(env, kwargs or {})
    source.worker, source.render_mode = -1, render_mode
    if source.atari is not None:
        film = render_mode is not None
        return make_whole(source.id, source.atari, slots, seeds[0], threads=threads, film=film)
    made = source.create(0, slots)
    world: VectorEnv
    with source.located():
        if is_agents(made):
            world = AgentsEnv(
                source.create,
                slots,
                id=source.id,
                assign=assign,
                seeds=seeds,
                made=(made,),
                central=central,
                max_agents=max_agents,
                policy_of=policy_of,
            )
        elif isinstance(made, GymnasiumVector):
            refuse_assigned(source.id, assign)
            world = NativeVector(made, id=source.id, seed=seeds[0])
        else:
            world = SerialEnv(source.create, slots, id=source.id, seeds=seeds, made=(made,))
    if render_mode is not None and made.render_mode != render_mode:
        world.close()
        raise EnvError(
            f"the environment {source.id!r} does not render in the mode {render_mode!r}",
            where=source.where,
            fix="let it take a parameter render_mode and set self.render_mode to it",
        )
    return world


def refuse_assigned(id: str, assign: Assign | None) -> None:
    """Raise EnvError if there are policies for agents that the environment does not have."""
    if assign is not None:
        raise EnvError(
            f"{id!r} has no agents to give policies to: it is no PettingZoo environment",
            fix="train one algorithm on it",
        )


def _refuse_number(id: str, max_agents: int | None, made: Any = None) -> None:
    """Raise ConfigError, and close what was made, if agents are counted where there are none."""
    if max_agents is not None:
        if made is not None:
            made.close()
        raise ConfigError(
            f"rollout.max_agents is {max_agents}, but nothing reads it: {id!r} has no agents",
            None,
            "leave it out",
        )


@contextmanager
def rendering(id: str) -> Iterator[None]:
    """What drawing needs is loaded by the first frame only: say what to install, or to set."""
    try:
        yield
    except Exception as error:
        lacking = unavailable(id, error, "rendered")
        if lacking is None:
            raise
        raise lacking from error
