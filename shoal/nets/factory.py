"""How a net is built for given spaces, whatever the user gives as network."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from shoal.config.trust import find
from shoal.errors import NetworkError
from shoal.nets.array_net import ArrayNet
from shoal.nets.base import Head, Net
from shoal.nets.fit import where
from shoal.nets.flax import LinenNet, NnxNet
from shoal.nets.modules import ModuleNet
from shoal.nets.network import Network
from shoal.nets.recurrent import RecurrentArrayNet
from shoal.nets.torch import TorchNet
from shoal.spaces.base import Spaces

_ADAPTERS: dict[str, type[ModuleNet]] = {
    "torch.nn.modules.module.Module": TorchNet,
    "flax.linen.module.Module": LinenNet,
    "flax.nnx.module.Module": NnxNet,
}


def build(network: Any, spaces: Spaces, heads: Mapping[str, Head]) -> Net:
    """The net with these heads for these spaces.

    Args:
        network: a `Network`; or an instance of the user's torch.nn.Module, flax.linen.Module or
            flax.nnx.Module; or its class, also by name (``"module:Class"``,
            ``"folder/file.py:Class"``). A class is called with what it accepts of ``spaces`` and
            ``rngs`` (a seeded flax.nnx.Rngs). See `shoal.nets.modules`.

    Raises:
        NetworkError: it cannot be built, or its output does not fit.
        Exception: what the user's own code raises keeps its type.
    """
    if isinstance(network, Network):
        kind = RecurrentArrayNet if network.memory else ArrayNet
        return kind(network, spaces.leaves, heads)
    if isinstance(network, str):
        network = find(network, "network", NetworkError)
    return _adapt(network, spaces, heads)


def _adapt(module: Any, spaces: Spaces, heads: Mapping[str, Head]) -> ModuleNet:
    """The net of a user's module, or of a class of modules.

    An instance keeps the values its owner gave it. One made from a class takes its initial values
    from the run's seed.
    """
    create = None
    if isinstance(module, type) or inspect.isroutine(module):
        create = partial(_create, module, spaces)
        module = create(0)
    kinds = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__}
    for kind, adapter in _ADAPTERS.items():
        if kind in kinds:
            return adapter(module, spaces, heads, create)
    raise NetworkError(
        f"the network is a {type(module).__qualname__}, which Shoal cannot call",
        where(module),
        "give shoal.Network(...), a torch.nn.Module, a flax.linen.Module or a flax.nnx.Module",
    )


def _create(cls: Callable[..., Any], spaces: Spaces, seed: int) -> Any:
    """An instance of the user's class, its random initial values drawn from ``seed``."""
    # The signature of the class would be that of nnx's metaclass, which says nothing.
    signed = inspect.getattr_static(cls, "__init__") if isinstance(cls, type) else cls
    accepted = inspect.signature(signed).parameters
    kwargs: dict[str, Any] = {"spaces": spaces} if "spaces" in accepted else {}
    if "rngs" in accepted:
        from flax import nnx

        kwargs["rngs"] = nnx.Rngs(seed)
    try:
        torch = sys.modules.get("torch")
        if torch is None:
            return cls(**kwargs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(**kwargs)
    except Exception as exc:
        given = ", ".join(kwargs) or "no arguments"
        exc.add_note(f"while Shoal made the network: it called {cls.__qualname__} with {given}")
        raise
