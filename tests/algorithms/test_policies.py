"""Does each agent act and learn by the policy assigned to it, and by no other?"""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

import shoal
from shoal.algorithms.by_policy import join, split
from shoal.algorithms.fixed import Fixed
from shoal.errors import ConfigError, EnvError, ShoalError, SpaceError
from shoal.plans.allreduce import Allreduce
from shoal.plans.async_gradients import AsyncGradients
from shoal.plans.async_replay import AsyncReplay
from shoal.plans.async_samples import AsyncSamples
from shoal.plans.sync_replay import SyncReplay
from shoal.plans.sync_samples import SyncSamples
from shoal.plans.updates import PROBE_STEPS
from shoal.spaces.base import OWN
from shoal.spaces.gym import GymSpaces
from shoal.systems.configure import configure
from shoal.trajectory import shape
from tests.agents import InTurn, Together
from tests.worlds import RECURRENT, difference

TWO = {"ann": "left", "*": "right"}


class Unlike(ParallelEnv):
    """Two wolves and a hare, who see and do different things; the hare's choices are masked."""

    metadata = {"name": "unlike"}  # noqa: RUF012
    render_mode = None

    def __init__(self) -> None:
        self.possible_agents = ["wolf_0", "wolf_1", "hare"]

    def observation_space(self, agent: str) -> Any:
        if agent == "hare":
            mask = spaces.Box(0, 1, (4,), np.int8)
            return spaces.Dict({"where": spaces.Box(-9, 9, (5,)), "action_mask": mask})
        return spaces.Box(-9, 9, (2,))

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(4) if agent == "hare" else spaces.Box(-1, 1, (2,))

    def _seen(self) -> Any:
        hare = {"where": np.full(5, self.t % 7, np.float32), "action_mask": self.mask}
        wolf = np.array([self.t % 5, 1], np.float32)
        return {"wolf_0": wolf, "wolf_1": -wolf, "hare": hare}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.rng, self.t = np.random.default_rng(seed), 0
        self.mask = np.array([1, 1, 0, 1], np.int8)
        self.agents = list(self.possible_agents)
        return self._seen(), {a: {} for a in self.agents}

    def step(self, actions: Any) -> Any:
        assert self.mask[actions["hare"]]
        self.mask = np.roll(self.mask, 1)
        self.t += 1
        over = self.t == 12
        rewards = {"wolf_0": 1.0, "wolf_1": 3.0, "hare": -2.0}
        ended, none = dict.fromkeys(self.agents, over), dict.fromkeys(self.agents, False)
        infos: Any = {a: {} for a in self.agents}
        if over:
            self.agents = []
        return self._seen(), rewards, ended, none, infos


def hunt(**hare: Any) -> shoal.Policies:
    own = hare.get("hare", shoal.A2C())
    return shoal.Policies(
        {"pack": shoal.PPO(minibatch_size=32), "prey": own}, {"wolf_*": "pack", "hare": "prey"}
    )


def chase(**hare: Any) -> shoal.Policies:
    """The same, by algorithms that replay."""
    own = hare.get("hare", shoal.DQN(n_step=2))
    policies = {"pack": shoal.SAC(), "prey": own}
    return shoal.Policies(policies, {"wolf_*": "pack", "hare": "prey"})


SMALL: dict[str, Any] = {"envs_per_worker": 3, "fragment_length": 16, "report_every": 1}


def test_policies_differ_in_spaces_algorithms_and_counts() -> None:
    with shoal.Trainer(hunt(), Unlike, stop_steps=500, **SMALL) as trainer:
        *_, report = trainer
        assert report["env_steps"] * 3 == report["agent_steps"] == report["trained_steps"]
        assert report["pack/return_mean"] == 24 and report["prey/return_mean"] == -24
        assert report["return_mean"] == pytest.approx(8, abs=4)
        assert {"pack/clip_fraction", "prey/policy_loss"} <= report.keys()
        assert "prey/clip_fraction" not in report
        found = trainer.evaluate(4)
    assert found["agents"] == {"wolf_0": 12, "wolf_1": 36, "hare": -24}


@pytest.mark.parametrize("scaled", [False, True])
def test_a_policy_learns_as_it_would_without_the_others(scaled: bool) -> None:
    """The wolves' world does not depend on the hare, so their weights must not either."""
    packs = []
    more = {"normalise_obs": scaled, "scale_reward": scaled, "stop_steps": 500, **SMALL}
    for hare in (shoal.A2C(), shoal.PPO(lr=1e-2, minibatch_size=16), "random"):
        with shoal.Trainer(hunt(hare=hare), Unlike, **more) as trainer:
            for _ in trainer:
                pass
            packs.append(split(trainer.learner.weights())["pack"])
    for other in packs[1:]:
        for name, x in packs[0].items():
            np.testing.assert_array_equal(x, other[name])


def test_each_policy_is_normalised_by_what_its_own_agents_saw_and_earned() -> None:
    more = {"normalise_obs": True, "scale_reward": True, **SMALL}
    with shoal.Trainer(hunt(), Unlike, **more) as trainer:
        for _ in range(3):
            trainer.train()
        own = split(trainer.learner.weights())
        agent_steps = trainer.run.counters.agent_steps
    steps = [*range(PROBE_STEPS), *range(2 * 16)]  # the third update's own come after it
    steps += range(2 * 16, 3 * 16)
    t = np.array(steps) % 12
    assert agent_steps == 9 * len(t)
    np.testing.assert_allclose(own["prey"]["norm/where/mean"], np.mean(t % 7), rtol=1e-6)
    np.testing.assert_allclose(own["prey"]["norm/where/std"], np.std(t % 7), rtol=1e-4)
    assert own["pack"]["norm/obs/mean"] == pytest.approx([0, 0], abs=1e-6)
    np.testing.assert_allclose(own["pack"]["norm/obs/std"][0], np.sqrt(np.mean((t % 5) ** 2.0)))
    found = {}
    for name, rewards in {"prey": [-2.0], "pack": [1.0, 3.0]}.items():
        earned = {r: [] for r in rewards}  # running discounted returns, of each agent
        for r, first in itertools.product(rewards, (0, PROBE_STEPS)):
            now = 0.0
            for k in t[first : first + PROBE_STEPS] if not first else t[first:]:
                now = now * 0.99 + r
                earned[r].append(now)
                now *= k != 11
        found[name] = np.std(np.concatenate(list(earned.values())))
        np.testing.assert_allclose(own[name][f"norm/{OWN}/std"], found[name], rtol=1e-4)


def test_policies_of_one_kind_differ_from_the_beginning() -> None:
    one = shoal.PPO(minibatch_size=32)
    algorithm = shoal.Policies({"left": one, "right": one}, TWO)
    with shoal.Trainer(algorithm, Together, **SMALL) as trainer:
        left, right = split(trainer.learner.weights()).values()
        assert all((left[k] != right[k]).any() for k in left if k.endswith("/w"))
        shape = {"left": (48,), "right": (48,)}
        rows = algorithm.indices(trainer.model, np.random.default_rng(0), shape)
        assert (rows["left"] != rows["right"]).any()


def test_no_policy_moves_where_one_cannot() -> None:
    with shoal.Trainer(hunt(), Unlike, **SMALL) as trainer:
        trainer.train()
        learner, algorithm = trainer.learner, trainer.config.algorithm
        before, version = learner.weights(), learner.version
        batch = trainer.fleet.map("sample")[0][1].batch
        rows = algorithm.indices(trainer.model, np.random.default_rng(0), shape(batch))
        batch["prey"]["advantage"] = np.full_like(batch["prey"]["advantage"], np.nan)
        with pytest.raises(ShoalError, match="diverged"):
            learner.update(batch, rows, trainer.run.hyper())
        assert learner.version == version
        for name, x in learner.weights().items():
            np.testing.assert_array_equal(x, before[name])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("form", [Together, InTurn])
def test_a_run_goes_on_bit_for_bit(form: Any, scaled: bool, tmp_path: Path) -> None:
    algorithm = shoal.Policies({"left": shoal.A2C(), "right": shoal.A2C()}, TWO)
    more = {"normalise_obs": scaled, "scale_reward": scaled, "stop_steps": 10**6, **SMALL}
    with shoal.Trainer(algorithm, form, **more) as trainer:
        for _ in range(3):
            trainer.train()
        trainer.save(tmp_path)
        for _ in range(3):
            report = trainer.train()
        weights = trainer.learner.weights()
    with shoal.Trainer.restore(tmp_path, form) as again:
        for _ in range(3):
            other = again.train()
        for name, x in weights.items():
            np.testing.assert_array_equal(x, again.learner.weights()[name])
    for name in ("agent_steps", "episodes", "left/return_mean", "right/return_mean"):
        assert report[name] == other[name]


REPLAYED: dict[str, Any] = {
    **SMALL,
    **{"fragment_length": 4, "warmup": 64, "batch_size": 32, "replay_ratio": 16.0},
    **{"capacity": 1_000, "stop_steps": 10**6},
}


def test_each_policy_replays_in_its_ratio_to_its_own_agents_steps() -> None:
    with shoal.Trainer(chase(), Unlike, **REPLAYED) as trainer:
        for _ in range(60):
            report = trainer.train()
        replays = trainer.run.local_replay.replays
        counts = {name: own.counts for name, own in replays.items()}
        stored = {name: own.buffer.stored for name, own in replays.items()}
        steps = {name: own.gradient_steps for name, own in trainer.learner.learners.items()}
    assert report["agent_steps"] == sum(stored.values()) and stored["pack"] == 2 * stored["prey"]
    for name, own in counts.items():
        due = 16 * (stored[name] - 64)
        assert own.replayed_steps == 32 * steps[name]
        assert due - 4 * 3 * 2 * 16 - 32 < own.replayed_steps <= due
    assert report["gradient_steps"] == sum(steps.values())
    assert trainer.run.counters.replayed_steps == sum(x.replayed_steps for x in counts.values())


class Opposed(ParallelEnv):
    """One step: left is paid for the number it sees, right for the one after it."""

    metadata = {"name": "opposed"}  # noqa: RUF012
    render_mode = None

    def __init__(self) -> None:
        self.possible_agents = ["left", "right"]

    def observation_space(self, agent: str) -> Any:
        return spaces.Discrete(3)

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self.seen = int(np.random.default_rng(seed).integers(3))
        return dict.fromkeys(self.agents, self.seen), {a: {} for a in self.agents}

    def step(self, actions: Any) -> Any:
        both, self.agents = self.agents, []
        wanted = {"left": self.seen, "right": (self.seen + 1) % 3}
        rewards = {a: float(actions[a] == wanted[a]) for a in both}
        ended, none = dict.fromkeys(both, True), dict.fromkeys(both, False)
        return dict.fromkeys(both, 0), rewards, ended, none, {a: {} for a in both}


# Without the entropy some seeds settle on a wrong action before they have tried the right one.
PAID = shoal.PPO(lr=3e-3, minibatch_size=16, epochs=4, entropy_coef=0.1)
PLANS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "sync_samples": (PAID, SyncSamples(), {}),
    "async_samples": (shoal.VTrace(lr=1e-2), AsyncSamples(), {}),
    "async_gradients": (shoal.A2C(lr=2e-2), AsyncGradients(), {}),
    "allreduce": (PAID, Allreduce(), {}),
    "sync_replay": (shoal.DQN(lr=3e-3, epsilon_steps=500), SyncReplay(), REPLAYED),
    "async_replay": (shoal.DQN(lr=3e-3, epsilon_steps=500), AsyncReplay(), REPLAYED),
    "async_replay, by priority": (
        shoal.DQN(lr=3e-3, epsilon_steps=500),
        AsyncReplay(shards=2),
        {**REPLAYED, "alpha": 0.6},
    ),
}


def spawned(trainer: shoal.Trainer) -> list[Any]:
    """The fleets of shards."""
    return list(trainer.fleet._spawned)  # type: ignore[attr-defined]


@pytest.mark.parametrize("plan", PLANS)
def test_under_every_plan_policies_learn_what_their_own_agents_are_paid_for(plan: str) -> None:
    one, under, more = PLANS[plan]
    algorithm = shoal.Policies({"a": one, "b": one}, {"left": "a", "right": "b"})
    more = {**SMALL, "fragment_length": 8, **more, "stop_steps": 4_000, "report_every": 500}
    more |= {"workers": 2, "in_process": True}
    with shoal.Trainer(algorithm, Opposed, plan=under, **more) as trainer:
        *_, report = trainer
        assert trainer.evaluate(50)["agents"] == {"left": 1.0, "right": 1.0}
        counters = trainer.run.counters
        shards = [shard._buffer for fleet in spawned(trainer) for shard in fleet._members]
        steps = {name: own.gradient_steps for name, own in trainer.learner.learners.items()}
    flying = counters.agent_steps - counters.trained_steps - counters.dropped_steps
    assert counters.agent_steps == 2 * counters.env_steps and report["dropped_steps"] == 0
    assert 0 <= flying <= (0 if under.exact else 2 * 2 * 2 * SMALL["envs_per_worker"] * 8)
    if shards:  # what they hold is their own account of it
        stored = sum(shard.stored for shard in shards)
        assert counters.trained_steps == stored
        assert counters.replayed_steps == 32 * sum(steps.values()) <= 16 * (stored - 2 * 64)
        assert steps["a"] == pytest.approx(steps["b"], rel=0.1)  # of as many steps of their agents


@pytest.mark.parametrize("form", [Together, InTurn])
@pytest.mark.parametrize("save", [True, False])
def test_a_run_that_replays_goes_on_bit_for_bit(form: Any, save: bool, tmp_path: Path) -> None:
    algorithm = shoal.Policies({"left": shoal.DQN(), "right": shoal.DQN(double=True)}, TWO)
    with shoal.Trainer(algorithm, form, save=save, **REPLAYED) as trainer:
        for _ in range(30):
            trainer.train()
        assert trainer.learner.gradient_steps > 20
        trainer.save(tmp_path)
        for _ in range(10):
            trainer.train()
        weights, counters = trainer.learner.weights(), trainer.run.counters
    with shoal.Trainer.restore(tmp_path, form) as again:
        replays = again.run.local_replay.replays.values()
        assert all(own.counts.replayed_steps > 0 for own in replays)
        assert all((own.counts.learning_from is not None) is save for own in replays)
        for _ in range(10 if save else 40):
            again.train()
        assert all(own.counts.learning_from is not None for own in replays)
        if save:
            for name, x in weights.items():
                np.testing.assert_array_equal(x, again.learner.weights()[name])
            assert again.run.counters == counters


def test_an_update_of_one_policy_alone_is_undone_alone() -> None:
    with shoal.Trainer(chase(), Unlike, **REPLAYED) as trainer:
        while trainer.learner.gradient_steps < 10:
            trainer.train()
        learner, run = trainer.learner, trainer.run
        before, version = learner.get_state(), learner.version
        drawn = run.local_replay.draw(run.rng, {"prey": 1}, 0.0)
        learner.update(drawn.batch, run.local_replay.minibatches(drawn), run.hyper())
        moved = split(learner.weights())
        assert learner.version == version + 1
        learner.rollback(version)
        after = learner.get_state()
    assert not difference(before, after)
    old = split(before["params"])
    assert all((moved["pack"][k] == x).all() for k, x in old["pack"].items())
    assert any((moved["prey"][k] != x).any() for k, x in old["prey"].items())


class Fragile(Together):
    """Raises KeyboardInterrupt in the env step in which ``countdown`` comes to 0."""

    countdown = -1

    def step(self, actions: dict[str, int]) -> Any:
        Fragile.countdown -= 1
        if Fragile.countdown == 0:
            raise KeyboardInterrupt
        return super().step(actions)


@pytest.mark.parametrize("step", [1, 20, 48])
def test_an_interrupted_fragment_is_sampled_again_by_all(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a plan that does not wait for all workers, and so tells none of them to."""
    algorithm = shoal.Policies({"left": shoal.VTrace(), "right": "random"}, TWO)
    fields: dict[str, Any] = {"plan": "async_samples", **SMALL}
    found = []
    for countdown in (-1, step):
        with shoal.Trainer(algorithm, Fragile, **fields) as trainer:
            trainer.train()
            monkeypatch.setattr(Fragile, "countdown", countdown)
            if countdown > 0:
                with pytest.raises(KeyboardInterrupt):
                    trainer.train()
            trainer.train()
            found.append((trainer.learner.weights(), vars(trainer.run.counters)))
    assert not difference(found[0], found[1])


def test_one_policy_is_loaded_by_its_name(tmp_path: Path) -> None:
    with shoal.Trainer(hunt(), Unlike, **SMALL) as trainer:
        trainer.train()
        trainer.save(tmp_path)
        expected = trainer.evaluate(3, explore=True)
    prey = shoal.load(tmp_path, policy="prey")
    seen = {"where": np.zeros(5, np.float32), "action_mask": np.array([0, 0, 1, 0], np.int8)}
    assert prey.act(seen) == 2
    team = shoal.load(tmp_path)
    assert shoal.evaluate(team, Unlike, 3, seed=1_000_003, explore=True) == expected
    with pytest.raises(ConfigError, match="there is no trained policy 'hare'"):
        shoal.load(tmp_path, policy="hare")
    with shoal.Trainer(hunt(hare=prey), Unlike, **SMALL) as frozen:
        before = {name: x.copy() for name, x in prey.weights.items()}
        frozen.train()
        assert set(split(frozen.learner.weights())) == {"pack"}
    for name, x in before.items():
        np.testing.assert_array_equal(x, prey.weights[name])


def test_a_fixed_policy_remembers_what_its_own_agents_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever others do by the same policy meanwhile; and when a run goes on from its state."""
    with shoal.Trainer(hunt(hare=shoal.A2C(network=RECURRENT)), Unlike, **SMALL) as trainer:
        trainer.train()
        trainer.save(tmp_path)
    prey, seen = shoal.load(tmp_path, policy="prey"), []
    choose = Fixed.choose

    def noted(fixed: Fixed, *args: Any) -> Any:
        seen.append({path: x.copy() for path, x in fixed.get_state().items()})
        return choose(fixed, *args)

    fields = {"workers": 2, "in_process": True, **SMALL, "fragment_length": 17}  # within episodes
    with shoal.Trainer(hunt(hare=prey), Unlike, **fields) as trainer:
        trainer.train()
        member, other = trainer.fleet._members  # type: ignore[attr-defined]
        monkeypatch.setattr(Fixed, "choose", noted)
        state = copy.deepcopy(member.get_state())
        member.sample()
        first, seen[:] = list(seen), []
        other.sample()
        trainer.evaluate(3)
        member.set_state(state)
        seen.clear()
        member.sample()
        assert not difference(seen, first) and any(x.any() for x in first[0].values())
        member.begin(0, 0)
        seen.clear()
        member.sample()
        assert difference(seen[0], first[0]) and not any(x.any() for x in seen[0].values())


def test_a_fixed_policy_forgets_where_an_episode_begins_and_nowhere_else() -> None:
    own, told = GymSpaces(spaces.Box(-9, 9, (2,)), spaces.Discrete(3)), []
    loaded = SimpleNamespace(choose=None, spaces=own, reset=told.append)
    fixed = Fixed("old", loaded, own, ["hare"], "Unlike")
    fixed.reset(np.array([True, False]))
    assert told[0].tolist() == [True, False]


def test_a_function_acts_for_its_agents_alone() -> None:
    seen = []

    def first_legal(obs: Any) -> int:
        seen.append(obs["where"].shape)
        return int(np.flatnonzero(obs["action_mask"])[0])

    with shoal.Trainer(hunt(hare=first_legal), Unlike, stop_steps=100, **SMALL) as trainer:
        report = trainer.train()
    assert len(seen) == report["env_steps"] and set(seen) == {(5,)}
    assert report["agent_steps"] == 2 * report["env_steps"]


def test_settings_make_the_way_through_json() -> None:
    from shoal.config.settings import to_dict
    from shoal.systems.configure import configure

    policies = {"pack": {"system": "ppo", "lr": 1e-3, "network": {"hidden": [8]}}, "prey": "random"}
    agents = {"wolf_*": "pack", "hare": "prey"}
    settings = {"system": "policies", "algorithm": {"policies": policies, "agents": agents}}
    config = configure(None, Unlike, settings)
    pack = config.algorithm.parts["pack"]
    assert pack.lr == 1e-3 and tuple(pack.network.hidden) == (8,)
    saved = json.loads(json.dumps(to_dict(config)))
    again = configure(None, Unlike, saved)
    assert to_dict(again) == to_dict(config) and again.algorithm.parts == config.algorithm.parts


def test_the_loss_is_the_sum_of_its_parts() -> None:
    with shoal.Trainer(hunt(), Unlike, **SMALL) as trainer:
        algorithm, model = trainer.config.algorithm, trainer.model
        trainer.train()
        batch = trainer.fleet.map("sample")[0][1].batch
        params: Any = trainer.learner.get_state()["params"]
    hyper = join({name: part.hyper(0.0) for name, part in algorithm.parts.items()})
    aux: Any = {f"{k.split('/')[0]}/hyper/{k.split('/')[1]}": x for k, x in hyper.items()}
    total, metrics = algorithm.loss(model, params, aux, batch)
    parts = [
        part.loss(model[name], split(params)[name], split(aux).get(name, {}), batch[name])[0]
        for name, part in algorithm.parts.items()
    ]
    assert total == pytest.approx(sum(parts))
    assert "pack/clip_fraction" in metrics.scalars


ILL: list[tuple[Any, Any, type[ShoalError], str]] = [
    ({"a": shoal.PPO()}, {"wolf_*": "a"}, EnvError, "no policy is given to the agent 'hare'"),
    (
        {"a": shoal.PPO(), "b": "random", "c": "random"},
        {"wolf_*": "a", "hare": "b", "fox": "c"},
        EnvError,
        "the policy 'c' is taken by no agent: there are 'wolf_0', 'wolf_1', 'hare'",
    ),
    ({"a": shoal.PPO()}, {"*": "a"}, SpaceError, "'wolf_0' and 'hare' .* cannot share the policy"),
    (
        {"a": shoal.PPO(), "b": lambda obs: 7},
        {"wolf_*": "a", "hare": "b"},
        EnvError,
        "the policy 'b' gave the agent 'hare' .* the action 7, which is none",
    ),
    (
        {"a": shoal.PPO(), "b": lambda obs: 2},
        {"wolf_*": "a", "hare": "b"},
        EnvError,
        r"the action 2, which is not legal there: \[0, 1, 3\] are",
    ),
]


@pytest.mark.parametrize(("policies", "agents", "error", "text"), ILL)
def test_a_wrong_mapping_is_one_error_with_the_names(
    policies: Any, agents: Any, error: type[ShoalError], text: str
) -> None:
    with (
        pytest.raises(error, match=text),
        shoal.Trainer(shoal.Policies(policies, agents), Unlike, **SMALL) as trainer,
    ):
        trainer.train()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: shoal.Policies({"a": "random"}, {"*": "a"}), "none of the policies 'a' learns"),
        (lambda: shoal.Policies({"a": shoal.PG()}, {"*": "a"}), "PG, which learns from whole"),
        (lambda: shoal.Policies({"a": shoal.ES()}, {"*": "a"}), "ES, which learns from whole"),
        (lambda: hunt(hare=shoal.DQN()), "'prey' learns from a replay buffer and 'pack' from"),
        (lambda: shoal.Trainer(chase(), Unlike, plan="async_gradients"), "buffer of its own"),
        (lambda: shoal.Trainer(chase(), Unlike, plan="parameter_server"), "one policy only"),
        (lambda: shoal.Trainer(chase(), Unlike, capacity=10**12), "free"),
        (lambda: shoal.Policies({"a": shoal.PPO()}, {"*": "b"}), "policy 'b', which is none"),
        (lambda: shoal.Policies({"a": "greedy"}, {"*": "a"}), "'greedy', which is no policy"),
        (lambda: shoal.Policies({"a/b": shoal.PPO()}, {"*": "a/b"}), "cannot be the name"),
        (lambda: shoal.Policies({"a": {"lr": 1.0}}, {"*": "a"}), "names no system"),
        (lambda: shoal.Trainer(hunt(), Unlike, plan="parameter_server"), "several gradient steps"),
        (lambda: shoal.Trainer(hunt(), Unlike, hide=[0]), "rollout.hide"),
        (lambda: shoal.Trainer(hunt(), "CartPole-v1"), "has no agents to give policies to"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(make: Any, text: str) -> None:
    with pytest.raises(ShoalError, match=text):
        make()


@pytest.mark.parametrize(
    ("system", "plan", "other"),
    [("dqn", "sync_replay", "async_replay"), ("a2c", "sync_samples", "async_gradients")],
)
def test_settings_of_policies_lead_to_the_plan_that_runs_them(
    system: str, plan: str, other: str
) -> None:
    own = {name: {"system": system, "lr": 1e-4} for name in ("left", "right")}
    settings = {"system": "policies", "algorithm": {"policies": own, "agents": TWO}}
    config = configure(None, Together, settings)
    assert config.plan.name == plan
    assert {part.lr for part in config.algorithm.parts.values()} == {1e-4}
    assert configure(None, Together, {**settings, "plan": other}).plan.name == other


def test_the_console_says_which_policies_learn_how() -> None:
    from shoal.app.loop import header

    with shoal.Trainer(hunt(), Unlike, stop_steps=100, **SMALL) as trainer:
        text = header(trainer, Path("runs/hunt"))
    assert "Policies under sync_samples" in text
    assert "\npack: PPO\n" in text and "\nprey: A2C\n" in text
