"""Losses and their gradients in each array library, and a batch to ask them of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.base import Model
from shoal.algorithms.ppo import PPO
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces
from tests.worlds import LINEAR

ROWS = 6


@dataclass(frozen=True)
class Library:
    """An algorithm's loss in one array library, from NumPy arrays to NumPy arrays."""

    name: str

    def loss(
        self, algorithm: Any, model: Model, params: Any, batch: Any, **hyper: float
    ) -> tuple[float, dict[str, float]]:
        """The loss and its metrics."""
        loss: Any = partial(algorithm.loss, model)
        if self.name == "jax":
            import jax

            loss = jax.jit(loss)
        total, metrics = loss(self._put(params), self._put(_aux(hyper)), self._put(batch))
        stop = {} if metrics.stop is None else {"stop": metrics.stop}
        return float(total), {k: float(x) for k, x in {**metrics.scalars, **stop}.items()}

    def grad(
        self, algorithm: Any, model: Model, params: Any, batch: Any, **hyper: float
    ) -> dict[str, np.ndarray]:
        """Gradients of the loss; not for NumPy."""
        leaves, aux, rows = self._put(params), self._put(_aux(hyper)), self._put(batch)
        if self.name == "torch":
            import torch

            leaves = {name: x.requires_grad_() for name, x in leaves.items()}
            total, _ = algorithm.loss(model, leaves, aux, rows)
            found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
            return {name: g.numpy() for name, g in zip(leaves, found, strict=True)}
        import jax

        found = jax.jit(jax.grad(lambda p: algorithm.loss(model, p, aux, rows)[0]))(leaves)
        return {name: np.asarray(g) for name, g in found.items()}

    def label(self, algorithm: Any, model: Model, params: Any, batch: Any) -> dict[str, Any]:
        """The batch as the learner prepares it."""
        found = algorithm.label(model, self._put(params), self._put(batch))
        return {
            name: {k: np.asarray(y) for k, y in x.items()} if name == "obs" else np.asarray(x)
            for name, x in found.items()
        }

    def _put(self, tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return {name: self._put(x) for name, x in tree.items()}
        if self.name == "torch":
            import torch

            return torch.tensor(np.asarray(tree))
        if self.name == "jax":
            import jax.numpy as jnp

            return jnp.asarray(tree)
        return np.asarray(tree)


def _aux(hyper: dict[str, float]) -> dict[str, Any]:
    given = {"clip": 0.2, "entropy_coef": 0.01, **hyper}
    return {f"hyper/{name}": np.float32(x) for name, x in given.items()}


@pytest.fixture(params=["numpy", "jax", "torch"])
def lib(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


@pytest.fixture(params=["jax", "torch"])
def differentiable(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


@pytest.fixture
def torch_lib() -> Library:
    return Library("torch")


@pytest.fixture(scope="module")
def model() -> Model:
    """Linear policy and value of three numbers; four actions."""
    spaces = GymSpaces(Box(-np.inf, np.inf, (3,), np.float32), Discrete(4))
    return PPO(network=LINEAR).model(spaces, build)


@pytest.fixture(scope="module")
def params(model: Model) -> dict[str, np.ndarray]:
    """Weights at which nothing is special."""
    rng = np.random.default_rng(1)
    return {
        name: (0.7 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in model.net.shapes().items()
    }


@pytest.fixture
def batch(model: Model, params: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rows for every loss: some sampled by a very different policy, one masked."""
    rng = np.random.default_rng(2)
    obs = {"obs": rng.standard_normal((ROWS, 3), dtype=np.float32)}
    action = rng.integers(0, 4, ROWS)
    out, v = model.net(params, obs, ("pi", "v"))
    rows = {
        "log_prob": model.dist.log_prob(out, action) + rng.normal(0, 0.4, ROWS),
        "value": v[:, 0] + rng.normal(0, 0.5, ROWS),
        "target": rng.normal(0, 1, ROWS),
        "advantage": rng.normal(0.5, 2, ROWS),
        "episode_end": np.array([0, 1, 0, 1, 0, 1]),
        "mask": np.array([1, 1, 1, 0, 1, 1]),
    }
    return {"obs": obs, "action": action, **{k: x.astype(np.float32) for k, x in rows.items()}}


# Seven slots of six env steps: "t" is an ending, "l" a time limit, "b" both. In capitals the
# environment had begun its next episode at once, so that what followed is not in the sequence;
# after the others it took a row (".") to reset itself. In the last slot one is missing amidst.
SLOTS = "------", "--t.-l", "-L-T-L", ".-l.-t", "----l.", "--B---", "--..--"


@pytest.fixture
def fragments(model: Model, params: dict[str, np.ndarray]) -> dict[str, Any]:
    """A batch of whole fragments with every way to end, sampled by a very different policy."""
    rng = np.random.default_rng(4)
    kinds = np.array([list(slot) for slot in SLOTS])
    shape = kinds.shape
    obs = {"obs": rng.standard_normal((shape[0], shape[1] + 1, 3), dtype=np.float32)}
    action = rng.integers(0, 4, shape)
    (out,) = model.net(params, obs, ("pi",))
    log_prob = model.dist.log_prob(out[:, :-1], action) + rng.normal(0, 0.5, shape)
    cut = np.isin(kinds, list("TLB"))
    return {
        "obs": obs,
        "action": action,
        "reward": rng.normal(0, 1, shape).astype(np.float32),
        "terminated": np.isin(kinds, list("tTbB")),
        "last": np.isin(kinds, list("tTlLbB")),
        "cut": cut,
        "v_final": np.where(cut, rng.normal(0, 1, shape), 0).astype(np.float32),
        "mask": (kinds != ".").astype(np.float32),
        "log_prob": log_prob.astype(np.float32),
    }


def garbage(fragments: dict[str, Any]) -> dict[str, Any]:
    """The same with NaN and extreme values wherever no transition reads them."""
    rng = np.random.default_rng(5)
    gone = fragments["mask"] == 0
    worst = {"reward": np.nan, "log_prob": -np.inf, "v_final": np.inf}
    spoilt = {name: np.where(gone, np.float32(x), fragments[name]) for name, x in worst.items()}
    for name in ("terminated", "last", "cut"):
        spoilt[name] = np.where(gone, rng.random(gone.shape) < 0.5, fragments[name])
    # What an environment showed at a time limit, and did not act on, is real.
    followed = ~gone & ~fragments["terminated"] & ~fragments["cut"]
    real = np.concatenate([np.zeros_like(gone[:, :1]), followed[:, :-1]], 1)
    obs = fragments["obs"]["obs"].copy()
    obs[:, :-1][gone & ~real] = 50.0
    action = np.where(gone, 10**6, fragments["action"])
    return {**fragments, **spoilt, "obs": {"obs": obs}, "action": action}


Policy = Callable[[np.ndarray], tuple[list[float], float]]


def linear(params: dict[str, np.ndarray]) -> Policy:
    """Of the fixtures' network: log pi(.|x) and V(x), in Python's own floats."""

    def of(x: np.ndarray) -> tuple[list[float], float]:
        x = x.astype(np.float64)
        z = (x @ params["pi/out/w"].astype(np.float64) + params["pi/out/b"]).tolist()
        total = math.log(sum(math.exp(q) for q in z))
        v = float(x @ params["v/out/w"].astype(np.float64)[:, 0] + params["v/out/b"][0])
        return [q - total for q in z], v

    return of


@dataclass(frozen=True)
class VTraceOracle:
    """Espeholt et al. 2018, eq. 1 and section 4.2, as sums and products over each episode."""

    gamma: float = 0.99
    lambda_: float = 1.0
    clip_rho: float = 1.0
    clip_c: float = 1.0
    clip_pg_rho: float = 1.0
    corrected: bool = True

    def __call__(self, pi: Policy, batch: Any) -> dict[tuple[int, int], tuple[float, float, float]]:
        """{(slot, t): (v_s, advantage, pi / mu)} of every row that counts."""
        found = {}
        for slot, mask in enumerate(batch["mask"]):
            rows: list[int] = []
            for t in range(len(mask)):
                if mask[t]:
                    rows.append(t)
                if rows and (not mask[t] or batch["last"][slot, t] or t == len(mask) - 1):
                    for s, told in zip(rows, self._episode(pi, batch, slot, rows), strict=True):
                        found[slot, s] = told
                    rows = []
        return found

    def _episode(
        self, pi: Policy, batch: Any, slot: int, rows: list[int]
    ) -> list[tuple[float, float, float]]:
        def column(name: str) -> list[float]:
            return [float(batch[name][slot, t]) for t in rows]

        n, r, x = len(rows), column("reward"), batch["obs"]["obs"][slot]
        v = [pi(x[t])[1] for t in rows]
        if batch["terminated"][slot, rows[-1]]:
            v.append(0.0)
        elif batch["cut"][slot, rows[-1]]:
            v.append(float(batch["v_final"][slot, rows[-1]]))
        else:
            v.append(pi(x[rows[-1] + 1])[1])
        ratio = [
            math.exp(pi(x[t])[0][int(batch["action"][slot, t])] - mu)
            for t, mu in zip(rows, column("log_prob"), strict=True)
        ]
        used = ratio if self.corrected else [1.0] * n
        rho = [min(self.clip_rho, y) for y in used]
        c = [self.lambda_ * min(self.clip_c, y) for y in used]
        delta = [rho[t] * (r[t] + self.gamma * v[t + 1] - v[t]) for t in range(n)]
        vs = [
            v[s] + sum(self.gamma ** (t - s) * math.prod(c[s:t]) * delta[t] for t in range(s, n))
            for s in range(n)
        ] + [v[n]]
        return [
            (vs[s], min(self.clip_pg_rho, used[s]) * (r[s] + self.gamma * vs[s + 1] - v[s]), y)
            for s, y in enumerate(ratio)
        ]
