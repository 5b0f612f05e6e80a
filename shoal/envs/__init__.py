"""What is the world? Vector environments with one contract, whatever they are made from."""

from shoal.envs.base import Step, VectorEnv
from shoal.envs.make import make, make_for_evaluation, rendering
from shoal.envs.tasks import BEST_RETURN, best_return
from shoal.envs.view import seen

__all__ = [
    "BEST_RETURN",
    "Step",
    "VectorEnv",
    "best_return",
    "make",
    "make_for_evaluation",
    "rendering",
    "seen",
]
