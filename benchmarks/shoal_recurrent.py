"""Shoal's PPO with an LSTM under the pair's settings; a row of a minibatch is a whole fragment."""

from __future__ import annotations

from common import RECURRENT, arguments
from shoal_ppo import measured

if __name__ == "__main__":
    measured(
        arguments(),
        RECURRENT["steps"],
        {"memory": "lstm", "memory_size": RECURRENT["cell"]},
        minibatch_size=RECURRENT["minibatch"],
        chunk=RECURRENT["steps"],
    )
