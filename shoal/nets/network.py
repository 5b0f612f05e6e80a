"""Settings of the built-in networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from shoal.errors import ConfigError

EncoderName = Literal["auto", "mlp", "nature", "impala", "small"]
Activation = Literal["tanh", "relu", "silu", "gelu"]
CellName = Literal["lstm", "gru"]


@dataclass(frozen=True)
class Network:
    """Settings of the built-in networks.

    Images (`axes.image`) go through ``encoder``: "auto" is the Nature CNN if they are large enough,
    else IMPALA's, else they are flattened; "small" is a Nature CNN for images from 16 pixels a
    side. An encoder asked for by name takes small boards too. All other leaves are joined to its
    features. ``hidden`` are the layers behind that; images alone need none, the encoder's own last
    layer is theirs. Bounds are scaled (`axes.scale`). With ``memory``, a recurrent cell stands
    between the hidden layers and the heads.
    """

    encoder: EncoderName = "auto"
    hidden: tuple[int, ...] = (64, 64)  # units of each hidden layer (PPO detail 26)
    activation: Activation = "tanh"  # of the hidden layers; the encoders have relu
    shared: bool | None = None  # one trunk for all heads; None: where there are images (detail 13)
    memory: CellName | None = None  # recurrent cell; None: feed-forward
    memory_size: int = 128  # units of the cell

    def __post_init__(self) -> None:
        if isinstance(self.hidden, list):  # as JSON and YAML have it
            object.__setattr__(self, "hidden", tuple(self.hidden))
        kinds_of = (("encoder", EncoderName), ("activation", Activation), ("memory", CellName))
        for key, kinds in kinds_of:
            value, names = getattr(self, key), get_args(kinds)
            if value not in names and not (key == "memory" and value is None):
                raise ConfigError(
                    f"network.{key} is {value!r}", None, f"use one of {', '.join(names)}"
                )
        sizes: Any = self.hidden
        if not isinstance(sizes, tuple) or not all(isinstance(n, int) and n >= 1 for n in sizes):
            raise ConfigError(
                f"network.hidden is {sizes!r}", None, "give sizes of at least 1: (64, 64), or ()"
            )
        if not isinstance(self.memory_size, int) or self.memory_size < 1:
            raise ConfigError(
                f"network.memory_size is {self.memory_size!r}", None, "give at least 1 unit"
            )
