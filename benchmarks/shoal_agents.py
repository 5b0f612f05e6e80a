"""Shoal's PPO, one policy for all agents of a PettingZoo environment.

``--workers`` processes share its copies; 0: all are in this process.
"""

from __future__ import annotations

from common import AGENTS, SETTINGS, with_workers
from shoal_ppo import measured

if __name__ == "__main__":
    args = with_workers()
    more = {"minibatch_size": SETTINGS["minibatch"]}
    measured(args, AGENTS["steps"], {}, args.workers, **more)
