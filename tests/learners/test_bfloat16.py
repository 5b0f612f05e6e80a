"""Are the factors of every matrix product rounded in JAX, wherever it stands, and nothing else?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import gymnasium as gym
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from shoal.learners.bfloat16 import rounded
from shoal.nets.base import Head
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces


def down(a: Any) -> Any:
    return np.asarray(jnp.asarray(a).astype(jnp.bfloat16).astype(jnp.float32))


def test_jax_rounds_the_factors_of_products_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 5), np.float32), rng.standard_normal((5, 4), np.float32)

    @jax.jit  # whatever is compiled inside is reached, too
    def loss(x: Any, w: Any) -> Any:
        product = x @ w
        return jnp.sum(jnp.tanh(product)) + x[0, 0], product

    (total, product), (dx, dw) = rounded(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, w)
    expected = down(x) @ down(w)
    slope = 1 - np.tanh(expected) ** 2
    own = np.zeros_like(x)
    own[0, 0] = 1
    np.testing.assert_allclose(product, expected, atol=1e-6)
    np.testing.assert_allclose(total, np.tanh(expected).sum() + x[0, 0], atol=1e-5)
    np.testing.assert_allclose(dw, down(x).T @ down(slope), atol=1e-5)
    np.testing.assert_allclose(dx, down(slope) @ down(w).T + own, atol=1e-5)


def scanned(x: Any, w: Any) -> Any:
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=3)[0]


def looped(x: Any, w: Any) -> Any:
    def body(carry: Any) -> Any:
        return carry[0] + 1, jnp.tanh(carry[1] @ w)

    return jax.lax.while_loop(lambda carry: carry[0] < 3, body, (0, x))[1]


def branched(x: Any, w: Any) -> Any:
    def three(x: Any) -> Any:
        return looped(x, w)

    return jax.lax.cond(x[0, 0] < 9, three, lambda x: x, x)


def saved(x: Any, w: Any) -> Any:
    return jax.checkpoint(scanned)(x, w)


@jax.custom_jvp
def with_jvp(x: Any, w: Any) -> Any:
    return scanned(x, w)


with_jvp.defjvp(lambda x, t: jax.jvp(scanned, x, t))


@jax.custom_vjp
def with_vjp(x: Any, w: Any) -> Any:
    return scanned(x, w)


with_vjp.defvjp(lambda x, w: (scanned(x, w), (x, w)), lambda seen, g: jax.vjp(scanned, *seen)[1](g))
KINDS = scanned, looped, branched, saved, with_jvp, with_vjp


@pytest.mark.parametrize("function", KINDS, ids=lambda f: getattr(f, "__name__", str(f)))
def test_products_inside_of_loops_branches_and_calls_are_rounded(
    function: Callable[..., Any],
) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4), np.float32), rng.standard_normal((4, 4), np.float32)
    expected = x
    for _ in range(3):
        expected = np.tanh(down(expected) @ down(w))
    found = jax.jit(rounded(function))(x, w)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(function(x, w) - expected).max() > 1e-4  # float32 is something else


@pytest.mark.parametrize("function", [scanned, saved, with_jvp, with_vjp])
def test_so_are_those_of_their_gradients(function: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4), np.float32), rng.standard_normal((4, 4), np.float32)
    slopes = jax.make_jaxpr(rounded(jax.grad(lambda w: function(x, w).sum())))(w)
    kinds = set(products(slopes.jaxpr))
    assert kinds == {"bfloat16"}


def products(jaxpr: Any) -> list[str]:
    """dtypes of the factors of all products, at any depth."""
    found = []
    for line in jaxpr.eqns:
        if line.primitive.name == "dot_general":
            found += [x.aval.dtype.name for x in line.invars]
        for param in jax.tree.leaves(tuple(line.params.values()), is_leaf=is_function):
            if is_function(param):
                found += products(getattr(param, "jaxpr", param))
    return found


def is_function(param: Any) -> bool:
    return isinstance(param, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)


def test_a_users_recurrent_module_is_rounded() -> None:
    class Recurrent(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, obs: Any) -> Any:
            steps = flax.linen.RNN(flax.linen.LSTMCell(8))(obs[..., None])
            return flax.linen.Dense(2)(steps[:, -1])

    spaces = GymSpaces(gym.spaces.Box(-1, 1, (5,), np.float32), gym.spaces.Discrete(2))
    net = build(Recurrent(), spaces, {"pi": Head(2)})
    params = net.init(np.random.default_rng(0))

    def loss(params: Any, obs: Any) -> Any:
        return net(params, {"obs": obs}, ("pi",))[0].sum()

    obs = np.ones((3, 5), np.float32)
    traced = jax.make_jaxpr(rounded(jax.value_and_grad(loss)))(jax.device_put(params), obs)
    assert set(products(traced.jaxpr)) == {"bfloat16"}
