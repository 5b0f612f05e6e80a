"""What several agents learn together: ``python -m tools.multi_agent [--only spread]``.

* ``spread``: PPO with shared parameters (IPPO, de Witt et al. 2020, arXiv:2011.09533) and with a
  central critic (MAPPO, Yu et al. 2022, arXiv:2103.01955) on simple_spread, three agents that are
  to cover three landmarks within 25 env steps.
* ``tag``: two policies that learn against each other on simple_tag, three adversaries and one agent
  that is faster.

What is learned is measured beside random and scripted policies, on the same episodes. The scripted
agents of simple_spread go to the landmarks that are nearest for all together (the assignment of the
least sum of distances); the scripted adversaries of simple_tag go to the agent, the scripted agent
flees from the nearest of them. Everything goes to ``results/games/simple_TASK.json``, after each
run, and is drawn in ``results/games/simple_TASK.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any, cast

import numpy as np
import numpy.typing as npt

import shoal
from shoal.algorithms.fixed import RANDOM, Fixed
from shoal.algorithms.policies import Policies
from shoal.envs import make_for_evaluation
from shoal.envs.agents import AgentsEnv
from shoal.evaluation import COPIES, play_agents

ndarray = npt.NDArray[Any]
RESULTS = Path(__file__).resolve().parent.parent / "results" / "games"
SPREAD, TAG = "pettingzoo:mpe2/simple_spread_v3", "pettingzoo:mpe2/simple_tag_v3"
TEAMS = {"adversary_*": "adversary", "agent_*": "agent"}
FIRST_SEED = 10_000  # of the episodes that everybody is measured on

# MAPPO's (its appendix, MPE): 10 epochs, entropy .01, gradients of norm 10, fragments of whole
# episodes, scaled rewards. Found here, as runs are short: lr, minibatches, and a gamma that looks
# no further than episodes do; with .99, nothing is learned within 80,000 env steps.
SETTINGS: dict[str, Any] = {
    "lr": shoal.Linear(1e-3, 0),
    "gamma": 0.95,
    "entropy_coef": 0.01,
    "epochs": 10,
    "minibatch_size": 300,
    "max_grad_norm": 10.0,
}
ROLLOUT: dict[str, Any] = {"envs_per_worker": 32, "fragment_length": 25}


# ------------------------------------------------------------------------------- scripted policies

DT, DAMPING = 0.1, 0.25  # of mpe2's World
WAYS = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float64)  # of the five actions


def towards(target: ndarray, velocity: ndarray, accel: float) -> int:
    """The action after which an agent would come to rest nearest to a target, relative to it."""
    following = velocity * (1 - DAMPING) + WAYS * accel * DT
    rest = velocity * DT + following * DT / DAMPING
    return int(np.argmin(np.linalg.norm(target - rest, axis=1)))


def cover(obs: ndarray) -> int:
    """simple_spread: to the own landmark in the assignment of the least sum of distances.

    ``obs``: velocity 2, position 2, the three landmarks and the two other agents relative to it.
    """
    landmarks, others = obs[4:10].reshape(3, 2), obs[10:14].reshape(2, 2)
    agents = np.concatenate([np.zeros((1, 2)), others])
    apart = np.linalg.norm(agents[:, None] - landmarks[None], axis=-1)
    best = min(itertools.permutations(range(3)), key=lambda to: apart[range(3), to].sum())
    return towards(landmarks[best[0]], obs[:2], 5.0)


def chase(obs: ndarray) -> int:
    """An adversary of simple_tag: to where the agent will be in a moment.

    ``obs``: velocity 2, position 2, two landmarks 4, three others 6, and the agent's velocity 2.
    """
    return towards(obs[12:14] + obs[14:16] * 2 * DT, obs[:2], 3.0)


def flee(obs: ndarray) -> int:
    """The agent of simple_tag: away from the nearest adversary, within the area."""
    others = obs[8:14].reshape(3, 2)
    nearest = others[np.argmin(np.linalg.norm(others, axis=1))]
    away = -nearest / (np.linalg.norm(nearest) + 1e-6)
    return towards(np.clip(obs[2:4] + away, -0.8, 0.8) - obs[2:4], obs[:2], 4.0)


# --------------------------------------------------------------------------------------- measuring


def measure(env: str, players: Mapping[str, Any], episodes: int) -> dict[str, float]:
    """Mean return of each policy's agents; ``players`` are policies by name, for ``TEAMS``.

    One policy is that of all agents.
    """
    teams = TEAMS if len(players) > 1 else {"*": next(iter(players))}
    named = Policies({name: shoal.PPO() for name in players}, teams)
    made = make_for_evaluation(
        env, COPIES, range(FIRST_SEED, FIRST_SEED + episodes), assign=named.assign
    )
    world = cast("AgentsEnv", made)
    try:
        acting = {
            name: what
            if isinstance(what, shoal.Policy)
            else Fixed(name, what, world.groups[name].spaces, world.groups[name].agents, env)
            for name, what in players.items()
        }
        played = play_agents(acting, world, episodes, None)
    finally:
        world.close()
    earned = [cast("tuple[float, int, dict[str, float]]", x)[2] for x in played]
    return {
        name: mean(x[agent] for x in earned for agent in group.agents)
        for name, group in world.groups.items()
    }


def train(algorithm: Any, env: str, seed: int, env_steps: int, **more: Any) -> tuple[Any, Any]:
    """The policy after ``env_steps`` env steps, and its learning curve.

    The curve has [env_steps, {policy: return_mean}].
    """
    curve: list[Any] = []
    start = perf_counter()
    made = shoal.Trainer(algorithm, env, seed=seed, stop_steps=env_steps, **ROLLOUT, **more)
    with made as trainer:
        for report in trainer:
            named = {k: x for k, x in report.items() if k.split("/")[-1] == "return_mean"}
            curve.append([report["env_steps"], {k: round(x, 3) for k, x in named.items()}])
        policy = trainer.policy
    return policy, {"seed": seed, "wall_s": round(perf_counter() - start, 1), "curve": curve}


# ------------------------------------------------------------------------------------------- tasks


def spread(args: argparse.Namespace, write: Callable[[Any], None]) -> None:
    """IPPO and MAPPO beside the random and the scripted policy."""
    ends = {
        name: measure(SPREAD, {"all": what}, args.episodes)["all"]
        for name, what in (("random", RANDOM), ("scripted", cover))
    }
    runs: dict[str, list[Any]] = {"ippo": [], "mappo": []}
    for seed, name in itertools.product(range(args.seeds), runs):
        algorithm = shoal.PPO(**SETTINGS, central=name == "mappo")
        policy, run = train(algorithm, SPREAD, seed, args.env_steps, scale_reward=True)
        run["return_mean"] = measure(SPREAD, {"all": policy}, args.episodes)["all"]
        gained = run["return_mean"] - ends["random"]
        run["reached"] = gained / (ends["scripted"] - ends["random"])  # of random to scripted
        runs[name].append(run)
        say(name, run)
        write({"references": ends, "runs": runs})


def tag(args: argparse.Namespace, write: Callable[[Any], None]) -> None:
    """Two policies that learned against each other, each against others too."""
    fixed = {"random": (RANDOM, RANDOM), "scripted": (chase, flee)}
    meetings = {
        f"{a} adversaries, {b} agent": measure(
            TAG, {"adversary": fixed[a][0], "agent": fixed[b][1]}, args.episodes
        )
        for a, b in itertools.product(fixed, fixed)
    }
    runs: list[Any] = []
    for seed in range(args.seeds):
        both = Policies({"adversary": shoal.PPO(**SETTINGS), "agent": shoal.PPO(**SETTINGS)}, TEAMS)
        team, run = train(both, TAG, seed, args.env_steps)
        learned = team.policies
        run["meetings"] = {
            "learned adversaries, learned agent": measure(TAG, learned, args.episodes)
        }
        for name, (adversary, agent) in fixed.items():
            theirs = {"adversary": learned["adversary"], "agent": agent}
            ours = {"adversary": adversary, "agent": learned["agent"]}
            run["meetings"] |= {
                f"learned adversaries, {name} agent": measure(TAG, theirs, args.episodes),
                f"{name} adversaries, learned agent": measure(TAG, ours, args.episodes),
            }
        runs.append(run)
        say("tag", run)
        write({"references": meetings, "runs": {"ppo": runs}})


TASKS = {"spread": spread, "tag": tag}


def say(name: str, run: Mapping[str, Any]) -> None:
    """A line without the curve."""
    print(name, json.dumps({k: x for k, x in run.items() if k != "curve"}), flush=True)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Mean returns of training episodes against env steps, one line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    drawn: dict[str, str] = {}
    for system, runs in found["runs"].items():
        for run in runs:
            for key in run["curve"][-1][1]:
                policy = key.rpartition("/")[0]
                if policy == "" and len(run["curve"][-1][1]) > 1:
                    continue  # of all policies together
                label = policy.removeprefix("policy/") or system
                points = [(x, y[key]) for x, y in run["curve"] if key in y]
                known = label in drawn
                colour = drawn.setdefault(label, f"C{len(drawn)}")
                axes.plot(*zip(*points, strict=True), colour, lw=1, label=None if known else label)
    for style, (name, value) in zip(("k:", "k--"), found["references"].items(), strict=False):
        if isinstance(value, float):
            axes.axhline(value, color="k", ls=style[1:], lw=1, label=name)
    axes.set(xlabel="env steps", ylabel="mean return of an agent, while it explores")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=TASKS, help="may be given repeatedly")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--env-steps", type=int, default=500_000, help="of each run (500,000)")
    parser.add_argument("--episodes", type=int, default=500, help="of each measurement (500)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of what is found")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only or TASKS:
        path = args.out / f"simple_{name}.json"
        used = {"env_steps": args.env_steps, "episodes": args.episodes, **ROLLOUT}
        used |= SETTINGS | {"lr": str(SETTINGS["lr"])}

        def write(found: Any, path: Path = path, used: Any = used) -> None:
            path.write_text(json.dumps({"settings": used, **found}, indent=1) + "\n")
            draw(found, path.with_suffix(".png"))

        TASKS[name](args, write)


if __name__ == "__main__":
    main()
