"""Does a worker count what happened, keep its randomness to itself, and go back to the bit?"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from shoal.errors import EnvError
from shoal.fleet.base import results
from shoal.fleet.local import LocalFleet
from shoal.fleet.sample import Sample
from shoal.fleet.worker import Worker
from shoal.spaces.base import OWN
from tests.worlds import Script, Scripts, difference, episodes, settings, worker

NORMALISED = {"normalise_obs": True, "scale_reward": True}
UNITS: dict[str, Any] = {
    "norm/obs/mean": np.zeros(3, np.float32),
    "norm/obs/std": np.ones(3, np.float32),
    f"norm/{OWN}/std": np.ones((), np.float32),
}


def what(sample: Sample) -> dict[str, Any]:
    """Everything of a sample but its times."""
    moments = {name: m.arrays() for name, m in sample.moments.items()}
    return {**vars(sample), "times": None, "moments": moments}


# -------------------------------------------------------------------------- accounting


@pytest.mark.parametrize("length", [1, 3, 8])
def test_episodes_and_steps_are_the_environments_own(length: int) -> None:
    """Over fragments shorter and longer than episodes, which last 1 to 6 env steps."""
    scripts = Scripts()
    made = worker(settings("ppo", scripts, rollout={"fragment_length": length}))
    samples = [made.sample() for _ in range(7)]
    assert sum(s.env_steps for s in samples) == scripts.steps() == 7 * length * 2
    found = [episode for s in samples for episode in s.episodes]
    assert sorted(found) == sorted(e for log in scripts.logs for e in episodes(log))


def test_episodes_are_told_in_the_order_in_which_they_ended() -> None:
    scripts = Scripts()
    made = worker(settings("ppo", scripts))
    ends = []
    sample = made.sample()
    for slot, log in enumerate(scripts.logs):
        at = [t for t, x in enumerate(log) if x.terminated or x.truncated]
        ends += [(t, slot, e) for t, e in zip(at, episodes(log), strict=True)]
    assert sample.episodes == [episode for *_, episode in sorted(ends)]


def test_whole_episodes_count_every_step_that_the_environments_took() -> None:
    """Slots that wait for the longest episode are stepped too: sampled, and dropped."""
    scripts = Scripts()
    made = worker(settings("pg", scripts, rollout={"envs_per_worker": 4}))
    samples = [made.sample() for _ in range(5)]
    assert sum(s.env_steps for s in samples) == scripts.steps()
    assert all(s.trained_steps <= s.env_steps for s in samples)
    assert sum(s.trained_steps for s in samples) < scripts.steps()
    assert sum(s.trained_steps for s in samples) == sum(n for s in samples for _, n in s.episodes)


def test_waiting_for_an_episode_that_never_ends_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.fleet.worker.ENDLESS", 50)
    made = worker(settings("pg", lambda: Script(10**9)))
    with pytest.raises(EnvError, match="has not ended within 50 env steps") as caught:
        made.sample()
    assert "a2c" in str(caught.value)


@pytest.mark.parametrize("system", ["ppo", "a2c", "pg"])
def test_trained_steps_are_the_rows_that_count(system: str) -> None:
    sample = worker(settings(system, Scripts())).sample()
    assert sample.trained_steps == sample.batch["mask"].sum()


def test_a_sample_carries_the_version_of_the_weights_that_acted() -> None:
    made = worker(settings("ppo", Scripts()))
    made.set_weights(made.weights, 41)
    assert made.sample().version == 41


# -------------------------------------------------------------------------- randomness


def test_same_seed_and_index_same_samples() -> None:
    first, second = (worker(settings("ppo", Scripts(), seed=3)) for _ in range(2))
    for _ in range(3):
        assert not difference(what(first.sample()), what(second.sample()))


@pytest.mark.parametrize(("seed", "index"), [(3, 1), (4, 0)])
def test_another_seed_or_index_is_another_world(seed: int, index: int) -> None:
    base = worker(settings("ppo", Scripts(), seed=3))
    other = worker(settings("ppo", Scripts(), seed=seed), index)
    other.set_weights(base.weights, 0)
    a, b = base.sample(), other.sample()
    assert not set(map(bytes, a.batch["obs"]["obs"])) & set(map(bytes, b.batch["obs"]["obs"]))
    assert a.batch["action"].tolist() != b.batch["action"].tolist()


def test_slots_of_one_worker_differ() -> None:
    batch = worker(settings("ppo", Scripts())).sample().batch
    rows = list(map(bytes, batch["obs"]["obs"]))
    assert len(set(rows)) == len(rows)


# ------------------------------------------------------------------------ going back


@pytest.mark.parametrize("system", ["ppo", "pg"])
def test_a_restored_worker_samples_the_same(system: str) -> None:
    """In a new worker, in mid-episode."""
    config = settings(system, Scripts(), rollout=NORMALISED)
    made = worker(config)
    made.set_weights({**made.weights, **UNITS}, 0)
    made.sample()
    state = made.get_state()
    wanted = [what(made.sample()) for _ in range(2)]
    again = worker(config)
    again.set_weights({**again.weights, **UNITS}, 0)
    again.set_state(state)
    assert not difference([what(again.sample()) for _ in range(2)], wanted)


def test_a_state_does_not_move_with_the_worker() -> None:
    made = worker(settings("ppo", Scripts()))
    made.sample()
    state = made.get_state()
    frozen = {name: str(state[name]) for name in ("rng", "obs", "returns", "lengths", "env")}
    made.sample()
    assert {name: str(state[name]) for name in frozen} == frozen


class Fragile(Script):
    """Raises KeyboardInterrupt in the env step in which ``countdown`` comes to 0."""

    countdown = -1

    def step(self, action: Any) -> Any:
        Fragile.countdown -= 1
        if Fragile.countdown == 0:
            raise KeyboardInterrupt
        return super().step(action)


@pytest.mark.parametrize("system", ["ppo", "pg"])
@pytest.mark.parametrize("step", [1, 7, 16])
@pytest.mark.parametrize("told", [True, False])
def test_an_interrupted_fragment_is_sampled_again(
    monkeypatch: pytest.MonkeyPatch, system: str, step: int, told: bool
) -> None:
    """Plans that wait for all workers tell them to; in others, they do so by themselves."""
    config = settings(system, Fragile, rollout=NORMALISED)
    wanted, made = worker(config), worker(config)
    for each in (wanted, made):
        each.set_weights({**each.weights, **UNITS}, 0)
        each.sample()
    state = made.get_state()
    monkeypatch.setattr(Fragile, "countdown", step)
    with pytest.raises(KeyboardInterrupt):
        made.sample()
    if told:
        made.rollback(1)
        kept = made.get_state()  # what a checkpoint written now would hold
        assert not difference({**kept, "env": None}, {**state, "env": None})
    for _ in range(2):
        assert not difference(what(made.sample()), what(wanted.sample()))


def test_rollback_leaves_a_used_fragment_alone() -> None:
    wanted, made = (worker(settings("ppo", Scripts())) for _ in range(2))
    for each in (wanted, made):
        each.sample()
    made.rollback(1)
    assert not difference(what(made.sample()), what(wanted.sample()))


def test_a_fragment_that_was_never_used_is_sampled_again() -> None:
    """This worker had finished when another was interrupted."""
    made = worker(settings("ppo", Scripts()))
    unused = what(made.sample())
    made.rollback(0)
    assert not difference(what(made.sample()), unused)


def test_a_worker_that_joined_later_goes_back_by_the_number_of_the_fragment() -> None:
    """It has sampled one fragment when the others are at their sixth."""
    made = worker(settings("ppo", Scripts()))
    made.sample(4)
    unused = what(made.sample(5))
    made.rollback(6)  # the sixth was used: nothing to undo
    assert made.fragments == 6
    made.rollback(5)
    assert made.fragments == 5
    assert not difference(what(made.sample(5)), unused)


def test_a_replacement_has_randomness_of_its_own() -> None:
    """Not that of the worker that died, nor of any other."""
    seeds = set()
    for index in range(3):
        for restart in range(3):
            made = Worker(settings("ppo", Scripts()), index, restart=restart)
            seeds |= set(made.env.episode_seeds)
    assert len(seeds) == 3 * 3 * 2


# ---------------------------------------------------------------------- normalisation


def test_moments_are_of_the_observations_acted_on() -> None:
    scripts = Scripts()
    made = worker(settings("ppo", scripts, rollout={"normalise_obs": True}))
    moments = made.sample().moments["obs"]
    seen = np.stack([x.obs for log in scripts.logs for x in log]).astype(float)
    assert moments.count == 16
    np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.var, seen.var(0), rtol=1e-6)


def test_reward_moments_are_of_the_running_discounted_return() -> None:
    """ret <- gamma ret + r, to 0 at an episode's end, across fragments (PPO detail 30)."""
    scripts = Scripts()
    made = worker(settings("ppo", scripts, gamma=0.9, rollout={"scale_reward": True}))
    made.set_weights({**made.weights, **UNITS}, 0)
    parts = [made.sample().moments[OWN] for _ in range(3)]
    found = parts[0].merge(parts[1]).merge(parts[2])
    returns = []
    for log in scripts.logs:
        running = 0.0
        for x in log:
            running = 0.9 * running + x.reward
            returns.append(running)
            running = 0.0 if x.terminated or x.truncated else running
    assert found.count == len(returns) == 48
    assert float(found.mean) == pytest.approx(np.mean(returns))
    assert float(found.var) == pytest.approx(np.var(returns))


def test_rewards_are_scaled_and_clipped_for_learning_only() -> None:
    """Divided by the standard deviation, no mean subtracted, within +-10; returns stay raw."""
    scripts = Scripts()
    made = worker(settings("a2c", scripts, gamma=0.0, rollout={"scale_reward": True}))
    made.set_weights({**made.weights, **UNITS, f"norm/{OWN}/std": np.array(0.2, np.float32)}, 0)
    sample = made.sample()
    for slot, log in enumerate(scripts.logs):
        wanted = [min(max(x.reward / 0.2, -10.0), 10.0) for x in log]
        assert sample.batch["target"][slot::2].tolist() == pytest.approx(wanted, abs=1e-4)
        assert 10.0 in [abs(x) for x in wanted]
    assert sorted(sample.episodes) == sorted(e for log in scripts.logs for e in episodes(log))


def test_a_probe_acts_at_random_and_then_begins_anew() -> None:
    scripts = Scripts()
    made = worker(settings("ppo", scripts, rollout=NORMALISED))
    made.set_weights({}, 0)
    sample = made.probe(30)
    assert (sample.env_steps, sample.trained_steps, sample.episodes) == (60, 0, [])
    assert scripts.steps() == 60
    assert sample.moments["obs"].count == sample.moments[OWN].count == 60
    counts = np.bincount([int(x.action) for log in scripts.logs for x in log], minlength=4)
    assert counts.min() > 5
    assert not made.returns.any() and not made.lengths.any() and not made.discounted.any()


# ------------------------------------------------------------------------------ fleet


def fleet(size: int = 2) -> LocalFleet:
    return LocalFleet(lambda index, restart: Worker(settings("ppo", Scripts()), index), size)


def weights(value: float) -> dict[str, np.ndarray]:
    made = worker(settings("ppo", Scripts()))
    return {name: np.full_like(x, value) for name, x in made.weights.items()}


def test_workers_of_a_fleet_see_different_episodes() -> None:
    made = fleet()
    made.publish(weights(0.1), 0)
    made.send()
    first, second = (s.batch["obs"]["obs"] for s in results(made.map("sample")))
    assert not set(map(bytes, first)) & set(map(bytes, second))


class Counting:
    """A member whose verb counts its calls; that keeps its weights, and tells of its end."""

    def __init__(self, index: int, restart: int, ended: list[int] | None = None) -> None:
        self.index, self.calls, self.ended = index, 100 * index, [] if ended is None else ended
        self.weights: Any = None

    def count(self, step: int) -> int:
        self.calls += step
        return self.calls

    def set_weights(self, weights: Any, version: int) -> None:
        self.weights = weights, version

    def given(self) -> Any:
        return self.weights

    def close(self) -> None:
        self.ended.append(self.index)


def counting(size: int) -> LocalFleet:
    return LocalFleet(Counting, size)


def test_new_members_get_the_newest_weights() -> None:
    made = counting(1)
    made.publish(weights(0.1), 6)
    made.send()
    made.publish(weights(0.2), 7)
    made.send()
    made.resize(3)
    assert not difference(results(made.map("given")), [(weights(0.2), 7)] * 3)


def test_resizing_ends_the_last_members_and_keeps_the_others() -> None:
    ended: list[int] = []
    made = LocalFleet(lambda index, restart: Counting(index, restart, ended), 3)
    made.map("count", 1)
    made.resize(1)
    assert (ended, made.size) == ([2, 1], 1)
    assert results(made.map("count", 1)) == [2]  # the one that was there
    made.close()
    assert ended == [2, 1, 0]


def test_a_map_is_in_the_order_of_the_members_with_its_arguments() -> None:
    assert results(counting(3).map("count", 2)) == [2, 102, 202]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_stream_gives_every_worker_its_turn(in_flight: int) -> None:
    stream = counting(2).stream("count", lambda _: (1,), in_flight=in_flight)
    assert list(islice(stream, 6)) == [(0, 1), (1, 101), (0, 2), (1, 102), (0, 3), (1, 103)]


def test_a_stream_makes_a_call_only_when_its_result_is_asked_for() -> None:
    """In this process, however many calls may be in flight elsewhere."""
    made = counting(2)
    asked = iter(range(1, 100))
    stream = made.stream("count", lambda _: (next(asked),), in_flight=3)
    taken = [next(stream) for _ in range(5)]
    assert taken == [(0, 1), (1, 102), (0, 4), (1, 106), (0, 9)]
    assert (next(asked), results(made.map("count", 0))) == (6, [9, 106])


def test_a_stream_follows_the_fleets_size() -> None:
    made = counting(1)
    stream = made.stream("count", lambda _: (1,))
    next(stream)
    made.resize(3)
    assert {index for index, _ in islice(stream, 3)} == {0, 1, 2}
    made.resize(1)
    assert {index for index, _ in islice(stream, 3)} == {0}


def test_restoring_gives_each_worker_its_own_state() -> None:
    made = fleet()
    made.publish(weights(0.1), 0)
    made.send()
    made.map("sample")
    states = results(made.map("get_state"))
    wanted = [what(s) for s in results(made.map("sample"))]
    again = fleet()
    again.publish(weights(0.1), 0)
    again.send()
    again.map("set_state", each=[(own,) for own in states])
    assert not difference([what(s) for s in results(again.map("sample"))], wanted)
