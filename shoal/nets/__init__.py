"""What is the network? Pure functions of (params, observations), on NumPy, JAX and PyTorch."""
