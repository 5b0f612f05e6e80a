"""Shoal against other libraries: ``python benchmarks/run.py [--only NAME] [--repeat 3]``.

Each pair is measured alternately in one run, every figure in a process of its own, so that what
one reads is a ratio and not a machine. Shoal gets one thread where it is one process; a peer gets
one thread or all of them, whichever is better for it. Env steps per second are sampled *and*
learned from, after a first update that is not counted (see common.py for the settings); those of
self-play are positions of games, and nothing is learned.
Figures of workers themselves, startup to memory, are in workers.py.

The peers live in ``.bench-venv``, which is made at need from peers-constraints.txt (Sample Factory,
which needs older libraries than the others, in a second one below it). Results go to
``benchmarks/results/NAME.json`` and, as a table, to the console.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from common import SETTINGS
from startup import TARGETS, measure_startup
from workers import MEASURES, table

HERE = Path(__file__).resolve().parent
VENV = HERE.parent / ".bench-venv"
PEERS = (
    *("stable-baselines3", "sb3-contrib", "sbx-rl", "ray[rllib]", "torch", "cpprb", "tianshou"),
    *("gymnasium[classic-control,mujoco]", "ale-py", "opencv-python-headless"),
    *("open_spiel", "mctx", "pgx", "mpe2"),
)
ALONE = {"samplefactory": ("sample-factory", "gymnasium[classic-control]", "torch")}


class Pair(NamedTuple):
    """Shoal and one peer on one environment, and how many times faster Shoal means to be."""

    name: str
    env: str
    peer: str  # peer_NAME.py, and its arguments
    target: float
    shoal: tuple[str, ...] = ("shoal_ppo.py",)  # script and its arguments
    shoal_threads: int | None = 1  # None: what Shoal takes by itself


PONG = "ALE/Pong-v5"
IMPALA = ("shoal_distributed.py", "--system", "impala")
PPO_PONG = ("shoal_distributed.py", "--system", "ppo")
REPLAY = ("shoal_replay.py",)
BUFFER = ("shoal_buffer.py",)
ARS = ("shoal_ars.py",)
AGENTS = ("shoal_agents.py",)
SPREAD = "pettingzoo:mpe2/simple_spread_v3"
SELF_PLAY = ("shoal_alphazero.py",)
RESIDUAL = (*SELF_PLAY, "--network", "residual")
BF16 = ("--precision", "bfloat16")
PAIRS = (
    Pair("cartpole-sb3", "CartPole-v1", "sb3", 12.0),
    Pair("cartpole-sbx", "CartPole-v1", "sbx", 5.0),
    Pair("cartpole-rllib", "CartPole-v1", "rllib", 25.0),
    Pair("halfcheetah-sb3", "HalfCheetah-v5", "sb3", 3.5),
    Pair("halfcheetah-sbx", "HalfCheetah-v5", "sbx", 2.2),
    Pair("recurrent-cartpole-sb3", "CartPole-v1", "sb3_recurrent", 6.0, ("shoal_recurrent.py",)),
    Pair("impala-cartpole-rllib", "CartPole-v1", "rllib_impala", 10.0, IMPALA, None),
    Pair("impala-cartpole-samplefactory", "CartPole-v1", "samplefactory", 5.0, IMPALA, None),
    Pair("impala-pong-rllib", PONG, "rllib_impala", 2.8, IMPALA, None),
    Pair("impala-pong-rllib-bf16", PONG, "rllib_impala", 2.8, (*IMPALA, *BF16), None),
    Pair("ppo-pong-sb3", PONG, "sb3_pong", 1.5, PPO_PONG, None),
    Pair("ppo-pong-sb3-bf16", PONG, "sb3_pong", 1.5, (*PPO_PONG, *BF16), None),
    Pair("dqn-cartpole-sb3", "CartPole-v1", "sb3_replay", 5.0, REPLAY, None),
    Pair("dqn-cartpole-sbx", "CartPole-v1", "sbx_replay", 5.0, REPLAY, None),
    Pair("sac-pendulum-sb3", "Pendulum-v1", "sb3_replay", 2.8, REPLAY, None),
    Pair("sac-pendulum-sbx", "Pendulum-v1", "sbx_replay", 1.4, REPLAY, None),
    Pair("sac-pendulum-sbx-bf16", "Pendulum-v1", "sbx_replay", 1.4, (*REPLAY, *BF16), None),
    Pair("ars-cartpole-sb3", "CartPole-v1", "sb3_ars", 5.0, ARS),
    Pair("ars-halfcheetah-sb3", "HalfCheetah-v5", "sb3_ars", 1.5, ARS),
    Pair("agents-spread-rllib", SPREAD, "rllib_agents", 10.0, AGENTS),
    Pair(
        "agents-spread-rllib-2-workers",
        SPREAD,
        "rllib_agents --workers 2",
        10.0,
        (*AGENTS, "--workers", "2"),
        None,
    ),
    Pair("buffer-32-cpprb", "32", "cpprb", 3.0, BUFFER),
    Pair("buffer-512-tianshou", "512", "tianshou", 2.0, BUFFER),
    Pair("self-play-openspiel", "connect_four", "openspiel", 5.0, SELF_PLAY),
    Pair(
        "self-play-residual-openspiel",
        "connect_four",
        "openspiel --network residual",
        5.0,
        RESIDUAL,
    ),
    Pair("self-play-mctx", "connect_four", "mctx", 1.0, SELF_PLAY),
    Pair("self-play-residual-mctx", "connect_four", "mctx --network residual", 1.0, RESIDUAL),
)
NAMES = ("startup", *(pair.name for pair in PAIRS), *MEASURES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", choices=NAMES, help="may be given repeatedly")
    parser.add_argument("--repeat", type=int, default=3, help="times that each is measured")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement, at least")
    parser.add_argument(
        "--peers", type=Path, help="interpreter that has the peers (all but Sample Factory)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    args = parser.parse_args()
    names = args.only or NAMES
    tables = []
    if "startup" in names:
        log("startup")
        result = measure_startup(max(args.repeat, 3))
        write(args, "startup", result)
        tables.append(startup_table(result))
    pairs = [pair for pair in PAIRS if pair.name in names]
    if pairs:
        results = []
        for pair in pairs:
            alone = pair.peer in ALONE
            peers = peers_python(pair.peer) if alone else args.peers or peers_python()
            results.append(measure_pair(pair, args, peers))
            write(args, pair.name, results[-1])
        tables.append(pairs_table(results))
    for name in [name for name in MEASURES if name in names]:
        log(name)
        result, rows = MEASURES[name](
            lambda: args.peers or peers_python(), args.repeat, args.seconds
        )
        write(args, name, {"name": name, **result})
        tables.append(table(rows))
    print("\n\n".join(tables))


def peers_python(peer: str = "") -> Path:
    """The interpreter of a peer's environment, made anew when its versions have changed.

    It is one for all but those that stand ``ALONE``.
    """
    alone = peer in ALONE
    venv = VENV / peer if alone else VENV
    pins = HERE / (f"peers-constraints-{peer}.txt" if alone else "peers-constraints.txt")
    python, stamp = venv / "bin" / "python", venv / "installed"
    wanted = pins.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        log(f"installing peers into {venv.relative_to(HERE.parent)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        packages = ALONE[peer] if alone else PEERS
        install = [str(python), "-m", "pip", "install", "-q", "-c", str(pins), *packages]
        subprocess.run(install, check=True)
        stamp.write_text(wanted)
    return python


def threads(count: int) -> dict[str, str]:
    """The environment variables that limit BLAS, PyTorch and XLA to this many threads."""
    variables = {"OMP_NUM_THREADS": str(count), "NPROC": str(count)}
    if count == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return variables


def measure_pair(pair: Pair, args: argparse.Namespace, peers: Path) -> dict[str, Any]:
    """Shoal, then the peer, ``repeat`` times over.

    The first time tells how many threads are best for the peer, the others are with those.
    """
    counts = sorted({1, os.cpu_count() or 1})
    shoal: list[dict[str, Any]] = []
    peer: dict[str, list[dict[str, Any]]] = {str(count): [] for count in counts}
    for turn in range(args.repeat):
        log(f"{pair.name}: {turn + 1} of {args.repeat}")
        own = Path(sys.executable)
        shoal.append(run(own, pair.shoal, pair.env, args.seconds, pair.shoal_threads))
        for count in counts:
            name, *options = pair.peer.split()
            script = (f"peer_{name}.py", *options)
            peer[str(count)].append(run(peers, script, pair.env, args.seconds, count))
        medians = {count: steps_per_s(runs) for count, runs in peer.items()}
        best = max(medians, key=lambda count: medians[count])
        counts = [int(best)]
    ratio = steps_per_s(shoal) / medians[best]
    return {
        "name": pair.name,
        "env": pair.env,
        "settings": SETTINGS if pair.shoal == ("shoal_ppo.py",) else " ".join(pair.shoal),
        "shoal": {"median_steps_per_s": steps_per_s(shoal), "runs": shoal},
        "peer": {
            "median_steps_per_s": medians[best],
            "threads": int(best),
            "median_steps_per_s_by_threads": medians,
            "runs_by_threads": peer,
        },
        "ratio": round(ratio, 2),
        "target": pair.target,
        "met": ratio >= pair.target,
    }


def run(
    python: Path, script: Sequence[str], env: str, seconds: float, count: int | None
) -> dict[str, Any]:
    """What a script measured: the line of JSON that it prints last."""
    name, *arguments = script
    done = subprocess.run(
        [python, HERE / name, env, *arguments, "--seconds", str(seconds)],
        env={**os.environ, **({} if count is None else threads(count))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if not result["steps_per_s"]:
        sys.exit(f"{name} took no env step while it was measured: longer --seconds may help")
    log(f"  {name}, {count or 'its own'} threads: {result['steps_per_s']:,.0f} env steps/s")
    return result


def steps_per_s(runs: Sequence[dict[str, Any]]) -> float:
    return float(median(r["steps_per_s"] for r in runs))


def write(args: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    command = f"python benchmarks/run.py --only {name} --repeat {args.repeat}"
    about = {
        "command": f"{command} --seconds {args.seconds:g}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, **result}, indent=2)
    (args.out / f"{name}.json").write_text(text + "\n")


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    models = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def pairs_table(results: Sequence[dict[str, Any]]) -> str:
    rows = ["| pair | Shoal, env steps/s | peer (threads) | ratio | target | met |"]
    rows.append("|---|---:|---:|---:|---:|---|")
    for r in results:
        ours, peer = r["shoal"]["median_steps_per_s"], r["peer"]
        rows.append(
            f"| {r['name']} | {ours:,.0f} | {peer['median_steps_per_s']:,.0f} ({peer['threads']}) "
            f"| {r['ratio']:.1f} | {r['target']:g} | {'yes' if r['met'] else 'no'} |"
        )
    return "\n".join(rows)


def startup_table(result: dict[str, Any]) -> str:
    what = {
        "import_s": "`import shoal`",
        "import_trainer_s": "`from shoal import Trainer`",
        "cold_s": "CartPole-v1 to 475, nothing compiled yet",
        "warm_s": "CartPole-v1 to 475, compiled by an earlier run",
    }
    rows = ["| startup | seconds | target | met |", "|---|---:|---:|---|"]
    for name, text in what.items():
        target, met = TARGETS.get(name, ""), result["met"].get(name)
        verdict = "" if met is None else "yes" if met else "no"
        rows.append(f"| {text} | {result['median'][name]:.2f} | {target} | {verdict} |")
    return "\n".join(rows)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
