"""A network that cannot be used is refused when it is built, in words that tell what to change."""

from __future__ import annotations

import inspect
from typing import Any

import flax.linen
import numpy as np
import pytest
import torch
from torch import nn

from shoal.errors import NetworkError
from shoal.nets.base import Head
from shoal.nets.factory import build

HEADS = {"pi": Head(3), "v": Head(1)}


class Returns(nn.Module):
    """Returns what a function makes of the batch."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, obs: torch.Tensor) -> Any:
        return self.make(obs)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("make", "heads", "what", "fix"),
    [
        (
            lambda x: (zeros(2, 4), zeros(2)),
            HEADS,
            "Returns returns pi [2, 4], v [2] for 2 observations; "
            "expected pi [2, 3], v [2, 1] or [2]",
            "give the last layer of pi 3 outputs",
        ),
        (
            lambda x: (zeros(2, 4), zeros(2, 1)),
            {"pi": Head(3, free=3), "v": Head(1)},
            "Returns returns pi [2, 4], v [2, 1] for 2 observations; "
            "expected pi [2, 3] or [2, 6], v [2, 1] or [2]",
            "give the last layer of pi 3 or 6 outputs",
        ),
        (
            lambda x: zeros(2, 3),
            HEADS,
            "Returns returns [2, 3] for 2 observations; expected pi [2, 3], v [2, 1] or [2]",
            "return a tuple of one array per head, in the order (pi, v), or a dict by name",
        ),
        (
            lambda x: (zeros(2, 3), zeros(2), zeros(2, 5)),
            HEADS,
            "Returns returns [2, 3], [2], [2, 5] for 2 observations; "
            "expected pi [2, 3], v [2, 1] or [2]",
            "return a tuple of one array per head, in the order (pi, v), or a dict by name",
        ),
        (
            lambda x: {"policy": zeros(2, 3), "v": zeros(2)},
            HEADS,
            "Returns returns {'policy': [2, 3], 'v': [2]} for 2 observations; "
            "expected pi [2, 3], v [2, 1] or [2]",
            "return a tuple of one array per head, in the order (pi, v), or a dict by name",
        ),
        (
            lambda x: (zeros(3), zeros(1)),
            HEADS,
            "Returns returns pi [3], v [1] for 2 observations; expected pi [2, 3], v [2, 1] or [2]",
            "keep the batch as the first axis of pi",
        ),
        (
            lambda x: (zeros(2, 3).argmax(-1), zeros(2)),
            HEADS,
            "Returns returns pi int64 [2], v [2] for 2 observations; "
            "expected pi [2, 3], v [2, 1] or [2]",
            "let pi be an array of floats",
        ),
        (
            lambda x: (zeros(2, 3), None),
            HEADS,
            "Returns returns pi [2, 3], v NoneType for 2 observations; "
            "expected pi [2, 3], v [2, 1] or [2]",
            "let v be an array of floats",
        ),
        (
            lambda x: (zeros(2, 3).numpy(), zeros(2)),  # no gradient can come through NumPy
            HEADS,
            "Returns returns pi [2, 3], v [2] for 2 observations; "
            "expected pi [2, 3], v [2, 1] or [2]",
            "let pi be an array of floats",
        ),
        (
            lambda x: zeros(2, 3) / 0 * 0,
            {"pi": Head(3)},
            "Returns returns NaN in pi for an observation of zeros",
            "look for a division by zero, a logarithm or a root, or for NaN in its parameters",
        ),
    ],
)
def test_an_output_that_does_not_fit(
    make: Any, heads: Any, what: str, fix: str, vector: Any
) -> None:
    with pytest.raises(NetworkError) as error:
        build(Returns(make), vector, heads)
    line = inspect.getsourcelines(Returns)[1]
    assert (error.value.what, error.value.fix) == (what, fix)
    assert error.value.where == f"Returns, {__file__}:{line}"


def test_a_flax_output_that_does_not_fit(vector: Any) -> None:
    class Flax(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, obs: Any) -> Any:
            return flax.linen.Dense(4)(obs), flax.linen.Dense(1)(obs).mean(0)

    with pytest.raises(NetworkError, match=r"Flax returns pi \[2, 4\], v \[1\] for 2 ") as error:
        build(Flax(), vector, HEADS)
    assert f"{__file__}:{inspect.getsourcelines(Flax)[1]}" in str(error.value.where)


def test_the_users_own_exception_keeps_its_type_and_tells_what_came_in(vector: Any) -> None:
    def fail(x: torch.Tensor) -> Any:
        return zeros(2, 5) @ x

    with pytest.raises(RuntimeError, match="mat1 and mat2") as error:
        build(Returns(fail), vector, HEADS)
    (note,) = error.value.__notes__
    assert note.startswith("while Shoal tried Returns, ")
    assert note.endswith("on 2 observations of zeros: obs float32 [2, 4]")


class Fails(nn.Module):
    def __init__(self) -> None:
        raise ZeroDivisionError("mine")


def test_an_exception_in_the_users_constructor_keeps_its_type(vector: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="mine") as error:
        build(Fails, vector, HEADS)
    assert error.value.__notes__ == [
        "while Shoal made the network: it called Fails with no arguments"
    ]


def test_parameters_of_other_precision(vector: Any) -> None:
    for kind in ("double", "bfloat16"):
        module = getattr(nn.Linear(4, 3), kind)()
        with pytest.raises(NetworkError, match=r"'weight' of Linear is (float64|bfloat16)"):
            build(module, vector, {"pi": Head(3)})


@pytest.mark.parametrize("network", [lambda: 3, np.zeros(3), object()])
def test_what_is_no_network(network: Any, vector: Any) -> None:
    with pytest.raises(NetworkError, match=r"is a (int|ndarray|object), which Shoal cannot call"):
        build(network, vector, HEADS)


@pytest.mark.parametrize(
    ("name", "text", "fix"),
    [
        ("MyNet", "'MyNet' is not a full name", 'write it as "module:Name"'),
        ("no_such_module_here:Net", "no module 'no_such_module_here'", "PYTHONPATH"),
        ("json.no_such:Net", "no module 'json.no_such'", "PYTHONPATH"),
        ("json:Net", "the module 'json' has no 'Net'", "behind the colon"),
    ],
)
def test_a_name_that_leads_nowhere(name: str, text: str, fix: str, vector: Any) -> None:
    with pytest.raises(NetworkError) as error:
        build(name, vector, HEADS)
    assert text in error.value.what and fix in str(error.value.fix)


def test_a_broken_import_inside_the_users_module_is_the_users(
    vector: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_for_shoal.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there") as error:
        build("broken_for_shoal:Net", vector, HEADS)
    assert error.value.__notes__ == ["while importing the network 'broken_for_shoal:Net'"]
