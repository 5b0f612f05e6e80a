"""What is the network? Pure functions of (params, observations), on NumPy, JAX and PyTorch."""

from shoal.nets.base import Head, Net
from shoal.nets.factory import build
from shoal.nets.network import Network, inputs

__all__ = ["Head", "Net", "Network", "build", "inputs"]
