"""How good a policy is: whole episodes in environments of its own, and how they look."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shoal.algorithms.fixed import Fixed
from shoal.config.trust import absolute
from shoal.envs import VectorEnv, make_for_evaluation, rendering, seen
from shoal.envs.agents import ALL
from shoal.envs.base import ENDLESS
from shoal.errors import EnvError, ShoalError, SpaceError
from shoal.policy import Policy, Team
from shoal.process.machine import before_ffmpeg, cpus

if TYPE_CHECKING:
    from shoal.envs.agents import AgentsEnv

COPIES = 16  # of the environment, at most: the policy acts for all of them at once
Progress = Callable[[int, int], None]
Earned = dict[str, float]
# Return and length; with several agents, each one's return; with seats, that of each policy too.
Played = tuple[float, int] | tuple[float, int, Earned] | tuple[float, int, Earned, Earned]


def evaluate(
    policy: Policy | Team,
    env: str | Callable[..., Any] | Mapping[str, Any],
    episodes: int = 10,
    *,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    max_agents: int | None = None,
    explore: bool = False,
    video: str | Path | None = None,
    video_episodes: int = 3,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run whole episodes; episode i starts from ``reset(seed=seed + i)``.

    Up to 16 copies of the environment run side by side. Episodes are numbered in the order in which
    they begin, and the first ``episodes`` of them count, however long they are: taking those that
    end first would favour short ones. A vector environment (Atari games too) draws the seeds of its
    episodes from ``seed`` itself. The same arguments give the same returns, with ``explore`` too,
    which samples actions instead of taking the most likely ones.

    Args:
        policy: what acts; its spaces must be those of the environment, of which it sees what its
            view shows. With policies by agent, a `Team` of them.
        env: as for ``Trainer``; a constructor's ``worker_index`` is -1.
        env_kwargs: arguments of the environment.
        max_agents: that a policy has at once, for an environment without ``possible_agents``.
        video: a file (.mp4 or .gif) for the frames of the first ``video_episodes`` episodes, which
            one copy then plays alone, before the others begin.
        progress: called after every step with the number of episodes that have ended and the env
            steps so far.

    Returns ``return_mean, return_std, return_min, return_max, length_mean, episodes, returns``;
    with ``video`` also ``frames`` and ``video_s``, its length in seconds. With several agents, the
    return of an episode is the mean of theirs, and ``agents`` has the mean return of each, by name.
    With ``max_agents`` those are names of seats, of the agents that had them; with policies by
    agent, ``policies`` then has the mean return of each one's agents.

    Raises ShoalError for numbers below 1 and for a file that is no video; SpaceError if the policy
    does not fit the environment; EnvError if that cannot be made or rendered, breaks Gymnasium's
    contract, or does not end an episode within 200,000 env steps.
    """
    for name, number in (("episodes", episodes), ("video_episodes", video_episodes)):
        if number < 1:
            raise ShoalError(f"{name} is {number}", None, "run at least 1")
    env = absolute(env)
    filmed = min(video_episodes, episodes) if video is not None else 0
    played: list[Played] = []  # return and length
    stream = seed if explore else None

    def run(first: int, last: int, film: Film | None) -> None:
        """Episodes ``first`` to ``last - 1``, in copies of their own."""
        world = make_for_evaluation(
            env,
            1 if film else min(last - first, COPIES),
            range(seed + first, seed + last),
            kwargs=env_kwargs,
            threads=cpus(),
            render_mode="rgb_array" if film else None,
            assign=policy.algorithm.assign if isinstance(policy, Team) else None,
            central=[ALL] if policy.searches else [],
            max_agents=max_agents,
            policy_of=policy.algorithm.policy_of if isinstance(policy, Team) else None,
        )
        left = last - first
        try:
            if world.agents or isinstance(policy, Team):
                rest = left, stream, film, progress, played
                played.extend(play_agents(policy, cast("AgentsEnv", world), *rest))
            else:
                check_spaces(policy, world)
                world = seen(world, policy.view)
                played.extend(play(policy, world, left, stream, film, progress, played))
        finally:
            world.close()

    result: dict[str, Any] = {}
    if video is not None:
        film = Film(Path(video))
        try:
            run(0, filmed, film)
        finally:
            film.close()
        result = {"frames": film.frames, "video_s": film.frames / film.fps}
    if filmed < episodes:
        run(filmed, episodes, None)
    return summary(played) | result


def rehearse(
    env: str | Callable[..., Any] | Mapping[str, Any],
    seed: int,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    assign: Any = None,
    max_agents: int | None = None,
    policy_of: Any = None,
    video: Path | None = None,
) -> None:
    """Begin one episode, and with ``video`` film its first frame: raises what ``evaluate`` would.

    For who evaluates much later, and wants to know now whether that can be done.
    """
    film = None if video is None else Film(video)
    mode = None if film is None else "rgb_array"
    world = make_for_evaluation(
        absolute(env),
        1,
        range(seed, seed + 1),
        kwargs=env_kwargs,
        render_mode=mode,
        assign=assign,
        max_agents=max_agents,
        policy_of=policy_of,
    )
    try:
        if world.agents:
            cast("AgentsEnv", world).reset_groups()
        else:
            world.reset()
        if film is not None:
            film.add(world)
    finally:
        world.close()
        if film is not None:
            film.close()


def summary(played: Sequence[Played]) -> dict[str, Any]:
    """The returns and lengths of episodes in one flat vocabulary."""
    returns, lengths = zip(*((x[0], x[1]) for x in played), strict=True)
    agents, policies = ([x[i] for x in played if len(x) > i] for i in (2, 3))
    return {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": min(returns),
        "return_max": max(returns),
        "length_mean": float(np.mean(lengths)),
        "episodes": len(played),
        "returns": list(returns),
        **({"agents": _means(agents)} if agents else {}),
        **({"policies": _means(policies)} if policies else {}),
    }


def _means(episodes: Sequence[Any]) -> Earned:
    """The mean of each name over the episodes that have it."""
    names = dict.fromkeys(name for earned in episodes for name in earned)
    return {name: float(np.mean([x[name] for x in episodes if name in x])) for name in names}


def play(
    policy: Policy,
    world: VectorEnv,
    episodes: int,
    seed: int | None,
    film: Film | None = None,
    progress: Progress | None = None,
    before: Sequence[Played] = (),
) -> list[tuple[float, int]]:
    """Return and length of the first ``episodes`` episodes, in the order in which they began.

    With ``seed`` actions are samples. Each episode has a stream of random numbers of its own, so
    that it does not depend on the number of copies; ``before`` are those that were played already.
    """
    obs = world.reset()
    policy.reset()
    slots = world.slots
    number = np.arange(slots)  # of each copy's running episode
    begun, ended = slots, 0
    returns, lengths = np.zeros(slots), np.zeros(slots, np.int64)
    found: dict[int, tuple[float, int]] = {}
    done, steps = len(before), sum(each[1] for each in before)

    def generator(slot: int) -> np.random.Generator:
        return np.random.default_rng([seed or 0, done + int(number[slot])])

    rngs = None if seed is None else [generator(slot) for slot in range(slots)]
    while ended < episodes:
        if film is not None:
            film.add(world)
        step = world.step(policy.choose(obs, rngs))
        obs = step.obs
        happened = np.ones(slots, bool) if step.valid is None else step.valid
        begins = ~happened  # an environment that resets itself in a step of its own
        if step.final is not None:
            begins[step.final[0]] = True
        policy.reset(begins)
        if rngs is not None:
            for slot in np.flatnonzero(~happened).tolist():  # its draws here were for nothing
                rngs[slot] = generator(slot)
        counted = happened & (number < episodes)
        returns += np.where(happened, step.reward, 0.0)
        lengths += happened
        steps += int(np.count_nonzero(counted))
        for slot in np.flatnonzero(step.over & happened).tolist():
            if number[slot] < episodes:
                found[int(number[slot])] = float(returns[slot]), int(lengths[slot])
                ended += 1
            number[slot], begun = begun, begun + 1
            returns[slot], lengths[slot] = 0.0, 0
            if rngs is not None:
                rngs[slot] = generator(slot)
        if lengths.max() >= ENDLESS:
            _refuse_endless(world.id, lengths[number < episodes])
        if progress is not None:
            progress(done + ended, steps)
    return [found[i] for i in range(episodes)]


def play_agents(
    policy: Policy | Team | Mapping[str, Any],
    world: AgentsEnv,
    episodes: int,
    seed: int | None,
    film: Film | None = None,
    progress: Progress | None = None,
    before: Sequence[Played] = (),
) -> list[Played]:
    """The same with several agents: the mean of their returns, the length, and each one's return.

    An episode begins and ends with that of all agents. Every agent has its own random numbers.
    """
    players = _players(policy, world)
    per, copies, turns = len(world.agents), world.copies, world.takes_turns
    hides = isinstance(policy, Policy) and policy.view
    lens = policy.view.of(world.spaces) if isinstance(policy, Policy) and hides else None
    obs = world.reset_groups()
    for each in players.values():
        each.reset()
    number = np.arange(copies)  # of each copy's running episode
    begun, ended = copies, 0
    returns, lengths = np.zeros((copies, per)), np.zeros(copies, np.int64)
    lives = np.zeros((copies, per), np.int64)  # agents whose episode has ended in a seat
    columns = {
        name: [world.agents.index(agent) for agent in group.agents]
        for name, group in world.groups.items()
    }
    found: dict[int, Played] = {}
    done, steps = len(before), sum(each[1] for each in before)

    def generators(copy: int) -> list[np.random.Generator]:
        own = [seed or 0, done + int(number[copy])]
        return [np.random.default_rng([*own, i] if per > 1 else own) for i in range(per)]

    rngs = [generators(copy) for copy in range(copies)]
    while ended < episodes:
        if film is not None:
            film.add(world)
        actions = {}
        acted = {name: group.acts.copy() for name, group in world.groups.items()}
        for name, player in players.items():
            own = [rngs[copy][i] for copy in range(copies) for i in columns[name]]
            draws = own if seed is not None or isinstance(player, Fixed) else None
            shown = obs[name] if lens is None else lens(obs[name])
            actions[name] = player.choose(shown, draws, acted[name])
        taken = world.step_groups(actions)
        for name, step in taken.items():
            obs[name] = step.obs
            begins = np.zeros(len(acted[name]), bool) if turns else ~acted[name]
            if step.final is not None:
                begins[step.final[0]] = True
            players[name].reset(begins)
            returns[:, columns[name]] += step.reward.reshape(copies, -1)
            lives[:, columns[name]] += step.over.reshape(copies, -1)
        lengths += 1
        steps += int(np.count_nonzero(number < episodes))
        for copy in np.flatnonzero(world.over).tolist():
            if number[copy] < episodes:
                told = _episode(world, returns[copy], lives[copy], lengths[copy])
                found[int(number[copy])] = told
                ended += 1
            number[copy], begun = begun, begun + 1
            returns[copy], lives[copy], lengths[copy] = 0.0, 0, 0
            rngs[copy] = generators(copy)
        _refuse_endless(world.id, lengths[number < episodes])
        if progress is not None:
            progress(done + ended, steps)
    return [found[i] for i in range(episodes)]


def _episode(world: AgentsEnv, returns: Any, lives: Any, length: Any) -> Played:
    """What is told of an episode with these returns, and ``lives``, of each slot [agents]."""
    agents = np.array(world.agents)
    if world.max_agents is None:
        earned = dict(zip(world.agents, returns.tolist(), strict=True))
        return float(returns.mean()), int(length), earned
    taken = lives > 0
    mine = (returns[taken] / lives[taken]).tolist()
    earned = dict(zip(agents[taken].tolist(), mine, strict=True))
    means = {}
    for name, group in world.groups.items():
        own = np.isin(agents, group.agents)
        if name and lives[own].any():
            means[name] = float(returns[own].sum() / lives[own].sum())
    mean = float(returns.sum() / lives.sum())
    return (mean, int(length), earned, means) if means else (mean, int(length), earned)


def _players(policy: Policy | Team | Mapping[str, Any], world: AgentsEnv) -> Mapping[str, Any]:
    """What acts for each group of agents."""
    if isinstance(policy, Mapping):
        return policy
    if isinstance(policy, Team):
        for name, each in policy.policies.items():
            check_group(each, world.groups[name].spaces, world.id)
        return {**policy.players(world.groups, world.id)}
    check_spaces(policy, world)
    if policy.view.previous:
        raise EnvError(f"the policy sees its previous action, and {world.id!r} has agents")
    return dict.fromkeys(world.groups, policy)


def _refuse_endless(id: str, lengths: Any) -> None:
    """Raise EnvError if an episode that is waited for does not end."""
    if (lengths >= ENDLESS).any():
        raise EnvError(
            f"an episode of {id!r} has not ended within {ENDLESS:,} env steps",
            None,
            "give the environment a time limit: max_episode_steps in env_kwargs, for an id",
        )


def check_spaces(policy: Policy, world: VectorEnv) -> None:
    """Raise SpaceError if the policy was made for other observations or actions."""
    check_group(policy, world.spaces, world.id)


def check_group(policy: Policy, found: Any, id: str) -> None:
    """The same for the spaces of some agents of the environment ``id``."""
    wanted, found = policy.spaces, found.local
    pairs = [
        ("it sees", wanted.observation, found.observation),
        ("it takes the actions", wanted.action, found.action),
    ]
    same = [_form(wanted) == _form(found), wanted.action == found.action]
    for (what, own, other), fits in zip(pairs, same, strict=True):
        if not fits:
            raise SpaceError(
                f"the policy does not fit the environment {id!r}: {what} {own}, but the "
                f"environment has {other}",
                None,
                "evaluate it on the environment that it was trained on, or one of the same spaces",
            )
    if wanted.masked != found.masked:
        with_, without = ("policy", "environment") if wanted.masked else ("environment", "policy")
        raise SpaceError(
            f"the {with_} has an action mask, and the {without} has none ({id!r})",
            None,
            "evaluate on an environment that gives masks as the one of training did",
        )


def _form(spaces: Any) -> list[tuple[Any, ...]]:
    """What a network takes; bounds may differ."""
    return [(x.path, x.kind, x.shape, x.dtype, x.n, x.start) for x in spaces.leaves]


class Film:
    """Writes the frames of an environment to a file, one after the other."""

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".mp4", ".gif"):
            raise ShoalError(
                f"a video file ends in .mp4 or .gif, not {path.suffix or 'nothing'!r}",
                str(path),
                f"write to {path.with_suffix('.mp4')}",
            )
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen too
        self.path, self.frames, self.fps = path, 0, 30.0
        self._writer: Any = None

    def add(self, world: VectorEnv) -> None:
        """What the first copy shows now: uint8 [H, W, 3]."""
        with rendering(world.id):
            frame = np.asarray(world.render())
        if self._writer is None:
            self.fps = world.fps or self.fps
            self._writer = self._open()
        # H.264 wants even sides; a row or a column less is not seen.
        self._writer.append_data(frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2])
        self.frames += 1

    def close(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> Any:
        import imageio.v2 as imageio

        before_ffmpeg()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.suffix == ".gif":
            return imageio.get_writer(self.path, mode="I", duration=1000 / self.fps, loop=0)
        return imageio.get_writer(self.path, fps=self.fps, codec="libx264", macro_block_size=2)
