"""Games of Pgx searched by mctx's AlphaZero policy: self-play in connect four, jitted as a whole.

A batch of games side by side, as in Pgx's own example of AlphaZero; a call plays 42 moves of each,
and games that end begin anew. The networks are those of ``shoal_alphazero.py``.
"""

from __future__ import annotations

import argparse
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import mctx
import pgx
from common import SELF_PLAY, measure
from pgx.experimental import auto_reset

GAMES, MOVES, WIDE = SELF_PLAY["games"], 42, SELF_PLAY["channels"]


def made(shapes: list[tuple[int, ...]]) -> list[Any]:
    keys = jax.random.split(jax.random.PRNGKey(1), len(shapes))
    drawn = zip(keys, shapes, strict=True)
    return [jax.random.normal(k, x) * (2.0 / math.prod(x[:-1])) ** 0.5 for k, x in drawn]


def mlp(params: Any, obs: Any) -> Any:
    *layers, heads = params
    x = obs.reshape(GAMES, -1).astype(jnp.float32)
    for w in layers:
        x = jax.nn.relu(x @ w)
    out = x @ heads
    return out[:, :-1], jnp.tanh(out[:, -1])


def convolved(x: Any, w: Any) -> Any:
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=order)


def residual(params: Any, obs: Any) -> Any:
    stem, *rest = params
    blocks, heads = rest[: 2 * SELF_PLAY["blocks"]], rest[2 * SELF_PLAY["blocks"] :]
    x = jax.nn.relu(convolved(obs.astype(jnp.float32), stem))
    for one, two in zip(blocks[::2], blocks[1::2], strict=True):
        x = jax.nn.relu(x + convolved(jax.nn.relu(convolved(x, one)), two))
    outs = []
    for planes, hidden, out in (heads[:3], heads[3:]):
        y = jax.nn.relu(convolved(x, planes)).reshape(GAMES, -1)
        outs.append(jax.nn.relu(y @ hidden) @ out)
    return outs[0], jnp.tanh(outs[1][:, 0])


BLOCKS = [(3, 3, WIDE, WIDE)] * 2 * SELF_PLAY["blocks"]
HEADS = [(1, 1, WIDE, 2), (84, WIDE), (WIDE, 7), (1, 1, WIDE, 1), (42, WIDE), (WIDE, 1)]
NETWORKS = {
    "mlp": (mlp, [*itertools.pairwise((84, *SELF_PLAY["hidden"], 8))]),
    "residual": (residual, [(3, 3, 2, WIDE), *BLOCKS, *HEADS]),
}


def values(tree: Any, node: Any) -> Any:
    """Q, 0 for what was not visited."""
    return jnp.where(tree.children_visits[node] > 0, tree.qvalues(node), 0.0)


def player(env: Any, network: Any) -> Any:
    """The jitted function that plays, of (params, states, key)."""
    step, again = jax.vmap(env.step), jax.vmap(auto_reset(env.step, env.init))

    def recurrent(params: Any, key: Any, action: Any, state: Any) -> Any:
        who = state.current_player
        state = step(state, action)
        logits, value = network(params, state.observation)
        found = {
            "prior_logits": jnp.where(state.legal_action_mask, logits, jnp.finfo(jnp.float32).min),
            "reward": state.rewards[jnp.arange(GAMES), who],
            "value": jnp.where(state.terminated, 0.0, value),
            "discount": jnp.where(state.terminated, 0.0, -1.0),
        }
        return mctx.RecurrentFnOutput(**found), state

    @jax.jit
    def play(params: Any, state: Any, key: Any) -> Any:
        def move(state: Any, key: Any) -> Any:
            search, draw = jax.random.split(key)
            logits, value = network(params, state.observation)
            found = mctx.muzero_policy(
                params,
                search,
                mctx.RootFnOutput(prior_logits=logits, value=value, embedding=state),
                recurrent,
                SELF_PLAY["simulations"],
                invalid_actions=~state.legal_action_mask,
                dirichlet_fraction=0.25,
                dirichlet_alpha=1.0,
                qtransform=values,
            )
            after = again(state, found.action, jax.random.split(draw, GAMES))
            return after, (state.observation, found.action_weights, after.rewards)

        return jax.lax.scan(move, state, jax.random.split(key, MOVES))

    return play


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="connect_four")
    parser.add_argument("--network", choices=tuple(NETWORKS), default="mlp")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for at least")
    args = parser.parse_args()
    env = pgx.make(args.env)
    network, shapes = NETWORKS[args.network]
    params, play, key = made(shapes), player(env, network), jax.random.PRNGKey(0)
    state = jax.jit(jax.vmap(env.init))(jax.random.split(key, GAMES))

    def update() -> int:
        nonlocal state, key
        key, now = jax.random.split(key)
        state, record = play(params, state, now)
        jax.block_until_ready(record)
        return GAMES * MOVES

    measure(update, args.seconds, ("mctx", "pgx", "jax"))


if __name__ == "__main__":
    main()
