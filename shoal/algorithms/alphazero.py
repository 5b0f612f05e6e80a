"""AlphaZero: a search guided by a network plays against itself, and the network learns from it.

Silver et al. 2018 (Science 362; arXiv:1712.01815), with the constants of its published pseudocode.
An environment's slots are games, in each of which one policy plays both sides. ``act`` searches in
all of them at once, from states that observations tell, or that stand beside them; the visits of
the roots are recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from shoal.algorithms.actor_critic import masked_mean
from shoal.algorithms.base import Batch, Differentiable, Metrics, Model, Params, Records
from shoal.algorithms.off_policy import FLOOR
from shoal.config.bounds import setting
from shoal.config.schedule import Schedule
from shoal.errors import NetworkError, SpaceError
from shoal.games.base import LEAF, Game, State, take
from shoal.games.find import game_of
from shoal.games.search import Evaluated, Search
from shoal.nets.base import Build, Head
from shoal.nets.network import Network
from shoal.ops.kernels import Array, arange, constant, namespace, stop_gradient
from shoal.ops.optimisers import Optimiser
from shoal.ops.search import Puct, RootNoise, legal_softmax, mixed, visit_policy
from shoal.spaces.base import ACTION_MASK, STATE, Spaces
from shoal.trajectory import Trajectory, ndarray

VISITS, OUTCOME = "visits", "outcome"  # records: pi [actions], and z of who moved
MOVER = "mover"  # record: who moves, 0 or 1


@dataclass(frozen=True)
class AlphaZero(Differentiable):
    """Hyperparameters; those of the search are the paper's, the others are for small games."""

    lr: Schedule = setting(1e-3, above=0)  # Adam's step size (paper: SGD from 0.2)
    gamma: float = setting(1.0, least=0, most=1)  # discount of the outcome per move (paper: 1)
    simulations: int = setting(32, least=0)  # of each move (paper: 800); 0: the network alone
    c_base: float = setting(19652.0, above=0)  # in C(s), which weighs priors
    c_init: float = setting(1.25, least=0)  # the same
    alpha: float = setting(1.0, above=0)  # of Dirichlet's noise: about 10 / legal moves
    noise: float = setting(0.25, least=0, most=1)  # its part of the root's priors
    temperature: float = setting(1.0, above=0)  # moves are drawn by visits ** (1 / it) ...
    sampled_moves: int = setting(30, least=0)  # ... before this many; then the most visited
    decay: float = setting(1e-4, least=0)  # weighs the sum of squared parameters
    symmetries: bool = True  # positions are turned at random when they are trained on
    network: Any = field(
        default_factory=lambda: Network(hidden=(128, 128), activation="relu", shared=True)
    )

    needs = frozenset({"replay"})
    whole_episodes = True  # so that the outcome of every position is known
    plays = searches = True
    acting = frozenset(
        {"simulations", "c_base", "c_init", "alpha", "noise", "temperature", "sampled_moves"}
    )

    # -------------------------------------------------------------- the policy

    def model(self, spaces: Spaces, build: Build) -> Model:
        """Heads for the logits of moves and for the mover's value, before tanh.

        Raises SpaceError for spaces of no game, NetworkError for a network with a memory.
        """
        game = game_of(spaces)
        net = build(self.network, spaces.local, {"pi": Head(game.actions, gain=0.01), "v": Head(1)})
        if net.memory:
            raise NetworkError(
                "this network has a memory, but AlphaZero evaluates single positions",
                "network",
                "leave network.memory out",
            )
        return Model(spaces.local, net, RootNoise(game.actions, self.alpha))

    def records(self, model: Model) -> dict[str, ndarray]:
        """pi and z of each position."""
        return {VISITS: np.zeros(model.dist.n_out, np.float32), OUTCOME: np.zeros((), np.float32)}

    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Any
    ) -> tuple[Array, Records]:
        """Moves for positions [..., *shape] of NumPy; recorded is pi(a) = N(a) / sum_b N(b).

        Without noise, the most visited move of a search without noise at the root. Positions of
        games that are over get the move 0, and no search. Recorded too is who moves, int8.

        Raises SpaceError where the state of a game is missing that observations do not tell.
        """
        game = game_of(model.spaces)
        lead = obs[LEAF].shape[: obs[LEAF].ndim - len(game.shape)]
        state = stated(game, obs)
        moves = state["moves"]
        playing = np.flatnonzero(~game.over(state))
        drawn = None if noise is None else noise.reshape(-1, noise.shape[-1])[playing]
        action = np.zeros(len(moves), np.int64)
        pi = np.zeros((len(moves), game.actions), np.float32)
        if len(playing):
            visits = self.visits(model, params, game, take(state, playing), drawn)
            pi[playing] = visits / visits.sum(-1, keepdims=True)
            early = moves[playing] < self.sampled_moves
            heat = 0.0 if drawn is None else np.where(early, self.temperature, 0.0)
            odds = visit_policy(visits, heat)
            point = 0.5 if drawn is None else drawn[:, -1:]
            within = odds.cumsum(-1)
            action[playing] = (within > point * within[:, -1:]).argmax(-1)
        records = {VISITS: pi.reshape(*lead, game.actions), MOVER: game.mover(state).reshape(lead)}
        return action.reshape(lead), records

    def visits(
        self, model: Model, params: Params, game: Game, state: State, noise: ndarray | None
    ) -> ndarray:
        """N(root, a), [B, actions], of positions that are not over.

        Without simulations, the network's probabilities.
        """

        def evaluate(at: State) -> tuple[ndarray, ndarray]:
            seen = {LEAF: game.observe(at), ACTION_MASK: game.legal(at)}
            logits, value = model.net(params, seen, ("pi", "v"))
            return logits, np.tanh(value[..., 0])

        if not self.simulations:
            found: ndarray = legal_softmax(evaluate(state)[0], game.legal(state))
            return found
        known = kept(model.net, params, game)
        search = Search(game, self.simulations, puct=Puct(self.c_base, self.c_init))
        if noise is None or not self.noise:
            return search(state, partial(known, evaluate=evaluate)).visits

        def noisy(prior: ndarray, legal: ndarray) -> ndarray:
            return mixed(prior, legal, noise, self.noise)

        return search(state, partial(known, evaluate=evaluate), noisy).visits

    # -------------------------------------------------------------- learning

    def postprocess(self, model: Model, params: Params, trajectory: Trajectory) -> Batch:
        """Positions as they were played, with the outcome for who moved there."""
        batch = trajectory.steps([VISITS])
        batch["records"][OUTCOME] = outcomes(
            batch["reward"], trajectory.over, trajectory.records[MOVER], self.gamma
        )
        for name in ("obs", "final"):  # searches are over, and networks do not see it
            batch[name] = {path: x for path, x in batch[name].items() if path != STATE}
        return batch

    def draw(
        self, model: Model, rng: np.random.Generator, steps: int, size: int
    ) -> dict[str, ndarray]:
        """In which way each position is turned."""
        ways = game_of(model.spaces).symmetries
        if ways is None or not self.symmetries:
            return {}
        return {"turn": rng.integers(len(ways.moves), size=(steps, size), dtype=np.int32)}

    def loss(
        self, model: Model, params: Params, aux: Params, batch: Batch
    ) -> tuple[Array, Metrics]:
        """(z - v)^2 - pi . log p + decay |theta|^2, the first two averaged; rows: ``priority``."""
        obs, pi = batch["obs"], batch["records"][VISITS]
        if "turn" in batch["step"]:
            obs, pi = turned(game_of(model.spaces), obs, pi, batch["step"]["turn"])
        logits, out = model.net({**aux, **params}, obs, ("pi", "v"))
        xp = namespace(logits)
        v, z = xp.tanh(out[..., 0]), batch["records"][OUTCOME]
        cross = -xp.sum(pi * log_legal(logits, obs[ACTION_MASK]), axis=-1)
        off = xp.square(z - v)
        weight, mask = batch["weight"], batch["mask"]
        size = sum(xp.sum(params[k] * params[k]) for k in params if k not in model.net.frozen)
        total = masked_mean(weight * (off + cross), mask) + self.decay * size
        own = -xp.sum(pi * xp.log(xp.where(pi > 0, pi, xp.ones_like(pi))), axis=-1)
        scalars = {
            "value_loss": masked_mean(off, mask),
            "policy_loss": masked_mean(cross, mask),
            "visits_entropy": masked_mean(own, mask),
        }
        return total, Metrics(scalars, {"priority": stop_gradient(xp.abs(z - v)) + FLOOR})

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("adam")


_KEPT: WeakKeyDictionary[Any, tuple[Params, Evaluated]] = WeakKeyDictionary()


def kept(net: Any, params: Params, game: Game) -> Evaluated:
    """What this network has said of positions with these parameters: while they are this object."""
    found = _KEPT.get(net)
    if found is None or found[0] is not params:
        found = _KEPT[net] = params, Evaluated(game)
    return found[1]


def stated(game: Game, obs: Mapping[str, Array]) -> State:
    """The states of games that were observed, {leaf: [..., *shape]}; [B, ...] each.

    Raises SpaceError where they neither stand beside what is observed nor are told by it.
    """
    if STATE in obs:
        return game.unpack(obs[STATE].reshape(-1, obs[STATE].shape[-1]))
    state = game.position(obs[LEAF].reshape(-1, *game.shape))
    if state is None:
        raise SpaceError(
            f"what is observed of the game {game.name} does not tell its state, from which "
            "AlphaZero searches",
            "observation",
            "give what game.seen(state) returns, which has the state",
        )
    return state


def outcomes(reward: ndarray, over: ndarray, mover: ndarray, gamma: float = 1.0) -> ndarray:
    """z [T, B]: how the game ended for who moved at t.

    ``reward`` [T, B] is what the mover of an ended game's last move earned, ``mover`` [T, B] who
    moved. What follows the last end is unknown, NaN.
    """
    z = np.empty(reward.shape, np.float32)
    after, who = np.full(reward.shape[1:], np.nan, np.float32), mover[-1]
    for t in reversed(range(len(z))):
        told = gamma * np.where(mover[t] == who, after, -after)
        after, who = np.where(over[t], reward[t], told), mover[t]
        z[t] = after
    return z


def turned(
    game: Game, obs: Mapping[str, Array], pi: Array, turn: Array
) -> tuple[dict[str, Array], Array]:
    """Positions {leaf: [N, ...]} and moves [N, actions], each in its own of the game's ways [N]."""
    ways = game.symmetries
    assert ways is not None
    xp = namespace(pi)
    cells = xp.take(constant(ways.cells, turn), turn, axis=0)
    moves = xp.take(constant(ways.moves, turn), turn, axis=0)
    seen = obs[LEAF]
    flat = xp.reshape(seen, (seen.shape[0], -1))
    return {
        LEAF: xp.reshape(_along(flat, cells), seen.shape),
        ACTION_MASK: _along(obs[ACTION_MASK], moves),
    }, _along(pi, moves)


def _along(x: Array, index: Array) -> Array:
    """x[i, index[i, j]]."""
    xp, (rows, columns) = namespace(x), x.shape
    place = xp.reshape(arange(rows, x)[:, None] * columns + index, (-1,))
    return xp.reshape(xp.take(xp.reshape(x, (-1,)), place, axis=0), index.shape)


def log_legal(logits: Array, legal: Array) -> Array:
    """Log-probabilities [N, actions] of the legal moves (bool); 0 of all others."""
    xp = namespace(logits)
    z = xp.where(legal, logits, xp.full_like(logits, -1e8))
    z = z - xp.max(z, axis=-1, keepdims=True)
    log = z - xp.log(xp.sum(xp.exp(z), axis=-1, keepdims=True))
    return xp.where(legal, log, xp.zeros_like(log))
