"""Is it the gradient of the expected return of an episode?

Williams 1992; Sutton et al. 1999: grad J = E[sum_t grad log pi(a_t|s_t) (G_t - b(s_t))], the sum
being over one episode.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.base import Model
from shoal.algorithms.pg import PG
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces
from shoal.trajectory import Trajectory, pad
from tests.worlds import LINEAR, Scripts, episodes, settings, worker

PLAIN = PG(normalise_advantage=False, baseline=False, network=LINEAR)


@pytest.fixture(scope="module")
def bandit() -> Model:
    """Two arms; the policy's logits are its bias."""
    return PLAIN.model(GymSpaces(Box(0, 1, (1,), np.float32), Discrete(2)), build)


def pulls(arms: np.ndarray, advantage: np.ndarray) -> dict[str, Any]:
    """One-step episodes."""
    n = len(arms)
    ones, zeros = np.ones(n, np.float32), np.zeros(n, np.float32)
    return {
        "obs": {"obs": np.zeros((n, 1), np.float32)},
        "action": arms,
        "advantage": advantage.astype(np.float32),
        "target": zeros,
        "mask": ones,
        "episode_end": ones,
    }


def zeros(model: Model) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in model.net.shapes().items()}


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_gradient_on_a_bandit_is_the_analytic_one(
    differentiable: Any, bandit: Model, offset: float
) -> None:
    """theta = 0, r = (1, 0), each arm as often as the policy takes it: grad J = (.25, -.25).

    A constant baseline (of -offset) moves nothing.
    """
    arms = np.tile([0, 1], 4)
    batch = pulls(arms, np.array([1.0, 0.0])[arms] + offset)
    loss = differentiable.grad(PLAIN, bandit, zeros(bandit), batch, entropy_coef=0.0)
    assert (-loss["pi/out/b"]).tolist() == pytest.approx([0.25, -0.25], abs=1e-5)


def test_monte_carlo_gradient_comes_to_the_analytic_one(torch_lib: Any, bandit: Model) -> None:
    """1e5 episodes; rewards of 101 and 100 need the baseline of 100 to get that near."""
    rng = np.random.default_rng(0)
    noise = bandit.dist.noise(rng, (100_000,))
    arms = bandit.dist.sample(np.zeros((100_000, 2), np.float32), noise)
    reward = np.array([101.0, 100.0])[arms]
    found = {
        b: -torch_lib.grad(PLAIN, bandit, zeros(bandit), pulls(arms, reward - b), entropy_coef=0)[
            "pi/out/b"
        ]
        for b in (100.0, 0.0)
    }
    assert found[100.0].tolist() == pytest.approx([0.25, -0.25], abs=0.005)
    # One episode's estimate is (r - b) (1 - p) for the first arm: its spread, not its mean, is b's.
    score = np.where(arms == 0, 0.5, -0.5)
    assert (reward * score).var() > 1000 * ((reward - 100) * score).var()
    assert found[0.0].tolist() == pytest.approx([0.25, -0.25], abs=1.0)


def test_loss_is_a_sum_per_episode_over_the_number_of_episodes(
    lib: Any, model: Any, params: Any, batch: Any
) -> None:
    """The fixture's three episodes have two rows each, of which one is masked."""
    total, metrics = lib.loss(PG(normalise_advantage=False, network=LINEAR), model, params, batch)
    policy = value = entropy = 0.0
    rows = np.flatnonzero(batch["mask"])
    for i in rows:
        x = batch["obs"]["obs"][i].astype(float)
        z = np.exp(x @ params["pi/out/w"] + params["pi/out/b"])
        p = z / z.sum()
        v = float(x @ params["v/out/w"][:, 0] + params["v/out/b"][0])
        policy -= math.log(p[batch["action"][i]]) * float(batch["advantage"][i])
        value += 0.5 * (v - float(batch["target"][i])) ** 2 / len(rows)
        entropy -= float((p * np.log(p)).sum()) / len(rows)
    wanted = {"policy_loss": policy / 3, "value_loss": value, "entropy": entropy}
    assert metrics == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert total == pytest.approx(policy / 3 + 0.5 * value - 0.01 * entropy, rel=1e-5, abs=1e-6)


def test_long_episodes_weigh_more(torch_lib: Any, bandit: Model) -> None:
    """Episodes of 1 and 3 env steps, each step of advantage 1: 1/2 and 3/2, not 1/4 and 3/4."""
    batch = pulls(np.array([0, 1, 1, 1]), np.ones(4))
    batch["episode_end"] = np.array([1, 0, 0, 1], np.float32)
    found = torch_lib.grad(PLAIN, bandit, zeros(bandit), batch, entropy_coef=0.0)
    per_row = np.array([[0.5, -0.5], [-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]])
    assert (-found["pi/out/b"]).tolist() == pytest.approx((per_row.sum(0) / 2).tolist())


def trajectory(terminated: Any, truncated: Any, valid: Any = None) -> Trajectory:
    """Rewards 1, 2, 4, ... in each slot; the observation of row t is the number t."""
    end, cut = np.array(terminated, bool).T, np.array(truncated, bool).T
    t, b = end.shape
    seen = np.broadcast_to(np.arange(t + 1, dtype=np.float32)[:, None, None], (t + 1, b, 1))
    return Trajectory(
        obs={"obs": seen},
        action=np.zeros((t, b), np.int64),
        reward=np.repeat(2.0 ** np.arange(t, dtype=np.float32)[:, None], b, 1),
        terminated=end,
        truncated=cut,
        valid=np.ones((t, b), bool) if valid is None else np.array(valid, bool).T,
        final_t=np.zeros(0, np.int64),
        final_b=np.zeros(0, np.int64),
        final={"obs": np.zeros((0, 1), np.float32)},
    )


def test_unfinished_tails_are_left_out(bandit: Model) -> None:
    """Slot 0 ends after its second of four rows; slot 1 never ends; slot 2 ends with the last."""
    ends = [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    batch = PLAIN.postprocess(bandit, zeros(bandit), trajectory(ends, np.zeros((3, 4))))
    rows = batch["mask"] > 0
    kept = zip(batch["obs"]["obs"][rows, 0].tolist(), batch["target"][rows].tolist(), strict=True)
    g = 0.99
    slot_0 = [(0.0, 1 + g * 2), (1.0, 2.0)]
    slot_2 = [
        (0.0, 1 + g * (2 + g * (4 + g * 8))),
        (1.0, 2 + g * (4 + g * 8)),
        (2.0, 4 + g * 8),
        (3.0, 8.0),
    ]
    for found, wanted in zip(sorted(kept), sorted(slot_0 + slot_2), strict=True):
        assert found == pytest.approx(wanted)
    assert batch["episode_end"].sum() == 2


@pytest.mark.parametrize("baseline", [True, False])
def test_a_time_limit_goes_on_only_where_there_is_a_baseline(bandit: Model, baseline: bool) -> None:
    params = zeros(bandit)
    params["v/out/b"] += 10.0
    algorithm = PG(gamma=0.5, baseline=baseline, network=LINEAR)
    batch = algorithm.postprocess(bandit, params, trajectory([[0, 0]], [[0, 1]]))
    beyond = 10.0 if baseline else 0.0
    target = [1 + 0.5 * (2 + 0.5 * beyond), 2 + 0.5 * beyond]
    assert batch["target"].tolist() == pytest.approx(target)
    assert batch["advantage"].tolist() == pytest.approx([x - beyond for x in target])


def test_rows_of_a_mere_reset_are_left_out(bandit: Model) -> None:
    valid = [[1, 1, 0, 1]]
    made = trajectory([[0, 1, 0, 1]], np.zeros((1, 4)), valid)
    batch = PLAIN.postprocess(bandit, zeros(bandit), made)
    assert batch["obs"]["obs"][batch["mask"] > 0, 0].tolist() == [0.0, 1.0, 3.0]


@pytest.mark.parametrize(("rows", "size"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 8)])
def test_batches_are_padded_to_a_power_of_two(bandit: Model, rows: int, size: int) -> None:
    ends = [[0] * (rows - 1) + [1]]
    batch = PLAIN.postprocess(bandit, zeros(bandit), trajectory(ends, np.zeros((1, rows))))
    assert len(batch["mask"]) == size
    assert batch["mask"].sum() == rows


@pytest.mark.parametrize("normalise", [True, False])
def test_padding_changes_nothing(
    torch_lib: Any, model: Any, params: Any, batch: Any, normalise: bool
) -> None:
    algorithm = PG(normalise_advantage=normalise, network=LINEAR)
    wanted = torch_lib.grad(algorithm, model, params, batch)
    for name, g in torch_lib.grad(algorithm, model, params, pad(batch, 16)).items():
        np.testing.assert_allclose(g, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.abs(g).max() > 1e-3


def test_without_a_baseline_the_value_head_stays_as_it_is(
    torch_lib: Any, model: Any, params: Any, batch: Any
) -> None:
    found = torch_lib.grad(PG(baseline=False, network=LINEAR), model, params, batch)
    assert not found["v/out/w"].any() and not found["v/out/b"].any()


def test_a_fragment_holds_each_slots_episodes_to_their_end() -> None:
    """Against the environments' log: every episode begun in the first 8 rows, with its returns."""
    scripts = Scripts()
    made = worker(settings("pg", scripts, gamma=0.9, baseline=False))
    sample = made.sample()
    targets, count = [], 0
    for log in scripts.logs:
        lengths = np.cumsum([n for _, n in episodes(log)])
        wanted = lengths[: int(np.searchsorted(lengths, 8)) + 1]  # the one that runs at row 7 too
        count += len(wanted)
        goal = 0.0
        for step in reversed(log[: wanted[-1]]):
            goal = step.reward + 0.9 * (0.0 if step.terminated or step.truncated else goal)
            targets.append(goal)
    rows = sample.batch["mask"] > 0
    assert sorted(sample.batch["target"][rows].tolist()) == pytest.approx(sorted(targets), abs=1e-5)
    assert sample.batch["episode_end"].sum() == count == len(sample.episodes)
    assert sample.trained_steps == len(targets)
