"""PPO that plays itself: ``python -m tools.self_play [--only tic_tac_toe]``.

A policy learns from games against itself and a pool of its past selves. At every report its Elo
ratings are noted; at each of ten points of the run, and at its end, it plays against the random
player, with its most likely moves and either side in turn. Everything goes to
``results/games/self_play_GAME.json`` and is drawn in ``results/games/self_play_GAME.png``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import shoal

RESULTS = Path(__file__).resolve().parent.parent / "results" / "games"
GAMES: dict[str, int] = {"connect_four": 3_000_000, "tic_tac_toe": 2_000_000}  # env steps

# Found here: a discount below 1, so that a win is worth more the sooner it comes; games against
# the random player, which lead where two good players never come; and much entropy at the
# beginning. A first try without them lost 11 % of the games of connect four against random.
SETTINGS: dict[str, Any] = {
    "lr": shoal.Linear(1e-3, 1e-4),
    "gamma": 0.97,
    "lambda_": 0.95,
    "entropy_coef": shoal.Linear(0.08, 0.01),
    "epochs": 4,
    "minibatch_size": 512,
    "envs_per_worker": 64,
    "fragment_length": 64,
    "hidden": (256, 256),
    "pool": 20,
    "every": 50_000,
    "latest": 0.3,
    "rated": 0.4,
}
KEPT = "elo/learner", "elo/pool", "elo/random", "win_rate/random", "win_rate/pool"


def train(game: str, seed: int, env_steps: int, games: int) -> dict[str, Any]:
    """Ratings and results against the random player, of one run."""
    curve: list[dict[str, float]] = []
    meetings: list[dict[str, Any]] = []
    start = perf_counter()
    more: dict[str, Any] = {"stop_steps": env_steps, "report_every": env_steps // 100}
    with shoal.Trainer("ppo", game, seed=seed, **more, **SETTINGS) as trainer:
        for report in trainer:
            steps = report["env_steps"]
            curve.append({"env_steps": steps, **{k: round(report[k], 3) for k in KEPT}})
            if steps >= (len(meetings) + 1) * env_steps / 10 and steps < env_steps:
                policy: Any = trainer.policy
                met = shoal.match(policy, "random", game, games, seed=seed)
                meetings.append({"env_steps": steps, **met})
        policy = trainer.policy
    found = shoal.match(policy, "random", game, games, seed=seed)
    meetings.append({"env_steps": steps, **found})
    wall = round(perf_counter() - start, 1)
    return {"seed": seed, "wall_s": wall, **found, "meetings": meetings, "curve": curve}


def draw(found: dict[str, Any], path: Path) -> None:
    """Elo and results against env steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, figsize=(7.5, 6), sharex=True, layout="constrained")
    for run in found["runs"]:
        first = run is found["runs"][0]
        steps = [x["env_steps"] for x in run["curve"]]
        for i, key in enumerate(("elo/learner", "elo/pool", "elo/random")):
            label = key.partition("/")[2] if first else None
            above.plot(steps, [x[key] for x in run["curve"]], f"C{i}", lw=1, label=label)
        at = [x["env_steps"] for x in run["meetings"]]
        for i, key in enumerate(("wins", "losses")):
            share = [100 * x[key] / x["games"] for x in run["meetings"]]
            below.plot(at, share, f"C{i}o-", lw=1, ms=3, label=key if first else None)
    above.set(ylabel="Elo")
    below.set(xlabel="env steps", ylabel="% of games against random")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=GAMES, help="may be given repeatedly")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--env-steps", type=int, help="of each run, instead of the game's own")
    parser.add_argument("--games", type=int, default=200, help="of each meeting (200)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of what is found")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    used = {k: x if isinstance(x, int | float) else str(x) for k, x in SETTINGS.items()}
    for game in args.only or GAMES:
        env_steps = args.env_steps or GAMES[game]
        found: dict[str, Any] = {"env_steps": env_steps, "settings": used, "runs": []}
        for seed in range(args.seeds):
            run = train(game, seed, env_steps, args.games)
            found["runs"].append(run)
            told = {k: run[k] for k in ("seed", "wall_s", "wins", "draws", "losses", "sides")}
            print(game, json.dumps(told), flush=True)
            path = args.out / f"self_play_{game}.json"
            path.write_text(json.dumps(found, indent=1) + "\n")
            draw(found, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
