"""Who meets whom, with which side, and how strong is each?"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.config.self_play import FIXED, RANDOM, SELF, SelfPlay
from shoal.errors import ConfigError, ShoalError
from shoal.plans.pool import START, Pool, expected, odds
from tests.agents import Alone, InTurn, Together
from tests.worlds import RECURRENT, difference

LEAGUE = Path(__file__).parents[2] / "examples" / "league.py"
TICTACTOE = "pettingzoo:classic/tictactoe_v3"
SMALL: dict[str, Any] = {
    "pool": 3,
    "every": 200,
    "envs_per_worker": 4,
    "fragment_length": 32,
    "report_every": 1,
}


# ---------------------------------------------------------------- ratings and odds


def test_elo_expects_what_its_definition_says() -> None:
    assert expected(1200, 1200) == 0.5
    assert expected(1600, 1200) == pytest.approx(10 / 11)
    assert expected(1300, 1200) + expected(1200, 1300) == pytest.approx(1)


def test_a_rating_gains_what_the_other_loses() -> None:
    pool = Pool(SelfPlay(pool=2))
    pool.keep({"w": np.zeros(1)}, 0)
    rng = np.random.default_rng(0)
    games = [(int(rng.integers(-3, 1)), float(rng.integers(3)) / 2) for _ in range(500)]
    pool.take([game for game in games if game[0] != RANDOM])
    total = pool.elo + sum(pool.ratings.values())
    assert RANDOM not in pool.ratings and total == pytest.approx(START * (1 + len(pool.ratings)))


def test_the_random_player_is_the_fixed_point_of_all_ratings() -> None:
    """Against it alone the learner's rating comes to where it wins as much as it is expected to."""
    pool = Pool(SelfPlay(pool=2))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        pool.take([(RANDOM, float(rng.random() < 10 / 11)) for _ in range(200)])
        found.append(pool.elo)
    assert pool.metrics()["elo/random"] == START
    assert abs(np.mean(found[20:]) - (START + 400)) < 10


def test_odds_follow_the_win_rates_and_are_uniform_without_any() -> None:
    np.testing.assert_allclose(odds([0.5, 0.0], "hard"), [0.2, 0.8])
    np.testing.assert_allclose(odds([0.5, 0.9], "even"), [0.25 / 0.34, 0.09 / 0.34])
    np.testing.assert_allclose(odds([0.1, 0.9], "uniform"), [0.5, 0.5])
    np.testing.assert_allclose(odds([1.0, 1.0], "hard"), [0.5, 0.5])


def test_the_pool_holds_the_newest_at_their_distance() -> None:
    pool = Pool(SelfPlay(pool=3, every=100))
    for env_steps in range(0, 1000, 40):
        pool.keep({"w": np.array([env_steps])}, env_steps)
    kept = [int(own["w"][0]) for own in pool.saved.values()]
    assert kept == [720, 840, 960] and set(pool.ratings) == set(pool.saved)


def test_win_rates_fade_and_those_who_left_are_forgotten() -> None:
    pool = Pool(SelfPlay(pool=1, every=1))
    pool.keep({"w": np.zeros(1)}, 0)
    assert pool.win_rate(0) == 0.5
    pool.take([(0, 1.0), (0, 0.0), (0, 1.0)])
    won, played = 0.99**2 + 1, 0.99**2 + 0.99 + 1
    assert pool.win_rate(0) == pytest.approx((won + 0.5) / (played + 1))
    pool.keep({"w": np.ones(1)}, 5)
    elo = pool.elo
    pool.take([(0, 1.0)])
    assert pool.elo == elo and set(pool.ratings) == {1} and not pool.won


# ---------------------------------------------------------------- games


def two_in_turn() -> InTurn:
    """Both are paid at any time, so that a running game has a score."""
    return InTurn(("ann", "bob"))


def trainer(env: Any, **fields: Any) -> shoal.Trainer:
    return shoal.Trainer("ppo", env, stop_steps=10**6, **{"minibatch_size": 32, **SMALL, **fields})


def test_sides_are_swapped_fairly_against_every_opponent() -> None:
    met: dict[int, list[int]] = {}
    with trainer(TICTACTOE, rated=0.3, latest=0.2) as run:
        world = run.fleet._members[0].env  # type: ignore[attr-defined]
        begin = world._begin

        def noted(copies: Any) -> None:
            begin(copies)
            for copy in copies:
                met.setdefault(int(world._against[copy]), []).append(int(world._side[copy]))

        world._begin = noted
        for _ in range(12):
            run.train()
    assert {SELF, RANDOM, 0} <= met.keys() and max(met) > 2
    for sides in met.values():
        assert abs(sum(sides) - len(sides) / 2) <= 0.5


def test_what_opponents_do_is_not_trained_on() -> None:
    """Against an opponent that always takes the first legal move, its moves are in no batch."""
    with trainer(TICTACTOE, latest=0.0, rated=1.0) as run:
        member = run.fleet._members[0]  # type: ignore[attr-defined]
        run.train()
        for _ in range(5):
            sample = member.sample()
            assert sample.agent_steps == sample.trained_steps < 0.75 * sample.env_steps
            assert len(sample.games) == len(sample.episodes) > 0
            for (_, points), (earned, _) in zip(
                sorted(sample.games, key=lambda game: game[1]),
                sorted(sample.episodes),
                strict=True,
            ):
                assert points == 0.5 + earned / 2


@pytest.mark.parametrize("env", [TICTACTOE, two_in_turn])
def test_a_run_goes_on_bit_for_bit_with_its_pool(env: Any, tmp_path: Path) -> None:
    with trainer(env) as run:
        for _ in range(5):
            run.train()
        run.save(tmp_path)
        for _ in range(5):
            one = run.train()
        weights = run.learner.weights()
    with shoal.Trainer.restore(tmp_path, env) as again:
        for _ in range(5):
            other = again.train()
        for name, x in weights.items():
            np.testing.assert_array_equal(x, again.learner.weights()[name])
    names = [name for name in one if name.startswith(("elo/", "win_rate/", "pool/"))]
    assert len(names) == 6 and {name: one[name] for name in names} == {
        name: other[name] for name in names
    }


def test_running_games_are_restored_whole() -> None:
    with trainer(two_in_turn) as run:
        world = run.fleet._members[0].env  # type: ignore[attr-defined]
        for _ in range(3):
            run.train()
        state = copy.deepcopy(world.get_state())
        run.train()
        world.set_state(state)
        assert state["score"].any() and not difference(world.get_state(), state)


# ---------------------------------------------------------------- opponents by name


def member_of(run: shoal.Trainer) -> Any:
    return run.fleet._members[0]  # type: ignore[attr-defined]


def test_those_added_stay_beside_the_newest_selves_until_they_are_removed() -> None:
    pool = Pool(SelfPlay(pool=2, every=100))
    pool.keep({"w": np.zeros(1)}, 0)
    pool.elo = 1300.0
    pool.add("wolf", {"w": np.array([7.0])})
    pool.take([(1, 0.0)])
    lost = pool.ratings[1]
    pool.add("wolf", {"w": np.array([8.0])})  # its place and rating are the old one's
    for env_steps in range(100, 1000, 100):
        pool.keep({"w": np.array([env_steps])}, env_steps)
    assert pool.selves == [9, 10] and pool.saved[1]["w"] == 8.0 and lost > 1300.0
    found = pool.metrics()
    assert found["elo/wolf"] == lost and found["win_rate/wolf"] == pytest.approx(0.25)
    assert found["pool/size"] == 2 and found["elo/pool"] == np.mean(
        [pool.ratings[n] for n in (9, 10)]
    )
    assert pool.weights()["pool/odds"].argmax() == 0  # it has won most
    again = Pool(SelfPlay(pool=2, every=100))
    again.set_state(pool.get_state())
    assert again.metrics() == found
    again.remove("wolf")
    assert sorted(again.ratings) == sorted(again.saved) == [9, 10] and 1 not in again.won


def test_without_past_selves_only_those_added_are_played(tmp_path: Path) -> None:
    """A loaded policy's games are played by its weights, whatever the learner has become."""
    with trainer(TICTACTOE, seed=5) as other:
        other.train()
        other.save(tmp_path)
    rival = shoal.load(tmp_path)
    with trainer(TICTACTOE, every=None, latest=0.0, rated=0.0, report_every=600) as run:
        assert run.train()["pool/size"] == 0
        assert member_of(run).sample().games == []  # nobody is there: both sides learn
        run.add_opponent("rival", rival)
        report = run.train()
        assert report["elo/rival"] != START and report["win_rate/rival"] != 0.5
        world = member_of(run).env
        drawn = [world._draw() for _ in range(50)]
        assert set(drawn) == {0} and run.run.pool.names == {0: "rival"}  # type: ignore[union-attr]
        for name, x in world._past[0].items():
            np.testing.assert_array_equal(x, rival.weights[name])
        run.remove_opponent("rival")
        assert "elo/rival" not in run.train()
        assert world._draw() == SELF


def test_added_opponents_go_on_bit_for_bit_with_the_run(tmp_path: Path) -> None:
    with trainer(TICTACTOE, seed=5) as other:
        other.train()
        rival = other.policy
    with trainer(TICTACTOE, latest=0.2) as run:
        run.train()
        run.add_opponent("rival", rival)
        for _ in range(3):
            run.train()
        run.save(tmp_path)
        for _ in range(3):
            one = run.train()
        weights = run.learner.weights()
    with shoal.Trainer.restore(tmp_path, TICTACTOE) as again:
        for _ in range(3):
            other_one = again.train()
        for name, x in weights.items():
            np.testing.assert_array_equal(x, again.learner.weights()[name])
    for name in ("elo/rival", "win_rate/rival", "elo/learner", "win_rate/pool"):
        assert one[name] == other_one[name]


def test_an_update_that_fails_leaves_the_opponents_that_were_added() -> None:
    with trainer(TICTACTOE) as run:
        run.train()
        run.add_opponent("rival", run.policy)
        member = member_of(run)
        step = member.env.step

        def broken(action: Any) -> Any:
            member.env.step = step
            raise KeyboardInterrupt

        member.env.step = broken
        with pytest.raises(KeyboardInterrupt):
            run.train()
        assert "elo/rival" in run.train()


def test_what_does_not_fit_is_not_added() -> None:
    with trainer(TICTACTOE) as run:
        add: Any = run.add_opponent
        with shoal.Trainer("ppo", TICTACTOE, hidden=(8,)) as other:
            small = other.policy
        with shoal.Trainer("ppo", TICTACTOE, activation="relu") as other:
            bent = other.policy
        with shoal.Trainer("ppo", InTurn) as other:
            foreign = other.policy
        for name, policy, text in (
            ("small", small, "'small' acts by another network"),
            ("bent", bent, "'bent' acts by another network"),
            ("foreign", foreign, "'foreign' was trained with other spaces"),
            ("chance", "random", "'chance' is a str"),
            ("learner", run.policy, "'learner' cannot be the name"),
            ("a/b", run.policy, "'a/b' cannot be the name"),
        ):
            with pytest.raises(ConfigError, match=text):
                add(name, policy)
        with pytest.raises(ConfigError, match="there is no opponent 'small'"):
            run.remove_opponent("small")
        assert not run.run.pool.names  # type: ignore[union-attr]
    with shoal.Trainer("ppo", TICTACTOE) as alone, pytest.raises(ConfigError, match="has none"):
        alone.add_opponent("me", alone.policy)


def test_the_example_of_a_league_ends_with_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shrunk: each player trains twice, and each exploiter has one turn's time."""
    text = LEAGUE.read_text()
    assert len(text.splitlines()) <= 100 and text.count("PATIENCE = 0.7, 4") == 1
    words = ["league.py", "tic_tac_toe", "--turns", "2", "--steps", "500", "--games", "4"]
    monkeypatch.setattr("sys.argv", words)
    text = text.replace("PATIENCE = 0.7, 4", "PATIENCE = 0.7, 1")
    exec(compile(text, "league.py", "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    past = {f"{name}_{turn}" for name in ("main_exploiter", "league_exploiter") for turn in (1, 2)}
    past |= {"main_0", "main_1", "main_2"}
    table = [line.split() for line in out.partition("half a point")[2].splitlines()[1:]]
    assert table[0][-1] == "r" and {"m0", "me1", "le2"} <= set(table[0])
    rows = {row[0]: [float(x) for x in row[1:]] for row in table[1:]}
    assert set(rows) == past
    assert all(
        len(row) == len(past) + 1 and 0 <= min(row) <= max(row) <= 1 for row in rows.values()
    )
    second = out.partition("turn 2, win rates of main:")[2].splitlines()[0]
    assert "main_exploiter_1" in second and "league_exploiter_1" in second


def test_an_opponent_with_memory_remembers_its_own_game(tmp_path: Path) -> None:
    with shoal.Trainer("ppo", TICTACTOE, network=RECURRENT) as other:
        rival: Any = other.policy
    with trainer(TICTACTOE, opponent=rival, latest=0.0, rated=1.0) as run:
        run.train()
        world = member_of(run).env
        state = copy.deepcopy(world.get_state())
        assert any(x.any() for x in state["fixed"][str(FIXED)].values())
        run.train()
        world.set_state(state)
        assert not difference(world.get_state(), state)
        world._begin(np.array([2]))  # of the copies; each has two slots
        for path, x in world.get_state()["fixed"][str(FIXED)].items():
            before = state["fixed"][str(FIXED)][path]
            assert (
                not x[4:6].any() and (np.delete(x, (4, 5), 0) == np.delete(before, (4, 5), 0)).all()
            )
    assert not rival.remembered


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: trainer("CartPole-v1"), "between two agents, and 'CartPole-v1' has no agents"),
        (lambda: trainer(Together), "has the agents ann, bob, cleo, dan"),
        (lambda: trainer(Alone), "has the agents me"),
        (lambda: trainer(TICTACTOE, memory="lstm"), "needs a network without memory"),
        (lambda: trainer(TICTACTOE, plan="allreduce"), "allreduce has no pool"),
        (lambda: SelfPlay(every=0), "self_play.every is 0"),
        (lambda: SelfPlay(latest=0.9, rated=0.2), "at most 1 - self_play.latest"),
        (lambda: SelfPlay(prefer="weak"), "'hard', 'even' or 'uniform'"),  # type: ignore[arg-type]
        (lambda: SelfPlay(opponent=3), "a loaded policy or a function"),
        (lambda: trainer(TICTACTOE, opponent=lambda obs: 11, rated=0.5).train(), "the action 11"),
    ],
)
def test_what_is_no_game_of_two_is_refused(make: Any, text: str) -> None:
    with pytest.raises(ShoalError, match=text):
        make()


def test_a_rated_opponent_is_given_again_when_a_run_goes_on(tmp_path: Path) -> None:
    def first_legal(obs: Any) -> int:
        return int(np.flatnonzero(obs["action_mask"])[0])

    with trainer(TICTACTOE, opponent=first_legal, rated=0.3) as run:
        report = run.train()
        assert {"elo/opponent", "win_rate/opponent"} <= report.keys()
        run.save(tmp_path)
    with pytest.raises(ConfigError, match=r"self_play.opponent was an object of Python"):
        shoal.Trainer.restore(tmp_path, TICTACTOE)
    with shoal.Trainer.restore(tmp_path, TICTACTOE, opponent=first_legal) as again:
        assert "elo/opponent" in again.train()


def test_a_match_needs_two_agents_and_games() -> None:
    with shoal.Trainer("ppo", InTurn) as run:
        with pytest.raises(ShoalError, match="between two agents, and there are 4"):
            shoal.match(run.policy, "random", InTurn)  # type: ignore[arg-type]
        with pytest.raises(ShoalError, match="games is 0"):
            shoal.match(run.policy, "random", InTurn, 0)  # type: ignore[arg-type]
    assert issubclass(ConfigError, ShoalError)
