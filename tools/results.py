"""Learning results: ``python -m tools.results RUN...`` keeps finished runs in ``results/``.

Runs of one system on one environment become ``results/SYSTEM-ENV.json``, one entry a seed; of runs
that were evaluated (``shoal evaluate RUN --episodes 100``), with what their final policies reached.
Then ``results/README.md`` is written anew from all such files. Without arguments it does only that.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
KEPT = ("seed", "return_mean", "env_steps", "wall_s", "steps_per_s", "episodes", "stopped_by")
HEADS = "system|environment|seeds|return|worst|evaluated|env steps|seconds|others"
SETTINGS = ("algorithm", "plan", "rollout", "replay", "stop", "learner", "precision")

REFERENCES = {  # (system, environment): what others reached
    ("ppo", "CartPole-v1"): "500 in 100k (RL Baselines3 Zoo)",
    ("ppo", "Pendulum-v1"): "-172 +- 104 in 100k (RL Baselines3 Zoo)",
    ("ppo", "Acrobot-v1"): "-73.5 +- 18 in 1M (RL Baselines3 Zoo)",
    ("ppo-lstm", "CartPole-v1, hide 1,3"): "500 in 100k (RL Baselines3 Zoo, recurrent PPO)",
    ("ppo-lstm", "Pendulum-v1, hide 2"): "-218 +- 140 in 100k (RL Baselines3 Zoo, recurrent PPO)",
    ("a2c", "CartPole-v1"): "500 in 500k (RL Baselines3 Zoo)",
    ("dqn", "CartPole-v1"): "500 in 50k (RL Baselines3 Zoo)",
    ("dqn", "Acrobot-v1"): "-76.6 +- 12 in 100k (RL Baselines3 Zoo)",
    ("dqn", "MountainCar-v0"): "-101 +- 10 in 120k (RL Baselines3 Zoo)",
    ("ddpg", "Pendulum-v1"): "-152 +- 94 in 20k (RL Baselines3 Zoo)",
    ("td3", "Pendulum-v1"): "-152 +- 90 in 20k (RL Baselines3 Zoo)",
    ("ars", "CartPole-v1"): "500 in 50k (RL Baselines3 Zoo)",
    ("ars", "Swimmer-v5"): "v3: 355 +- 13 in 2M (RL Baselines3 Zoo)",
    ("ars", "Hopper-v5"): "v3: 3344 +- 6 in 7M (RL Baselines3 Zoo)",
    ("ars", "HalfCheetah-v5"): "v3: 4815 +- 1341 in 12M (RL Baselines3 Zoo)",
    ("sac", "Pendulum-v1"): "-157 +- 89 in 20k (RL Baselines3 Zoo)",
}


def keep(folders: Iterable[Path]) -> None:
    """Add runs to the files of their system and environment; a seed replaces its earlier entry."""
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        config = json.loads((folder / "config.json").read_text())
        system, env = names(config)
        name = re.sub("[/, ]+", "-", f"{system}-{env}")
        path = RESULTS / f"{name}.json"
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        runs = {run["seed"]: run for run in known.get("runs", [])}
        run = runs[summary["seed"]] = {name: summary[name] for name in KEPT}
        if (folder / "evaluation.json").exists():
            told = json.loads((folder / "evaluation.json").read_text())
            run["evaluated"] = {name: told[name] for name in ("episodes", "return_mean")}
        settings = {k: config[k] for k in SETTINGS}
        result = {
            "system": system,
            "env": env,
            "versions": summary["versions"],
            "machine": summary["machine"],
            "settings": settings,
            "runs": [runs[seed] for seed in sorted(runs)],
        }
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def names(config: dict[str, Any]) -> tuple[str, str]:
    """Of the system, with its memory, and of the environment, with what is hidden of it."""
    system, env = config["system"], config["env"]
    network = config["algorithm"].get("network")
    memory = network.get("memory") if isinstance(network, dict) else None
    hidden = config["rollout"].get("hide", ())
    recurrent = memory and not system.startswith("r2d")
    return (
        f"{system}-{memory}" if recurrent else system,
        f"{env}, hide {','.join(map(str, hidden))}" if hidden else env,
    )


def rows() -> list[list[str]]:
    """All lines of the table, in cells."""
    return [row(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*-*.json"))]


def row(result: dict[str, Any]) -> list[str]:
    """One line of the table: the mean of the last 100 training episodes, over seeds."""
    runs = result["runs"]
    returns = [run["return_mean"] for run in runs]
    spread = f" +- {stdev(returns):.0f}" if len(returns) > 1 else ""
    final = [run["evaluated"]["return_mean"] for run in runs if "evaluated" in run]
    return [
        result["system"],
        result["env"],
        str(len(runs)),
        f"{mean(returns):.0f}{spread}",
        f"{min(returns):.0f}",
        f"{mean(final):.0f} ({min(final):.0f})" if final else "",
        f"{median(run['env_steps'] for run in runs):,.0f}",
        f"{median(run['wall_s'] for run in runs):.1f}",
        REFERENCES.get((result["system"], result["env"]), ""),
    ]


def main() -> None:
    keep(map(Path, sys.argv[1:]))
    lines = [
        "# Learning results",
        "",
        "Made by `python -m tools.results RUN...` from the JSON files beside it, which hold each",
        "seed and every setting. Return: mean over the last 100 training episodes; worst: of the",
        "seeds; evaluated: the final policies without exploration, over 100 episodes each, and the",
        "worst; env steps and seconds: median over the seeds.",
        "",
        f"|{HEADS}|",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
        *(f"| {' | '.join(cells)} |" for cells in rows()),
        "",
    ]
    (RESULTS / "README.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
