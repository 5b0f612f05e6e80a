"""What PG, A2C and PPO share: a policy head "pi", a value head "v", and how the two act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.algorithms.base import Batch, Differentiable, Model, Params, Records
from shoal.config.bounds import require
from shoal.nets.base import Build, Head, step, unroll
from shoal.nets.central import CentralNet
from shoal.ops import distributions
from shoal.ops.kernels import Array, namespace
from shoal.spaces.base import MEMORY, Spaces
from shoal.trajectory import Trajectory, chunks, flat, ndarray

CHUNK = 32  # env steps that a recurrent network is unrolled along, unless the user says otherwise
_FURTHEST = 20.0  # |log pi - log mu|: e**20 is far beyond any clip, and far from overflowing


class ActorCritic(Differentiable):
    """How all of them act; what they learn from it is their own."""

    def model(self, spaces: Spaces, build: Build) -> Model:
        """Policy and value heads for these spaces; initial gains .01 and 1 (PPO detail 2).

        A Gaussian's log standard deviation does not depend on the observation (PPO detail 24): the
        policy head has ``dim`` outputs and ``dim`` free parameters.
        """
        dist = distributions.for_space(spaces.action_kind, spaces.action_n, spaces.action_dim)
        free = spaces.action_dim if spaces.action_kind == "box" else 0
        heads = {"pi": Head(dist.n_out - free, gain=0.01, free=free), "v": Head(1)}
        if not self.central:
            return Model(spaces, build(self.network, spaces, heads), dist)
        actor = build(self.network, spaces.local, {"pi": heads["pi"]})
        critic = build(self.network, spaces, {"v": heads["v"]})
        return Model(spaces, CentralNet(actor, critic), dist)

    def act(
        self, model: Model, params: Params, obs: Mapping[str, Array], noise: Any
    ) -> tuple[Array, Records]:
        """Sample from the policy head; with no noise, take its mode.

        The head's output is recorded, so that log-probabilities need no second pass; so is the
        value if it comes from the same trunk, or remembers too.
        """
        heads = ("pi", "v") if model.net.shared or model.net.memory else ("pi",)
        (out, *others), memory = step(model.net, params, obs, heads)
        records = {"pi": out, **memory}
        if others:
            records["v"] = others[0][..., 0]
        mask = obs.get("action_mask")
        if noise is None:
            return model.dist.mode(out, mask), records
        return model.dist.sample(out, noise, mask), records


def check_minibatch(size: int, normalised: bool) -> None:
    """Raise ConfigError if advantages are normalised within minibatches of one row."""
    least = 2 if normalised else 1
    wanted = f"at least {least}: one row has no spread to normalise by"
    require(size >= least, "minibatch_size", size, wanted)


def values(model: Model, params: Params, trajectory: Trajectory) -> tuple[ndarray, ndarray]:
    """V of the observations acted on and of those that really followed, each [T, B]."""
    return trajectory.values(lambda obs: model.net(params, obs, ("v",))[0][..., 0])


def rows(model: Model, trajectory: Trajectory, chunk: int | None, **columns: ndarray) -> Batch:
    """A batch of all rows: obs, action, mask (1 where a transition happened) and columns [T, B].

    Rows [T * B] of single steps; for a recurrent network rows [N, L] of ``chunk`` steps, which are
    padded with masked ones if the fragment ends within a chunk. None: of 32, or of the fragment if
    it is shorter.
    """
    columns = {name: x.astype(np.float32, copy=False) for name, x in columns.items()}
    columns |= {"action": trajectory.action, "mask": trajectory.valid.astype(np.float32)}
    if not model.net.memory:
        return {
            "obs": trajectory.rows(),
            **{name: flat(x) for name, x in columns.items()},
        }
    steps = len(trajectory.valid)
    length = min(chunk or CHUNK, steps)
    obs = {path: x[:-1] for path, x in trajectory.obs.items()}
    return {
        "obs": {
            path: flat(x[::length]) if path.startswith(MEMORY) else chunks(x, length)
            for path, x in obs.items()
        },
        "begins": chunks(trajectory.begins[:-1], length),
        **{name: chunks(x, length) for name, x in columns.items()},
    }


def evaluate(model: Model, params: Params, batch: Batch) -> tuple[Array, Array, Array]:
    """Log-probability of each row's action, policy entropy and value under ``params``.

    [N], or [N, L] for a recurrent network, which is unrolled along each row.
    """
    (out, v), _ = unroll(model.net, params, batch["obs"], batch.get("begins"), ("pi", "v"))
    mask = batch["obs"].get("action_mask")
    log_prob = model.dist.log_prob(out, batch["action"], mask)
    return log_prob, model.dist.entropy(out, mask), v[..., 0]


def behaviour_log_prob(model: Model, params: Params, trajectory: Trajectory) -> ndarray:
    """Log-probability [T, B] of the actions taken, under the weights that took them."""
    obs = {path: x[:-1] for path, x in trajectory.obs.items()}
    out = trajectory.records.get("pi")
    if out is None:
        (out,) = model.net(params, obs, ("pi",))
    log_prob: ndarray = model.dist.log_prob(out, trajectory.action, obs.get("action_mask"))
    return log_prob


def sequences(model: Model, params: Params, trajectory: Trajectory, **columns: ndarray) -> Batch:
    """A batch of whole fragments, one row for each slot: obs [B, T + 1, ...], the rest [B, T, ...].

    With a recurrent network, its memory [B, ...] is that of the first observations, and "begins" is
    [B, T + 1].

    The values of what followed are the learner's business, but for the ends that a time limit made
    and after which the environment had begun its next episode already: what followed there is not
    in the sequence. "v_final" is its value, under the weights that acted.
    """
    cut = np.zeros(trajectory.last.shape, bool)
    cut[trajectory.final_t, trajectory.final_b] = True
    needed = cut & trajectory.truncated & ~trajectory.terminated
    v_final = np.zeros(cut.shape)
    if needed.any():
        v_final = np.where(cut, values(model, params, trajectory)[1], 0.0)
    columns = {
        "reward": trajectory.reward,
        "terminated": trajectory.terminated,
        "last": trajectory.last,
        "cut": cut,  # obs[t + 1] is another episode's
        "v_final": v_final.astype(np.float32),
        "mask": trajectory.valid.astype(np.float32),
        **columns,
    }
    if model.net.memory:
        columns["begins"] = trajectory.begins
    return {
        "obs": {
            path: x[0] if path.startswith(MEMORY) else _slots_first(x)
            for path, x in trajectory.obs.items()
        },
        "action": _slots_first(trajectory.action),
        **{name: _slots_first(x) for name, x in columns.items()},
    }


def _slots_first(x: ndarray) -> ndarray:
    """[T, B, ...] -> [B, T, ...], row-major."""
    return np.ascontiguousarray(np.swapaxes(x, 0, 1))


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of x over the rows whose mask is 1; both [...]."""
    return masked_sum(x, mask) / namespace(x).clip(namespace(x).sum(mask), 1.0, None)


def masked_sum(x: Array, mask: Array) -> Array:
    """Sum of x over the rows whose mask is 1, whatever stands in the others; both [...]."""
    xp = namespace(x)
    return xp.sum(xp.where(mask > 0, x, xp.zeros_like(x)))


def standardise(x: Array, mask: Array) -> Array:
    """(x - mean) / (std + 1e-8) over the rows whose mask is 1 (PPO detail 7)."""
    xp = namespace(x)
    centred = x - masked_mean(x, mask)
    return centred / (xp.sqrt(masked_mean(centred * centred, mask)) + 1e-8)


def bounded(log_ratio: Array) -> Array:
    """The logarithm of a probability ratio, no further from 0 than exp and its products can go."""
    return namespace(log_ratio).clip(log_ratio, -_FURTHEST, _FURTHEST)
