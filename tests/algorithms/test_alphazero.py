"""Does AlphaZero search from what it sees, and learn what its paper says?"""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.algorithms.alphazero import AlphaZero, outcomes, stated, turned
from shoal.algorithms.base import Model
from shoal.app.cli import main
from shoal.app.folder import write_config
from shoal.config.config import Rollout
from shoal.config.replay import Replay
from shoal.envs import make as make_env
from shoal.errors import ConfigError, EnvError, NetworkError, SpaceError
from shoal.fleet.worker import Worker
from shoal.games.base import LEAF, Game, State, take
from shoal.games.connect_four import ConnectFour
from shoal.games.find import GAMES
from shoal.games.search import random_moves
from shoal.games.tic_tac_toe import TicTacToe
from shoal.nets.factory import build
from shoal.nets.network import Network
from shoal.ops.search import mixed
from shoal.policy import Policy
from shoal.replay.counts import Replayed
from shoal.replay.local import LocalReplay
from shoal.systems.table import default_config
from shoal.trainer import Trainer
from tests.algorithms.test_array_functions import same_everywhere
from tests.worlds import TINY, difference

TTT, FOUR = TicTacToe(), ConnectFour()
games = pytest.mark.parametrize("game", [TTT, FOUR], ids=lambda game: str(game.name))
SMALL: dict[str, Any] = {
    "network": TINY,
    "envs_per_worker": 6,
    "fragment_length": 4,
    "simulations": 8,
    "capacity": 600,
    "warmup": 50,
    "batch_size": 16,
    "learner": "torch",
}


def after(game: Game, *moves: int) -> State:
    state = game.start(1)
    for move in moves:
        state = game.play(state, np.array([move]))
    return state


def on_the_way(game: Game, count: int = 200, seed: int = 0) -> State:
    """Positions of random games, of which none is over."""
    rng, state = np.random.default_rng(seed), game.start(count)
    for step in range(6):
        moved = game.play(state, random_moves(game.legal(state), rng))
        goes = (rng.random(count) < 0.8) & ~game.over(moved)
        state = {k: np.where(goes, moved[k], x) for k, x in state.items()}
        assert step >= 0
    return state


def fresh(game: Game, **fields: Any) -> tuple[AlphaZero, Model, dict[str, Any]]:
    algorithm = AlphaZero(network=TINY, **fields)
    model = algorithm.model(game.spaces, build)
    return algorithm, model, algorithm.init(model, np.random.default_rng(0))


# ---------------------------------------------------------------- acting


@games
def test_the_position_follows_from_what_is_observed(game: Game) -> None:
    state = game.start(100)
    rng = np.random.default_rng(1)
    for _ in range(game.longest):
        assert difference(game.position(game.observe(state)), state) == ""
        state = game.play(state, random_moves(game.legal(state), rng))
        state = take(state, ~game.over(state))
        if not len(game.mover(state)):
            return


@pytest.mark.parametrize(
    ("game", "moves", "best"),
    [
        (TTT, (0, 3, 1, 4), 2),  # the first player wins
        (TTT, (0, 3, 1, 4, 8), 5),  # the second wins, although there is a row to be closed too
        (TTT, (0, 4, 1), 2),  # the second player must block
        (TTT, (0, 4, 8, 2), 6),  # the first player must
        (FOUR, (0, 6, 1, 6, 2), 3),
        (FOUR, (0, 1, 0, 1, 0, 1), 0),
    ],
)
def test_a_fresh_network_wins_in_one_move_and_blocks(
    game: Game, moves: tuple[int, ...], best: int
) -> None:
    algorithm, _, params = fresh(game, simulations=200)
    policy = Policy(algorithm, game.spaces, params)
    seen = {name: x[0] for name, x in game.seen(after(game, *moves)).items()}
    assert policy.act(seen) == best


@games
def test_the_network_is_never_asked_for_a_position_that_is_over(game: Game) -> None:
    algorithm, model, params = fresh(game, simulations=60)
    asked = 0

    def net(params: Any, obs: Any, heads: Any) -> Any:
        nonlocal asked
        assert not game.over(stated(game, obs)).any()
        asked += len(obs[LEAF])
        return model.net(params, obs, heads)

    state = on_the_way(game)
    rng = np.random.default_rng(0)
    while len(game.mover(state)):
        noise = model.dist.noise(rng, (len(game.mover(state)),))
        watched = model._replace(net=net)  # type: ignore[arg-type]
        moves, _ = algorithm.act(watched, params, game.seen(state), noise)
        state = game.play(state, moves)
        state = take(state, ~game.over(state))
    assert asked > 1_500


def test_what_was_said_with_other_parameters_is_forgotten() -> None:
    algorithm, model, params = fresh(FOUR, simulations=20)
    other = algorithm.init(model, np.random.default_rng(1))
    seen, found = FOUR.seen(on_the_way(FOUR)), []
    for each in (params, other, dict(params)):
        found.append(algorithm.act(model, each, seen, None)[1]["visits"])
    assert np.array_equal(found[0], found[2]) and not np.array_equal(found[0], found[1])


def test_moves_are_drawn_by_visits_at_first_and_then_the_most_visited_are_made() -> None:
    algorithm, model, params = fresh(TTT, simulations=30, sampled_moves=3, noise=0.0)
    rng = np.random.default_rng(0)
    for moves, drawn in (((4, 0), True), ((4, 0, 8), False)):
        seen = {k: np.repeat(x, 4000, 0) for k, x in TTT.seen(after(TTT, *moves)).items()}
        action, records = algorithm.act(model, params, seen, model.dist.noise(rng, (4000,)))
        share = np.bincount(action, minlength=9) / 4000
        if drawn:
            np.testing.assert_allclose(share, records["visits"][0], atol=0.03)
        else:
            assert share[records["visits"][0].argmax()] == 1.0


def test_noise_at_the_root_is_dirichlets_over_legal_moves() -> None:
    """Its mean is 1 / n, its variance (n - 1) / (n^2 (n alpha + 1))."""
    _, model, _ = fresh(TTT, alpha=0.7)
    noise = model.dist.noise(np.random.default_rng(0), (20_000,))
    legal = np.repeat(TTT.legal(after(TTT, 4, 0, 8)), 20_000, 0)
    found, n = mixed(np.zeros(legal.shape, np.float32), legal, noise, 1.0), 6
    assert (found[~legal] == 0).all()
    np.testing.assert_allclose(found[legal].mean(), 1 / n, atol=1e-6)
    wanted = (n - 1) / (n * n * (n * 0.7 + 1))
    np.testing.assert_allclose(found[:, 1].var(), wanted, rtol=0.03)


# ---------------------------------------------------------------- what is learned


def test_z_is_of_who_moved() -> None:
    """A win of the last mover: +1 for that player's positions, -1 for the other's."""
    over = np.zeros((5, 3), bool)
    over[[2, 3], [0, 1]] = True
    reward, mover = np.zeros((5, 3), np.float32), np.zeros((5, 3), np.int8)
    reward[2, 0], mover[::2] = 1.0, 1
    found = outcomes(reward, over, mover)
    np.testing.assert_array_equal(found[:3, 0], [1, -1, 1])
    np.testing.assert_array_equal(found[:4, 1], [0, 0, 0, 0])
    assert np.isnan(found[4]).all() and np.isnan(found[:, 2]).all()


def test_z_does_not_change_its_sign_where_a_player_moves_twice() -> None:
    mover, last = np.array([[0], [0], [1], [0], [0]]), np.arange(5)[:, None] == 4
    found = outcomes(last.astype(np.float32), last, mover, gamma=0.5)
    np.testing.assert_array_equal(found[:, 0], [1 / 16, 1 / 8, -1 / 4, 1 / 2, 1])


def test_what_the_buffer_holds_are_positions_with_how_their_own_games_ended() -> None:
    """By the stones alone: replaying each game from its row on with the recorded moves."""
    config = default_config("alphazero", "tic_tac_toe")
    algorithm = replace(config.algorithm, network=TINY, simulations=4, symmetries=False)
    rollout = Rollout(envs_per_worker=5, fragment_length=7)
    config = replace(config, algorithm=algorithm, rollout=rollout)
    worker = Worker(config, 0)
    worker.set_weights(algorithm.init(worker.model, np.random.default_rng(0)), 0)
    settings = Replay(capacity=2000, warmup=8, batch_size=8)
    replay = LocalReplay(settings, algorithm, worker.model, worker.get_stacks(), 5, Replayed())
    wanted: dict[bytes, set[tuple[Any, ...]]] = {}
    count = 0
    for _ in range(3):
        sample = worker.sample()
        batch = sample.batch
        assert sample.env_steps == sample.trained_steps == batch["mask"].sum()  # none is wasted
        for b in range(5):
            game: list[Any] = []
            for t in range(len(batch["reward"])):
                if not batch["mask"][t, b]:
                    continue
                game.append((batch["obs"][LEAF][t, b], int(batch["action"][t, b])))
                if batch["terminated"][t, b]:
                    end = after(TTT, *(a for _, a in game))
                    assert TTT.over(end)[0]
                    won = -float(TTT.returns(end)[0])  # for who moved last
                    for i, (seen, _) in enumerate(reversed(game)):
                        key = seen.tobytes()
                        wanted.setdefault(key, set()).add((-1) ** i * won)
                        count += 1
                    game = []
            assert not game  # every game is whole
        replay.store(0, batch)
    drawn = replay.buffer.everything().batch
    assert len(drawn["reward"]) == count
    seen = zip(drawn["obs"][LEAF], drawn["records"]["outcome"], strict=True)
    assert all(float(z) in wanted[x.tobytes()] for x, z in seen)
    assert {-1.0, 1.0} <= set(drawn["records"]["outcome"].tolist())


@games
def test_symmetries_turn_boards_and_visits_together(game: Game) -> None:
    """Playing a move and turning is the same as turning and playing the turned move."""
    ways = game.symmetries
    assert ways is not None
    state, rng = on_the_way(game), np.random.default_rng(2)
    move = random_moves(game.legal(state), rng)
    turn = rng.integers(len(ways.moves), size=len(move), dtype=np.int32)
    pi = np.eye(game.actions, dtype=np.float32)[move]
    obs, image = turned(game, game.seen(state), pi, turn)
    there = stated(game, obs)
    np.testing.assert_array_equal(obs["action_mask"], game.legal(there))
    following = game.observe(game.play(there, image.argmax(-1)))
    then, _ = turned(game, game.seen(game.play(state, move)), pi, turn)
    np.testing.assert_array_equal(following, then[LEAF])
    assert (obs[LEAF] != game.observe(state)).any()


def batch_of(game: Game, model: Model, turn: bool) -> dict[str, Any]:
    state, rng = on_the_way(game, 24), np.random.default_rng(5)
    legal = game.legal(state)
    pi = np.where(legal, rng.random(legal.shape), 0.0)
    pi[0] = np.eye(game.actions)[legal[0].argmax()]
    rows = len(pi)
    drawn = AlphaZero(symmetries=turn).draw(model, rng, 1, rows)
    return {
        "obs": game.seen(state),
        "records": {
            "visits": (pi / pi.sum(-1, keepdims=True)).astype(np.float32),
            "outcome": rng.integers(-1, 2, rows).astype(np.float32),
        },
        "weight": rng.random(rows).astype(np.float32),
        "mask": (np.arange(rows) < 20).astype(np.float32),
        "step": {name: x[0] for name, x in drawn.items()},
    }


@games
def test_the_loss_is_the_papers(game: Game) -> None:
    """(z - v)^2 - pi . log p + c |theta|^2, position by position in plain loops."""
    algorithm, model, params = fresh(game, decay=0.01, symmetries=False)
    batch = batch_of(game, model, turn=False)
    found, metrics = algorithm.loss(model, params, {}, batch)
    logits, out = model.net(params, batch["obs"], ("pi", "v"))
    total = 0.0
    for i in range(20):
        legal = np.flatnonzero(batch["obs"]["action_mask"][i])
        p = np.exp(logits[i, legal]) / np.exp(logits[i, legal]).sum()
        pi, z = batch["records"]["visits"][i, legal], batch["records"]["outcome"][i]
        loss = (z - np.tanh(out[i, 0])) ** 2 - (pi * np.log(p)).sum()
        total += batch["weight"][i] * loss / 20
    squares = sum((x.astype(np.float64) ** 2).sum() for x in params.values())
    np.testing.assert_allclose(found, total + 0.01 * squares, rtol=1e-5)
    z, v = batch["records"]["outcome"], np.tanh(out[:, 0])
    np.testing.assert_allclose(metrics.rows["priority"], np.abs(z - v) + 1e-6, rtol=1e-5)


@games
def test_the_loss_is_the_same_in_every_array_library(game: Game) -> None:
    algorithm, model, params = fresh(game)
    batch = batch_of(game, model, turn=True)
    assert "turn" in batch["step"]

    def loss(params: Any, batch: Any) -> Any:
        total, metrics = algorithm.loss(model, params, {}, batch)
        return total, metrics.scalars, dict(metrics.rows)

    same_everywhere(partial(loss), params, batch)


# ---------------------------------------------------------------- as a system


def make(env: Any = "tic_tac_toe", **fields: Any) -> Trainer:
    return Trainer("alphazero", env, **{**SMALL, **fields})


@pytest.mark.parametrize("cut", [1, 4])
def test_a_saved_run_goes_on_bit_for_bit(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)
    with make() as whole:
        for i in range(7):
            if i == cut:
                whole.save(tmp_path)
            whole.train()
        assert whole.learner.gradient_steps > 0
        with Trainer.restore(tmp_path) as resumed:
            for _ in range(7 - cut):
                resumed.train()
            for part in ("learner", "run"):
                states = [getattr(t, part).get_state() for t in (whole, resumed)]
                assert difference(*states) == ""


@games
def test_games_go_on_from_their_state_where_they_stood(game: Game) -> None:
    one, other = (make_env(game.name, 5, seed=seed, plays=True) for seed in (0, 1))
    one.reset()
    other.reset()
    rng, obs = np.random.default_rng(0), one.step(np.arange(5)).obs
    seen = other.set_state(one.get_state())
    for _ in range(20):
        assert difference(seen, obs) == ""
        move = random_moves(obs["action_mask"].astype(bool), rng)
        steps = one.step(move), other.step(move)
        obs, seen = (step.obs for step in steps)
        np.testing.assert_array_equal(steps[0].reward, steps[1].reward)


class Untold(TicTacToe):
    """Its observations do not tell its states, which travel beside them."""

    position = Game.position


OPEN = "open_spiel:breakthrough(rows=4,columns=3)"


def test_states_that_travel_change_nothing_of_what_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)
    with make(TicTacToe) as told, make(Untold) as untold:
        for trainer in (told, untold):
            for _ in range(5):
                trainer.train()
        assert told.learner.gradient_steps > 0
        states = [x.learner.get_state() for x in (told, untold)]
        assert difference(*states) == ""
        (worker,) = untold.fleet._members  # type: ignore[attr-defined]
        assert "~state" in worker.obs
        assert "~state" not in untold.run.buffer.everything().batch["obs"]


def test_a_run_of_openspiels_game_is_saved_loaded_matched_and_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyspiel")
    monkeypatch.setattr("shoal.trainer.REPORT_STEPS", 1)
    with make(OPEN, warmup=20) as whole:
        for _ in range(3):
            whole.train()
        whole.save(tmp_path)
        policy = shoal.load(tmp_path, simulations=60)  # OpenSpiel's name is no code's
        with Trainer.restore(tmp_path) as resumed:
            for trainer in (whole, resumed):
                trainer.train()
            states = [x.learner.get_state() for x in (whole, resumed)]
            assert difference(*states) == "" and whole.learner.gradient_steps > 0
    found = shoal.match(policy, "random", OPEN, 20)
    assert found["points"] > 0.8 and found["draws"] == 0
    assert shoal.match(policy, policy, OPEN, 2)["sides"]["first"]["wins"] in (0, 1)
    assert shoal.evaluate(policy, OPEN, 2)["return_mean"] == 0.0


def test_a_users_own_game_is_imported_only_if_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "heap.py").write_text(NIM)
    name, run = f"{tmp_path / 'heap.py'}:Nim", str(tmp_path / "run")
    options = "--system", "alphazero", "--warmup", "50", "--stop-steps", "300", "--out", run
    options += "--batch-size", "32", "--envs-per-worker", "8", "--fragment-length", "9"
    monkeypatch.setattr("sys.path", [*sys.path])
    assert main(["train", name, *options, "--learner", "torch", "--simulations", "4"]) == 0
    assert "~state" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="code is imported only if you name it"):
        shoal.load(run)
    policy = shoal.load(run, env=name, simulations=100)
    game = policy.model.spaces.game
    for heap in (1, 2, 3, 5, 6, 7):  # the player who leaves a multiple of four wins
        state = {"heap": np.array([heap]), "moves": np.array([0], np.int16)}
        seen = {path: x[0] for path, x in game.seen(state).items()}
        assert policy.act(seen) + 1 == heap % 4
    with pytest.raises(SpaceError, match="does not tell its state"):
        policy.act({path: x for path, x in seen.items() if path != "~state"})
    assert shoal.match(policy, lambda seen: 0, name, 2)["wins"] >= 1
    assert played(Path(run), "1\n", monkeypatch, "--env", name) == 0
    assert "it plays" in capsys.readouterr().out


DOCS = Path(__file__).resolve().parents[2] / "docs" / "alphazero.md"
(NIM,) = re.findall(r"^```python[^\n]*\n([^`]*?class Nim.*?)^```", DOCS.read_text(), re.M | re.S)


def test_it_runs_under_async_replay(tmp_path: Path) -> None:
    fields = {"plan": "async_replay", "workers": 2, "in_process": True, "stop_steps": 400}
    with make("connect_four", **fields) as trainer:
        report = trainer.train()
        assert report["gradient_steps"] > 0 and np.isfinite(report["learn/value_loss"])


def test_a_loaded_policy_acts_and_is_matched_and_evaluated_with_and_without_search(
    tmp_path: Path,
) -> None:
    with make() as trainer:
        trainer.save(tmp_path)
    points = []
    for simulations in (50, 0):
        policy = shoal.load(tmp_path, simulations=simulations)
        found = shoal.match(policy, "random", "tic_tac_toe", 40)
        assert found["wins"] + found["draws"] + found["losses"] == 40
        points.append(found["points"])
        result = shoal.evaluate(policy, "tic_tac_toe", 3)
        assert result["return_mean"] == 0.0 and 5 <= result["length_mean"] <= 9
    assert points[0] > 0.85 > points[1]  # the network knows nothing yet


def test_settings_of_acting_are_options_and_kept_with_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with make() as trainer:
        trainer.save(tmp_path / "checkpoint")
    write_config(tmp_path, {})
    options = "--simulations", "0", "--sampled-moves", "4", "--episodes", "2"
    assert main(["evaluate", str(tmp_path), *options]) == 0
    kept = json.loads((tmp_path / "evaluation.json").read_text())
    assert kept["acting"] == {"simulations": "0", "sampled_moves": "4"}
    assert "simulations 0, sampled_moves 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "told"), [({"lr": 0.1}, "simulations"), ({"simulations": -1}, ">= 0")]
)
def test_only_settings_of_acting_are_given_anew(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with make() as trainer:
        trainer.save(tmp_path)
    with pytest.raises(ConfigError, match=told):
        shoal.load(tmp_path, **changes)


# ---------------------------------------------------------------- playing in the terminal


def played(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(["play", str(folder), *options])


def test_a_person_who_lets_it_win_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with make() as trainer:
        trainer.save(tmp_path)
    text = "middle\n99\n" + "\n".join(str(n) for n in range(1, 10)) * 3 + "\n"
    assert played(tmp_path, text, monkeypatch, "--simulations", "200", "--second") == 0
    out = capsys.readouterr().out
    assert "'middle' is no legal move" in out and "'99' is no legal move" in out
    assert out.rstrip().endswith("you lose")


def test_the_end_of_input_ends_a_game_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with make("connect_four") as trainer:
        trainer.save(tmp_path)
    assert played(tmp_path, "4\n", monkeypatch) == 0
    out = capsys.readouterr().out
    assert "it plays" in out and out.rstrip().endswith("the game was left")


# ---------------------------------------------------------------- what cannot be


class Veiled(TicTacToe):
    name = "veiled"
    hides = "the other's cells"


def test_what_is_no_game_is_refused() -> None:
    with pytest.raises(EnvError, match="'CartPole-v1' is no game, and AlphaZero plays games"):
        make("CartPole-v1")


def test_a_game_that_hides_something_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GAMES, "veiled", Veiled)
    with pytest.raises(EnvError, match="the game veiled hides the other's cells"):
        make("veiled")


def test_a_view_that_is_not_the_games_is_refused() -> None:
    with pytest.raises(SpaceError, match="these spaces are of none"):
        make(previous=True)


@pytest.mark.parametrize("field", [{"scale_reward": True}, {"clip_reward": 0.5}, {"demos": "log"}])
def test_what_would_change_results_or_has_no_visits_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"AlphaZero learns from the (results|visits)"):
        make(**field)


def test_a_network_with_a_memory_is_refused() -> None:
    with pytest.raises(NetworkError, match="evaluates single positions"):
        make(network=Network(memory="lstm"))
