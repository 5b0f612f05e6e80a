"""A task of grasping in small pictures, with floats as actions and success or failure at the end.

Importing this registers ``shoal/Reach-v0`` with Gymnasium, as a single environment and as a vector
environment in NumPy.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from shoal.envs.base import NDArray
from shoal.envs.memory import Single, Task, refuse_below

LIMIT = 20  # env steps of an episode, at most
REACH = 0.25  # how far one env step moves the hand, at most, in each direction
GRASP = 0.15  # how far from the object it may close


class ReachVector(Task):
    """A hand is moved over a table and closed once: 1 if that is where the object lies, else 0.

    The table is a square of side 1. An action moves the hand by up to ``REACH`` in both directions;
    if its third number is above 0, the hand then closes, which ends the episode: with the reward 1
    if the object lies within ``GRASP``. After ``LIMIT`` env steps it is cut. Observations are
    uint8 ``[size, size, 3]``: the hand in red, the object in green, and in blue another object,
    which must not be taken.
    """

    limit = LIMIT

    def __init__(self, num_envs: int = 1, size: int = 32) -> None:
        refuse_below("size", size, 16)
        self.size = size
        self.places = np.zeros((num_envs, 3, 2))  # of hand, object and the other; x and y
        self._centres = (np.arange(size) + 0.5) / size
        seen = Box(0, 255, (size, size, 3), np.uint8)
        super().__init__(num_envs, seen, Box(-1.0, 1.0, (3,), np.float32))

    def _begin(self, mask: NDArray) -> None:
        drawn = self.np_random.uniform(0.05, 0.95, self.places.shape)
        self.places = np.where(mask[:, None, None], drawn, self.places)

    def _act(self, actions: NDArray) -> tuple[NDArray, NDArray]:
        hand = np.clip(self.places[:, 0] + REACH * actions[:, :2], 0.0, 1.0)
        self.places[:, 0] = hand
        closed = actions[:, 2] > 0.0
        near = np.linalg.norm(hand - self.places[:, 1], axis=-1) <= GRASP
        return (closed & near).astype(np.float32), closed

    def _observe(self) -> NDArray:
        x, y = (self._centres - self.places[..., axis, None] for axis in (0, 1))  # [B, 3, size]
        distance = np.sqrt(y[..., :, None] ** 2 + x[..., None, :] ** 2)
        inside = np.clip((0.08 - distance) * self.size + 0.5, 0.0, 1.0)  # discs with soft edges
        return np.moveaxis(255.0 * inside, 1, -1).astype(np.uint8)


class Reach(Single):
    """One copy of `ReachVector`."""

    def __init__(self, size: int = 32) -> None:
        super().__init__(ReachVector(1, size))


gymnasium.register(
    "shoal/Reach-v0", f"{__name__}:Reach", vector_entry_point=f"{__name__}:ReachVector"
)
