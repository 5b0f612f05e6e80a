"""Every test that takes ``lib`` is asked of NumPy, JAX (traced and not) and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Library:
    """Runs functions of arrays in one array library, given and giving NumPy's."""

    name: str

    def array(self, x: Any) -> Any:
        if self.name == "torch":
            import torch

            return torch.tensor(x)
        if self.name.startswith("jax"):
            import jax.numpy as jnp

            return jnp.asarray(x)
        return np.asarray(x)

    def run(self, f: Callable[..., Any], *args: Any) -> Any:
        """f(*args). Other arguments than arrays (and dicts of them) belong into f's closure.

        Fails where float32 went in and float64 came out.
        """
        if self.name == "jax-jit":
            f = _compiled(f)
        out = _tree(np.asarray, f(*_tree(self.array, args)))
        if not any(x.dtype == np.float64 for x in _leaves(args)):
            assert all(x.dtype != np.float64 for x in _leaves(out))
        return out

    def grad(self, f: Callable[..., Any], x: Any) -> Any:
        """Gradient of the sum of f's outputs with respect to x; not for NumPy."""
        if self.name == "torch":
            leaf = self.array(x).requires_grad_()
            f(leaf).sum().backward()
            return leaf.grad.numpy()
        import jax

        gradient = jax.grad(lambda x: f(x).sum())
        if self.name == "jax-jit":
            gradient = jax.jit(gradient)
        return np.asarray(gradient(self.array(x)))


LIBRARIES = "numpy", "jax", "jax-jit", "torch"


@pytest.fixture(params=LIBRARIES)
def lib(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


@pytest.fixture(params=LIBRARIES[1:])
def differentiable(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


@cache
def _compiled(f: Callable[..., Any]) -> Any:
    import jax

    return jax.jit(f)  # kept, as JAX forgets what it traced for a bound method with the method


def _tree(f: Callable[[Any], Any], x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _tree(f, v) for k, v in x.items()}
    return tuple(_tree(f, v) for v in x) if isinstance(x, tuple | list) else f(x)


def _leaves(x: Any) -> list[Any]:
    if isinstance(x, dict):
        x = tuple(x.values())
    if isinstance(x, tuple | list):
        return [leaf for v in x for leaf in _leaves(v)]
    return [np.asarray(x)]
