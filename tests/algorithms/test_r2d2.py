"""Recurrent DQN: are the values that are learned those of the network that acted, and the paper's?

R2D2 (Kapturowski et al. 2019, ICLR).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from shoal import Trainer
from shoal.algorithms.base import Model
from shoal.algorithms.dqn import DQN
from shoal.algorithms.off_policy import FLOOR
from shoal.config.replay import Replay
from shoal.errors import ConfigError, NetworkError
from shoal.fleet.worker import Worker
from shoal.nets.network import Network
from shoal.ops.q_learning import backup, huber
from shoal.replay.buffer import Buffer
from shoal.replay.layout import layout_of
from shoal.replay.settings import layout_for, make
from shoal.spaces.base import MEMORY
from tests.worlds import Script, Scripts, difference, interrupt, settings, worker

LSTM = Network(hidden=(6,), memory="lstm", memory_size=5)
GRU = Network(hidden=(), memory="gru", memory_size=5)


@dataclass(frozen=True)
class Recording(DQN):
    """A replay buffer keeps the values by which it acted."""

    network: Any = LSTM
    sequence: int = 6
    burn_in: int = 4
    overlap: int = 2

    def records(self, model: Model) -> dict[str, Any]:
        n = model.spaces.action_n[0]
        return {"values": np.zeros((n, self.atoms), np.float32)}


def next_step(scripts: Scripts) -> Any:
    mode = gym.vector.AutoresetMode.NEXT_STEP
    return lambda num_envs=3: gym.vector.SyncVectorEnv([scripts] * num_envs, autoreset_mode=mode)


def filled(algorithm: DQN, env: Any = None, fragments: int = 4, length: int = 9) -> Any:
    """A worker, and a buffer with what it sampled; its weights are far from the initial ones."""
    rollout = {"envs_per_worker": 3, "fragment_length": length}
    config = settings("dqn", env or Scripts(), seed=1, rollout=rollout)
    made = worker(replace(config, algorithm=algorithm))
    rng = np.random.default_rng(2)
    weights = {k: rng.normal(0, 0.7, x.shape).astype(np.float32) for k, x in made.weights.items()}
    made.set_weights({**weights, **algorithm.exploration(0, 3)}, 1)
    small = Replay(capacity=900, warmup=8, batch_size=4, alpha=0.6)
    buffer = make(small, algorithm, made.model, {}, 3)
    plain = Buffer(
        layout_of(algorithm, made.model, {}), 3, 900, n_step=algorithm.n_step, gamma=algorithm.gamma
    )
    for number in range(fragments):
        batch = made.sample(number).batch
        buffer.store(0, batch)
        plain.store(0, batch)
    return made, weights, buffer, plain


@pytest.mark.parametrize("autoreset", ["same step", "next step"])
@pytest.mark.parametrize(
    "algorithm",
    [Recording(), Recording(network=GRU, dueling=True, burn_in=0), Recording(atoms=5, burn_in=9)],
    ids=["lstm", "gru, dueling, no burn-in", "distributional, long burn-in"],
)
def test_an_unroll_from_the_stored_memory_gives_the_values_that_acted(
    algorithm: Recording, autoreset: str
) -> None:
    """Of all env steps of all sequences, whatever ends inside of them or inside of the prefix."""
    env = Scripts() if autoreset == "same step" else next_step(Scripts())
    made, weights, buffer, _ = filled(algorithm, env)
    batch = buffer.everything().batch
    found = algorithm.unrolled(made.model, weights, batch)[:, : algorithm.sequence]
    valid = batch["mask"] > 0
    assert valid.any() and not valid.all()
    np.testing.assert_allclose(found[valid], batch["records"]["values"][valid], atol=1e-5)


class Rich(Script):
    """Pictures and numbers in a Dict, and one of the actions is not allowed."""

    observation_space = Dict({"x": Box(-9, 9, (2,)), "image": Box(0, 255, (16, 16, 1), np.uint8)})

    def _draw(self) -> Any:
        image = self.np_random.integers(0, 256, (16, 16, 1), np.uint8)
        self.mask = np.ones(4, np.int8)
        self.mask[self.np_random.integers(4)] = 0
        return {"x": self.np_random.standard_normal(2, np.float32), "image": image}

    def reset(self, **given: Any) -> Any:
        obs, _ = super().reset(**given)
        return obs, {"action_mask": self.mask}

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"action_mask": self.mask}


def test_pictures_nested_observations_and_action_masks_are_replayed_too() -> None:
    """The values that acted, and an allowed action where they are bootstrapped from."""
    network = Network(encoder="impala", hidden=(6,), memory="lstm", memory_size=5)
    algorithm = Recording(network=network, double=True, n_step=2)
    made, weights, buffer, _ = filled(algorithm, Rich)
    batch = buffer.everything().batch
    valid = batch["mask"] > 0
    values = algorithm.unrolled(made.model, weights, batch)
    found = values[:, : algorithm.sequence][valid]
    np.testing.assert_allclose(found, batch["records"]["values"][valid], rtol=1e-4, atol=1e-5)
    given = made.model, weights, algorithm.targets(weights)
    mask, then = batch["obs"]["action_mask"], batch["then"]
    row = np.arange(len(then))[:, None]
    loss, _ = algorithm.loss(*given, {**batch, "step": {}})
    q = np.where(mask[row, then], values[..., 0][row, then - algorithm.burn_in], -np.inf)
    y = batch["reward"] + batch["discount"] * q.max(-1)
    own = np.take_along_axis(values[:, : algorithm.sequence, :, 0], batch["action"][..., None], -1)
    assert float(loss) == pytest.approx(huber(y - own[..., 0])[valid].mean(), rel=1e-4)


def transitions(algorithm: DQN, model: Any, weights: Any, plain: Buffer) -> dict[str, Any]:
    """{(observation): (loss, |TD|)} of single transitions, with the memory stored at each."""
    batch = plain.everything().batch
    now = algorithm.values(model, weights, batch["obs"])[..., 0]
    then = algorithm.values(model, weights, batch["next_obs"])[..., 0]
    rows = np.arange(len(now))
    y = backup(batch["reward"], batch["discount"], then.max(-1), algorithm.rescale)
    td = y - now[rows, batch["action"]]
    keys = [x.tobytes() for x in batch["obs"]["obs"]]
    return dict(zip(keys, zip(huber(td), np.abs(td), strict=True), strict=True))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("rescale", [None, 1e-3])
@pytest.mark.parametrize(("sequence", "burn_in", "overlap"), [(1, 0, 0), (6, 4, 2)])
def test_the_loss_is_that_of_single_transitions_with_the_memory_that_acted(
    sequence: int, burn_in: int, overlap: int, rescale: float | None, double: bool
) -> None:
    """With the weights that acted; sequences of one step make it DQN."""
    shape = {"sequence": sequence, "burn_in": burn_in, "overlap": overlap}
    algorithm = DQN(network=LSTM, n_step=3, rescale=rescale, double=double, **shape)
    made, weights, buffer, plain = filled(algorithm)
    expected = transitions(algorithm, made.model, weights, plain)
    batch = buffer.everything().batch
    batch["step"] = {}
    batch["weight"] = np.random.default_rng(3).random(len(batch["weight"])).astype(np.float32)
    loss, metrics = algorithm.loss(made.model, weights, algorithm.targets(weights), batch)
    total, count, priorities = 0.0, 0, []
    for j in range(len(batch["weight"])):
        valid = int(batch["mask"][j].sum())
        obs = batch["obs"]["obs"][j, burn_in : burn_in + valid]
        found = [expected[x.tobytes()] for x in obs]
        total += batch["weight"][j] * sum(each[0] for each in found)
        count += valid
        errors = [each[1] for each in found]
        priorities.append(0.9 * max(errors) + 0.1 * np.mean(errors) + FLOOR)
    assert float(loss) == pytest.approx(total / count, rel=1e-4)
    np.testing.assert_allclose(metrics.rows["priority"], priorities, rtol=1e-3, atol=1e-5)


def gradient_of_inputs(algorithm: DQN, batch: Any, made: Worker, weights: Any) -> Any:
    """Gradients of the first sequence's loss with respect to its observations and stored memory."""
    one = {k: x[:1] if not isinstance(x, dict) else None for k, x in batch.items()}
    obs = {path: x[:1] for path, x in batch["obs"].items()}
    weights = jax.tree.map(jax.numpy.asarray, weights)
    one["begins"] = jax.numpy.asarray(one["begins"])
    rest = {k: x for k, x in one.items() if x is not None}

    def loss(obs: Any) -> Any:
        whole = {**rest, "obs": obs, "step": {}}
        return algorithm.loss(made.model, weights, algorithm.targets(weights), whole)[0]

    return jax.tree.map(np.asarray, jax.grad(loss)(obs))


def test_no_gradient_flows_into_the_burn_in() -> None:
    algorithm = DQN(network=LSTM, sequence=6, burn_in=4, overlap=2)
    made, weights, buffer, _ = filled(algorithm, lambda: Scripts(length=40)())
    batch = buffer.everything().batch
    late = np.flatnonzero(~batch["begins"].any(1))[:1]  # within an episode, prefix and all
    picked = {k: x[late] for k, x in batch.items() if not isinstance(x, dict)}
    picked["obs"] = {path: x[late] for path, x in batch["obs"].items()}
    gradient = gradient_of_inputs(algorithm, picked, made, weights)
    assert not gradient["obs"][:, :4].any() and gradient["obs"][:, 4:10].any(-1).all()
    assert not any(x.any() for path, x in gradient.items() if path.startswith(MEMORY))


def test_no_gradient_flows_from_one_episode_into_another() -> None:
    """A sequence that begins an episode learns nothing from the one before, which its window holds.

    The prefix is trained on here, so that its stop_gradient does not hide an error.
    """
    algorithm = DQN(network=LSTM, sequence=6, burn_in=4, overlap=2)
    made, weights, buffer, _ = filled(algorithm)
    batch = buffer.everything().batch
    first = np.flatnonzero(batch["begins"][:, 4] & (batch["mask"].sum(1) > 2))[-1:]
    picked = {k: x[first] for k, x in batch.items() if not isinstance(x, dict)}
    picked["obs"] = {path: x[first] for path, x in batch["obs"].items()}
    valid = int(picked["mask"].sum())

    def total(obs: Any) -> Any:
        whole = {**picked, "obs": obs, "begins": jax.numpy.asarray(picked["begins"])}
        values = replace(algorithm, burn_in=0).unrolled(made.model, jaxed, whole)
        return values[:, 4 : 4 + valid].sum()

    jaxed = jax.tree.map(jax.numpy.asarray, weights)
    gradient = jax.tree.map(np.asarray, jax.grad(total)(picked["obs"]))
    assert gradient["obs"][0, 4 : 4 + valid].any(-1).all()
    assert not gradient["obs"][0, :4].any()


@pytest.mark.parametrize("learner", ["jax", "torch"])
@pytest.mark.parametrize(
    "fields",
    [
        {"noisy": True, "atoms": 11, "dueling": True, "double": True, "n_step": 3},
        {"precision": "bfloat16"},
        {"network": GRU, "rescale": 1e-3},
    ],
    ids=["rainbow", "bfloat16", "gru"],
)
def test_the_whole_family_learns_from_sequences(fields: dict[str, Any], learner: str) -> None:
    """A reward for what was seen a step ago; every switch brings the loss down."""
    given = {"network": LSTM, "sequence": 6, "burn_in": 3, "overlap": 3, "alpha": 0.6, **fields}
    small = {"warmup": 200, "capacity": 2000, "batch_size": 16, "replay_ratio": 16, "lr": 3e-3}
    with Trainer("dqn", "CartPole-v1", learner=learner, report_every=500, **given, **small) as run:
        run.train()
        first = run.train()["learn/loss"]
        assert np.isfinite(first) and run.train()["gradient_steps"] > 100


# ------------------------------------------------------------------ runs


SMALL: dict[str, Any] = {
    "network": LSTM,
    **{"sequence": 6, "burn_in": 3, "overlap": 3, "n_step": 3, "double": True, "rescale": 1e-3},
    **{"envs_per_worker": 3, "fragment_length": 4, "capacity": 400, "warmup": 60, "batch_size": 4},
    **{"alpha": 0.9, "target_every": 7, "report_every": 1, "learner": "torch"},
}


def state(trainer: Trainer) -> dict[str, Any]:
    replay = trainer.run.local_replay
    own = {"learner": trainer.learner.get_state(), "run": trainer.run.get_state()}
    return own | {"buffer": replay.buffer.get_state()}


@pytest.mark.parametrize("cut", [3, 14])
def test_a_saved_run_goes_on_bit_for_bit(cut: int, tmp_path: Any) -> None:
    """In the warm-up and after it: buffer, sequences that are not whole yet, memory, priorities."""
    with Trainer("dqn", "CartPole-v1", **SMALL) as whole:
        for i in range(20):
            if i == cut:
                whole.save(tmp_path)
            whole.train()
        assert whole.learner.gradient_steps > 20
        with Trainer.restore(tmp_path) as resumed:
            for _ in range(20 - cut):
                resumed.train()
            assert difference(state(whole), state(resumed)) == ""


@pytest.mark.parametrize("when", ["update", "sample"])
def test_an_interrupted_round_is_repeated_as_if_it_had_never_begun(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Trainer("dqn", "CartPole-v1", **SMALL) as whole,
        Trainer("dqn", "CartPole-v1", **SMALL) as cut,
    ):
        for _ in range(12):
            whole.train(), cut.train()
        interrupt(cut, cut.learner if when == "update" else Worker, when, monkeypatch)
        for _ in range(5):
            whole.train(), cut.train()
        assert difference(state(whole), state(cut)) == ""


def test_in_lock_step_the_asynchronous_plan_is_the_synchronous_one() -> None:
    given = {**SMALL, "alpha": 0.0}
    one = Trainer("dqn", "CartPole-v1", **given)
    other = Trainer(
        "dqn", "CartPole-v1", plan="async_replay", slack=0, sync_every=1, workers=1,
        in_process=True, **given,
    )  # fmt: skip
    with one, other:
        for each in (one, other):
            while each.learner.gradient_steps < 20:
                each.train()
        a, b = (each.learner.get_state() for each in (one, other))
        assert a["gradient_steps"] == b["gradient_steps"]
        for part in ("params", "optimiser", "targets"):
            assert difference(a[part], b[part]) == "", part


def test_the_ratio_counts_the_env_steps_of_sequences() -> None:
    with Trainer("dqn", "CartPole-v1", **SMALL, replay_ratio=13.7) as trainer:
        for _ in range(40):
            report = trainer.train()
    run = trainer.run
    owed = 13.7 * (run.local_replay.buffer.stored - run.counters.learning_from)
    assert report["replayed_steps"] == 24 * report["gradient_steps"] > 0
    assert 0 <= owed - report["replayed_steps"] < 24 + 13.7 * 12


# ------------------------------------------------------------------ refused


def test_what_cannot_be_is_refused_before_anything_starts() -> None:
    def refused(system: str, env: str = "CartPole-v1", **fields: Any) -> str:
        with pytest.raises((ConfigError, NetworkError)) as error:
            Trainer(system, env, **fields)
        return str(error.value)

    assert "algorithm.overlap is 80" in refused("dqn", network=LSTM, overlap=80)
    assert "nothing reads it: the network has no memory" in refused("dqn", burn_in=3)
    assert "too few for one sequence, which takes 163" in refused(
        "dqn", network=LSTM, capacity=1000
    )
    for system in ("sac", "td3", "ddpg"):
        assert "learn from single transitions" in refused(system, "Pendulum-v1", network=LSTM)


def test_the_bytes_of_a_buffer_are_those_that_it_takes() -> None:
    algorithm = DQN(network=LSTM)
    made = worker(replace(settings("dqn", Scripts()), algorithm=algorithm))
    small = Replay(capacity=2000, warmup=64, alpha=0.6)
    buffer = make(small, algorithm, made.model, {}, 2)
    expected = buffer._rows.nbytes + buffer._tree.nbytes
    assert layout_for(small, algorithm, made.model, {}, 2).nbytes(2000, 2) == expected
