"""Does an algorithm that cannot take an action space name the space, and systems that can?"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from shoal.algorithms.ddpg import DDPG, TD3
from shoal.algorithms.dqn import DQN
from shoal.algorithms.sac import SAC
from shoal.errors import SpaceError
from shoal.nets.factory import build
from shoal.spaces.gym import GymSpaces
from shoal.systems.table import SYSTEMS

ACTIONS = Box(-1, 1, (2,), np.float32), Discrete(3), MultiDiscrete([2, 3]), MultiBinary(4)


@pytest.mark.parametrize("algorithm", [DQN(), SAC(), DDPG(), TD3()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("action", ACTIONS, ids=lambda x: type(x).__name__)
def test_every_system_that_a_refusal_names_takes_the_actions(algorithm: Any, action: Any) -> None:
    spaces = GymSpaces(Box(-1, 1, (2,), np.float32), action)
    try:
        algorithm.model(spaces, build)
    except SpaceError as error:
        assert str(action) in error.where
        named = [name for name in re.findall(r"[\w-]+", error.fix) if name in SYSTEMS]
        assert named
        for name in named:
            SYSTEMS[name].algorithm.model(spaces, build)
    else:
        assert type(action) in (Box, Discrete)
