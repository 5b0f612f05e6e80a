"""A league that plays itself: a main player, a main exploiter and a league exploiter.

Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement learning",
Nature 575, Methods, "Multi-agent learning". The main player plays itself, its past selves and the
exploiters of the past; the main exploiter plays the main player as it is now; the league exploiter
plays the past of all. Opponents of the past are drawn by prioritised fictitious self-play. An
exploiter that beats all whom it plays, or whose time is up, joins the past. Then the main exploiter
begins anew, and so does the league exploiter one time in four. Left out: while it cannot win, the
paper's main exploiter plays the main player's past.

python examples/league.py [GAME] [--turns 16] [--steps 40000]
"""

import argparse
import random

import shoal

parser = argparse.ArgumentParser()
parser.add_argument("game", nargs="?", default="connect_four")  # or pettingzoo:classic/...
parser.add_argument("--turns", type=int, default=16)  # in each of them every player trains
parser.add_argument("--steps", type=int, default=40_000)  # env steps of a player in a turn
parser.add_argument("--games", type=int, default=100)  # of each pair in the table
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

PPO = dict(lr=1e-3, gamma=0.97, entropy_coef=0.03, epochs=4, minibatch_size=512)
SIZES = dict(envs_per_worker=64, fragment_length=32, report_every=args.steps, hidden=(128, 128))
MAIN = dict(pool=args.turns, every=args.steps, latest=0.35)  # the others: 65 % of its games
EXPLOITER = dict(pool=1, every=None, latest=0.0)  # no past selves: who is added is played
BEATEN, PATIENCE = 0.7, 4  # win rate at which an exploiter is done, and turns it has for that
NEWEST = 12  # of the past, in the table


def begin(name, number):
    """A new player, which has learned nothing."""
    role, seed = MAIN if name == "main" else EXPLOITER, 10_000 * args.seed + number
    return shoal.Trainer("ppo", args.game, seed=seed, **PPO, **SIZES, **role)


def rates_of(report):
    """Win rates against the players of the league, by name."""
    found = {key.removeprefix("win_rate/"): x for key, x in report.items()}
    return {name: found[name] for name in ("main", *past) if f"win_rate/{name}" in report}


def short(name):
    """Of main_exploiter_4: me4."""
    return "".join(word if word.isdigit() else word[0] for word in name.split("_"))


names = "main", "main_exploiter", "league_exploiter"
players = {name: begin(name, i) for i, name in enumerate(names)}
since = dict.fromkeys(names, 0)  # turns of each since it began or joined the past
past = {"main_0": players["main"].policy}  # the league's, by name
chance = random.Random(0)

for turn in range(1, args.turns + 1):
    players["main_exploiter"].add_opponent("main", players["main"].policy)
    for name, policy in past.items():
        players["league_exploiter"].add_opponent(name, policy)
    for name, player in players.items():
        report = player.train()
        rates = rates_of(report)
        hardest = [f"{x} {rates[x]:.2f}" for x in sorted(rates, key=rates.get)[:3]]
        wins = ", ".join([f"random {report['win_rate/random']:.2f}", *hardest])
        print(f"turn {turn}, win rates of {name}: {wins}", flush=True)
        since[name] += 1
        if name == "main":
            past[f"main_{turn}"] = player.policy
        elif min(rates.values()) >= BEATEN or since[name] == PATIENCE:
            past[f"{name}_{turn}"], since[name] = player.policy, 0
            players["main"].add_opponent(f"{name}_{turn}", player.policy)
            if name == "main_exploiter" or chance.random() < 0.25:
                player.stop()
                players[name] = begin(name, 100 * turn)

for player in players.values():
    player.stop()
rows = dict(list(past.items())[-NEWEST:])
columns = {**rows, "random": "random"}
print(f"\npoints of a game, over {args.games} games (a draw is half a point):")
print(" " * 20, *(f"{short(name):>5}" for name in columns))
for name, policy in rows.items():
    against = [(other, args.game, args.games) for other in columns.values()]
    points = [shoal.match(policy, *match, explore=True)["points"] for match in against]
    print(f"{name:>20}", *(f"{x:5.2f}" for x in points))
