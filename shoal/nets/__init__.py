"""What is the network? Pure functions of (params, observations), on NumPy, JAX and PyTorch."""

from shoal.nets.network import Head, Net, Network, build, inputs

__all__ = ["Head", "Net", "Network", "build", "inputs"]
