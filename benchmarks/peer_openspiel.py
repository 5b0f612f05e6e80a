"""OpenSpiel's AlphaZero in Python playing connect four against itself, as one of its actors does.

Its game loop, bots, and evaluator with a cache of positions; its "mlp" model with one layer of
128 units, and one more below each of two heads, or its "resnet". Called as it is, a model is not
compiled, and the actor plays three positions a second; here its call is jitted.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

from common import SELF_PLAY, measure

warnings.simplefilter("ignore")


class Silent:
    """A logger."""

    def print(self, *args: Any) -> None: ...

    def opt_print(self, *args: Any) -> None: ...


def compiled(state: Any) -> Any:
    """The model's own function of an observation and its legal moves, jitted."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    @jax.jit
    def run(params: Any, statistics: Any, observation: Any, legal: Any) -> Any:
        model = nnx.merge(state.graphdef, params, statistics)
        model.eval()
        logits, value = model(observation)
        return value, jax.nn.softmax(jnp.where(legal, logits, jnp.finfo(logits.dtype).min))

    def inference(observation: Any, legal: Any) -> Any:
        seen = np.asarray(observation, np.float32), np.asarray(legal, bool)
        value, policy = run(state.params, state.batch_stats, *seen)
        return np.asarray(value), np.asarray(policy)

    return inference


def main() -> None:
    import pyspiel
    from open_spiel.python.algorithms.alpha_zero import alpha_zero, evaluator, model_nnx

    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="connect_four")
    parser.add_argument("--network", choices=("mlp", "residual"), default="mlp")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for at least")
    args = parser.parse_args()
    game = pyspiel.load_game(args.env)
    width, *others = SELF_PLAY["hidden"]
    fields = dict.fromkeys(alpha_zero.Config.__dataclass_fields__)
    fields |= {
        "uct_c": 2.0,
        "max_simulations": SELF_PLAY["simulations"],
        "policy_alpha": 1.0,
        "policy_epsilon": 0.25,
        "verbose": False,
    }
    config = alpha_zero.Config(**fields)
    shape, actions = game.observation_tensor_shape(), game.num_distinct_actions()
    form = "mlp", shape, actions, width, len(others) - 1
    if args.network == "residual":
        planes, *board = shape  # which this model takes behind the others
        sizes = SELF_PLAY["channels"], SELF_PLAY["blocks"]
        form = "resnet", (*board, planes), actions, *sizes
    model = model_nnx.Model.build_model(*form, 1e-4, 1e-3, None)
    model.inference = compiled(model._state)
    own = evaluator.AlphaZeroEvaluator(game, model)
    bots = [alpha_zero._init_bot(config, game, own, False) for _ in range(2)]

    def update() -> int:
        """The positions of one game."""
        return len(alpha_zero._play_game(Silent(), 0, game, bots, 1.0, 30).states)

    measure(update, args.seconds, ("open_spiel", "jax", "flax"), warmup=3.0)


if __name__ == "__main__":
    main()
