"""Is each kernel the same function in every library, and does nobody import one for nothing?"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from shoal.ops.convolution import conv2d, matmul, max_pool2d
from shoal.ops.kernels import arange, constant, namespace, scan, stop_gradient


def images(n: int, c: int, h: int, w: int, channels_last: bool, seed: int = 0) -> np.ndarray:
    """[N, C, H, W]; in memory NCHW, or NHWC as environments send them."""
    x = np.random.default_rng(seed).normal(size=(n, c, h, w)).astype(np.float32)
    return (
        np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if channels_last else x
    )


def conv2d_oracle(x: Any, w: Any, b: Any, stride: int, padding: int) -> np.ndarray:
    x = np.pad(x.astype(float), ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    kh, kw = w.shape[2:]
    rows, cols = ((size - k) // stride + 1 for size, k in zip(x.shape[2:], (kh, kw), strict=True))
    y = np.zeros((len(x), len(w), rows, cols))
    for n, o, i, j in np.ndindex(y.shape):
        window = x[n, :, i * stride : i * stride + kh, j * stride : j * stride + kw]
        y[n, o, i, j] = (window * w[o]).sum() + b[o]
    return y


def max_pool2d_oracle(x: Any, window: int, stride: int, padding: int) -> np.ndarray:
    sides = (padding,) * 2
    x = np.pad(x, ((0, 0), (0, 0), sides, sides), constant_values=-np.inf)
    rows, cols = ((size - window) // stride + 1 for size in x.shape[2:])
    y = np.zeros((*x.shape[:2], rows, cols))
    for n, c, i, j in np.ndindex(y.shape):
        y[n, c, i, j] = x[n, c, i * stride :, j * stride :][:window, :window].max()
    return y


layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])


@layouts
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_conv2d(lib: Any, channels_last: bool, stride: int, padding: int) -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=(5, 3, 4, 2)).astype(np.float32)  # taller than wide, so no axis can swap
    b = rng.normal(size=5).astype(np.float32)
    x = images(2, 3, 9, 8, channels_last)
    y = lib.run(lambda x, w, b: conv2d(x, w, b, stride, padding), x, w, b)
    np.testing.assert_allclose(y, conv2d_oracle(x, w, b, stride, padding), rtol=1e-4, atol=1e-4)


@layouts
@pytest.mark.parametrize(("kernel", "stride"), [(8, 4), (4, 2), (6, 2), (5, 3)])
def test_conv2d_of_pixels_divides_them(
    lib: Any, channels_last: bool, kernel: int, stride: int
) -> None:
    """uint8, with strides that tile the kernel and one that does not, and a rest of pixels."""
    rng = np.random.default_rng(5)
    w = rng.normal(size=(3, 4, kernel, kernel)).astype(np.float32)
    b = rng.normal(size=3).astype(np.float32)
    x = (images(3, 4, 21, 18, channels_last) * 60 + 128).clip(0, 255).astype(np.uint8)
    y = lib.run(lambda x, w, b: conv2d(x, w, b, stride), x, w, b)
    expected = conv2d_oracle(x / 255, w, b, stride, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1, 8, 16, 17])
@pytest.mark.parametrize("shape", [(3136, 512), (3137, 512), (60, 7)])
def test_matmul_of_few_rows(lib: Any, rows: int, shape: tuple[int, int]) -> None:
    """3136 terms are summed in pieces; 3137 is a prime number."""
    rng = np.random.default_rng(6)
    x, w = rng.normal(size=(rows, shape[0])), rng.normal(size=shape)
    y = lib.run(matmul, x.astype(np.float32), w.astype(np.float32))
    np.testing.assert_allclose(y, x @ w, rtol=1e-3, atol=1e-3)


@layouts
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0)]
)
def test_max_pool2d(lib: Any, channels_last: bool, window: int, stride: int, padding: int) -> None:
    x = images(2, 3, 8, 7, channels_last) - 5.0  # all below 0: padding with 0 would win
    y = lib.run(lambda x: max_pool2d(x, window, stride, padding), x)
    np.testing.assert_array_equal(y, max_pool2d_oracle(x, window, stride, padding))


def test_conv_and_pool_have_the_gradient_of_finite_differences(differentiable: Any) -> None:
    rng = np.random.default_rng(2)
    x, mix = images(1, 2, 6, 5, False, 3), rng.normal(size=(1, 3, 3, 2))
    w, b = rng.normal(size=(3, 2, 2, 2)), np.zeros(3)

    def f(x: Any, w: Any, b: Any, mix: Any) -> Any:
        return max_pool2d(conv2d(x, w, b, 1), 3, 2, 1)[:, :, :3, :2] * mix

    fixed = [differentiable.array(y.astype(np.float32)) for y in (w, b, mix)]
    gradient = differentiable.grad(lambda x: f(x, *fixed), x)
    expected, h = np.zeros(x.shape), 1e-6
    for at in np.ndindex(x.shape):
        up, down = x.astype(float), x.astype(float)
        up[at] += h
        down[at] -= h
        expected[at] = (f(up, w, b, mix) - f(down, w, b, mix)).sum() / (2 * h)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_threads_its_carry_through_time(lib: Any, reverse: bool) -> None:
    x, k = np.random.default_rng(4).normal(size=(2, 6, 3)).astype(np.float32)

    def step(carry: Any, row: Any) -> Any:
        x_t, k_t = row
        carry = x_t - 0.5 * carry
        return carry, (carry, k_t * carry)

    last, (y, z) = lib.run(lambda c, x, k: scan(step, c, (x, k), reverse), x[0], x, k)
    carry = x[0]
    for t in reversed(range(6)) if reverse else range(6):
        carry = x[t] - 0.5 * carry
        np.testing.assert_allclose(y[t], carry, rtol=1e-6)
        np.testing.assert_allclose(z[t], k[t] * carry, rtol=1e-6)
    np.testing.assert_allclose(last, carry, rtol=1e-6)


def test_scan_of_a_single_output_stacks_it(lib: Any) -> None:
    x = np.arange(8, dtype=np.float32).reshape(4, 2)

    def total(carry: Any, row: Any) -> Any:
        return carry + row[0], carry + row[0]

    _, y = lib.run(lambda x: scan(total, 0.0 * x[0], (x,)), x)
    np.testing.assert_array_equal(y, x.cumsum(0))


def test_stop_gradient_is_a_constant(differentiable: Any) -> None:
    x = np.float32([1.0, 2.0, 3.0])
    gradient = differentiable.grad(lambda x: x * stop_gradient(x * x), x)
    np.testing.assert_array_equal(gradient, x * x)  # and not 3 x^2


def test_stop_gradient_keeps_the_values(lib: Any) -> None:
    x = np.float32([1.0, -2.0])
    np.testing.assert_array_equal(lib.run(stop_gradient, x), x)


def test_namespace_is_the_arrays_own(lib: Any) -> None:
    names = {"numpy": "numpy", "torch": "array_api_compat.torch"}
    seen = []

    def f(x: Any) -> Any:
        seen.extend([namespace(x), namespace(x, x)])
        return x

    lib.run(f, np.zeros(2, np.float32))
    assert {xp.__name__ for xp in seen} == {names.get(lib.name, "jax.numpy")}


def test_namespace_of_numpy_scalars_is_numpy() -> None:
    assert namespace(np.float32(1.0)) is np


def test_namespace_refuses_a_mixture_and_what_is_no_array() -> None:
    import torch

    with pytest.raises(TypeError, match="Multiple namespaces"):
        namespace(np.zeros(1), torch.zeros(1))
    with pytest.raises(TypeError):
        namespace(torch.zeros(1), np.zeros(1))
    with pytest.raises(TypeError):
        namespace("array")


def test_constants_and_indices_take_the_arrays_library_and_dtype(lib: Any) -> None:
    def f(x: Any) -> Any:
        return namespace(x).where(arange(3, x) == 1, x * constant(np.asarray([0.5] * 3), x), x)

    np.testing.assert_array_equal(lib.run(f, np.float32([3.0, 4.0, 5.0])), [3.0, 2.0, 5.0])


def test_acting_in_numpy_imports_no_framework() -> None:
    code = """
import sys
import numpy as np
from shoal.ops import convolution, distributions, moments, optimisers, returns
x = np.zeros((4, 6), np.float32)
dist = distributions.Categorical(6)
dist.log_prob(x, dist.sample(x, dist.noise(np.random.default_rng(0), (4,))))
returns.gae(x, x, x, x, x > 1, 0.95)
image = np.zeros((1, 3, 8, 8), np.float32)
convolution.max_pool2d(convolution.conv2d(image, np.zeros((2, 3, 3, 3)), np.zeros(2), 1), 2, 2)
moments.Moments.of(x)
optimisers.Optimiser().update({"x": x}, {"x": x}, optimisers.Optimiser().init({"x": x}), 0.1)
print(sorted({"jax", "torch", "ray"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
