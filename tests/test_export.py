"""Does an ONNX file act as the policy that it was made from?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

import shoal
from shoal import exporting
from shoal.app.cli import main
from shoal.errors import ConfigError, ShoalError
from shoal.nets.factory import build
from shoal.policy import Policy
from shoal.spaces.gym import GymSpaces
from shoal.spaces.view import View
from shoal.systems.table import default_config

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

VECTOR = Box(-2.0, np.array([1.0, 3.0, 9.0], np.float32), (3,), np.float32)
IMAGE = Box(0, 255, (40, 40, 3), np.uint8)
NESTED = Dict(
    {
        "wide": Box(-1e3, 1e3, (2,), np.float64),
        "pair": Tuple((Discrete(4, start=2), MultiDiscrete([[2, 3], [4, 5]]))),
        "flags": MultiBinary(3),
    }
)
LEVER = Box(np.array([-3.0, 0.0], np.float32), np.array([-1.0, 10.0], np.float32))


def policy(system: str, observation: Any, action: Any, view: Any = None, **fields: Any) -> Policy:
    """With weights that are large enough to matter."""
    made = default_config(system, "").algorithm
    network = shoal.Network(hidden=(8,), **fields.pop("net", {}))
    made = type(made)(**{**{"network": network}, **fields})
    spaces = GymSpaces(observation, action, fields.get("masked", False))
    view = view or View()
    rng = np.random.default_rng(3)
    weights = made.init(made.model(view.of(spaces).spaces, build), rng)
    weights = {k: x + rng.normal(0, 0.3, x.shape).astype(np.float32) for k, x in weights.items()}
    return Policy(made, spaces, weights, view=view)


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


CASES: dict[str, tuple[Any, ...]] = {
    "discrete": ("ppo", VECTOR, Discrete(3, start=-1)),
    "box": ("ppo", VECTOR, LEVER),
    "multidiscrete": ("a2c", VECTOR, MultiDiscrete([[2, 3], [4, 5]])),
    "multibinary": ("ppo", VECTOR, MultiBinary((2, 2))),
    "nested": ("ppo", NESTED, Discrete(2)),
    "image": ("ppo", IMAGE, Discrete(4)),
    "dqn": ("dqn", VECTOR, Discrete(3)),
    "c51": ("c51", NESTED, Discrete(3, start=1)),
    "sac": ("sac", VECTOR, LEVER),
    "td3": ("td3", VECTOR, LEVER),
    "ars": ("ars", VECTOR, LEVER),
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_acts_as_the_policy(case: str, tmp_path: Path) -> None:
    """On observations in the environment's own form, and one at a time."""
    system, observation, action = CASES[case]
    made = policy(system, observation, action)
    written = shoal.export(made, tmp_path / "policy.onnx")
    assert written.observations == 1000 and written.difference < 1e-5
    run = session(written.path)
    observation.seed(9)
    for _ in range(20):
        obs = observation.sample()
        given = {
            leaf.path: np.asarray(_at(obs, leaf.keys), leaf.dtype)[None]
            for leaf in made.spaces.leaves
        }
        (found,) = run.run(["action"], given)
        wanted = np.asarray(made.act(obs))
        assert found.dtype == action.dtype and found.shape == (1, *action.shape)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-5)


def _at(obs: Any, keys: Any) -> Any:
    for key in keys:
        obs = obs[key]
    return obs


def test_masks_hold_in_the_file(tmp_path: Path) -> None:
    space = Dict({"x": VECTOR, "action_mask": MultiBinary(4)})
    made = policy("ppo", space, Discrete(4))
    run = session(shoal.export(made, tmp_path / "p.onnx").path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    mask = np.eye(4, dtype=bool)[rng.integers(4, size=200)]
    (action,) = run.run(["action"], {"x": x, "action_mask": mask})
    np.testing.assert_array_equal(action, mask.argmax(-1))


def test_memory_goes_in_and_out(tmp_path: Path) -> None:
    made = policy(
        "ppo", VECTOR, LEVER, View(previous=True), net={"memory": "lstm", "memory_size": 4}
    )
    run = session(shoal.export(made, tmp_path / "p.onnx").path)
    shapes = {x.name: x.shape[1:] for x in run.get_inputs()}
    carried = {
        k: np.zeros((1, *s), np.float32) for k, s in shapes.items() if k.startswith("memory/")
    }
    before = {
        "previous_action": np.zeros((1, 2), np.float32),
        "previous_reward": np.zeros((1, 1), np.float32),
    }
    names = [x.name for x in run.get_outputs()]
    rng, reward = np.random.default_rng(0), None
    for _ in range(10):
        obs = rng.normal(size=3).astype(np.float32)
        out = dict(zip(names, run.run(None, {"obs": obs[None], **carried, **before}), strict=True))
        action = made.act(obs, reward=reward)
        np.testing.assert_allclose(out["action"][0], action, atol=1e-5)
        carried = {k: out[f"next/{k}"] for k in carried}
        reward = float(rng.normal())
        before["previous_action"] = made.spaces.from_env(action)[None]
        before["previous_reward"] = np.array([[reward]], np.float32)


def test_noise_is_an_input_of_a_policy_that_samples(tmp_path: Path) -> None:
    made = policy("ppo", VECTOR, Discrete(3))
    run = session(shoal.export(made, tmp_path / "p.onnx", deterministic=False).path)
    obs = np.zeros((20_000, 3), np.float32)
    noise = made.model.dist.noise(np.random.default_rng(0), (20_000,))
    action, pi = run.run(["action", "pi"], {"obs": obs, "noise": noise})
    odds = np.exp(pi[0]) / np.exp(pi[0]).sum()
    np.testing.assert_allclose(np.bincount(action, minlength=3) / 20_000, odds, atol=0.015)


def test_normalisation_is_in_the_file(tmp_path: Path) -> None:
    space = Box(-np.inf, np.inf, (2,), np.float64)
    made = policy("ppo", space, Discrete(3))
    far = {
        "norm/obs/mean": np.array([5.0, -3.0], np.float32),
        "norm/obs/std": np.array([2.0, 0.1], np.float32),
    }
    far["norm/obs/origin"] = np.array([1.7e9, 0.0])
    made = Policy(made.algorithm, made.spaces, {**made.weights, **far})
    run = session(shoal.export(made, tmp_path / "p.onnx").path)
    obs = np.array([1.7e9, 0.0]) + np.random.default_rng(0).normal(size=(300, 2)) * 9
    (pi,) = run.run(["pi"], {"obs": obs})
    _, records = made.algorithm.act(made.model, made.weights, {"obs": obs}, None)
    assert np.ptp(pi) > 0.1
    np.testing.assert_allclose(pi, records["pi"], atol=1e-5)


def test_a_graph_that_disagrees_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = policy("ppo", VECTOR, LEVER)
    leaving = exporting._leaving
    monkeypatch.setattr(
        exporting, "_leaving", lambda spaces, action: leaving(spaces, action * 1.001)
    )
    with pytest.raises(ShoalError, match="differ by"):
        shoal.export(made, tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_onnx_cannot_say_is_refused_by_name(tmp_path: Path) -> None:
    flax = pytest.importorskip("flax")

    class Own(flax.linen.Module):  # type: ignore[name-defined, misc]
        @flax.linen.compact
        def __call__(self, obs: Any) -> Any:
            return flax.linen.Dense(3)(obs), flax.linen.Dense(1)(obs)

    ppo = shoal.PPO(network=Own())
    spaces = GymSpaces(VECTOR, Discrete(3))
    weights = ppo.init(ppo.model(spaces, build), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="written in jax"):
        shoal.export(Policy(ppo, spaces, weights), tmp_path / "p.onnx")
    with shoal.Trainer("qt-opt", "Pendulum-v1") as trainer:
        searching = trainer.policy
    with pytest.raises(ConfigError, match="QTOpt searches for its action"):
        shoal.export(searching, tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(ConfigError, match=r"not installed: onnx\n.*pip install \"shoal\[onnx\]\""):
        shoal.export(policy("ppo", VECTOR, LEVER), tmp_path / "p.onnx")


def test_the_command_exports_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    result = shoal.run("a2c", "CartPole-v1", out=run, stop_steps=500, quiet=True)
    assert main(["export", str(run)]) == 0
    assert "obs                      float32 [batch, 4]" in capsys.readouterr().out
    made = session(run / "policy.onnx")
    told = made.get_modelmeta().custom_metadata_map
    assert GymSpaces.from_json(json.loads(told["spaces"])).action == Discrete(2)
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    for _ in range(9):
        (action,) = made.run(["action"], {"obs": obs[None]})
        assert action[0] == result.policy().act(obs)
        obs, *_ = env.step(int(action[0]))


def test_an_untrained_policy_explores() -> None:
    with shoal.Trainer("sac", "Pendulum-v1") as trainer:
        drawn = [trainer.policy.act(np.zeros(3), explore=True) for _ in range(2)]
        assert all(-2.0 <= x <= 2.0 for x in drawn)
