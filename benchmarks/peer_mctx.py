"""Games of Pgx searched by mctx's AlphaZero policy: self-play in connect four, jitted as a whole.

A batch of games side by side, as in Pgx's own example of AlphaZero; a call plays 42 moves of each,
and games that end begin anew. The network is that of ``shoal_alphazero.py``.
"""

from __future__ import annotations

import argparse
import itertools

from common import SELF_PLAY, measure


def main() -> None:
    import jax
    import jax.numpy as jnp
    import mctx
    import pgx
    from pgx.experimental import auto_reset

    parser = argparse.ArgumentParser()
    parser.add_argument("env", help="connect_four")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure for at least")
    args = parser.parse_args()
    env, games, moves = pgx.make(args.env), SELF_PLAY["games"], 42
    step, again = jax.vmap(env.step), jax.vmap(auto_reset(env.step, env.init))

    def made(key, sizes):
        pairs = list(itertools.pairwise(sizes))
        keys = jax.random.split(key, len(pairs))
        return [jax.random.normal(keys[i], x) * jnp.sqrt(2.0 / x[0]) for i, x in enumerate(pairs)]

    def network(params, obs):
        *layers, heads = params
        x = obs.reshape(games, -1).astype(jnp.float32)
        for w in layers:
            x = jax.nn.relu(x @ w)
        out = x @ heads
        return out[:, :-1], jnp.tanh(out[:, -1])

    def recurrent(params, key, action, state):
        who = state.current_player
        state = step(state, action)
        logits, value = network(params, state.observation)
        logits = jnp.where(state.legal_action_mask, logits, jnp.finfo(logits.dtype).min)
        reward = state.rewards[jnp.arange(games), who]
        value = jnp.where(state.terminated, 0.0, value)
        discount = jnp.where(state.terminated, 0.0, -1.0)
        found = {"reward": reward, "discount": discount, "prior_logits": logits, "value": value}
        return mctx.RecurrentFnOutput(**found), state

    @jax.jit
    def play(params, state, key):
        def move(state, key):
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
                qtransform=paper,
            )
            after = again(state, found.action, jax.random.split(draw, games))
            return after, (state.observation, found.action_weights, after.rewards)

        return jax.lax.scan(move, state, jax.random.split(key, moves))

    def paper(tree, node):
        """Q, 0 for what was not visited."""
        return jnp.where(tree.children_visits[node] > 0, tree.qvalues(node), 0.0)

    key = jax.random.PRNGKey(0)
    sizes = (84, *SELF_PLAY["hidden"], env.num_actions + 1)
    params = made(key, sizes)
    state = jax.jit(jax.vmap(env.init))(jax.random.split(key, games))

    def update() -> int:
        nonlocal state, key
        key, now = jax.random.split(key)
        state, record = play(params, state, now)
        jax.block_until_ready(record)
        return games * moves

    measure(update, args.seconds, ("mctx", "pgx", "jax"))


if __name__ == "__main__":
    main()
