"""The device that a learner computes on: a name for both frameworks, and whether it is there."""

from __future__ import annotations

from typing import Any

from shoal.errors import ConfigError

CPU = "cpu"


def choose_device(wanted: str, framework: str, heavy: bool, precision: str) -> str:
    """ "cpu", "cpu:N", "cuda:N": where the learner of a run keeps its parameters.

    ``wanted``: "auto", "cpu" or "cuda", the latter two with or without a number. "auto" is the
    first GPU that the framework sees, if the gradient step is ``heavy`` enough to gain from one,
    else the CPU: a step of a 64x64 network on 64 rows is done on a CPU before a GPU has been asked.

    Raises ConfigError for a device that the framework does not see, with those that it sees, and
    for a precision that the device lacks.
    """
    if wanted == "auto":
        wanted = "cuda" if heavy and _count(framework, "cuda") else CPU
    kind, _, number = wanted.partition(":")
    if precision == "tf32" and kind == CPU:
        raise ConfigError(
            "precision='tf32' is a number format of NVIDIA's GPUs, and the learner is on the CPU",
            None,
            "use device='cuda', or precision='float32' or 'bfloat16'",
        )
    if wanted == CPU:
        return CPU
    if int(number or 0) < _count(framework, kind):
        return f"{kind}:{int(number or 0)}"
    gpus = [f"cuda:{i}" for i in range(_count(framework, "cuda"))]
    build = {"jax": 'pip install "jax[cuda13]"', "torch": "a PyTorch that is built with CUDA"}
    need = f"; a GPU also needs {build[framework]}" if kind == "cuda" and not gpus else ""
    raise ConfigError(
        f"device={wanted!r}: {framework} does not see it on this machine",
        f"it sees: {', '.join([CPU, *gpus])}",
        f"use device='auto' or one of these{need}",
    )


def _count(framework: str, kind: str) -> int:
    """Devices of a kind that a framework sees. "cpu" counts more than one if XLA is told so."""
    if framework == "torch":
        import torch

        return 1 if kind == CPU else torch.cuda.device_count()
    import jax

    try:
        return len(jax.local_devices(backend=kind))
    except RuntimeError:  # JAX's word for a backend that is not there
        return 0


def jax_device(name: str) -> Any:
    """The JAX device of a name that ``choose_device`` returned."""
    import jax

    kind, _, number = name.partition(":")
    return jax.local_devices(backend=kind)[int(number or 0)]
