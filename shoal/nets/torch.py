"""A user's torch.nn.Module as a `Net`. PyTorch is imported when the first one is built."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from shoal.nets.fit import refuse_other_floats
from shoal.nets.init import ndarray
from shoal.nets.modules import PREFIX, ModuleNet, Values, moody


class TorchNet(ModuleNet):
    """A torch.nn.Module, called through torch.func.functional_call."""

    framework = "torch"

    def _evaluating(self, module: Any) -> Any:
        return deepcopy(module).eval()

    def _given(self, module: Any) -> Any:
        copy = deepcopy(self._module)  # in which lazy layers have learned their sizes
        for one, other in zip(copy.modules(), module.modules(), strict=True):
            one.training = other.training
        return copy

    def _moody(self, module: Any) -> list[str]:
        return moody(module.named_modules())

    def _values(self, module: Any, obs: Values, seed: int) -> Values:
        import torch

        if any(torch.nn.parameter.is_lazy(x) for x in [*module.parameters(), *module.buffers()]):
            with torch.no_grad():
                module(*self._arguments(_tensors(obs)))  # a lazy layer learns its size now
        state = _state(module)
        refuse_other_floats(module, state)
        return {PREFIX + name: x.detach().cpu().numpy().copy() for name, x in state.items()}

    def _frozen(self) -> frozenset[str]:
        state = _state(self._module)
        return frozenset(PREFIX + name for name, x in state.items() if not x.requires_grad)

    def _call(self, values: Values, obs: Values) -> Any:
        from torch.func import functional_call

        # BatchNorm writes to the buffers it is given.
        named = {
            name.removeprefix(PREFIX): x.clone() if name in self.frozen else x
            for name, x in values.items()
        }
        return functional_call(self._module, named, self._arguments(obs))

    def _eager(self, values: Values, obs: Values) -> Any:
        import torch

        with torch.no_grad():
            return self._call(self._remembered(values, _tensors), _tensors(obs))

    def _numpy(self, x: Any) -> ndarray | None:
        import torch

        if not isinstance(x, torch.Tensor):
            return None
        array: ndarray = (x.float() if x.is_floating_point() else x).numpy()  # bfloat16 has none
        return array


def _state(module: Any) -> Values:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _tensors(arrays: Values) -> Values:
    """Copies: the user's forward may write to its input, and NumPy's arrays may be read-only."""
    import torch

    return {name: torch.from_numpy(np.array(x, order="C")) for name, x in arrays.items()}
