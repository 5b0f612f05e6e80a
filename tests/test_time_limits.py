"""From the environment to the batch: is every transition worth what it really led to?

{terminated, truncated, both} x {copies in a loop, and the three autoreset modes of Gymnasium's
vector environments} x {ending within a fragment, at its last row, anywhere}, for GAE and for n-step
returns. The oracle knows nothing of rows, slots or resets: it reads the log that each environment
kept of its own transitions, and sums the papers' deltas episode by episode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.worlds import LINEAR, Script, Scripts, Transition, episodes, settings, worker

GAMMA, LENGTH, FRAGMENTS = 0.9, 6, 4
MODES = ["serial", "next-step", "same-step", "disabled"]
KINDS = ["terminated", "truncated", "both"]
PLACES = {"mid-fragment": 4, "fragment end": LENGTH, "anywhere": 0}  # episodes' length, 0: random


def maker(mode: str, scripts: Scripts) -> Callable[..., Any]:
    """What a user would give as the environment."""
    if mode == "serial":
        return scripts

    def vector(num_envs: int) -> Any:
        from gymnasium.vector import AutoresetMode, SyncVectorEnv

        reset = {
            "next-step": AutoresetMode.NEXT_STEP,
            "same-step": AutoresetMode.SAME_STEP,
            "disabled": AutoresetMode.DISABLED,
        }[mode]
        return SyncVectorEnv([scripts] * num_envs, autoreset_mode=reset)

    return vector


def advantages(log: list[Transition], v: Callable[[Any], float], lambda_: float) -> list[float]:
    """Of consecutive transitions of one environment: A_t = sum_k (gamma lambda)^k delta_{t+k}, up
    to the episode's end or the log's; delta = r + gamma V(s') - V(s), V = 0 behind an ending."""
    delta = [x.reward + GAMMA * (0.0 if x.terminated else v(x.next_obs)) - v(x.obs) for x in log]
    out = []
    for t in range(len(log)):
        total, weight = 0.0, 1.0
        for k in range(t, len(log)):
            total, weight = total + weight * delta[k], weight * GAMMA * lambda_
            if log[k].terminated or log[k].truncated:
                break
        out.append(total)
    return out


@pytest.mark.parametrize(("system", "lambda_"), [("ppo", 0.8), ("a2c", 1.0)])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_those_of_the_environments_own_log(
    kind: str, mode: str, place: str, system: str, lambda_: float
) -> None:
    scripts = Scripts(length=PLACES[place], kind=kind)
    made = worker(
        settings(
            system,
            maker(mode, scripts),
            rollout={"envs_per_worker": 3, "fragment_length": LENGTH},
            gamma=GAMMA,
            lambda_=lambda_,
            network=LINEAR,
        )
    )
    weights = dict(made.weights)
    weights["v/out/w"] = np.array([[2.0], [-1.0], [0.5]], np.float32)
    weights["v/out/b"] = np.array([3.0], np.float32)
    made.set_weights(weights, 0)

    def v(obs: np.ndarray) -> float:
        return float(obs.astype(float) @ [2.0, -1.0, 0.5]) + 3.0

    used, ended, returns = [0, 0, 0], 0, []
    for _ in range(FRAGMENTS):
        sample = made.sample()
        returns += sample.episodes
        for slot in range(3):
            rows = np.flatnonzero(sample.batch["mask"][slot::3]) * 3 + slot
            log = scripts.logs[slot][used[slot] : used[slot] + len(rows)]
            used[slot] += len(rows)
            ended += sum(x.terminated or x.truncated for x in log)
            seen = sample.batch["obs"]["obs"][rows]
            np.testing.assert_array_equal(seen, np.stack([x.obs for x in log]))
            assert sample.batch["action"][rows].tolist() == [int(x.action) for x in log]
            wanted = advantages(log, v, lambda_)
            assert sample.batch["advantage"][rows].tolist() == pytest.approx(wanted, abs=2e-5)
            targets = [a + v(x.obs) for a, x in zip(wanted, log, strict=True)]
            assert sample.batch["target"][rows].tolist() == pytest.approx(targets, abs=2e-5)
    assert used == [len(log) for log in scripts.logs]  # no transition was lost, none is double
    assert ended == len(returns) >= 3
    logged = [episode for log in scripts.logs for episode in episodes(log)]
    assert sorted(returns) == sorted(logged)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_returns_of_whole_episodes_are_those_of_the_log(kind: str, mode: str) -> None:
    """PG, with its baseline standing in behind a time limit and nothing behind an ending."""
    scripts = Scripts(kind=kind)
    made = worker(settings("pg", maker(mode, scripts), gamma=GAMMA, network=LINEAR))
    made.set_weights({**made.weights, "v/out/b": np.array([3.0], np.float32)}, 0)

    def v(obs: np.ndarray) -> float:
        out = made.model.net(made.weights, {"obs": obs[None]}, ("v",))[0]
        return float(out[0, 0])

    batch = made.sample().batch
    rows = np.flatnonzero(batch["mask"])
    found = dict(zip(map(tuple, batch["obs"]["obs"][rows]), batch["target"][rows], strict=True))
    checked = 0
    for log in scripts.logs:
        goal = 0.0
        for x in reversed(log):
            if x.terminated or x.truncated:
                goal = 0.0 if x.terminated else v(x.next_obs)
            goal = x.reward + GAMMA * goal
            if tuple(x.obs) in found:
                assert found[tuple(x.obs)] == pytest.approx(goal, abs=1e-4)
                checked += 1
    assert checked == len(rows) == len(found) > 8


@pytest.mark.parametrize("mode", MODES)
def test_a_time_limit_wrapper_is_a_truncation(mode: str) -> None:
    """The same through Gymnasium's own TimeLimit, around an environment that never ends."""

    def limited() -> Any:
        return gymnasium.wrappers.TimeLimit(Script(length=10**9), 4)

    scripts: Any = limited
    made = worker(settings("a2c", maker(mode, scripts), gamma=GAMMA, network=LINEAR, lambda_=0.0))
    weights = {name: np.zeros_like(x) for name, x in made.weights.items()}
    weights["v/out/b"] += 100.0
    made.set_weights(weights, 0)
    sample = made.sample()
    rows = sample.batch["mask"] > 0
    # With V = 100 everywhere a truncated step's target is r + 90, and so is every other's.
    assert (sample.batch["target"][rows] > 80).all()
    assert {length for _, length in sample.episodes} == {4}
