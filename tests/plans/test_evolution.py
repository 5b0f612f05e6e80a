"""Does a generation come to the same step, whoever evaluates it and whatever happens meanwhile?"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

import shoal
from shoal.errors import ConfigError
from shoal.fleet.evaluator import Evaluator
from shoal.learners.evolver import Evolver
from shoal.ops.optimisers import Optimiser
from tests.worlds import difference

SMALL = {"table_size": 100_000, "directions": 10, "envs_per_worker": 4}


def trained(
    system: Any = "es", env: Any = "CartPole-v1", generations: int = 3, **fields: Any
) -> Any:
    """The weights, counters and reports after some generations."""
    settings = {**SMALL, "report_every": 1, **fields}
    with shoal.Trainer(system, env, **settings) as trainer:
        reports = [trainer.train() for _ in range(generations)]
        return trainer.learner.get_state(), trainer.run.get_state(), reports


@pytest.mark.parametrize("system", ["es", "ars"])
@pytest.mark.parametrize("slots", [4, 8])  # a loop over copies; the environment's vector form
def test_any_number_of_workers_takes_the_same_steps(system: str, slots: int) -> None:
    alone = trained(system, envs_per_worker=slots)
    for workers in (2, 4):
        more = trained(system, envs_per_worker=slots, workers=workers, in_process=True)
        assert not difference(alone[0], more[0])
        assert not difference(alone[1], more[1])


def test_weights_that_are_sent_are_those_that_workers_make_themselves() -> None:
    rebuilt, sent = (trained(rebuild=x, workers=2, in_process=True) for x in (True, False))
    assert not difference(rebuilt[0], sent[0])


@pytest.mark.parametrize("system", ["es", "ars"])
def test_resuming_takes_the_same_steps(system: str, tmp_path: Path) -> None:
    fields = {**SMALL, "report_every": 1, "cap": 20} if system == "es" else {**SMALL}
    fields["report_every"] = 1
    with shoal.Trainer(system, "CartPole-v1", **fields) as trainer:
        for _ in range(3):
            trainer.train()
        trainer.save(tmp_path)
        for _ in range(3):
            trainer.train()
        whole = trainer.learner.get_state(), trainer.run.get_state()
    with shoal.Trainer.restore(tmp_path) as trainer:
        for _ in range(3):
            trainer.train()
        assert not difference(whole[0], trainer.learner.get_state())
        assert not difference(whole[1], trainer.run.get_state())


def test_an_interrupted_generation_is_taken_again() -> None:
    whole = trained(generations=4)[0]
    with shoal.Trainer("es", "CartPole-v1", report_every=1, **SMALL) as trainer:
        trainer.train()
        learner, weigh = trainer.learner, shoal.ES.weigh
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="now"):

            def fail(*args: Any) -> Any:
                raise RuntimeError("now")

            patch.setattr(shoal.ES, "weigh", fail)
            trainer.train()
        assert shoal.ES.weigh is weigh
        for _ in range(3):
            trainer.train()
        assert not difference(whole, learner.get_state())


def test_sampled_is_trained_and_evaluated() -> None:
    _, run, reports = trained(generations=5, evaluation_share=0.2)
    counters = run["counters"]
    assert counters["env_steps"] == counters["trained_steps"] + counters["dropped_steps"]
    assert counters["dropped_steps"] > 0  # the episodes of the weights as they are
    assert counters["episodes"] == 5 * 2 * SMALL["directions"]
    assert counters["gradient_steps"] == reports[-1]["gradient_steps"] == 5
    assert reports[-1]["evaluated/return_mean"] > 0


class Still(gymnasium.Env[Any, Any]):
    """Every episode returns the same, whatever is done."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t == 3, False, {}


@pytest.mark.parametrize("system", ["es", "ars"])
def test_flat_returns_move_nothing(system: str) -> None:
    first, last = (trained(system, Still, generations=n)[0] for n in (1, 4))
    assert not difference(first["params"], last["params"])
    assert last["version"] == 4
    assert last["gradient_steps"] == 0


class Broken(Still):
    """Returns no number in its second step, if its episode's seed is odd."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.odd = bool((seed or 0) % 2)
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, np.nan if self.odd and self.t == 2 else 1.0, terminated, truncated, info


def test_a_return_that_is_no_number_is_named_with_seed_and_index() -> None:
    with pytest.raises(shoal.errors.EnvError, match="reward is nan") as caught:
        trained("es", Broken)
    notes = "\n".join(caught.value.__notes__)
    assert "episode seed" in notes
    assert "generation 0, " in notes
    assert "of the noise table" in notes


class Nested(Still):
    """A Dict of numbers, a choice and an image; actions are choices."""

    observation_space = Dict(
        {
            "x": Box(-1.0, 1.0, (2,), np.float64),
            "n": Discrete(3),
            "image": Box(0, 255, (1, 36, 36), np.uint8),
        }
    )
    action_space = Discrete(3, start=1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        _, _, over, _, _ = super().step(action)
        return self.observation_space.sample(), float(action), over, False, {}


@pytest.mark.parametrize("system", ["es", "ars"])
def test_dict_observations_and_choices_learn_save_and_act(system: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**SMALL, "report_every": 1, "table_size": 3_000_000}
    with shoal.Trainer(system, Nested, **settings) as trainer:
        trainer.train()
        trainer.save(tmp_path)
        own = trainer.policy
        virtual = [name for name in trainer.learner.weights() if name.endswith("conv0/std")]
        assert len(virtual) == (system == "es")
    world, loaded = Nested(), shoal.load(tmp_path)
    obs, _ = world.reset(seed=0)
    for _ in range(3):
        assert own.act(obs) == loaded.act(obs)
        obs, *_ = world.step(own.act(obs))


def test_a_reference_batch_is_the_same_for_any_number_of_workers() -> None:
    fields = {"table_size": 3_000_000, "directions": 2, "generations": 2}
    alone = trained("es", Nested, **fields)
    more = trained("es", Nested, workers=2, in_process=True, **fields)
    assert not difference(alone[0], more[0])
    assert "evolution/reference/image" in alone[0]["aux"]


def test_bins_take_only_their_values() -> None:
    seen = []

    class Watched(Still):
        def step(self, action: Any) -> Any:
            seen.append(float(action[0]))
            return super().step(action)

    trained("es", Watched, bins=3, action_noise=0.0)
    assert set(seen) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(
    ("system", "fields", "match"),
    [
        ("es", {"envs_per_worker": 3}, "envs_per_worker is 3"),
        ("es", {"table_size": 10}, "table_size is 10"),
        ("es", {"learner": "torch"}, "learner is torch, but nothing reads it"),
        ("es", {"fragment_length": 7}, "fragment_length is 7, but nothing reads it"),
        ("es", {"shaping": "none"}, "shaping is 'none'"),
        ("ars", {"top": 9}, "top is 9"),
        ("es", {"plan": "sync_samples"}, "ES does not run under sync_samples"),
        ("ppo", {"plan": "evolution"}, "PPO does not run under evolution"),
    ],
)
def test_what_cannot_be_is_refused(system: str, fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        shoal.Trainer(system, "CartPole-v1", **fields)


# ----------------------------------------------------------------------------- many workers


def fan_in(fleet: Any) -> int:
    """The most members that one process calls, anywhere in a tree."""
    below = [fan_in(member.fleet) for member in fleet._members if hasattr(member, "fleet")]
    return max([fleet.size, *below])


def leaves(fleet: Any) -> int:
    return sum(leaves(m.fleet) if hasattr(m, "fleet") else 1 for m in fleet._members)


@pytest.mark.parametrize(("workers", "fanout"), [(70, 64), (30, 4)])
def test_a_tree_of_workers_takes_the_same_steps(workers: int, fanout: int) -> None:
    fields = {**SMALL, "directions": 80, "envs_per_worker": 2, "report_every": 1}
    alone = trained(generations=2, **fields)
    many = {"workers": workers, "in_process": True, "fanout": fanout}
    with shoal.Trainer("es", "CartPole-v1", **fields, **many) as trainer:
        for _ in range(2):
            trainer.train()
        assert fan_in(trainer.fleet) <= fanout
        assert leaves(trainer.fleet) == workers
        assert not difference(alone[0], trainer.learner.get_state())
        assert not difference(alone[1], trainer.run.get_state())
        with pytest.raises(ConfigError, match="form a tree"):
            trainer.resize(2)


def test_a_group_asks_for_the_state_anew_when_it_knows_too_many_steps(monkeypatch: Any) -> None:
    monkeypatch.setattr("shoal.fleet.group.LOG", 2)
    many = {"workers": 4, "in_process": True, "fanout": 2}
    alone, tree = trained(generations=7), trained(generations=7, **many)
    assert not difference(alone[0], tree[0])


def test_no_member_lacks_a_step_when_the_weights_are_published_anew(monkeypatch: Any) -> None:
    """It would have to be asked twice."""
    monkeypatch.setattr("shoal.plans.evolution.LOG", 0)
    calls, evaluate = [], Evaluator.evaluate

    def counted(self: Any, job: Any) -> Any:
        calls.append(job)
        return evaluate(self, job)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    linear = shoal.Network(hidden=())
    trained(generations=20, network=linear, workers=2, in_process=True, evaluation_share=0.0)
    assert len(calls) == 20 * 5  # chunks of two directions
    assert {len(job.recipes) for job in calls} == {0, 1}


# ----------------------------------------------------------------------------- one's own


@dataclass(frozen=True)
class Best(shoal.Evolved):
    """Goes where the best perturbation is."""

    lr: float = 0.5
    sigma: float = 0.5
    directions: int = 10
    network: Any = field(default_factory=lambda: shoal.Network(hidden=()))

    def weigh(self, scores: np.ndarray) -> np.ndarray:
        k, sign = np.unravel_index(scores.argmax(), scores.shape)
        weights = np.zeros(len(scores))
        weights[k] = 1.0 - 2.0 * sign
        return weights

    @property
    def optimiser(self) -> Optimiser:
        return Optimiser("sgd")


def test_an_algorithm_of_ones_own_runs_under_evolution_and_comes_back(tmp_path: Path) -> None:
    with shoal.Trainer(Best(), "CartPole-v1", table_size=10_000, report_every=1) as trainer:
        assert trainer.config.plan.name == "evolution"
        for _ in range(30):
            report = trainer.train()
        assert report["return_max"] > 150
        trainer.save(tmp_path)
        before = trainer.learner.get_state()
    with shoal.Trainer.restore(tmp_path, algorithm=Best()) as trainer:
        assert not difference(before, trainer.learner.get_state())
        trainer.train()


# ----------------------------------------------------------------------------- oracles


def test_a_generation_is_what_one_makes_by_hand() -> None:
    """Each perturbation scored alone, in the order of the directions."""

    def score(x: np.ndarray) -> float:
        return -float(((x - 1.0) ** 2).sum())

    algorithm = shoal.ARS(directions=50, top=20, lr=0.1, sigma=0.2)
    start = np.arange(4, dtype=np.float32)
    found = shoal.evolve(score, start, algorithm=algorithm, generations=1, seed=5)
    with closing(Evolver(algorithm, {"theta": start}, 5, 25_000_000, pairs=1)) as learner:
        points = learner.perturbed(learner.draws().at, 0.2)
    scores = np.array([score(x) for x in points]).reshape(-1, 2)
    best = np.argsort(-scores.max(1))[:20]
    directions = (points[0::2] - points[1::2]) / 0.4
    weights = (scores[best, 0] - scores[best, 1]) / (20 * scores[best].std())
    np.testing.assert_allclose(found.theta, start + 0.1 * weights @ directions[best], rtol=1e-4)


def test_policies_act_on_observations_normalised_by_all_that_were_seen() -> None:
    state, run, _ = trained("ars", generations=3)
    moments = run["moments"]["obs"]
    np.testing.assert_allclose(state["aux"]["norm/obs/mean"], moments["mean"], rtol=1e-6)
    std = np.sqrt(moments["m2"] / moments["count"])
    np.testing.assert_allclose(state["aux"]["norm/obs/std"], std, rtol=1e-6)
    assert moments["count"] == run["counters"]["trained_steps"]


def test_es_measures_a_part_of_the_episodes() -> None:
    _, run, _ = trained("es", generations=3, directions=40, obs_share=0.25)
    share = run["moments"]["obs"]["count"] / run["counters"]["trained_steps"]
    assert 0.1 < share < 0.45
