"""Agents that are not known in advance: does each have a seat of its own while it is there?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.test import api_test, parallel_api_test
from pettingzoo.test.example_envs import generated_agents_parallel_v0

import shoal
from shoal.app.card import write_card
from shoal.app.cli import main
from shoal.envs import make
from shoal.errors import CheckpointError, ConfigError, EnvError, SpaceError
from tests.agents import Together
from tests.crowds import SEATS, Crowd, Queue
from tests.envs.test_agents import worker

FORMS = [Crowd, Queue]
BOTH = {"type0_*": "left", "*": "right"}
SMALL: dict[str, Any] = {
    "max_agents": SEATS,
    "envs_per_worker": 3,
    "fragment_length": 32,
    "report_every": 1,
}


def two(**given: Any) -> shoal.Policies:
    return shoal.Policies({"left": shoal.A2C(), "right": shoal.A2C()} | given, BOTH)


def kept(form: Any) -> tuple[list[Any], Callable[[], Any]]:
    """Environments that are made, and what makes them."""
    envs: list[Any] = []

    def create() -> Any:
        envs.append(form())
        return envs[-1]

    return envs, create


def name(seen: Any) -> str:
    return f"type{int(seen[0])}_{int(seen[1])}"


def test_the_worlds_of_these_tests_keep_to_pettingzoo() -> None:
    parallel_api_test(Crowd(30), num_cycles=60)
    api_test(Queue(30), num_cycles=60)


@pytest.mark.parametrize("form", FORMS)
def test_every_step_and_reward_of_an_episode_is_its_agents(form: Any) -> None:
    """Over 1,000 random episodes; agents of one seat follow each other in one env step, too."""
    envs, create = kept(form)
    world: Any = make(create, 4, max_agents=SEATS)
    rng, ended, shared = np.random.default_rng(0), 0, 0
    seen = world.reset(0)["obs"]
    sits = [name(x) if acts else None for x, acts in zip(seen, world.acts, strict=True)]
    counts: list[tuple[Counter[str], Counter[str]]] = [(Counter(), Counter()) for _ in envs]
    while ended < 1000:
        for slot in np.flatnonzero(world.acts).tolist():
            assert sits[slot] == name(seen[slot])
            counts[slot // SEATS][1][sits[slot]] += 1
        step = world.step(rng.integers(0, 3, world.slots))
        slots, finals = ([], {"obs": []}) if step.final is None else step.final
        left = dict(zip(list(slots), finals["obs"], strict=True))
        seen, acts = step.obs["obs"], world.acts
        for slot in range(world.slots):
            if slot in left:
                shared += int(acts[slot] and not world.over[slot // SEATS])
                assert sits[slot] in (None, name(left[slot]))
            owner = name(left[slot]) if slot in left else sits[slot]
            if step.reward[slot]:
                counts[slot // SEATS][0][owner] += int(step.reward[slot])
            if slot in left:
                sits[slot] = None
            if acts[slot]:
                sits[slot] = name(seen[slot])
        for copy in np.flatnonzero(world.over).tolist():
            assert counts[copy] == envs[copy].past
            counts[copy] = Counter(), Counter()
            ended += 1
    assert shared > 10


@pytest.mark.parametrize("form", FORMS)
def test_what_is_learned_from_are_the_steps_and_rewards_of_the_agents(form: Any) -> None:
    envs, create = kept(form)
    member = worker(create, fragment=50, seats=SEATS)
    for env in envs:  # the first resets were for spaces
        env.told, env.steps = Counter(), Counter()
    member.begin(0, 0)
    steps, rewards = Counter[str](), Counter[str]()
    for _ in range(12):
        t = member.play(member.sampling(None))[1]
        for seen, reward in zip(t.obs["obs"][:-1][t.valid], t.reward[t.valid], strict=True):
            steps[name(seen)] += 1
            rewards[name(seen)] += int(reward)
    if member._turns is not None:
        row = member._turns._row
        steps.update(name(x) for x in row["obs"]["obs"][row["valid"]])
    assert steps == sum((env.steps for env in envs), Counter())
    told = Counter[str]()
    for env in envs:
        told.update(env.told)
    assert rewards == told and len(told) > 20


@pytest.mark.parametrize(("algorithm", "form"), [("a2c", Queue), (two(), Crowd)])
def test_a_run_goes_on_bit_for_bit(algorithm: Any, form: Any, tmp_path: Path) -> None:
    with shoal.Trainer(algorithm, form, stop_steps=10**6, **SMALL) as trainer:
        for _ in range(3):
            trainer.train()
        trainer.save(tmp_path)
        for _ in range(3):
            trainer.train()
        weights = trainer.learner.weights()
    with shoal.Trainer.restore(tmp_path, form) as again:
        for _ in range(3):
            again.train()
        for key, x in weights.items():
            np.testing.assert_array_equal(x, again.learner.weights()[key])


@pytest.mark.parametrize("form", FORMS)
def test_a_world_goes_on_from_its_state_with_everyone_in_their_seats(form: Any) -> None:
    """Also with the rewards of those who have not acted yet."""
    one, other = (make(form, 4, max_agents=SEATS, seed=i) for i in range(2))
    rng = np.random.default_rng(0)
    one.reset(0)
    for _ in range(20):
        for _ in range(3):
            one.step(rng.integers(0, 3, one.slots))
        other.set_state(one.get_state())
        for _ in range(4):
            actions = rng.integers(0, 3, one.slots)
            a, b = one.step(actions), other.step(actions)
            np.testing.assert_array_equal(a.reward, b.reward)
            np.testing.assert_array_equal(a.over, b.over)
            np.testing.assert_array_equal(a.obs["obs"], b.obs["obs"])


class Unlike(Crowd):
    """Agents of the first type have one action more."""

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3 + agent.startswith("type0_"))


@pytest.mark.parametrize("form", FORMS)
def test_one_policy_and_two_by_pattern_train_and_are_evaluated(form: Any) -> None:
    with shoal.Trainer("ppo", form, **SMALL) as trainer:
        before = trainer.learner.weights()
        reports = [trainer.train(), trainer.train()]
        assert reports[-1]["agent_steps"] > reports[-1]["env_steps"] * (form is Crowd)
        after = trainer.learner.weights()
        assert any((x != after[key]).any() for key, x in before.items())
        found = trainer.evaluate(5)
    assert set(found["agents"]) <= {f"agent {i}" for i in range(SEATS)}
    again = shoal.evaluate(
        trainer.policy, form, 5, seed=trainer.config.seed + 1_000_003, max_agents=SEATS
    )
    assert again == found
    one, other = shoal.PPO(minibatch_size=32), Unlike if form is Crowd else form
    with shoal.Trainer(two(left=one, right=one), other, evaluate_every=1, **SMALL) as trainer:
        reports = [trainer.train(), trainer.train()]
        for policy in ("left", "right"):
            assert {f"{policy}/clip_fraction", f"evaluation/{policy}/return_mean"} <= set(
                reports[1]
            )
        found = trainer.evaluate(5)
    assert set(found["policies"]) == {"left", "right"}


def test_a_state_of_other_seats_is_refused() -> None:
    one, other = (make(Crowd, 2, max_agents=most) for most in (SEATS, SEATS + 1))
    one.reset(0)
    with pytest.raises(CheckpointError, match="no state of 2 copies"):
        other.set_state(one.get_state())


class Even(Crowd):
    """Each agent has earned 1 when it leaves, and 2 if it is of another type than the first."""

    def step(self, actions: Any) -> Any:
        seen, _, *ends, infos = super().step(actions)
        left = {a: ends[0][a] or ends[1][a] for a in seen}
        rewards = {a: left[a] * (1 + (not a.startswith("type0_"))) for a in seen}
        return seen, rewards, *ends, infos


def test_returns_of_an_evaluation_are_means_over_agents() -> None:
    envs, create = kept(lambda: Even(12))
    with shoal.Trainer(two(), Crowd, **SMALL) as trainer:
        found = shoal.evaluate(trainer.policy, create, 1, seed=1, max_agents=SEATS)
    names = envs[0].now[0].keys()
    other = sum(not each.startswith("type0_") for each in names)
    assert len(names) > SEATS and found["return_mean"] == (len(names) + other) / len(names)
    assert found["policies"] == {"left": 1, "right": 2}
    for seat, mean in found["agents"].items():
        assert mean == found["policies"][seat.partition(" ")[0]]


def test_commands_know_the_seats_of_a_run(tmp_path: Path, capsys: Any) -> None:
    own = {"learner": "torch", "stop_steps": 200, "evaluate_every": 100, "evaluate_episodes": 2}
    env, out = "tests/crowds.py:Crowd", tmp_path / "run"
    shoal.run("a2c", env, out=out, quiet=True, **{**SMALL, **own})
    assert main(["evaluate", str(out), "--env", env, "--episodes", "2"]) == 0
    assert (
        f"max_agents={SEATS}" in (write_card(str(out), tmp_path / "hub") / "README.md").read_text()
    )
    assert main(["resume", str(out), "--max-agents", "9"]) == 2
    assert "max-agents cannot change" in capsys.readouterr().err
    assert main(["check-env", env, "--max-agents", str(SEATS), "--steps", "200"]) == 0


class Redrawn(Crowd):
    """Of a type that comes later."""

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3 if int(agent.rpartition("_")[2]) < 5 else 4)


class Paid(Crowd):
    def step(self, actions: Any) -> Any:
        seen, rewards, *rest = super().step(actions)
        return seen, {**rewards, "eve": 1.0}, *rest


class Late(Crowd):
    """Nobody is there at the beginning."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed, options)
        self.agents = []
        return {}, {}


def by(agents: dict[str, str]) -> dict[str, Any]:
    policies = {name: shoal.A2C() for name in agents.values()}
    made = shoal.Policies(policies, agents)
    return {"max_agents": 8, "assign": made.assign, "policy_of": made.policy_of}


@pytest.mark.parametrize(
    ("env", "given", "error", "text"),
    [
        (Crowd, {}, EnvError, r"names no possible_agents"),
        (Queue, {}, EnvError, r"names no possible_agents"),
        (Together, {"max_agents": 4}, ConfigError, r"max_agents is 4, but nothing reads it: .*Tog"),
        ("CartPole-v1", {"max_agents": 4}, ConfigError, r"nothing reads it: .* has no agents"),
        ("tic_tac_toe", {"max_agents": 2}, ConfigError, r"nothing reads it: .* possible_agents"),
        ("tic_tac_toe", {"max_agents": 2, "plays": True}, ConfigError, r"reads it: .* no agents"),
        ("ALE/Pong-v5", {"max_agents": 2}, ConfigError, r"nothing reads it: .* has no agents"),
        (Crowd, {"max_agents": 4}, EnvError, r"the policy has 5 agents at once, .* is 4: 'type"),
        (Queue, {"max_agents": 3}, EnvError, r"the policy has \d agents at once, .* is 3: 'type"),
        (Crowd, {**by(BOTH), "max_agents": 5}, EnvError, r"policy 'right' has \d agents at once"),
        (Crowd, by({"type0_*": "left"}), EnvError, r"no policy is given to the agent 'type[12]_0'"),
        (Crowd, by({"type?_[0-4]": "left"}), EnvError, r"no policy is given to .* 'type\d_5'"),
        (Crowd, by({"*": "left", "z": "right"}), EnvError, r"policy 'right' is taken by no agent"),
        (Redrawn, {"max_agents": 8}, SpaceError, r"'type\d_\d' and 'type\d_\d' .* their action sp"),
        (Paid, {"max_agents": 8}, EnvError, r"a reward of the agent 'eve', which is not there"),
        (Late, {"max_agents": 8}, EnvError, r"over before an agent has acted"),
        (generated_agents_parallel_v0.parallel_env, {"max_agents": 9}, SpaceError, r"cannot share"),
    ],
)
def test_a_broken_contract_is_one_error_with_names(
    env: Any, given: Any, error: Any, text: str
) -> None:
    with pytest.raises(error, match=text):
        world: Any = make(env, 2, **given)
        world.reset_groups(0)
        for _ in range(100):
            groups = world.groups.items()
            world.step_groups({key: np.zeros(group.slots, np.int64) for key, group in groups})
