"""Does a process that dies without an exception report how, where, and what to do?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import exceptions

from shoal.errors import ConfigError, ShoalError
from shoal.fleet import death
from shoal.fleet.members import Died
from tests.faults.conftest import keeps_the_form, place_of

ROOT = str(Path(__file__).parents[2])
SMALL = [
    *("--system", "a2c"),
    *("--rollout.envs-per-worker", "2"),
    *("--rollout.fragment-length", "8"),
    *("--algorithm.network.hidden", "4"),
    *("--stop-steps", "4000"),
]
ENV = "tests.faults.broken:Broken"
DEATHS = {
    "os._exit": "its process ended during 'sample': Fatal: os._exit(3)",
    "segmentation": "its process ended during 'sample': Fatal Python error: Segmentation fault",
    "kill": "its process was killed during 'sample', by hand or for want of memory",
}


def broken(fault: str, at: int = 3) -> list[str]:
    return ["--rollout.env-kwargs", f'{{"fault": "{fault}", "at": {at}}}']


def shoal_process(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """``shoal`` as a user starts it."""
    env = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "shoal", *argv]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize("fault", DEATHS)
def test_three_deaths_in_a_row_end_the_run_with_the_cause(
    fault: str, shoal: Callable[..., Any]
) -> None:
    code, out, text, error = shoal("train", ENV, *SMALL, "--workers", "1", *broken(fault))
    lines = keeps_the_form(text)
    assert code == 1 and type(error) is Died
    assert lines[0] == f"error: worker 0 died 3 times in a row: {DEATHS[fault]}"
    assert fault == "kill" or place_of(fault) in lines[1]
    assert "cluster.in_process=true" in lines[2]
    assert "--cluster.in-process true" in lines[3]
    assert out.count(f"worker 0: {DEATHS[fault]}; it is replaced\n") == 2


@pytest.mark.usefixtures("one_ray")
def test_what_was_learned_before_is_saved(shoal: Callable[..., Any]) -> None:
    """Every worker lives for one fragment, so what ends the run is the bound per minute."""
    bound = ["--cluster.restarts-per-minute", "1", "--workers", "1", "--out", "run"]
    code, out, text, _ = shoal("train", ENV, *SMALL, *bound, *broken("os._exit", at=12))
    lines = keeps_the_form(text)
    assert code == 1 and "the 2th death within a minute" in lines[0]
    assert "cluster.restarts_per_minute is the bound" in lines[2]
    assert (
        f"go on with: shoal resume {Path('run').absolute()} --env {ENV}\n" in out
        and "could not be written" not in text
    )


@pytest.mark.ray
def test_nothing_but_what_happened_is_on_the_console(tmp_path: Path) -> None:
    """A whole run as a user sees it: no dumps, no log lines of Ray, nothing twice."""
    argv = ["train", "tests.faults.broken:Loud", *SMALL, "--workers", "1", "--out", "run"]
    done = shoal_process(tmp_path, *argv, *broken("segmentation"))
    assert done.returncode == 1
    keeps_the_form(done.stderr[done.stderr.index("error: ") :])
    before = done.stderr[: done.stderr.index("error: ")].splitlines()
    assert len(before) <= 6  # three processes of two environments each
    assert all(line.startswith("(worker 0, ") and "level loaded" in line for line in before)
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0].partition(" after")[0] for line in lines] == [
        "a2c on tests.faults.broken",
        f"until 4,000 env steps; run folder {tmp_path}/run",
        *(["worker 0", "worker 0 is back"] * 2),
        "ended by an error",
        "workers replaced",
        "run folder",
        "nothing was learned yet, so there is no checkpoint",
        "begin it anew with",
    ]


def test_os_exit_in_one_process_is_told(tmp_path: Path) -> None:
    done = shoal_process(tmp_path, "train", ENV, *SMALL, *broken("os._exit"))
    lines = keeps_the_form(done.stderr)
    assert done.returncode == 3
    assert "os._exit(3) was called" in lines[0] and place_of("os._exit") in lines[1]


def test_a_crash_in_one_process_shows_the_line(tmp_path: Path) -> None:
    done = shoal_process(tmp_path, "train", ENV, *SMALL, *broken("segmentation"))
    file, line = place_of("segmentation").split(":")
    assert done.returncode == -11
    assert f'{file}", line {line} in crash' in done.stderr


def test_a_forked_process_may_end_like_that() -> None:
    script = (
        "import os\n"
        "from shoal.fleet.host import tell_of_exits\n"
        "tell_of_exits(lambda status: print('told', status, flush=True))\n"
        "if not os.fork(): os._exit(4)\n"
        "os.wait(); os._exit(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "told 5\n")


DUMP = f"""*** SIGSEGV received at time=1 on cpu 1 ***
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "{sys.prefix}/lib/python3/site-packages/x/y.py", line 519 in string_at
  File "{__file__}", line 1 in step
  File "{ROOT}/shoal/fleet/worker.py", line 219 in _collect
"""


def test_last_words_from_another_node_are_kept_and_not_shown() -> None:
    """They come line by line, before the death is noticed; what others say is shown."""
    shown = [line for line in ["hello", *DUMP.splitlines(), "more"] if not death.hear(77, line)]
    assert shown == ["hello"]
    assert not death.hear(78, "File is open")
    why, _, where = death.cause(
        "sample", exceptions.RayActorError(error_msg="\n\tpid: 77")
    ).partition("\n")
    assert why == "its process ended during 'sample': Fatal Python error: Segmentation fault"
    assert Path(where.partition(":")[0]).name == Path(__file__).name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Task was killed due to the node running low on memory.", "its node ran out of memory"),
        ("The actor died because its node has died. Node Id: 3f", "its node was gone"),
        ("The worker died. pid: 3. worker process has died", "its process was killed"),
    ],
)
def test_ways_to_die(text: str, why: str) -> None:
    assert why in death.cause("sample", exceptions.RayActorError(error_msg=text))


def test_what_no_new_process_would_mend_is_an_error_of_its_own() -> None:
    text = "The actor died because of an error: ModuleNotFoundError: No module named 'shoal'"
    refused = death.refusal(exceptions.RayActorError(error_msg=text, actor_init_failed=True))
    assert isinstance(refused, ConfigError) and "module 'shoal' is missing" in refused.what
    refused = death.refusal(exceptions.RuntimeEnvSetupError("no space left"))
    assert isinstance(refused, ConfigError) and "no space left" in refused.what
    assert isinstance(death.refusal(exceptions.LocalRayletDiedError()), ShoalError)
    assert death.refusal(exceptions.RayActorError()) is None


def test_the_users_own_file_is_named_and_not_the_copy_on_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world.py").write_text("\nfall()\n")
    copy = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_3f2a/world.py"
    assert death.user_line([f'  File "{copy}", line 2, in step']) == "world.py:2 in step: fall()"
