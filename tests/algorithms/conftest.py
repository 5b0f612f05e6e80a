"""Losses and their gradients in each array library, and a batch to ask them of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from shoal.algorithms.base import Model
from shoal.algorithms.ppo import PPO
from shoal.spaces import Spaces
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
        return float(total), {name: float(x) for name, x in metrics.items()}

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
    spaces = Spaces(Box(-np.inf, np.inf, (3,), np.float32), Discrete(4))
    return PPO(network=LINEAR).model(spaces)


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
    """Rows of every loss; some were sampled by quite another policy, and one is masked."""
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
