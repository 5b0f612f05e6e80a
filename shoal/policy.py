"""A policy: what a trained agent does, as one object that needs neither learner nor fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from shoal.algorithms.base import Algorithm, Model
from shoal.algorithms.by_policy import split
from shoal.algorithms.fixed import Fixed
from shoal.algorithms.memory import Memory
from shoal.algorithms.off_policy import TARGET
from shoal.algorithms.policies import Policies
from shoal.checkpoint import files as checkpoint
from shoal.errors import CheckpointError, ConfigError, SpaceError
from shoal.games.find import find_game
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.spaces.base import Spaces
from shoal.spaces.team import TeamSpaces
from shoal.spaces.view import ALL, View
from shoal.systems.saved import Saved
from shoal.trajectory import Obs, ndarray


class Policy:
    """Acts on observations as its environment gives them.

    It holds everything that acting takes: weights, normalisation, action masks, rescaling, and the
    view of an environment of these ``spaces`` that it was trained with. What it remembers, and its
    previous action, belong to the episode: call ``reset`` when another one begins.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        spaces: Spaces,
        weights: Mapping[str, ndarray],
        seed: int = 0,
        view: View = ALL,
    ) -> None:
        self.algorithm, self.spaces, self.view = algorithm, spaces.local, view
        self._lens = view.of(self.spaces)
        seen = spaces if spaces.state is not None else self._lens.spaces
        self.searches = algorithm.plays and spaces.state is not None  # so it is given the state
        self.model: Model = algorithm.model(seen, build)
        self._taken: ndarray | None = None  # the last action in policy form, since the last reset
        self._begins: ndarray | None = None  # where an episode has begun since, bool [...]
        self._memory = Memory(algorithm, self.model)
        self.remembered: Obs = {}  # since the last reset: {leaf: [..., *shape]}
        self.set_weights(weights)
        self.rng = np.random.default_rng(seed)

    def __repr__(self) -> str:
        size = sum(x.size for name, x in self.weights.items() if name in self.model.net.shapes())
        return f"<Policy: {type(self.algorithm).__name__}, {size:,} weights>"

    @property
    def acts_like(self) -> tuple[Any, ...]:
        """What makes actions of weights: equal for policies that could swap theirs."""
        network: Any = getattr(self.algorithm, "network", None)
        own = network if isinstance(network, Network) else type(network)
        return own, type(self.algorithm).act, self.model.net.shapes(), self.view

    def set_weights(self, weights: Mapping[str, ndarray]) -> None:
        """Act with these from now on."""
        # If each environment explores in its own way, the policy explores as the first does.
        explore = {k: x[:1] for k, x in weights.items() if k.startswith("explore/") and x.ndim}
        self.weights = {**self.algorithm.exploration(0, 1), **weights, **explore}

    def act(
        self, obs: Any, *, reward: Any = None, explore: bool = False, action_mask: Any = None
    ) -> Any:
        """The action, ready for ``env.step``, for one observation or a batch of them.

        ``obs`` is in the environment's own form (an array, or a dict or tuple of them), with any
        leading axes. ``reward`` is what the action before it earned, of the same axes; it must be
        given, after an episode's first step, to a policy that was trained with the previous action
        and reward (``rollout.previous``); others ignore it. ``explore=False`` takes the most likely
        action, True samples. ``action_mask`` is that of ``info``, if the environment gives it
        there: bool [..., choices], or a tuple of one for each component. The action has the space's
        shape and dtype; one of a Discrete space is an int.

        Raises SpaceError for an observation that does not fit, and for a reward that is missing.
        """
        flat = self.spaces.flatten(obs)
        if action_mask is not None:
            flat["action_mask"] = self.spaces.flatten_mask(action_mask)
        flat = self._seen(flat, reward)
        chosen = self.choose(flat, self.rng if explore else None)
        if self.view.previous:
            self._taken, self._begins = chosen, np.zeros(_axes(self.model.spaces, flat), bool)
        action = self.spaces.to_env(chosen)
        return int(action) if self.spaces.action_kind == "discrete" and not action.ndim else action

    def _seen(self, flat: Obs, reward: Any) -> Obs:
        """The view of these observations, with the previous action and reward if it has them."""
        if not self.view:
            return flat
        seen = self._lens(flat)
        if not self.view.previous:
            return seen
        axes = _axes(self.spaces, flat)
        if self._begins is None or self._begins.shape != axes:
            self._taken, self._begins = None, np.ones(axes, bool)  # episodes begin
        if self._taken is None or self._begins.all():
            return {**seen, **self._lens.initial(axes)}
        if reward is None or np.shape(reward) != axes:
            given = "not given" if reward is None else f"given with the shape {np.shape(reward)}"
            raise SpaceError(
                f"the policy sees the previous reward, which was {given}",
                "Policy.act",
                f"policy.act(obs, reward=...), of shape {axes}; policy.reset() where an episode "
                "begins",
            )
        previous = self._lens.previous(self._taken, reward)
        for x in previous.values():
            x[self._begins] = 0
        return {**seen, **previous}

    def choose(
        self,
        obs: Mapping[str, ndarray],
        rng: np.random.Generator | Sequence[np.random.Generator] | None = None,
        acts: ndarray | None = None,
    ) -> ndarray:
        """Actions in policy form (see ``shoal.spaces.base``) for ``{leaf: [..., *shape]}``.

        ``obs`` is what the policy's view shows of observations (``view.of(spaces)``). The actions
        are the most likely ones; with ``rng``, samples. If each of a batch has a generator of its
        own, its samples do not depend on the others. The memory of rows in which nobody ``acts``
        (bool [...]) stays as it is.
        """
        axes = _axes(self.model.spaces, obs)
        dist, noise = self.model.dist, None
        if isinstance(rng, np.random.Generator):
            noise = dist.noise(rng, axes)
        elif rng is not None:
            noise = np.stack([dist.noise(each, ()) for each in rng])
        if self._memory:
            kept = self.remembered
            shapes = {path: (*axes, *x.shape) for path, x in self._memory.initial.items()}
            if {path: x.shape for path, x in kept.items()} != shapes:
                kept = self._memory.begin(axes)
            obs = {**obs, **kept}
        if acts is not None and self.algorithm.plays:  # where nobody moves, nothing is searched
            moves = np.zeros(axes, np.int64)
            drawn = None if noise is None else noise[acts]
            rows = {path: x[acts] for path, x in obs.items()}
            moves[acts], _ = self.algorithm.act(self.model, dict(self.weights), rows, drawn)
            return moves
        action, records = self.algorithm.act(self.model, dict(self.weights), obs, noise)
        memory, _ = self._memory.split(records)
        if acts is not None and memory:
            kept = {path: obs[path] for path in memory}
            memory = {path: _where(acts, x, kept[path]) for path, x in memory.items()}
        self.remembered = memory
        return np.asarray(action)

    def reset(self, slots: ndarray | None = None) -> None:
        """Forget what was seen: call it when an episode begins.

        With a batch of environments, ``slots`` (bool, the batch's shape) are those whose episode
        begins; None is all. Without memory in the policy, or a view of its previous action, it does
        nothing. A batch of another shape is reset by itself.
        """
        if slots is None:
            self.remembered, self._begins = {}, None
            return
        slots = np.asarray(slots, bool)
        if self.remembered:
            self.remembered = self._memory.reset(self.remembered, slots)
        if self._begins is not None:
            self._begins = self._begins | slots


class Team:
    """Policies by agent: those that were trained, and the fixed ones.

    ``policies`` holds the trained ones by name, each a `Policy` that acts alone too.
    """

    view, searches = ALL, False

    def __init__(
        self, algorithm: Policies, spaces: TeamSpaces, weights: Mapping[str, ndarray], seed: int = 0
    ) -> None:
        self.algorithm, self.spaces, own = algorithm, spaces, split(weights)
        self.policies = {
            name: Policy(part, spaces[name], own[name], seed)
            for name, part in algorithm.parts.items()
        }
        self.fixed = algorithm.fixed

    def set_weights(self, weights: Mapping[str, ndarray]) -> None:
        """Act with these from now on; those of each policy are under its name."""
        own = split(weights)
        for name, policy in self.policies.items():
            policy.set_weights(own[name])

    def players(self, groups: Mapping[str, Any], id: str) -> dict[str, Policy | Fixed]:
        """What acts for each group of agents of the environment ``id``, by policy."""
        fixed = {
            name: Fixed(name, what, groups[name].spaces, groups[name].agents, id)
            for name, what in self.fixed.items()
        }
        return {**self.policies, **fixed}

    def __repr__(self) -> str:
        return f"<Team: {', '.join((*self.policies, *self.fixed))}>"

    def named(self, name: str) -> Policy:
        """One of the trained policies. Raises ConfigError, with their names, for any other."""
        if name not in self.policies:
            raise ConfigError(
                f"there is no trained policy {name!r}",
                None,
                f"there are: {', '.join(self.policies)}",
            )
        return self.policies[name]


def policy_for(
    algorithm: Any, spaces: Any, weights: Mapping[str, ndarray], seed: int, view: View
) -> Policy | Team:
    """The policy of an algorithm; with policies by agent, all of them."""
    if algorithm.parts:
        return Team(algorithm, spaces, weights, seed)
    return Policy(algorithm, spaces, weights, seed, view)


def _where(rows: ndarray, x: ndarray, other: ndarray) -> ndarray:
    """``x`` in these rows (bool [...]) and ``other`` elsewhere; both [..., *shape]."""
    return np.where(rows.reshape(*rows.shape, *(1,) * (x.ndim - rows.ndim)), x, other)


def _axes(spaces: Spaces, flat: Mapping[str, ndarray]) -> tuple[int, ...]:
    """Leading axes of observations."""
    first = spaces.leaves[0]
    x = flat[first.path]
    return x.shape[: x.ndim - len(first.shape)]


@overload
def load(
    path: str | Path,
    *,
    policy: None = None,
    env: Any = None,
    network: Any = None,
    algorithm: Any = None,
    trust: bool = False,
    best: bool = False,
    **acting: Any,
) -> Any: ...


@overload
def load(
    path: str | Path,
    *,
    policy: str,
    env: Any = None,
    network: Any = None,
    algorithm: Any = None,
    trust: bool = False,
    best: bool = False,
    **acting: Any,
) -> Policy: ...


def load(
    path: str | Path,
    *,
    policy: str | None = None,
    env: Any = None,
    network: Any = None,
    algorithm: Any = None,
    trust: bool = False,
    best: bool = False,
    **acting: Any,
) -> Any:
    """The policy of a checkpoint or run folder; neither its environment nor its plan is needed.

    Except that a search plays the game: ``env`` is needed if that was a user's own.
    Of a run with policies by agent it is a `Team` of them, or the one that ``policy`` names.

    ``network`` is needed if the run trained a user's own module: an instance of the same class, or
    "module:Class". ``algorithm`` is needed if its class is the user's own and acts in its own way.
    ``trust`` imports what the checkpoint names. ``best`` takes the policy of the run's best
    evaluation (``evaluate_every``) in the place of the newest. ``acting`` are settings that say how
    the policy acts, in the place of those of the run: ``simulations=400`` of AlphaZero.

    Raises CheckpointError when the checkpoint is damaged, of another version, or does not fit, and
    ConfigError for what must be given, and for a setting that does not say how the policy acts.
    """
    path = checkpoint.best_of(path) if best else Path(path)
    state, meta = checkpoint.load(path, parts=("learner",))
    saved = Saved(path, meta, trust)
    given = {"env": env, "network": network, "algorithm": algorithm}
    found = policy_of(saved, state, **given, acting=acting)
    if policy is None:
        return found
    if not isinstance(found, Team):
        raise ConfigError(
            f"this run has one policy without a name, and {policy!r} was asked for",
            str(path),
            "leave out policy=...",
        )
    return found.named(policy)


def policy_of(
    saved: Saved,
    state: Mapping[str, Any],
    *,
    env: Any = None,
    network: Any = None,
    algorithm: Any = None,
    acting: Mapping[str, Any] | None = None,
) -> Any:
    """The policy of a checkpoint that was read already: its settings, and its "learner" part.

    Raises what ``load`` does.
    """
    found = saved.policy_algorithm(algorithm, network, acting)
    with checkpoint.blame(saved.path):
        spaces, seed = TeamSpaces.from_json(saved.meta["spaces"]), saved.meta["config"]["seed"]
        learned = state["learner"]
        weights = {**learned["aux"], **learned["params"], **found.beside(learned["targets"])}
    if found.plays:
        game = find_game(saved.env(env), saved.env_kwargs({}))
        saved.refuse_other_spaces(game.spaces.to_json(), game.name)
        spaces = game.spaces
    with checkpoint.blame(saved.path):
        if isinstance(spaces, TeamSpaces):
            team = Team(found, spaces, weights, seed)
            for name, one in team.policies.items():
                _check(one, split(weights)[name], saved)
            return team
        policy = Policy(found, spaces, weights, seed, View(**saved.view()))
    _check(policy, weights, saved)
    return policy


def _check(policy: Policy, weights: Mapping[str, ndarray], saved: Saved) -> None:
    """Raise CheckpointError for weights that are not those of the policy's network."""
    expected = policy.model.net.shapes()
    expected |= {TARGET + k: x for k, x in expected.items() if TARGET + k in weights}
    shapes = {name: weights[name].shape for name in expected if name in weights}
    if shapes != expected:
        wrong = sorted(k for k in expected if shapes.get(k) != expected[k])
        raise CheckpointError(
            f"the weights do not fit the network: {wrong[0]} is {shapes.get(wrong[0], 'missing')}, "
            f"expected {expected[wrong[0]]}",
            str(saved.path),
            "load it with the network that it was trained with",
        )
