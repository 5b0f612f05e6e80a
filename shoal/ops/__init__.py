"""What is the math? Array functions in the paper's notation, for NumPy, JAX and PyTorch alike."""
