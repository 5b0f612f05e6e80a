"""Is QT-Opt its paper's, and is what it cannot learn refused with the numbers?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import shoal
from shoal.algorithms.off_policy import FLOOR, TARGET
from shoal.algorithms.qt_opt import KEPT, LAGGED, QTOpt
from shoal.errors import ConfigError, NetworkError, SpaceError
from shoal.learners.choose import create_learner
from shoal.nets.factory import build
from shoal.nets.joined import Joined
from shoal.nets.network import Network
from shoal.spaces.gym import GymSpaces
from shoal.trainer import Trainer
from tests.algorithms.test_ddpg import batch_of as rows_of
from tests.algorithms.test_dqn import arrays_of
from tests.worlds import LINEAR, RECURRENT, Script

SPACES = GymSpaces(Box(-1, 1, (2,), np.float32), Box(-3, 3, (2,), np.float32))
ROWS = 6
SMALL = QTOpt(network=LINEAR, joined=5, layers=1, samples=8, elites=3)


class Floats(Script):
    action_space = Box(-1.0, 1.0, (2,), np.float32)


def batch_of(seed: int, rows: int = ROWS, steps: int = 1) -> dict[str, Any]:
    drawn = np.random.default_rng([seed, 1]).standard_normal((steps, 2, 8, 2), np.float32)
    return rows_of(seed, rows) | {"step": {"search": drawn}}


def setup(algorithm: QTOpt, seed: int = 0) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Model, parameters, and targets that all differ."""
    rng = np.random.default_rng(seed)
    model = algorithm.model(SPACES, build)
    start = algorithm.init(model, rng)
    params = {k: rng.standard_normal(x.shape, np.float32) for k, x in start.items()}
    targets = algorithm.targets(params)
    return model, params, {k: rng.standard_normal(x.shape, np.float32) for k, x in targets.items()}


def q(params: Any, x: np.ndarray, a: np.ndarray, prefix: str = "") -> float:
    """The network's output: the state's and the action's products are added, relu, one layer."""
    p = {k: params[prefix + k].astype(np.float64) for k in _NAMES}
    h = np.maximum(x @ p["state/out/w"] + p["state/out/b"] + a @ p["action/w"], 0.0)
    return float((h @ p["q/out/w"] + p["q/out/b"])[0])


_NAMES = ("state/out/w", "state/out/b", "action/w", "q/out/w", "q/out/b")


def searched(params: Any, x: np.ndarray, noise: np.ndarray, prefix: str, elites: int) -> np.ndarray:
    """argmax_a Q by the cross-entropy method."""
    mu, sigma, seen = np.zeros(2), np.full(2, 0.5), []
    for z in noise:
        a = np.clip(mu + sigma * z, -1, 1)
        best = sorted(a, key=lambda y: -q(params, x, y, prefix))[:elites]
        mu, sigma = np.mean(best, 0), np.std(best, 0) + 1e-3
        seen += best
    return max([*seen, mu], key=lambda y: q(params, x, y, prefix))


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
@pytest.mark.parametrize("bounded", [False, True])
def test_loss_is_the_formula(bounded: bool, library: str) -> None:
    """y = r + Gamma min_i Q_i(s', argmax_a Q_1(s', a)) of both copies (section 4.2)."""
    algorithm = replace(SMALL, bounded=bounded)
    model, params, targets = setup(algorithm)
    batch = batch_of(1)
    batch["step"] = {"search": batch["step"]["search"][0]}
    given = (arrays_of(library, x) for x in (params, targets, batch))
    loss, metrics = algorithm.loss(model, *given)
    expected, priorities = 0.0, []
    for i in range(ROWS):
        s, s_next, a = batch["obs"]["obs"][i], batch["next_obs"]["obs"][i], batch["action"][i]
        best = searched(targets, s_next, batch["step"]["search"], TARGET, 3)
        low = min(q(targets, s_next, best, TARGET), q(targets, s_next, best, LAGGED))
        out = q(params, s, a)
        if bounded:
            y = np.clip(batch["reward"][i] + batch["discount"][i] * sigmoid(low), 0, 1)
            row = -y * np.log(sigmoid(out)) - (1 - y) * np.log(1 - sigmoid(out))
            priorities.append(abs(y - sigmoid(out)) + FLOOR)
        else:
            y = batch["reward"][i] + batch["discount"][i] * low
            error = abs(y - out)
            row = 0.5 * error**2 if error < 1 else error - 0.5
            priorities.append(error + FLOOR)
        expected += batch["weight"][i] * row / ROWS
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(
        np.asarray(metrics.rows["priority"]), priorities, rtol=1e-3, atol=1e-6
    )


def test_the_lower_copy_counts_at_the_first_ones_action() -> None:
    """Two actions with Q_1 = (3, 5), Q_2 = (4, 1): V = 1, where 5 has no minimum, and 3 is the
    largest of both actions' minima."""
    algorithm = replace(SMALL, joined=1, activation="tanh", samples=64, elites=6)
    model, params, targets = setup(algorithm)
    for k in targets:
        targets[k] = np.zeros_like(targets[k])
    for copy, (left, right) in ((TARGET, (3.0, 5.0)), (LAGGED, (4.0, 1.0))):
        # tanh of 50 a_0 is -1 or 1: the side of an action, whatever else it is.
        targets[f"{copy}action/w"] = np.array([[50.0], [0.0]], np.float32)
        targets[f"{copy}q/out/w"] = np.array([[(right - left) / 2]], np.float32)
        targets[f"{copy}q/out/b"] = np.array([(right + left) / 2], np.float32)
    batch = batch_of(0) | {"reward": np.zeros(ROWS, np.float32)}
    batch["discount"] = np.ones(ROWS, np.float32)
    noise = np.random.default_rng(0).standard_normal((2, 64, 2)).astype(np.float32)
    y = algorithm.target(model, {**params, **targets}, batch, noise)
    np.testing.assert_allclose(y, 1.0, atol=1e-4)


def test_labels_are_made_once_for_all_gradient_steps_and_are_those_of_each() -> None:
    """With each step's own search; rows that have a label keep it."""
    model, params, targets = setup(SMALL)
    batch, seen = batch_of(2, rows=12, steps=3), {**params, **targets}
    labelled = SMALL.label(model, seen, batch)
    for i in range(3):
        part = slice(4 * i, 4 * i + 4)
        rows = {k: batch[k][part] for k in ("reward", "discount")}
        rows["next_obs"] = {"obs": batch["next_obs"]["obs"][part]}
        own = SMALL.target(model, seen, rows, batch["step"]["search"][i])
        np.testing.assert_allclose(labelled["target"][part], own, rtol=1e-6)
    mine = {**batch, "target": np.zeros(12, np.float32)}
    assert SMALL.label(model, seen, mine) is mine


def test_no_label_sees_the_online_parameters() -> None:
    model, params, targets = setup(SMALL)
    batch = batch_of(3)
    other = {k: x + 1.0 for k, x in params.items()}
    one, two = (SMALL.label(model, {**p, **targets}, batch)["target"] for p in (params, other))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kind", ["jax", "torch"])
def test_the_second_copy_is_the_first_of_about_the_lag_before(kind: str) -> None:
    """Of 2/3 to 4/3 of it; and the first is an average of the parameters."""
    algorithm = replace(SMALL, tau=0.25, lag=6)
    model = algorithm.model(SPACES, build)
    params = algorithm.init(model, np.random.default_rng(0))
    learner = create_learner(kind, algorithm, model, params, 1)
    first = [{k: x.astype(np.float64) for k, x in params.items()}]
    ages = []
    for t in range(1, 31):
        index = np.arange(ROWS, dtype=np.int32)[None]
        learner.update(batch_of(t), index, {"lr": 1e-2})
        state = learner.get_state()
        old, new = first[-1], state["params"]
        first.append({k: x + 0.25 * (new[k] - x) for k, x in old.items()})
        targets = state["targets"]
        for k, x in first[-1].items():
            np.testing.assert_allclose(targets[TARGET + k], x, rtol=1e-4, atol=1e-6)
        lagged = targets[LAGGED + "action/w"]
        gaps = [np.abs(lagged - x["action/w"]).max() for x in first]
        ages.append(t - int(np.argmin(gaps)))
        assert min(gaps) < 1e-6 and KEPT + "action/w" in targets
    assert set(ages[12:]) == {4, 5, 6, 7}


def test_acting_searches_and_explores() -> None:
    """Greedy actions are a search's; with noise they are near it, or with epsilon anywhere."""
    algorithm = replace(SMALL, noise=0.05, epsilon=0.25, random_steps=10, average=False)
    model, params, _ = setup(algorithm)
    obs = {"obs": np.tile(np.array([0.5, -1.0], np.float32), (20_000, 1))}
    best, _ = algorithm.act(model, params, obs, None)
    fixed = np.random.default_rng(0).standard_normal((2, 8, 2), np.float32)
    np.testing.assert_allclose(best[0], searched(params, obs["obs"][0], fixed, "", 3), atol=1e-5)
    alone, _ = algorithm.act(model, params, {"obs": obs["obs"][0]}, None)
    np.testing.assert_allclose(alone, best[0], atol=1e-6)
    noise = model.dist.noise(np.random.default_rng(1), (20_000,))
    told = {n: algorithm.exploration(n, 1) for n in (9, 10)}
    action, _ = algorithm.act(model, params | told[9], obs, noise)
    np.testing.assert_allclose(action.std(0), 1 / np.sqrt(3), rtol=0.02)
    action, _ = algorithm.act(model, params | told[10], obs, noise)
    far = np.abs(action - best).max(1) > 0.3
    assert np.abs(action).max() <= 1.0 and 0.18 < far.mean() < 0.25
    near = np.abs(best) < 0.8
    spread = (action - best)[~far][:, near[0]]
    assert spread.size == 0 or 0.04 < spread.std() < 0.09


def test_policies_act_with_the_average_and_so_do_loaded_ones(tmp_path: Path) -> None:
    fields = {"envs_per_worker": 2, "fragment_length": 8, "warmup": 16, "batch_size": 8}
    obs = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
    with Trainer(SMALL, Floats, lr=0.05, tau=0.01, random_steps=0, **fields) as trainer:
        trainer.train()
        action = trainer.policy.act(obs)
        state = trainer.learner.get_state()
        names = state["params"]
        own = {k: state["targets"][TARGET + k] for k in names}
        model = trainer.model
        plain = replace(trainer.config.algorithm, average=False)
        np.testing.assert_array_equal(action, plain.act(model, own, {"obs": obs}, None)[0])
        online, _ = plain.act(model, names, {"obs": obs}, None)
        assert np.abs(action - online).max() > 0.05
        trainer.save(tmp_path)
    np.testing.assert_array_equal(shoal.load(tmp_path, trust=True).act(obs), action)


def test_an_image_is_encoded_once_whatever_the_number_of_actions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = GymSpaces(Box(0, 255, (40, 40, 3), np.uint8), Box(-1, 1, (2,), np.float32))
    algorithm = replace(SMALL, network=Network(encoder="nature", hidden=()))
    model: Any = algorithm.model(image, build)
    params = algorithm.init(model, np.random.default_rng(0))
    obs = {"obs": np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3)).astype(np.uint8)}
    seen: list[int] = []
    embed = Joined.embed

    def counted(net: Any, params: Any, obs: Any) -> Any:
        seen.append(len(obs["obs"]))
        return embed(net, params, obs)

    monkeypatch.setattr(Joined, "embed", counted)
    action, _ = algorithm.act(model, params, obs, None)
    assert seen == [3] and action.shape == (3, 2)


def test_choices_and_memories_are_refused_with_what_takes_them() -> None:
    with pytest.raises(SpaceError, match="dqn, rainbow"):
        QTOpt().model(GymSpaces(Box(-1, 1, (2,), np.float32), Discrete(3)), build)
    with pytest.raises(NetworkError, match="QT-Opt"):
        QTOpt(network=RECURRENT).model(SPACES, build)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"samples": 4, "elites": 5}, "algorithm.elites"),
        ({"layers": 0}, "layers"),
        ({"lag": 0}, "lag"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        QTOpt(**fields)


def steps_of(reward: list[float], ends: int | None) -> dict[str, Any]:
    """Env steps of one slot, whose episode ends with that one."""
    over = np.zeros((len(reward), 1), bool)
    if ends is not None:
        over[ends] = True
    return {
        "reward": np.array(reward, np.float32)[:, None],
        "terminated": over,
        "truncated": np.zeros_like(over),
        "mask": np.ones_like(over),
    }


def test_returns_beyond_the_sigmoid_are_refused_with_the_numbers() -> None:
    algorithm = QTOpt(bounded=True, gamma=0.5)
    algorithm.admit(steps_of([0.0, 0.0, 1.0], 2))
    algorithm.admit(steps_of([-0.4, 0.0, 1.0, 5.0], None))  # of no episode is the return known
    with pytest.raises(ConfigError, match=r"(?s)return is 1.5 .*from 1 to 1"):
        algorithm.admit(steps_of([1.0, 1.0], 1))
    with pytest.raises(ConfigError, match=r"return is -0\.15"):
        algorithm.admit(steps_of([-0.4, 0.5], 1))
    QTOpt().admit(steps_of([1.0, 1.0], 1))
    fields = {"envs_per_worker": 1, "fragment_length": 200, "workers": 0}
    with (
        Trainer("qt-opt", "Pendulum-v1", bounded=True, **fields) as trainer,
        pytest.raises(ConfigError, match=r"numbers in \[0, 1\]"),
    ):
        trainer.train()
