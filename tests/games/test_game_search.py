"""Does a search find what is to be found in games, and agree with mctx's?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.games.base import Game, State
from shoal.games.find import find_game
from shoal.games.search import Evaluated, Search, random_moves, rollouts, uniform
from shoal.ops.kernels import ndarray

TTT = find_game("tic_tac_toe", {})
FOUR = find_game("connect_four", {})


def after(game: Game, *moves: int) -> State:
    state = game.start(1)
    for move in moves:
        state = game.play(state, np.array([move]))
    return state


def test_a_win_in_one_is_found() -> None:
    found = Search(TTT, 100)(after(TTT, 0, 3, 1, 4), uniform(TTT))
    assert found.visits[0, 2] > 80
    assert found.value[0] > 0.8


def test_a_forced_block_is_found() -> None:
    found = Search(TTT, 200)(after(TTT, 0, 4, 1), uniform(TTT))
    assert found.visits[0, 2] > 170


def test_a_corner_opening_is_answered_in_the_centre_once_the_search_is_deep() -> None:
    shallow, deep = (Search(TTT, n)(after(TTT, 0), uniform(TTT)) for n in (800, 3000))
    assert shallow.visits[0].argmax() != 4
    assert deep.visits[0].argmax() == 4 and deep.visits[0, 4] > 2000


def test_a_block_is_found_in_connect_four() -> None:
    state = after(FOUR, 0, 6, 1, 6, 2)
    found = Search(FOUR, 300)(state, rollouts(FOUR, np.random.default_rng(0)))
    assert found.visits[0].argmax() == 3


@pytest.mark.parametrize("leaves", [1, 4])
@pytest.mark.parametrize("game", [TTT, FOUR], ids=lambda game: str(game.name))
def test_a_game_that_is_over_is_never_evaluated(game: Game, leaves: int) -> None:
    asked = 0

    def evaluate(state: State) -> tuple[ndarray, ndarray]:
        nonlocal asked
        assert not game.over(state).any()
        asked += len(game.mover(state))
        return uniform(game)(state)

    rng, state = np.random.default_rng(4), game.start(64)
    for _ in range(4):
        state = game.play(state, random_moves(game.legal(state), rng))
    found = Search(game, 150, leaves)(state, evaluate)
    assert asked <= 64 * 151
    assert (found.visits.sum(-1) == 150).all()
    assert not found.visits[~game.legal(state)].any()


def test_two_hundred_simulations_do_not_lose_against_random_moves() -> None:
    games, rng = 60, np.random.default_rng(5)
    search, state = Search(TTT, 200), TTT.start(60)
    ours = np.arange(games) % 2  # the side of the search
    playing, lost = np.arange(games), 0
    while len(playing):
        moves = random_moves(TTT.legal(state), rng)
        mine = TTT.mover(state) == ours[playing]
        found = search(state, rollouts(TTT, rng)).visits.argmax(-1)
        state = TTT.play(state, np.where(mine, found, moves))
        over = TTT.over(state)
        ended = {name: x[over] for name, x in state.items()}
        result = TTT.returns(ended) * np.where(TTT.mover(ended) == ours[playing[over]], 1, -1)
        lost += int(np.count_nonzero(result < 0))
        state, playing = {name: x[~over] for name, x in state.items()}, playing[~over]
    assert lost == 0


def test_one_search_of_many_games_is_many_searches() -> None:
    rng, state = np.random.default_rng(6), FOUR.start(20)
    for _ in range(6):
        state = FOUR.play(state, random_moves(FOUR.legal(state), rng))
    weights = rng.standard_normal((84, 8)).astype(np.float32)

    def evaluate(state: State) -> tuple[ndarray, ndarray]:
        out = np.einsum("ni,ij->nj", FOUR.observe(state).reshape(-1, 84), weights)
        return out[:, :7], np.tanh(out[:, 7])

    together = Search(FOUR, 60)(state, evaluate).visits
    apart = [Search(FOUR, 60)({k: x[i : i + 1] for k, x in state.items()}, evaluate).visits[0]
             for i in range(20)]  # fmt: skip
    assert np.array_equal(together, np.stack(apart))


# ------------------------------------------------------------------ mctx


class Tables(Game):
    """A random game: positions are numbers, and tables say all about them."""

    name, actions, shape, longest = "tables", 6, (1,), 10**6

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        self.allowed = rng.random((size, self.actions)) < 0.8
        self.allowed[np.arange(size), rng.integers(self.actions, size=size)] = True
        self.logits = rng.standard_normal((size, self.actions)).astype(np.float32)
        self.value = rng.uniform(-1, 1, size).astype(np.float32)
        self.ended = rng.random(size) < 0.15

    def start(self, games: int) -> State:
        at = np.random.default_rng(7).choice(np.flatnonzero(~self.ended), games)
        return {"at": at.astype(np.int32), "mover": np.zeros(games, np.int8)}

    def observe(self, state: State) -> ndarray:
        return state["at"][:, None]

    def legal(self, state: State) -> ndarray:
        return self.allowed[state["at"]]

    def play(self, state: State, action: ndarray) -> State:
        at = (state["at"] * 31 + action.astype(np.int32) * 977 + 11) % self.size
        return {"at": at.astype(np.int32), "mover": 1 - state["mover"]}

    def over(self, state: State) -> ndarray:
        return self.ended[state["at"]]

    def mover(self, state: State) -> ndarray:
        return state["mover"]

    def returns(self, state: State) -> ndarray:
        return self.value[state["at"]]

    def show(self, state: State) -> str:
        return str(state["at"][0])

    def evaluate(self, state: State) -> tuple[ndarray, ndarray]:
        return self.logits[state["at"]], self.value[state["at"]]


def test_a_thousand_random_trees_are_those_of_mctx() -> None:
    mctx: Any = pytest.importorskip("mctx")
    import jax
    import jax.numpy as jnp

    trees, simulations, size = 1000, 32, 8192
    game = Tables(np.random.default_rng(8), size)
    state = game.start(trees)
    ours = Search(game, simulations)(state, game.evaluate)

    allowed, logits = jnp.asarray(game.allowed), jnp.asarray(game.logits)
    value, ended = jnp.asarray(game.value), jnp.asarray(game.ended)

    def masked(at: Any) -> Any:
        return jnp.where(allowed[at], logits[at], -1e30)

    def step(params: Any, key: Any, action: Any, at: Any) -> Any:
        new = (at * 31 + action * 977 + 11) % size
        over = ended[new]
        out = mctx.RecurrentFnOutput(
            reward=jnp.where(over, -value[new], 0.0),  # what the mover before it gets
            discount=jnp.where(over, 0.0, -1.0),
            prior_logits=masked(new),
            value=value[new],
        )
        return out, new

    def q(tree: Any, node: Any) -> Any:
        visited = tree.children_visits[node] > 0
        legal = tree.children_prior_logits[node] > -1e29  # which mctx only asks for at the root
        return jnp.where(legal, jnp.where(visited, tree.qvalues(node), 0.0), -jnp.inf)

    at = jnp.asarray(state["at"])
    root = mctx.RootFnOutput(prior_logits=masked(at), value=value[at], embedding=at)
    search = jax.jit(
        lambda: mctx.muzero_policy(
            None,
            jax.random.PRNGKey(0),
            root,
            step,
            simulations,
            invalid_actions=~allowed[at],
            qtransform=q,
            dirichlet_fraction=0.0,
        )
    )
    summary = search().search_tree.summary()
    assert np.array_equal(ours.visits, np.asarray(summary.visit_counts))
    assert ours.value == pytest.approx(np.asarray(summary.value), abs=1e-4)


@pytest.mark.parametrize("nbytes", [1 << 24, 1 << 13, 64])
def test_each_position_is_evaluated_once_and_gets_its_own_evaluation(nbytes: int) -> None:
    """A table of 8 kB is emptied again and again; one of 64 bytes holds nothing."""
    rng, asked = np.random.default_rng(7), list[tuple[int, int]]()

    def evaluate(state: State) -> tuple[ndarray, ndarray]:
        mine, theirs = state["mine"].astype(np.int64), state["theirs"].astype(np.int64)
        asked.extend(zip(mine.tolist(), theirs.tolist(), strict=True))
        logits = np.stack([(mine % p + 3 * theirs % p) / p for p in range(11, 18)], 1)
        return logits.astype(np.float32), (theirs % 101 / 101).astype(np.float32)

    known, met = Evaluated(FOUR, nbytes), set[tuple[int, int]]()
    state = FOUR.start(40)
    for _ in range(30):
        state = FOUR.play(state, random_moves(FOUR.legal(state), rng))
        met |= set(zip(state["mine"].tolist(), state["theirs"].tolist(), strict=True))
        found = known(state, evaluate)
        before = len(asked)
        for own, wanted in zip(found, evaluate(state), strict=True):
            np.testing.assert_array_equal(own, wanted)
        del asked[before:]
        again = FOUR.over(state)
        state = {k: np.where(again, x, state[k]) for k, x in FOUR.start(40).items()}
    assert len(asked) == len(met) if nbytes == 1 << 24 else len(asked) > len(met)


def test_an_evaluation_that_failed_is_not_remembered() -> None:
    known, state = Evaluated(FOUR), FOUR.start(2)

    def interrupted(state: State) -> tuple[ndarray, ndarray]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        known(state, interrupted)
    ones = np.ones((1, 7), np.float32), np.ones(1, np.float32)  # of both, which are the same
    np.testing.assert_array_equal(known(state, lambda new: ones)[0], np.ones((2, 7)))
