"""Whether an environment is ready to be trained on: a list of findings, with what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from shoal.envs.base import NDArray, Obs, Step, VectorEnv
from shoal.envs.make import make
from shoal.envs.pettingzoo import is_agents
from shoal.envs.source import find
from shoal.errors import ShoalError, cut
from shoal.process.machine import cpus
from shoal.process.tracebacks import describe
from shoal.spaces.base import ACTION_MASK, Spaces

STEPS = 2000  # env steps that are looked at
SAME = 200  # env steps in which two runs of one seed are compared
_CHEAP, _DEAR = 20e-6, 200e-6  # seconds of an env step: below, sending it costs more
_WIDE = 100.0  # an observation beyond this is best normalised
_LARGE = 100.0  # likewise a return, for value functions
PASSED, WARNED, FAILED = "passed", "warned", "failed"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: str  # "passed", "warned" or "failed"
    what: str
    fix: str = ""

    def __str__(self) -> str:
        mark = {PASSED: "ok    ", WARNED: "warn  ", FAILED: "FAILED"}[self.state]
        lines = self.what.split("\n")
        text = "\n".join([f"{mark}  {lines[0]}", *(f"        {line}" for line in lines[1:])])
        return f"{text}\n        to do: {self.fix}" if self.fix else text


@dataclass
class Examined:
    """What was found of an environment, in the order in which it was looked at."""

    id: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing failed; warnings are advice."""
        return not any(finding.state == FAILED for finding in self.findings)

    def __str__(self) -> str:
        states = [finding.state for finding in self.findings]
        counts = ", ".join(f"{states.count(s)} {s}" for s in (PASSED, WARNED, FAILED))
        return "\n".join([*map(str, self.findings), f"{self.id}: {counts}"])


def check_env(
    env: str | Callable[..., Any] | Mapping[str, Any],
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
    max_agents: int | None = None,
) -> Examined:
    """Look at an environment before it is trained on, with random actions.

    Gymnasium's own checker; what Shoal needs beyond it (spaces, shapes, dtypes, numbers, flags);
    whether a seed decides all, and whether copies are independent; whether episodes end; how long
    a step takes, and what that means for workers; and advice on the scale of observations and
    rewards.

    Args:
        env: as for ``Trainer``.
        env_kwargs: arguments of the environment.
        steps: env steps that are taken, in two copies.
        seed: of them and of the actions.
        max_agents: that there are at once, for an environment without ``possible_agents``.

    What is wrong is among the findings. Raises nothing but KeyboardInterrupt.
    """
    found = Examined(str(env) if isinstance(env, str) else getattr(env, "__name__", repr(env)))
    own: dict[str, Any] = {"kwargs": dict(env_kwargs or {}), "max_agents": max_agents}
    with _noting(found, "it cannot be made"):
        source = find(env, own["kwargs"])
        found.id = source.id
        single = source.create()
        agents = is_agents(single)
        if not agents:
            _gymnasium(found, single)
        single.close()
    if not found.ok:
        return found
    world = None
    with _noting(found, "copies of it cannot be made"):
        world = make(env, 2, seed=seed, **own)
        _spaces(found, world.spaces)
    if world is None or not found.ok:
        return found
    with closing(world), _noting(found, "it fails with random actions"):
        _played(found, world, steps, seed)
    if found.ok:
        again = lambda first: make(env, 2, seed=first, **own)  # noqa: E731
        with _noting(found, "it fails when it is made once more"):
            _seeds(found, again, seed, agents)
        _sent(found, env)
    return found


@contextmanager
def _noting(found: Examined, what: str) -> Iterator[None]:
    """An error in here is a finding."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = describe(error).split("\n")
        found.findings.append(Finding(FAILED, "\n".join([f"{what}: {lines[0]}", *lines[1:]])))


def _gymnasium(found: Examined, env: Any) -> None:
    """What Gymnasium's checker says. It looks at the bare environment, without wrappers."""
    import gymnasium
    from gymnasium.utils.env_checker import check_env as checker

    if not isinstance(env, gymnasium.Env):
        return
    said: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            checker(env.unwrapped, skip_render_check=True, skip_close_check=True)
        said = [str(w.message) for w in noted if "gymnasium" in str(w.filename)]
    except (Exception, SystemExit) as error:
        what = f"Gymnasium's checker: {cut(str(error)) or type(error).__name__}"
        # It holds environments to more than training needs: what training needs is looked at next.
        found.findings.append(Finding(WARNED, what))
        return
    for text in dict.fromkeys(said):
        found.findings.append(Finding(WARNED, f"Gymnasium's checker: {_plain(text)}"))
    if not said:
        found.findings.append(Finding(PASSED, "Gymnasium's checker has nothing to say"))


def _plain(text: str) -> str:
    """Without the colours and the mark of Gymnasium's warnings."""
    for code in ("\x1b[33m", "\x1b[0m", "WARN: "):
        text = text.replace(code, "")
    return cut(text.strip())


def _spaces(found: Examined, spaces: Spaces) -> None:
    add = found.findings.append
    leaves = ", ".join(f"{leaf.path} {leaf.dtype} {list(leaf.shape)}" for leaf in spaces.leaves)
    mask = " and an action mask" if spaces.masked else ""
    add(Finding(PASSED, f"a policy sees {leaves}{mask}; it acts in {spaces.action}"))
    if spaces.action_kind == "box":
        low, high = spaces.action.low, spaces.action.high
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            add(
                Finding(
                    WARNED,
                    "the actions have no bounds, so that they are not rescaled",
                    "give the Box the bounds within which actions make a difference",
                )
            )


def _played(found: Examined, world: VectorEnv, steps: int, seed: int) -> None:
    """Random actions: ends, numbers, times."""
    rng, spaces, slots = np.random.default_rng(seed), world.spaces, world.slots
    start = perf_counter()
    obs = world.reset(seed)
    reset_s = (perf_counter() - start) / slots
    extreme = {leaf.path: 0.0 for leaf in spaces.leaves if leaf.kind == "box"}
    returns, lengths = np.zeros(slots), np.zeros(slots, int)
    ended: list[tuple[float, int]] = []
    rewards, kinds, spent = [], [0, 0], 0.0
    for _ in range(-(-steps // slots)):
        for path in extreme:
            extreme[path] = max(extreme[path], float(np.abs(obs[path]).max(initial=0.0)))
        action = _random(spaces, obs, rng, slots)
        start = perf_counter()
        step = world.step(action)
        spent += perf_counter() - start
        obs = step.obs
        returns += step.reward
        lengths += 1
        rewards.append(step.reward.copy())
        for slot in np.flatnonzero(step.over):
            ended.append((float(returns[slot]), int(lengths[slot])))
            kinds[int(step.truncated[slot])] += 1
            returns[slot], lengths[slot] = 0.0, 0
    add = found.findings.append
    taken = len(rewards) * slots
    add(Finding(PASSED, f"{taken:,} env steps with random actions keep to the spaces"))
    _ends(found, ended, kinds, taken)
    _scales(found, spaces, extreme, np.concatenate(rewards), ended)
    _cost(found, spent / taken, reset_s)


def _ends(found: Examined, ended: list[tuple[float, int]], kinds: list[int], taken: int) -> None:
    if not ended:
        what = f"no episode ended within {taken:,} env steps of random actions"
        fix = "give it a time limit: max_episode_steps in gymnasium.register, or TimeLimit"
        found.findings.append(Finding(WARNED, what, fix))
        return
    length = np.mean([n for _, n in ended])
    what = (
        f"{len(ended)} episodes ended, of {length:.0f} env steps on the average: "
        f"{kinds[0]} terminated, {kinds[1]} truncated by a limit"
    )
    found.findings.append(Finding(PASSED, what))


def _scales(
    found: Examined,
    spaces: Spaces,
    extreme: Mapping[str, float],
    rewards: NDArray,
    ended: list[tuple[float, int]],
) -> None:
    add = found.findings.append
    images = {x.path for x in spaces.leaves if x.dtype == np.uint8}
    wide = {k: x for k, x in extreme.items() if x > _WIDE and k not in images}
    if wide:
        path, value = max(wide.items(), key=lambda item: item[1])
        what = f"the observation {path!r} goes up to {value:,.0f}"
        add(
            Finding(
                WARNED, what, "--normalise-obs true, or bounds in its Box: Shoal scales by them"
            )
        )
    if not rewards.any():
        what = f"every reward of {rewards.size:,} env steps with random actions is 0"
        add(Finding(WARNED, what, "with luck alone it is hard to learn: shape it, or demonstrate"))
        return
    largest = max((abs(total) for total, _ in ended), default=float(np.abs(rewards).max()))
    text = f"rewards from {rewards.min():.3g} to {rewards.max():.3g}"
    if ended:
        text += f", returns {np.mean([x for x, _ in ended]):.4g} on the average"
    if largest > _LARGE:
        add(Finding(WARNED, f"{text}: large for a value function", "--scale-reward true"))
    else:
        add(Finding(PASSED, text))


def _cost(found: Examined, step_s: float, reset_s: float) -> None:
    have = cpus()
    text = f"an env step takes {1e6 * step_s:,.0f} us, a reset {1e6 * reset_s:,.0f} us"
    if step_s < _CHEAP:
        advice = "so cheap that sampling in one process is fastest (--workers 0, the default)"
    elif have < 2:
        advice = "this machine has one CPU: sample in one process, or on a cluster"
    elif step_s < _DEAR:
        advice = f"workers may help: try --workers {have}, and compare the steps/s"
    else:
        advice = f"workers help: --workers {have} here, more on a cluster"
    found.findings.append(Finding(PASSED, f"{text}: {advice}"))


def _seeds(found: Examined, again: Callable[[int], VectorEnv], seed: int, agents: bool) -> None:
    """Whether a seed decides all, and whether copies are independent."""
    add = found.findings.append
    one = _trace(again, seed, (1, 2))
    two = _trace(again, seed, (1, 2))
    at = _first_difference(one, two, None)
    if at is not None:
        add(
            Finding(
                FAILED,
                f"the same seed and actions gave something else at env step {at}",
                "draw all random numbers from self.np_random, which reset(seed=seed) sets",
            )
        )
        return
    add(Finding(PASSED, "the same seed and actions give the same env steps"))
    at = _first_difference(one, _trace(again, seed, (1, 3)), None if agents else 0)
    if at is not None and not agents:
        add(
            Finding(
                FAILED,
                f"what one copy does depends on the actions in another one, from env step {at} on",
                "keep all state in the object (self...), none in the class or the module",
            )
        )
    elif not agents:
        add(Finding(PASSED, "copies are independent of each other"))
    others = [_trace(again, seed + i, (1, 2)) for i in (1, 2, 3)]
    if all(_first_difference(one, other, None) is None for other in others):
        add(
            Finding(
                WARNED,
                "other seeds give the same env steps",
                "fine if it is meant to be deterministic; else begin reset with "
                "super().reset(seed=seed)",
            )
        )


Trace = list[tuple[Obs, NDArray, NDArray]]


def _trace(again: Callable[[int], VectorEnv], seed: int, actions: tuple[int, int]) -> Trace:
    """Some env steps: the actions of the first half of the slots are drawn from the first seed.

    It ends with the first episode, so that what follows of one copy cannot depend on when another
    one's ends.
    """
    with closing(again(seed)) as world:
        obs, half = world.reset(seed), world.slots // 2
        rngs = [np.random.default_rng(each) for each in actions]
        nothing = np.zeros(world.slots, np.float32)
        trace: Trace = [(_copy(obs), nothing, nothing)]
        for _ in range(SAME):
            action = _random(world.spaces, obs, rngs[0], world.slots)
            action[half:] = _random(world.spaces, obs, rngs[1], world.slots)[half:]
            step: Step = world.step(action)
            obs = step.obs
            if step.over.any():
                break
            trace.append((_copy(obs), step.reward.copy(), step.terminated.copy()))
    return trace


def _copy(obs: Obs) -> Obs:
    return {path: x.copy() for path, x in obs.items()}


def _first_difference(one: Trace, other: Trace, slot: int | None) -> int | None:
    """The first step at which two traces differ (of one slot), up to the end of the shorter."""
    rows = slice(None) if slot is None else slice(slot, slot + 1)
    for at, ((obs, *flags), (other_obs, *other_flags)) in enumerate(zip(one, other, strict=False)):
        pairs = [(x, other_obs[path]) for path, x in obs.items()]
        pairs += list(zip(flags, other_flags, strict=True))
        if not all(np.array_equal(x[rows], y[rows]) for x, y in pairs):
            return at
    return len(one) if slot is None and len(one) != len(other) else None


def _random(spaces: Spaces, obs: Obs, rng: np.random.Generator, slots: int) -> NDArray:
    """Random legal actions in policy form, [slots, ...]."""
    if spaces.action_kind == "box":
        low, high = spaces.action_bounds
        low, high = np.maximum(low, -10.0), np.minimum(high, 10.0)
        return rng.uniform(low, high, (slots, spaces.action_dim)).astype(np.float32)
    out = np.zeros((slots, spaces.action_dim), np.int64)
    mask, start = obs.get(ACTION_MASK), 0
    for component, n in enumerate(spaces.action_n):
        score = rng.random((slots, n))
        if mask is not None:
            score = np.where(mask[:, start : start + n], score, -1.0)
        out[:, component] = score.argmax(-1)
        start += n
    return out.reshape(slots, *spaces.action_shape)


def _sent(found: Examined, env: Any) -> None:
    """Whether workers in other processes can be given it."""
    if isinstance(env, str | Mapping):
        return
    from shoal.fleet.failure import sendable

    try:
        sendable(env, {"the environment": env})
    except ShoalError as error:
        found.findings.append(Finding(WARNED, error.what, error.fix or ""))
    else:
        found.findings.append(Finding(PASSED, "workers in other processes can be given it"))
