"""Who differentiates: a learner in JAX and one in PyTorch, behind one small contract."""
