"""Ends runs at random instants: ``python benchmarks/interrupts.py [--runs 200] [--kills 20]``.

``shoal train`` is started over and over, and sent SIGINT or SIGTERM (or, with ``--kills``, SIGKILL)
at an instant drawn from its whole duration. Checked each time: the exit code; that nothing is
called a fault of Shoal's; that there is a whole checkpoint wherever something was learned; that a
resumed run ends with the same bits as one that was never interrupted, where the plan is exact; and
that no process and no shared memory of it is left. Most runs without workers follow each other in
one process, where everything is imported and compiled already, so that the instants fall on what
matters; of the others nine of ten are forked from this one, and one is a new interpreter.

The table goes to stdout, and every run to ``benchmarks/results/interrupts.json``.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium  # noqa: F401  (imported here, before anything is forked)
import numpy as np
import ray  # noqa: F401
from jax import numpy as jnp  # noqa: F401

from shoal import trainer  # noqa: F401
from shoal.app import (
    cli,
    loop,  # noqa: F401
)
from shoal.checkpoint import files as checkpoint
from shoal.errors import CheckpointError
from shoal.replay import buffer  # noqa: F401

HERE = Path(__file__).resolve().parent
MARK = "SHOAL_INTERRUPTS"  # in the environment of a run and of every process that it starts
PATIENCE = 120.0  # seconds for a run to end, and for its processes to be gone
ON_POLICY = ["--rollout.envs-per-worker", "4", "--rollout.fragment-length", "32"]
CASES = {
    "ppo": [
        *(*ON_POLICY, "--algorithm.epochs", "2", "--algorithm.minibatch-size", "64"),
        *("--stop-steps", "5000"),
    ],
    "prioritized-dqn": [
        *("--replay.capacity", "4000", "--replay.warmup", "500", "--replay.replay-ratio", "4"),
        *("--stop-steps", "3000"),
    ],
    "impala": [*ON_POLICY, "--workers", "2", "--stop-steps", "20000"],
}
EXACT = ("ppo", "prioritized-dqn")
Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--runs", type=int, default=200, help="interrupts of each system")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of each system")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each system at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "interrupts.json")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    draw, found = random.Random(args.seed), []
    for system in args.systems:
        root, deadline = Path(tempfile.mkdtemp()), time.monotonic() + 60 * args.minutes
        whole = root / "whole"
        begun = time.monotonic()
        once(system, whole, None, 0.0, cold=False)
        seconds = time.monotonic() - begun
        together = args.runs * 9 // 10 if system in EXACT else 0
        if together:
            found += in_one_process(system, root, whole, together, draw.random())
        alone = args.runs - together
        todo = [draw.choice([signal.SIGINT, signal.SIGTERM]) for _ in range(alone)]
        todo += [signal.SIGKILL] * args.kills
        draw.shuffle(todo)
        for n, number in enumerate(todo):
            if time.monotonic() > deadline:
                break
            out, instant = root / str(n), draw.uniform(0.0, 1.1 * seconds)
            one = once(system, out, number, instant, cold=n % 10 == 9)
            judge(one, system, out, whole)
            found.append(one)
            if one["ended_before"]:  # the machine is quicker now than it was for the first run
                seconds = min(seconds, one["seconds_to_end"])
            shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(root)
        print(table([one for one in found if one["system"] == system]), flush=True)
        args.out.parent.mkdir(exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")


# ------------------------------------------------------------------ one run


def once(system: str, out: Path, number: int | None, instant: float, cold: bool) -> Found:
    """One run of the command, signalled at an instant; what became of it."""
    words = ["train", "CartPole-v1", "--system", system, "--out", str(out), *CASES[system]]
    if number == signal.SIGKILL:
        words += ["--checkpointing.every-iterations", "1"]
    mark, said = f"{os.getpid()}-{time.monotonic_ns()}", out.with_suffix(".said")
    pid = (_spawn if cold else _fork)(words, mark, said)
    ended = wait(pid, instant)
    segments = shared_memory(processes(mark))
    if ended is None and number is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    code, seconds = ended or wait(pid) or kill(pid)
    begun = time.monotonic()
    while (left := processes(mark)) and time.monotonic() - begun < PATIENCE:
        time.sleep(0.2)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return {
        "system": system,
        "signal": signal.Signals(number).name if number else None,
        "instant": round(instant, 3),
        "ended_before": ended is not None,
        "cold": cold,
        "code": code,
        "seconds_to_end": round(seconds, 2),
        "processes_left": len(left),
        "segments_left": [name for name in segments if os.path.exists(name)],
        "said": said.read_text(errors="replace")[-2000:],
    }


def _fork(words: Sequence[str], mark: str, said: Path) -> int:
    return forked(lambda: cli.main(), words, mark, said)


def forked(what: Callable[[], int], words: Sequence[str], mark: str, said: Path) -> int:
    """A child of this process that does this as the command with these words; its number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        os.read(reader, 1)  # it has begun
        os.close(reader)
        return pid
    os.close(reader)
    os.environ[MARK] = mark
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["shoal", *words]
    os.write(writer, b".")
    code = 1
    try:
        code = what()
    except BaseException:
        traceback.print_exc()
    finally:  # as an interpreter ends, but for this script's own frames
        sys.stdout.flush()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        os._exit(code)


_COLD = "import sys; from shoal.app.cli import main; print(end='.', flush=True); sys.exit(main())"


def _spawn(words: Sequence[str], mark: str, said: Path) -> int:
    with said.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _COLD, *words],
            env={**os.environ, MARK: mark},
            stdout=file,
            stderr=file,
        )
    while not said.stat().st_size and process.poll() is None:
        time.sleep(0.005)
    process.returncode = 0  # it is waited for by its number
    return process.pid


def wait(pid: int, limit: float = PATIENCE) -> tuple[int | str, float] | None:
    """The exit code, and the seconds until then; None if it has not ended within the limit."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), passed
        time.sleep(min(0.01, limit - passed))
    return None


def kill(pid: int) -> tuple[int | str, float]:
    """End a run that hangs."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung", PATIENCE


def processes(mark: str) -> list[int]:
    """Those that a run has started and that are still there, itself included."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def shared_memory(pids: Sequence[int]) -> set[str]:
    """Files of shared memory that these processes have mapped, and that have a name."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                name = line[line.find("/dev/shm/") :] if "/dev/shm/" in line else ""
                if name and not name.endswith("(deleted)"):
                    found.add(name)
    return found


# ------------------------------------------------------------------ many runs, one process


def in_one_process(system: str, root: Path, whole: Path, runs: int, seed: float) -> list[Found]:
    """Runs one after the other in a child of this process; what became of them."""
    result = root / "together.json"

    def work() -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # one that comes after the end
        draw, found, seconds = random.Random(seed), [], 0.0
        for n in range(runs + 2):  # the first two compile, and measure
            out, number = root / f"together-{n}", draw.choice([signal.SIGINT, signal.SIGTERM])
            instant = draw.uniform(0.0, 1.1 * seconds)
            timer = threading.Timer(instant, os.kill, (os.getpid(), number))
            begun = time.monotonic()
            if n > 1:
                timer.start()
            code = cli.main(
                ["train", "CartPole-v1", "--system", system, "--out", str(out)] + CASES[system]
            )
            took = time.monotonic() - begun
            timer.cancel()
            if n > 1:
                timer.join()
                one = {
                    "system": system,
                    "signal": number.name,
                    "instant": round(instant, 3),
                    "in_process": True,
                    "code": code,
                    "seconds_to_end": round(max(took - instant, 0.0), 2),
                    "processes_left": 0,
                    "segments_left": [],
                    "said": "",
                }
                judge(one, system, out, whole, in_process=True)
                found.append(one)
            seconds = took if n == 1 else seconds
            shutil.rmtree(out, ignore_errors=True)
            result.write_text(json.dumps(found))
        return 0

    pid = forked(work, [], "-", root / "together.said")
    os.waitpid(pid, 0)
    found: list[Found] = json.loads(result.read_text())
    words = (root / "together.said").read_text(errors="replace")
    if len(found) < runs or "Traceback" in words or "fault of Shoal" in words:
        at = next((x for w in ("Traceback", "fault of Shoal") if (x := words.find(w)) >= 0), 0)
        print(f"{system}: {len(found)} of {runs} runs in one process ended")
        print(words[max(at - 500, 0) : at + 3000])
    return found


# ------------------------------------------------------------------ what became of it


def judge(one: Found, system: str, out: Path, whole: Path, in_process: bool = False) -> None:
    """Add whether there is a checkpoint where there should be one, and whether it goes on."""
    told = json.loads((out / "summary.json").read_text()) if (out / "summary.json").exists() else {}
    one["learned"] = bool(told.get("gradient_steps"))
    one["checkpoint"] = "none"
    if list(out.glob("checkpoint/[0-9]*")):
        try:
            meta = checkpoint.load(out)[1]
            same = not told or meta["counters"]["env_steps"] == told["env_steps"]
            one["checkpoint"] = "whole" if same else "old"
        except CheckpointError as error:
            one["checkpoint"] = str(error)
    one["resumed"] = None
    ended = told.get("stopped_by") == "steps"  # before the signal came
    if one["checkpoint"] == "whole" and system in EXACT and not ended:
        words = ["resume", str(out)]
        if in_process:
            one["resumed"] = resumed(words, out, whole) == 0
        else:
            pid = forked(lambda: resumed(None, out, whole), words, "-", out / "resumed.said")
            one["resumed"] = (wait(pid) or kill(pid))[0] == 0
    expected = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[one["signal"]]
    lost = one["learned"] and one["checkpoint"] != "whole"
    torn = one["checkpoint"] not in ("none", "whole")
    bad = "Traceback" in one["said"] or "fault of Shoal" in one["said"]
    left = one["processes_left"] or one["segments_left"]
    wrong = lost or torn or bad or left or one["resumed"] is False
    one["good"] = not wrong and one["code"] in (expected, 0)
    if one["good"]:
        del one["said"]


def resumed(words: list[str] | None, out: Path, whole: Path) -> int:
    """Go on to the end; 0 if it is the one that was never interrupted, bit for bit."""
    code = cli.main(words)
    ours, theirs = (checkpoint.load(path)[0] for path in (out, whole))
    parts = ("learner", "replay", "run", "workers")
    return code or int(not all(equal(ours[name], theirs[name]) for name in parts))


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b)


def table(found: Sequence[Found]) -> str:
    lines = []
    for name in dict.fromkeys(one["signal"] for one in found):
        own = [one for one in found if one["signal"] == name]
        codes = ", ".join(f"{n} x {code}" for code, n in Counter(o["code"] for o in own).items())
        times = sorted(o["seconds_to_end"] for o in own if not o.get("ended_before")) or [0.0]
        lines.append(
            f"{own[0]['system']} {name}: {len(own)} runs, {sum(o['good'] for o in own)} good; "
            f"exit codes {codes}; learned {sum(o['learned'] for o in own)}, checkpoints whole "
            f"{sum(o['checkpoint'] == 'whole' for o in own)}; resumed bit-equal "
            f"{sum(o['resumed'] is True for o in own)} of "
            f"{sum(o['resumed'] is not None for o in own)}; processes left "
            f"{sum(o['processes_left'] for o in own)}, segments left "
            f"{sum(len(o['segments_left']) for o in own)}; seconds to the end: median "
            f"{times[len(times) // 2]:.2f}, most {times[-1]:.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
