"""Shoal's PPO, one policy for all agents of a PettingZoo environment."""

from __future__ import annotations

from common import AGENTS, SETTINGS, arguments
from shoal_ppo import measured

if __name__ == "__main__":
    measured(arguments(), AGENTS["steps"], {}, minibatch_size=SETTINGS["minibatch"])
