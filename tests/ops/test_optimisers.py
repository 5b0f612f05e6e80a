"""Are the steps those of torch.optim, of optax and of the papers?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from shoal.errors import ConfigError
from shoal.ops import kernels
from shoal.ops.optimisers import Optimiser, global_norm

STEPS, LR = 20, 0.02
SHAPES = {"w": (4, 3), "b": (3,), "scale": ()}
Arrays = dict[str, np.ndarray]


def start() -> Arrays:
    rng = np.random.default_rng(0)
    return {k: np.asarray(rng.normal(size=s), np.float32) for k, s in SHAPES.items()}


def gradients() -> list[Arrays]:
    """Of sizes from 0.01 to 10, so that clipping, eps and averages all matter somewhere."""
    rng = np.random.default_rng(1)
    sizes = 10.0 ** rng.uniform(-2, 1, size=STEPS)
    return [
        {k: np.asarray(size * rng.normal(size=s), np.float32) for k, s in SHAPES.items()}
        for size in sizes
    ]


def ours(lib: Any, optimiser: Optimiser) -> Arrays:
    params, state = start(), lib.run(optimiser.init, start())
    for grads in gradients():
        params, state, _ = lib.run(optimiser.update, params, grads, state, np.float32(LR))
    assert state["t"] == STEPS
    return params


def in_torch(make: Callable[[Any], Any], clip: float | None) -> Arrays:
    params = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in start().items()}
    optimiser = make(params.values())
    for grads in gradients():
        for k, x in params.items():
            x.grad = torch.tensor(grads[k])
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimiser.step()
    return {k: x.detach().numpy() for k, x in params.items()}


def in_optax(transform: Any) -> Arrays:
    params = {k: jnp.asarray(x) for k, x in start().items()}
    state = transform.init(params)
    for grads in gradients():
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return {k: np.asarray(x) for k, x in params.items()}


def agree(actual: Arrays, expected: Arrays) -> None:
    for k in SHAPES:
        np.testing.assert_allclose(actual[k], expected[k], rtol=2e-5, atol=2e-5, err_msg=k)
        assert np.abs(actual[k] - start()[k]).max() > 1e-2  # they did move


TORCH: dict[str, tuple[Optimiser, Callable[[Any], Any]]] = {
    "adam": (Optimiser(eps=1e-5), lambda p: torch.optim.Adam(p, LR, eps=1e-5)),
    "adam, other betas, large eps": (
        Optimiser(b1=0.5, b2=0.9, eps=0.1),
        lambda p: torch.optim.Adam(p, LR, (0.5, 0.9), eps=0.1),
    ),
    "adam without averaging": (
        Optimiser(b1=0.0),
        lambda p: torch.optim.Adam(p, LR, (0.0, 0.999)),
    ),
    "adam, clipped": (Optimiser(clip_norm=0.5), lambda p: torch.optim.Adam(p, LR)),
    "rmsprop": (
        Optimiser("rmsprop", eps=0.1),
        lambda p: torch.optim.RMSprop(p, LR, alpha=0.99, eps=0.1),
    ),
    "rmsprop, centred, momentum, clipped": (
        Optimiser("rmsprop", decay=0.95, eps=1e-2, centered=True, momentum=0.9, clip_norm=3.0),
        lambda p: torch.optim.RMSprop(p, LR, alpha=0.95, eps=1e-2, centered=True, momentum=0.9),
    ),
    "adagrad": (
        Optimiser("adagrad", eps=1e-10),
        lambda p: torch.optim.Adagrad(p, LR, eps=1e-10),
    ),
    "adagrad, large eps, clipped": (
        Optimiser("adagrad", eps=0.1, clip_norm=3.0),
        lambda p: torch.optim.Adagrad(p, LR, eps=0.1),
    ),
    "sgd": (Optimiser("sgd"), lambda p: torch.optim.SGD(p, LR)),
    "sgd, momentum, clipped": (
        Optimiser("sgd", momentum=0.9, clip_norm=1.0),
        lambda p: torch.optim.SGD(p, LR, momentum=0.9),
    ),
}

OPTAX: dict[str, tuple[Optimiser, Any]] = {
    "adam": (Optimiser(eps=1e-5), optax.adam(LR, eps=1e-5)),
    "adam, eps inside": (
        Optimiser(eps=1e-2, eps_inside=True),
        optax.adam(LR, eps=0.0, eps_root=1e-2),
    ),
    "rmsprop, eps inside": (
        Optimiser("rmsprop", decay=0.95, eps=0.1, eps_inside=True),
        optax.rmsprop(LR, decay=0.95, eps=0.1, eps_in_sqrt=True),
    ),
    "rmsprop, eps outside": (
        Optimiser("rmsprop", decay=0.95, eps=0.1),
        optax.rmsprop(LR, decay=0.95, eps=0.1, eps_in_sqrt=False),
    ),
    "rmsprop, centred, eps inside": (
        Optimiser("rmsprop", decay=0.95, eps=1e-2, eps_inside=True, centered=True),
        optax.rmsprop(LR, decay=0.95, eps=1e-2, centered=True, eps_in_sqrt=True),
    ),
    "adagrad, eps inside": (
        Optimiser("adagrad", eps=0.1, eps_inside=True),
        optax.adagrad(LR, initial_accumulator_value=0.0, eps=0.1),
    ),
    "adam, clipped": (
        Optimiser(clip_norm=0.5, eps=1e-5),
        optax.chain(optax.clip_by_global_norm(0.5), optax.adam(LR, eps=1e-5)),
    ),
    "sgd, momentum": (Optimiser("sgd", momentum=0.9), optax.sgd(LR, momentum=0.9)),
}


@pytest.mark.parametrize("name", TORCH)
def test_takes_the_steps_of_torch(lib: Any, name: str) -> None:
    optimiser, make = TORCH[name]
    agree(ours(lib, optimiser), in_torch(make, optimiser.clip_norm))


@pytest.mark.parametrize("name", OPTAX)
def test_takes_the_steps_of_optax(lib: Any, name: str) -> None:
    optimiser, transform = OPTAX[name]
    agree(ours(lib, optimiser), in_optax(transform))


@pytest.mark.parametrize(
    ("optimiser", "step"),
    [
        # Nature DQN's centred RMSProp: g=2, lr=.1, eps=.01
        (Optimiser("rmsprop", decay=0.95, eps=0.01, eps_inside=True, centered=True), 0.447214),
        (Optimiser("rmsprop", decay=0.95, eps=0.01, centered=True), 0.448541),
        # A3C's shared RMSProp: g=2, alpha=.99, lr=.1, eps=.1
        (Optimiser("rmsprop", decay=0.99, eps=0.1, eps_inside=True), 0.534522),
        (Optimiser("rmsprop", decay=0.99, eps=0.1), 0.666667),
        # Adam's first step is lr, whatever the gradient
        (Optimiser("adam"), 0.1),
        (Optimiser("sgd"), 0.2),
    ],
    ids=["dqn-inside", "dqn-outside", "a3c-inside", "a3c-outside", "adam", "sgd"],
)
def test_first_step_golden(lib: Any, optimiser: Optimiser, step: float) -> None:
    x, g = {"x": np.float32([1.0])}, {"x": np.float32([2.0])}
    state = lib.run(optimiser.init, x)
    after, _, _ = lib.run(optimiser.update, x, g, state, np.float32(0.1))
    assert 1.0 - after["x"].item() == pytest.approx(step, abs=1e-6)


@pytest.mark.parametrize("inside", [False, True])
def test_adagrad_golden_steps(lib: Any, inside: bool) -> None:
    """A constant gradient of 2 and lr .1: .1, then .1 / sqrt(2), .1 / sqrt(3)."""
    optimiser = Optimiser("adagrad", eps_inside=inside)
    x, g = {"x": np.float32([1.0])}, {"x": np.float32([2.0])}
    state, steps = lib.run(optimiser.init, x), []
    for _ in range(3):
        before = x["x"].item()
        x, state, _ = lib.run(optimiser.update, x, g, state, np.float32(0.1))
        steps.append(before - x["x"].item())
    assert steps == pytest.approx([0.1, 0.070711, 0.057735], abs=1e-6)
    assert state["h/x"].tolist() == [12.0]


def test_adagrad_without_a_gradient_stays(lib: Any) -> None:
    """Its sum of squares is 0 then, and so would be what divides, but for eps."""
    optimiser, x = Optimiser("adagrad"), {"x": np.float32([1.0])}
    zero = {"x": np.zeros(1, np.float32)}
    after, _, _ = lib.run(optimiser.update, x, zero, lib.run(optimiser.init, x), np.float32(0.1))
    assert after["x"].tolist() == [1.0]


def test_clips_all_gradients_together(lib: Any) -> None:
    """To one length, in one direction: a clip of each array by itself would turn the gradient."""
    params = {k: np.zeros_like(x) for k, x in start().items()}
    optimiser, grads = Optimiser("sgd", clip_norm=0.5), gradients()[0]
    grads = {k: 100.0 * g for k, g in grads.items()}
    norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in grads.values()))
    after, _, reported = lib.run(
        optimiser.update, params, grads, lib.run(optimiser.init, params), np.float32(1.0)
    )
    assert reported == pytest.approx(norm, rel=1e-5)  # the norm before clipping
    for k, g in grads.items():
        np.testing.assert_allclose(after[k], -0.5 * g / norm, rtol=1e-4)


def test_gradients_within_the_bound_are_not_touched(lib: Any) -> None:
    grads = {k: 1e-3 * g for k, g in gradients()[0].items()}
    state, steps = lib.run(Optimiser("sgd").init, start()), []
    for clip in (None, 0.5):
        optimiser = Optimiser("sgd", clip_norm=clip)
        steps.append(lib.run(optimiser.update, start(), grads, state, np.float32(1.0))[0])
    for k in SHAPES:
        np.testing.assert_array_equal(steps[0][k], steps[1][k])


def test_a_gradient_too_large_for_float32_squares_stays_finite(lib: Any) -> None:
    """Its norm overflows; clipped, it is a step of nothing and not a network of nan."""
    params, optimiser = start(), Optimiser(clip_norm=0.5)
    grads = {k: np.full_like(x, 1e25) for k, x in params.items()}
    state = lib.run(optimiser.init, params)
    with np.errstate(over="ignore"):
        after, state, norm = lib.run(optimiser.update, params, grads, state, np.float32(LR))
    assert np.isinf(norm)
    assert all(np.isfinite(x).all() for x in (*after.values(), *state.values()))


def test_centred_variance_never_falls_below_zero(lib: Any) -> None:
    """A constant gradient has variance 0, which float32 rounds to either side of it."""
    optimiser = Optimiser("rmsprop", decay=0.9, eps=1e-12, eps_inside=True, centered=True)
    x = {"x": np.linspace(0.1, 10.0, 50, dtype=np.float32)}
    params, state = x, lib.run(optimiser.init, x)
    for _ in range(200):
        params, state, _ = lib.run(optimiser.update, params, x, state, np.float32(1e-6))
    assert np.isfinite(params["x"]).all()


def test_changes_nothing_in_place(lib: Any) -> None:
    optimiser = Optimiser(clip_norm=0.5)
    params, grads = ({k: lib.array(x) for k, x in y.items()} for y in (start(), gradients()[0]))
    state = optimiser.init(params)
    before = [np.asarray(x).copy() for tree in (params, grads, state) for x in tree.values()]
    optimiser.update(params, grads, state, LR)
    after = [np.asarray(x) for tree in (params, grads, state) for x in tree.values()]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


LONG = [Optimiser("adam", 0.5), Optimiser("rmsprop", centered=True), Optimiser("adagrad")]


@pytest.mark.parametrize("reuse", [False, True], ids=["new memory", "its own memory"])
@pytest.mark.parametrize("optimiser", LONG, ids=lambda each: each.kind)
def test_in_blocks_it_takes_the_same_steps(optimiser: Optimiser, reuse: bool) -> None:
    """A vector of three blocks, the last one short, and the same numbers as one row: no blocks."""
    n = 2 * kernels.BLOCK + 1000
    rng = np.random.default_rng(0)
    x, *grads = (torch.tensor(rng.standard_normal(n, np.float32)) for _ in range(4))
    ends = []
    for shape in ((1, n), (n,)):
        params = {"all": x.clone().reshape(shape)}
        state = optimiser.init(params)
        first = params["all"]  # held, so that no other array can be given its memory
        for g in grads:
            out = (params, state) if reuse else None
            params, state, _ = optimiser.update(params, {"all": g.reshape(shape)}, state, LR, out)
        assert (params["all"].data_ptr() == first.data_ptr()) == (reuse and len(shape) == 1)
        ends.append({name: np.ravel(value) for name, value in {**params, **state}.items()})
    for name, value in ends[0].items():
        np.testing.assert_allclose(ends[1][name], value, rtol=2e-6, atol=1e-7)


def test_state_holds_only_what_its_kind_needs() -> None:
    params = {"a/w": np.zeros(2, np.float32)}
    needs = {
        Optimiser(): {"t", "m/a/w", "v/a/w"},
        Optimiser("rmsprop"): {"t", "v/a/w"},
        Optimiser("rmsprop", centered=True, momentum=0.9): {"t", "m/a/w", "v/a/w", "step/a/w"},
        Optimiser("adagrad"): {"t", "h/a/w"},
        Optimiser("sgd"): {"t"},
        Optimiser("sgd", momentum=0.9): {"t", "step/a/w"},
    }
    assert {optimiser: set(optimiser.init(params)) for optimiser in needs} == needs


def test_global_norm_is_that_of_one_long_vector(lib: Any) -> None:
    grads = gradients()[0]
    together = np.concatenate([g.ravel() for g in grads.values()])
    assert lib.run(global_norm, grads) == pytest.approx(np.linalg.norm(together), rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "adamw"}, "adagrad, adam, rmsprop, sgd"),
        ({"kind": "adagrad", "momentum": 0.9}, "AdaGrad has no momentum"),
        ({"momentum": 0.9}, "momentum=0.9"),
        ({"kind": "sgd", "centered": True}, "sgd"),
    ],
)
def test_refuses_what_it_would_ignore(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Optimiser(**fields)
