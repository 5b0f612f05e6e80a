"""How well a run plays connect four, over its checkpoints.

``python -m tools.connect_four FOLDER`` lets every checkpoint of a run

* play games against OpenSpiel's MCTS with random rollouts, with either side in turn, and
* choose moves in random positions of 16 to 30 stones that an exact solver has solved, in which some
  move changes the result, and nobody can win with the next stone. A move *keeps* the result if it
  leads to the best one, and is *best* if no other wins sooner, or loses later.

Both with the search, and in the positions also with the network alone. What is found goes to
FILE.json after each checkpoint, and is drawn in FILE.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import shoal
from shoal.app.folder import read_progress
from shoal.games.base import State, take
from shoal.games.connect_four import ConnectFour
from shoal.games.search import random_moves
from tools.connect_four_solver import ILLEGAL, Solver

ndarray = npt.NDArray[Any]
Choose = Callable[[State], ndarray]  # moves, int [B], in games that are not over
GAME = ConnectFour()
FEWEST, MOST = 16, 30  # stones of a solved position


class Solved(NamedTuple):
    """Positions, and the score of each move there, [M, 7]."""

    state: State
    scores: ndarray


def solved(positions: int, seed: int) -> Solved:
    """Different positions reached by random moves, in which a move can be wrong.

    Nobody can complete four with the next stone, which any search sees.
    """
    rng, solver = np.random.default_rng(seed), Solver()
    states: list[State] = []
    scores: list[ndarray] = []
    known: set[tuple[int, int]] = set()
    while len(states) < positions:
        state = GAME.start(1)
        for _ in range(rng.integers(FEWEST, MOST + 1)):
            if not GAME.over(state)[0]:
                state = GAME.play(state, random_moves(GAME.legal(state), rng))
        cells = int(state["mine"][0]), int(state["theirs"][0])
        if cells in known or GAME.over(state)[0] or at_once(state) or at_once(passed(state)):
            continue
        known.add(cells)
        found = solver.scores(*cells)
        if len(set(np.sign(found[found != ILLEGAL]).tolist())) > 1:
            states.append(state)
            scores.append(found)
    return Solved({k: np.concatenate([x[k] for x in states]) for k in states[0]}, np.stack(scores))


def at_once(state: State) -> bool:
    """Whether the mover can win with the next stone."""
    moves = np.flatnonzero(GAME.legal(state)[0])
    after = GAME.play({name: np.repeat(x, len(moves)) for name, x in state.items()}, moves)
    return bool(after["lost"].any())


def passed(state: State) -> State:
    """The position with the other one to move."""
    return {**state, "mine": state["theirs"], "theirs": state["mine"]}


def agreement(choose: Choose, found: Solved) -> dict[str, float]:
    """Parts of the positions in which the move keeps the result, and in which it is the best."""
    scores, top = found.scores, found.scores.max(-1)
    made = scores[np.arange(len(scores)), choose(found.state)]
    return {
        "keeps": float(np.mean(np.sign(made) == np.sign(top))),
        "best": float(np.mean(made == top)),
    }


def by_chance(found: Solved) -> dict[str, float]:
    """What random legal moves would reach."""
    scores, top, legal = found.scores, found.scores.max(-1, keepdims=True), found.scores != ILLEGAL
    keeps = (legal & (np.sign(scores) == np.sign(top))).sum(-1) / legal.sum(-1)
    return {
        "keeps": float(keeps.mean()),
        "best": float(((scores == top).sum(-1) / legal.sum(-1)).mean()),
    }


def against(choose: Choose, games: int, rollouts: int, seed: int) -> dict[str, Any]:
    """Games against OpenSpiel's MCTS, side by side; we begin in every other one."""
    import pyspiel  # type: ignore[import-not-found]

    theirs = pyspiel.load_game("connect_four")
    bots = [
        pyspiel.MCTSBot(
            theirs,
            pyspiel.RandomRolloutEvaluator(1, seed + i),
            2**0.5,  # uct_c
            rollouts,
            1000,  # MB
            True,  # solve
            seed + i,
            False,  # verbose
        )
        for i in range(games)
    ]
    state, boards = GAME.start(games), [theirs.new_initial_state() for _ in range(games)]
    us, playing = np.arange(games) % 2, np.arange(games)
    results = np.zeros(games)
    while len(playing):
        now = take(state, playing)
        ours = GAME.mover(now) == us[playing]
        moves = np.zeros(len(playing), np.int64)
        if ours.any():
            moves[ours] = choose(take(now, ours))
        for i in np.flatnonzero(~ours):
            moves[i] = bots[playing[i]].step(boards[playing[i]])
        for name, x in GAME.play(now, moves).items():
            state[name][playing] = x
        for i, move in zip(playing, moves.tolist(), strict=True):
            boards[i].apply_action(move)
            if boards[i].is_terminal():
                results[i] = boards[i].returns()[us[i]]
        playing = np.array([i for i in playing if not boards[i].is_terminal()], int)
    counts = {name: int((results == x).sum()) for name, x in _RESULTS.items()}
    first = {name: int((results[::2] == x).sum()) for name, x in _RESULTS.items()}
    return {**counts, "points": float((results.mean() + 1) / 2), "as_first": first}


_RESULTS = {"wins": 1, "draws": 0, "losses": -1}


def chooser(policy: Any, simulations: int) -> Choose:
    """The policy's moves with that many simulations."""
    own = replace(policy.algorithm, simulations=simulations)

    def choose(state: State) -> ndarray:
        policy.algorithm = own
        return np.asarray(policy.act(GAME.seen(state)))

    return choose


def checkpoints(run: Path, every: int) -> list[Path]:
    """Each ``every``-th checkpoint of a run, the newest among them, oldest first."""
    found = sorted(x for x in (run / "checkpoint").iterdir() if x.name.isdigit())
    return found[::-1][::every][::-1]


def evaluate(run: Path, args: argparse.Namespace, found: Solved, write: Callable[..., None]) -> Any:
    """One row for each checkpoint; ``write`` is called after each."""
    seconds = {x["env_steps"]: x["wall_s"] for x in read_progress(run)}
    rows: list[dict[str, Any]] = []
    for folder in checkpoints(run, args.every):
        start, policy = perf_counter(), shoal.load(folder)
        steps = int(folder.name)
        near = min(seconds, key=lambda x: abs(x - steps), default=None)
        row: dict[str, Any] = {"env_steps": steps}
        row["wall_s"] = None if near is None else round(seconds[near], 1)
        row["search"] = agreement(chooser(policy, args.simulations), found)
        row["network"] = agreement(chooser(policy, 0), found)
        if args.games:
            mine = chooser(policy, args.simulations)
            row["against_mcts"] = against(mine, args.games, args.rollouts, args.seed)
        rows.append(row)
        print(f"{json.dumps(row)}  ({perf_counter() - start:.0f} s)", flush=True)
        write(rows)
    return rows


def draw(found: dict[str, Any], path: Path) -> None:
    """Agreement and points against the minutes of the run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, asked = found["checkpoints"], found["settings"]
    timed = all(row["wall_s"] is not None for row in rows)
    x = [row["wall_s"] / 60 if timed else row["env_steps"] for row in rows]
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    search = f"{asked['simulations']} simulations"
    for who, label, colour in (("search", search, "C0"), ("network", "network alone", "C1")):
        for what, style in (("keeps", "-"), ("best", ":")):
            y = [row[who][what] for row in rows]
            axes.plot(x, y, colour + style, marker=".", label=f"{what}, {label}")
    if "against_mcts" in rows[0]:
        label = f"points of {asked['games']} games against MCTS, {asked['rollouts']} rollouts"
        axes.plot(
            x, [row["against_mcts"]["points"] for row in rows], "k--", marker=".", label=label
        )
    axes.axhline(found["by_chance"]["keeps"], color="0.7", lw=1, label="keeps, random moves")
    axes.set(ylim=(0, 1.02), xlabel="minutes of training" if timed else "env steps")
    axes.set(ylabel=f"part of {asked['positions']} positions, or of points")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="of a run of alphazero on connect_four")
    parser.add_argument("--games", type=int, default=50, help="against MCTS; 0: none (50)")
    parser.add_argument("--rollouts", type=int, default=1000, help="of each of its moves (1000)")
    parser.add_argument("--simulations", type=int, default=64, help="of each of ours (64)")
    parser.add_argument("--positions", type=int, default=1000, help="solved ones (1000)")
    parser.add_argument("--every", type=int, default=1, help="evaluate every N-th checkpoint (1)")
    parser.add_argument("--seed", type=int, default=0, help="of positions and of MCTS (0)")
    parser.add_argument("--out", type=Path, default=Path("docs/connect-four"), metavar="FILE")
    args = parser.parse_args()
    start = perf_counter()
    positions = solved(args.positions, args.seed)
    print(f"{args.positions} positions solved in {perf_counter() - start:.1f} s", flush=True)
    names = ("games", "rollouts", "simulations", "positions", "seed")
    found: dict[str, Any] = {
        "settings": {name: getattr(args, name) for name in names},
        "by_chance": by_chance(positions),
    }

    def write(rows: list[dict[str, Any]]) -> None:
        found["checkpoints"] = rows
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, args.out.with_suffix(".png"))

    evaluate(args.folder, args, positions, write)


if __name__ == "__main__":
    main()
