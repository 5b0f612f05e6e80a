"""Are the steps, rewards and endings of every agent those of its environment?"""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import AECEnv
from pettingzoo.test import api_test, parallel_api_test, seed_test
from pettingzoo.utils.conversions import aec_to_parallel

import shoal
from shoal.config.replay import Replay
from shoal.envs import make
from shoal.envs.pettingzoo import copy_of
from shoal.errors import EnvError, ShoalError, SpaceError
from shoal.fleet.turns import Turns
from shoal.fleet.worker import Worker
from shoal.replay.settings import make as make_buffer
from shoal.systems.table import default_config
from tests.agents import NAMES, Alone, Cycle, InTurn, Together
from tests.worlds import difference

FORMS = [Together, InTurn]


def worker(
    env: Any, *, fragment: int = 64, copies: int = 4, seats: int | None = None, **fields: Any
) -> Worker:
    config = default_config("ppo", env)
    rollout = replace(
        config.rollout,
        envs_per_worker=copies,
        fragment_length=fragment,
        clip_reward=None,
        max_agents=seats,
    )
    made = Worker(replace(config, rollout=rollout, **fields), 0)
    weights = made.config.algorithm.init(made.model, np.random.default_rng(0))
    made.set_weights(weights, 0)
    return made


def test_the_worlds_of_these_tests_keep_to_pettingzoo() -> None:
    parallel_api_test(Together(), num_cycles=300)
    api_test(InTurn(), num_cycles=300, verbose_progress=False)
    seed_test(InTurn, num_cycles=50)


@pytest.mark.parametrize(
    "name", ["mpe2.simple_spread_v3", "mpe2.simple_speaker_listener_v4", "tests.agents"]
)
def test_stepping_a_cycle_directly_is_what_pettingzoos_parallel_form_does(name: str) -> None:
    """Also where agents leave at the end of a cycle, over 40 episodes of random actions."""
    made = importlib.import_module(name).parallel_env
    direct, wrapped = copy_of(made()), copy_of(made())
    wrapped._step = wrapped.env.step  # type: ignore[attr-defined]
    assert direct._step != direct.env.step  # type: ignore[attr-defined]
    rng, left = np.random.default_rng(0), 0
    for seed in range(40):
        one, other = direct.reset(seed), wrapped.reset(seed)
        while True:
            assert not difference(one._asdict(), other._asdict())
            if not one.acting:
                break
            left += bool(one.ended)
            sizes = {a: int(direct.env.action_space(a).n) for a in one.acting}
            actions = {a: int(rng.integers(n)) for a, n in sizes.items()}
            one, other = direct.step(actions), wrapped.step(actions)
            assert direct.env.agents == wrapped.env.agents
    assert name != "tests.agents" or left > 40


def test_a_cycle_in_another_order_is_refused() -> None:
    class Skips(Cycle):
        def step(self, action: Any) -> None:
            super().step(action)
            if self.t == 1:
                self.agent_selection = "dan"

    made = copy_of(aec_to_parallel(Skips()))
    acting = made.reset(0).acting
    with pytest.raises(EnvError, match=r"'dan' was to act, expected 'bob'"):
        made.step(dict.fromkeys(acting, 0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fragment", [7, 64])
def test_steps_and_rewards_of_every_agent_are_conserved(form: Any, fragment: int) -> None:
    """Over 1,000 random episodes, against the environments' own counts."""
    envs: list[Any] = []

    def create() -> Any:
        envs.append(form())
        return envs[-1]

    member = worker(create, fragment=fragment)
    member.begin(0, 0)
    for env in envs:  # the first resets were for spaces
        env.episodes, env.earned, env.acted = 0, Counter(), Counter()
    steps: Counter[str] = Counter()
    returns, rewards = 0.0, Counter[str]()
    counted = 0
    while sum(env.episodes for env in envs) < 1000:
        sample, t = member.play(member.sampling(None))
        counted += sample.agent_steps
        assert sample.agent_steps == sample.trained_steps == np.count_nonzero(sample.batch["mask"])
        returns += sum(earned for earned, _ in sample.episodes)
        for number, name in enumerate(NAMES):
            steps[name] += int(t.valid[:, number::4].sum())
            rewards[name] += int(t.reward[:, number::4][t.valid[:, number::4]].sum())
            assert (t.obs["obs"][:-1][t.valid][:, 0] == np.nonzero(t.valid)[1] % 4).all()
    going = sum(sum(env.now[0].values()) for env in envs)
    for name in NAMES:
        acted = sum(env.acted[name] + env.now[1][name] for env in envs)
        # What is not answered yet, or is of agents that have not acted yet, is still kept.
        kept: Any = member._turns._row if member._turns else {"valid": np.zeros(16), "reward": 0}
        own = slice(NAMES.index(name), None, 4)
        assert steps[name] + int(kept["valid"][own].sum()) == acted
    if form is Together:
        for name in NAMES:
            earned = sum(env.earned[name] + env.now[0][name] for env in envs)
            assert rewards[name] == earned
    if form is Together:
        total = sum(sum(env.earned.values()) for env in envs) + going
        assert returns + float(member.returns.sum()) == total
    assert counted == sum(steps.values())


def test_a_reward_between_turns_belongs_to_the_last_action() -> None:
    """And one before the first action to the first, as the environment tells it."""
    told: dict[str, list[float]] = {name: [] for name in NAMES}
    early: dict[tuple[int, str], float] = {}

    class Told(InTurn):
        def last(self, observe: bool = True) -> Any:
            result = super().last(observe)
            agent, key = self.agent_selection, (self.episodes, self.agent_selection)
            if self.now[1][agent]:  # it has acted, so this follows on its action
                told[agent].append(float(result[1]) + early.pop(key, 0.0))
            else:
                early[key] = float(result[1])
            return result

    member = worker(Told, copies=1, fragment=5)
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(60):
        t = member.play(member.sampling(None))[1]
        for b, name in enumerate(NAMES):
            found[name] += t.reward[t.valid[:, b], b].tolist()
    assert min(map(len, found.values())) > 20 and found == told


@pytest.mark.parametrize("form", FORMS)
def test_fragments_of_any_length_tell_the_same_steps(form: Any) -> None:
    """A transition cut by a fragment's end is completed in the next."""
    streams = []
    for fragment in (6, 30):
        member = worker(form, fragment=fragment, copies=2, seed=3)
        member.begin(0, 0)
        member.rng = np.random.default_rng(5)
        rows: list[list[Any]] = [[] for _ in range(member.env.slots)]
        member.model = member.model._replace(dist=_Fixed(member.model.dist))
        for _ in range(480 // fragment):
            t = member.play(member.sampling(None))[1]
            for step, b in zip(*np.nonzero(t.valid), strict=True):
                ended = bool(t.over[step, b])
                rows[b].append((t.obs["obs"][step, b].tolist(), float(t.reward[step, b]), ended))
        streams.append(rows)
    for short, long in zip(*streams, strict=True):
        assert len(short) > 5 and short == long


class _Fixed:
    """A distribution that always takes action 0."""

    def __init__(self, dist: Any) -> None:
        self._dist = dist

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dist, name)

    def sample(self, out: Any, noise: Any, mask: Any = None) -> Any:
        return np.zeros(out.shape[:-1], np.int64)


class Barred(Together):
    """Allows no action to an agent whose episode has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = spaces.Dict({"x": self.seen, "action_mask": spaces.MultiBinary(3)})

    def _obs(self, agent: str) -> Any:
        return {"x": super()._obs(agent), "action_mask": np.ones(3, np.int8)}

    def step(self, actions: Any) -> Any:
        seen, rewards, ended, cut, infos = super().step(actions)
        for agent in ended:
            if ended[agent] or cut[agent]:
                seen[agent]["action_mask"][:] = 0
        return seen, rewards, ended, cut, infos


def test_whoever_has_left_may_do_anything_and_its_last_mask_is_kept() -> None:
    world, finals = make(Barred, 3), 0
    world.reset(0)
    for _ in range(100):
        step = world.step(np.zeros(world.slots, np.int64))
        assert step.obs["action_mask"].all()
        if step.final is not None:
            finals += len(step.final[0])
            assert not step.final[1]["action_mask"].any()
    assert finals > 20


@pytest.mark.parametrize("form", FORMS)
def test_a_worker_goes_on_from_its_state(form: Any) -> None:
    first = worker(form, fragment=9)
    for number in range(3):
        first.sample(number)
    state = first.get_state()
    other = worker(form, fragment=9, seed=11)
    other.set_state(state)
    for number in range(3, 6):
        a, b = first.sample(number), other.sample(number)
        np.testing.assert_array_equal(a.batch["obs"]["obs"], b.batch["obs"]["obs"])
        np.testing.assert_array_equal(a.batch["advantage"], b.batch["advantage"])
        assert a.episodes == b.episodes


def test_an_episode_that_begins_anew_owes_nothing_to_the_one_that_was_lost() -> None:
    turns = Turns(2)
    kept = {"valid": np.array([True, True]), "reward": np.float32([5, 7])}
    turns.set_state(kept, np.array([True, False]))
    state = turns.get_state()
    assert state["valid"].tolist() == [True, False] and state["reward"].tolist() == [5, 0]


def trained(env: Any, system: str = "ppo", **fields: Any) -> dict[str, Any]:
    fields = {"envs_per_worker": 3, "fragment_length": 32, **fields}
    with shoal.Trainer(system, env, stop_steps=600, **fields) as trainer:
        for _ in trainer:
            pass
        return dict(trainer.learner.weights())


@pytest.mark.parametrize("system", ["ppo", "impala"])
def test_one_agent_is_the_ordinary_path_to_the_bit(system: str) -> None:
    fields: dict[str, Any] = {"in_process": True} if system == "impala" else {}
    for name, x in trained("CartPole-v1", system, **fields).items():
        np.testing.assert_array_equal(x, trained(Alone, system, **fields)[name])


@pytest.mark.parametrize("form", FORMS)
def test_other_names_of_agents_change_nothing(form: Any) -> None:
    names = ("w", "x", "y", "z")
    one, other = trained(form), trained(lambda: form(names))
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name])


def test_evaluation_tells_each_agents_return() -> None:
    with shoal.Trainer("ppo", Together, stop_steps=300, envs_per_worker=2) as trainer:
        trainer.train()
        found = [trainer.evaluate(20, explore=explore) for explore in (False, True)]
    for result in found:
        assert set(result["agents"]) == set(NAMES) and result["episodes"] == 20
        assert result["return_mean"] == pytest.approx(np.mean(list(result["agents"].values())))


class Different(Together):
    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3 if agent != "cleo" else 4)


class Vanishing(Together):
    def step(self, actions: Any) -> Any:
        seen, rewards, *_, infos = super().step(actions)
        self.agents = self.agents[1:]
        return seen, rewards, {}, {}, infos


class Forgetful(InTurn):
    """Ends without a last step of those who acted."""

    def step(self, action: Any) -> None:
        super().step(action)
        if self.t > 4:
            self.agents = []


class Stranger(Together):
    def step(self, actions: Any) -> Any:
        seen, rewards, *rest = super().step(actions)
        return seen, {**rewards, "eve": 1.0}, *rest


class Immortal(InTurn):
    def _was_dead_step(self, action: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("env", "error", "text"),
    [
        (Different, SpaceError, r"'ann' and 'cleo' .* cannot share one policy: their action"),
        (Vanishing, EnvError, r"has left, but neither terminations nor truncations"),
        (Forgetful, EnvError, r"the environment never returned to '\w+'"),
        (Stranger, EnvError, r"there is an agent 'eve', which is none of possible_agents"),
        (Immortal, EnvError, r"has ended and taken its last step, and does not leave"),
        (lambda: Together(()), EnvError, r"names no possible_agents"),
        ("pettingzoo:classic/conect_four_v3", EnvError, r"no module 'conect_four_v3'"),
        ("pettingzoo:mpe/simple_v3", EnvError, r"MPE has a package of its own"),
        ("pettingzoo:classic", EnvError, r"names no PettingZoo environment"),
    ],
)
def test_a_broken_contract_is_one_error_with_names(env: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        world = make(env, 2)
        world.reset(0)
        for _ in range(300):
            world.step(np.zeros(world.slots, np.int64))


@pytest.mark.parametrize(("form", "n_step"), [(Together, 1), (Together, 3), (InTurn, 1)])
@pytest.mark.parametrize("fragment", [7, 40])
def test_a_replay_buffer_holds_the_transitions_of_each_agent(
    form: Any, n_step: int, fragment: int
) -> None:
    """Against a plain account of what each agent saw, did and earned."""
    gamma, config = 0.9, default_config("dqn", form)
    rollout = replace(config.rollout, envs_per_worker=1, fragment_length=fragment, clip_reward=None)
    algorithm = replace(config.algorithm, n_step=n_step, gamma=gamma)
    member = Worker(replace(config, algorithm=algorithm, rollout=rollout), 0)
    params = algorithm.init(member.model, np.random.default_rng(0))
    member.set_weights({**params, **algorithm.exploration(0, 4)}, 0)
    stacks, slots = member.get_layout()
    buffer = make_buffer(Replay(capacity=4_000), algorithm, member.model, stacks, slots)
    trajectories = []
    for _ in range(400 // fragment):
        sample, trajectory = member.play(member.sampling(None))
        buffer.store(0, sample.batch)
        trajectories.append(trajectory)
        assert sample.agent_steps == sample.trained_steps == np.count_nonzero(sample.batch["mask"])
    drawn = buffer.everything().batch
    found = sorted(zip(*map(np.ndarray.tolist, _columns(drawn)), strict=True))
    wanted = sorted(_transitions(trajectories, n_step, gamma, form is InTurn))
    assert buffer.stored == len(found) == len(wanted) > 300
    np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-5)


def _columns(drawn: Any) -> list[Any]:
    obs, then = drawn["obs"]["obs"], drawn["next_obs"]["obs"] * (drawn["discount"] > 0)[:, None]
    return [*obs.T, drawn["action"], drawn["reward"], drawn["discount"], *then.T]


def _transitions(trajectories: list[Any], n: int, gamma: float, apart: bool) -> list[Any]:
    """n-step transitions of each agent; ``apart``: of fragments that do not go on in the next."""
    out = []
    for b in range(4):
        steps: list[Any] = []  # observation, action, reward, what followed, terminated, last
        for t in trajectories:
            finals = {
                (int(i), int(k)): x
                for i, k, x in zip(t.final_t, t.final_b, t.final["obs"], strict=True)
            }
            rows = np.flatnonzero(t.valid[:, b]).tolist()
            for i in rows:
                then = finals.get((i, b), t.obs["obs"][i + 1, b])
                ends = bool(t.last[i, b]) or (apart and i == rows[-1])
                one = t.obs["obs"][i, b], t.action[i, b], t.reward[i, b]
                steps.append((*one, then, bool(t.terminated[i, b]), ends))
        for i, (obs, action, *_) in enumerate(steps):
            total, discount, last = 0.0, 1.0, i - 1
            for *_, reward, _, _, ends in steps[i : i + n]:
                total, discount = total + discount * reward, discount * gamma
                last += 1
                if ends:
                    break
            discount *= not steps[last][4]
            seen = steps[last][3] * (discount > 0)
            out.append((*obs.tolist(), int(action), total, discount, *seen.tolist()))
    return out


def test_ranks_of_a_collective_have_batches_of_one_size_whatever_their_agents_did() -> None:
    """Each takes as many gradient steps as all others; elsewhere empty rows are left out."""
    rows: dict[str, set[int]] = {"ppo": set(), "dd-ppo": set()}
    for system, sizes in rows.items():
        config = default_config(system, InTurn)
        rollout = replace(config.rollout, envs_per_worker=1, fragment_length=64)
        member = Worker(replace(config, rollout=rollout), 0)
        member.set_weights(config.algorithm.init(member.model, np.random.default_rng(0)), 0)
        held = set()
        for _ in range(20):
            mask = member.sample().batch["mask"]
            sizes.add(len(mask))
            held.add(int(np.count_nonzero(mask)))
        assert len(held) > 1  # they did not do as much each time
    assert rows["dd-ppo"] == {65 * 4} and max(rows["ppo"]) < 65 * 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("system", ["ppo", "dd-ppo", "a3c", "impala", "dqn", "ape-x", "gorila"])
def test_every_plan_learns_from_agents_that_come_and_go(system: str, form: Any) -> None:
    """Each counts what it was given. Ranks of dd-ppo sample unequal numbers of agents' steps."""
    more: dict[str, Any] = {"workers": 2, "in_process": True, "envs_per_worker": 3}
    more |= {"fragment_length": 32, "report_every": 500, "stop_steps": 1_500}
    config = default_config(system, form)
    if "replay" in config.algorithm.needs:
        more |= {"warmup": 64, "batch_size": 16}
    elif config.algorithm.minibatch_size:
        more["minibatch_size"] = 32
    with shoal.Trainer(system, form, **more) as trainer:
        before = trainer.learner.weights()
        *_, report = trainer
        after, counters = trainer.learner.weights(), trainer.run.counters
    flying = counters.agent_steps - counters.trained_steps - counters.dropped_steps
    most = 2 * 2 * 3 * 4 * 33 if system in ("ape-x", "gorila", "impala", "a3c") else 0
    assert 0 <= flying <= most
    if form is Together:
        assert report["agent_steps"] > report["env_steps"]
    names = [name for name in before if not name.startswith(("explore/", "norm/"))]
    assert any((before[name] != after[name]).any() for name in names)


@pytest.mark.parametrize("system", ["es", "pg"])
def test_what_does_not_learn_from_agents_is_refused_by_name(system: str) -> None:
    with pytest.raises(ShoalError, match=r"but .*Together.* has 4 agents: ann, bob, cleo, dan"):
        shoal.Trainer(system, Together)


def test_the_previous_action_is_refused_where_agents_take_turns() -> None:
    with pytest.raises(ShoalError, match="take turns"):
        shoal.Trainer("ppo", InTurn, previous=True)
    assert isinstance(InTurn(), AECEnv)
