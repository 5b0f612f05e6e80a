"""Does a checkpoint come back exactly, and is there always a good one, whatever interrupts?"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal.checkpoint import files as checkpoint
from shoal.checkpoint.files import blame, load, save
from shoal.errors import CheckpointError, ConfigError

REPOSITORY = Path(checkpoint.__file__).parents[1]
DTYPES = [np.dtype(np.bool_)] + [
    np.dtype(f"{kind}{size}")
    for kind, sizes in (("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)), ("f", (2, 4, 8)))
    for size in sizes
]


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, types and order included; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, set | frozenset):
        return sorted(map(repr, a)) == sorted(map(repr, b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b) if isinstance(a, float) else bool(a == b)


keys = st.text(max_size=4) | st.sampled_from(
    ["a", "a/b", "a.b", "", "..", "/", "$array", "$x", "__metadata__", "\ud800", "object", "files"]
)
dtypes = st.sampled_from(DTYPES)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0)))
scalars = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, ())).map(lambda a: a[()])
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**5000), 2**5000)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | scalars
)
leaves = plain | st.binary(max_size=20) | arrays
hashable = plain | st.binary(max_size=9) | st.text("ab/.", min_size=1, max_size=9).map(Path)


def trees(leaf: Any) -> Any:
    return st.recursive(
        leaf,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
            | st.dictionaries(hashable, inner, max_size=3)
            | st.sets(hashable, max_size=3)
            | st.frozensets(hashable, max_size=3)
        ),
        max_leaves=10,
    )


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, trees(leaves), max_size=4), st.dictionaries(st.text(), trees(leaves)))
def test_any_tree_comes_back_exactly(state: dict[str, Any], meta: dict[str, Any]) -> None:
    meta = {f"user {key}": value for key, value in meta.items()}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), 7, state, meta)
        state_again, meta_again = load(Path(folder))
    assert same(state_again, state)
    for added in ("format_version", "shoal", "time"):
        del meta_again[added]
    assert same(meta_again, meta)


def test_what_is_particular_comes_back_exactly(tmp_path: Path) -> None:
    grid = np.arange(12.0).reshape(3, 4)
    a = np.array([1.5], np.float32)
    state: dict[str, Any] = {
        "rng": np.random.default_rng(3).bit_generator.state,
        "numbers": [float("nan"), float("inf"), -0.0, 5e-324, 2**53, -(2**128), np.float16(np.nan)],
        "views": [grid.T, grid[::-1, ::2], np.broadcast_to(grid[0], (2, 4)), np.float32(2)],
        "empty": {"dict": {}, "list": [], "tuple": (), "array": np.zeros((2, 0, 3), np.int8)},
        "clash": {"x": {"y/z": a, "y": {"z": a + 1}}, "x/y": {"z": a + 2}, "x/y/z": a + 3},
        "tags": [{"$array": "w"}, {"$int": "0x1"}, {"$dict": {"$dict": 1}}, {"$": None}],
        "Weird name/../..": np.arange(3),
        "nothing": None,
    }
    save(tmp_path, 0, state, {})
    again, _ = load(tmp_path)
    assert same(again, state)
    assert all(view.flags.c_contiguous for view in again["views"][:3])
    again["views"][0][0, 0] = 9.0  # what is restored can be changed
    generator = np.random.PCG64()
    generator.state = again["rng"]
    assert np.random.Generator(generator).random() == np.random.default_rng(3).random()


def test_byte_order_comes_back_as_the_machines_own(tmp_path: Path) -> None:
    save(tmp_path, 0, {"a": np.array([1, 258], ">i4")}, {})
    array = load(tmp_path)[0]["a"]
    assert array.dtype == np.int32
    assert array.tolist() == [1, 258]


def test_any_reader_of_safetensors_reads_the_arrays(tmp_path: Path) -> None:
    odd = {f"p/{dtype.name}": np.ones(3, dtype)[::-1] for dtype in DTYPES}
    odd["scalar"], odd["empty"] = np.array(2.5), np.zeros((0, 4), np.float32)
    folder = save(tmp_path, 3, {"learner": odd, "note": "no arrays here"}, {})
    read = safetensors.numpy.load_file(folder / "learner.safetensors")
    assert set(read) == set(odd)
    assert all(
        same(read[name], np.ascontiguousarray(odd[name]).reshape(odd[name].shape)) for name in odd
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "learner.safetensors",
        "manifest.json",
    ]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": {object()}}}, "a/b/0 is of type builtins.object"),
        ({"a": [0, object()]}, "a/1 is of type builtins.object"),
        ({"a": np.array(["x"])}, "a is of type numpy.ndarray"),
        ({"a": np.array([{}], object)}, "a is of type numpy.ndarray .object."),
        ({"a": np.zeros(2, np.complex128)}, "complex128"),
        ({"a": np.ma.masked_array([1.0], [True])}, "MaskedArray"),
        ({"a": {object(): 2}}, "is of type builtins.object"),
        ({3: 2}, "entry 3"),
        ({"a": "x" * (17 << 20)}, "neither arrays nor bytes"),
    ],
)
def test_what_cannot_be_stored_is_named_before_anything_is_lost(
    tmp_path: Path, state: dict[Any, Any], message: str
) -> None:
    save(tmp_path, 1, {"x": 1}, {})
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path, 2, state, {})
    assert [path.name for path in tmp_path.iterdir()] == ["000000001"]
    assert load(tmp_path)[0] == {"x": 1}


def test_a_tree_that_contains_itself_is_refused(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append({"next": loop})
    with pytest.raises(CheckpointError, match="nested deeper"):
        save(tmp_path, 1, {"loop": loop}, {})


@pytest.mark.parametrize(
    "meta", [{"files": 1}, {"state": {}}, {"x": object()}, {"x": np.ones(1 << 18)}]
)
def test_meta_holds_small_values_under_free_names(tmp_path: Path, meta: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        save(tmp_path, 1, {}, meta)


def test_only_the_parts_that_are_asked_for_are_read(tmp_path: Path) -> None:
    """A damaged file of another part is not even looked at."""
    folder = save(tmp_path, 1, {"learner": np.ones(3), "replay": np.ones(9), "n": 4}, {"m": 5})
    (folder / "replay.safetensors").write_bytes(b"damaged")
    state, meta = load(tmp_path, parts=("learner", "n"))
    assert state["learner"].tolist() == [1.0] * 3 and state["n"] == 4 and "replay" not in state
    assert meta["m"] == 5 and load(tmp_path, parts=())[0] == {}
    for parts in (None, ("replay",)):
        with pytest.raises(CheckpointError, match=r"replay\.safetensors is damaged"):
            load(tmp_path, parts)


# ------------------------------------------------------------------ which one is kept and found


def test_the_newest_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    root = tmp_path / "run" / "checkpoint"
    for number in (0, 2048, 10_000_000_000, 4096):
        save(root, number, {"n": number}, {}, keep=2)
    # 4096 came last, as after a return to an earlier checkpoint: it is not deleted for being lower.
    names = sorted(path.name for path in root.iterdir())
    assert names == ["000002048", "000004096", "10000000000"]
    assert load(root)[0] == load(root.parent)[0] == {"n": 10_000_000_000}
    assert load(root / "000004096")[0] == {"n": 4096}
    save(root, 10_000_000_001, {"n": 1}, {}, keep=1)
    assert [path.name for path in root.iterdir()] == ["10000000001"]


def test_leavings_of_dead_writers_are_removed_and_of_living_ones_left(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    names = [f".tmp-1-{int(dead.stdout)}", f".tmp-1-{os.getpid()}", f".tmp-1-{os.getppid()}"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "learner.safetensors").write_bytes(b"half")
    save(tmp_path, 2, {}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[2], "000000002"]


def test_a_run_in_a_folder_named_by_a_number_is_found(tmp_path: Path) -> None:
    save(tmp_path / "20240101120000" / "checkpoint", 5, {"x": 1}, {})
    assert load(tmp_path / "20240101120000")[0] == {"x": 1}


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: None])
def test_where_there_is_none_the_error_says_what_to_give(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "run")
    with pytest.raises(CheckpointError, match="no checkpoint") as caught:
        load(tmp_path / "run")
    assert caught.value.where == str(tmp_path / "run")
    assert "run folder" in str(caught.value.fix)


def test_a_reader_follows_a_writer_that_replaces_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, {"x": 1}, {})
    read = checkpoint._read
    monkeypatch.setattr(checkpoint, "_read", lambda folder, parts: save_then_read(folder, parts))

    def save_then_read(folder: Path, parts: Any) -> Any:
        monkeypatch.setattr(checkpoint, "_read", read)
        save(tmp_path, 2, {"x": 2}, {}, keep=1)
        return read(folder, parts)

    assert load(tmp_path)[0] == {"x": 2}


# ------------------------------------------------------------------ interruptions


def state_of(number: int) -> dict[str, Any]:
    weights = {f"layer/{i}": np.full((4, 3), number + i, np.float32) for i in range(2)}
    return {"learner": weights, "workers": [{"obs": np.arange(number)}], "count": number}


CALLS = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir", "scandir", "stat")


@contextmanager
def failing(k: int) -> Iterator[Callable[[], int]]:
    """The k-th call to the file system raises; yields how many there were."""
    count, here = 0, threading.get_ident()
    originals = {name: getattr(os, name) for name in CALLS}

    def wrap(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if threading.get_ident() != here:  # another test's thread, which still ends
                return originals[name](*args, **kwargs)
            count += 1
            if count == k:
                if name == "close":  # the descriptor is gone all the same
                    originals[name](*args, **kwargs)
                raise OSError(errno.EIO, f"injected into {name}")
            return originals[name](*args, **kwargs)

        return call

    try:
        for name in CALLS:
            setattr(os, name, wrap(name))
        yield lambda: count
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


@pytest.mark.parametrize("number", [3, 2], ids=["next number", "same number"])
def test_an_error_at_any_call_leaves_a_good_checkpoint(tmp_path: Path, number: int) -> None:
    for k in range(1, 1000):
        root = tmp_path / str(k)
        save(root, 1, state_of(1), {})
        save(root, 2, state_of(2), {})
        (root / ".tmp-9-999999999").mkdir()
        new = state_of(number) | {"attempt": "new"}
        failed = False
        with failing(k) as calls:
            try:
                save(root, number, new, {})
            except CheckpointError as error:
                failed = True
                assert "cannot write" in str(error)
                assert isinstance(error.__cause__, OSError)
                assert str(root) in str(error)
        found = load(root)[0]
        assert same(found, new) or (failed and same(found, state_of(2)))
        save(root, 4, state_of(4), {})  # and the next one puts everything in order
        assert same(load(root)[0], state_of(4))
        assert all(path.name.isdigit() for path in root.iterdir())
        if calls() < k:
            break
        assert failed, f"call {k} failed unnoticed"
    assert 30 < k < 999


@pytest.mark.parametrize("number", [3, 2], ids=["next number", "same number"])
def test_a_disk_that_is_full_from_any_call_on_leaves_the_last_good_one(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the last write arrives; then nothing can be written or made, but things deleted."""
    monkeypatch.setattr(checkpoint, "_CHUNK", 256)
    originals = {name: getattr(os, name) for name in ("write", "mkdir", "fsync", "open")}
    new, k, failed = state_of(number) | {"attempt": "new"}, 0, True
    here = threading.get_ident()
    while failed:
        k, count, failed = k + 1, 0, False
        root = tmp_path / str(k)
        save(root, 1, state_of(1), {})
        save(root, 2, state_of(2), {})

        def wrap(name: str, k: int = k) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                reads = name == "open" and not args[1] & os.O_CREAT
                reads = reads or threading.get_ident() != here  # another test's thread
                count += not reads
                if reads or count < k:
                    return originals[name](*args, **kwargs)
                if name == "write" and count == k and len(args[1]) > 1:
                    return originals[name](args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")

            return call

        with monkeypatch.context() as patch:
            for name in originals:
                patch.setattr(os, name, wrap(name))
            try:
                save(root, number, new, {})
            except CheckpointError as error:
                failed = True
                assert "make room on the disk" in str(error)
        assert all(path.name.isdigit() for path in root.iterdir()), f"call {k}"
        found = load(root)[0]
        assert same(found, new) or (failed and same(found, state_of(2)))
    assert k > 10


def test_writes_that_take_only_a_part_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[: max(len(data) // 3, 1)]))
        save(tmp_path, 1, state_of(1), {})
    assert same(load(tmp_path)[0], state_of(1))


KILLER = """
import itertools, os, signal, sys
from pathlib import Path
import numpy as np
from shoal.checkpoint import files as checkpoint
from shoal.checkpoint.files import load, save
checkpoint._CHUNK = 64
root, number = Path(sys.argv[1]), int(sys.argv[2])
names = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink", "rmdir")
def state(n):
    return {"learner": {"w": np.full((5, 7), n, np.float32)}, "run": {"w": np.arange(n)}, "n": n}
def killed_at(k):
    count = itertools.count(1)
    def wrap(name, original):
        def call(*args, **kwargs):
            if next(count) == k:
                if name == "write":
                    original(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)
        return call
    for name in names:
        setattr(os, name, wrap(name, getattr(os, name)))
old = state(2)
for k in range(1, 1000):
    folder = root / str(k)
    save(folder, 1, state(1), {})
    save(folder, 2, old, {})
    pid = os.fork()
    if pid == 0:
        killed_at(k)
        save(folder, number, state(3), {})
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    found = load(folder)[0]["n"]
    assert found == 3 if status == 0 else found in (2, 3), (k, found)
    save(folder, 4, state(4), {})
    assert load(folder)[0]["n"] == 4, k
    assert all(path.name.isdigit() for path in folder.iterdir()), k
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
print(k)
"""


def run(source: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(source), *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


@pytest.mark.parametrize("number", ["3", "2"], ids=["next number", "same number"])
def test_a_kill_at_any_call_leaves_a_good_checkpoint(tmp_path: Path, number: str) -> None:
    done = run(KILLER, str(tmp_path), number)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, state_of(1), {})

    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, state_of(2), {})
    assert [path.name for path in tmp_path.iterdir()] == ["000000001"]
    assert same(load(tmp_path)[0], state_of(1))


def test_ctrl_c_during_a_replacement_puts_the_replaced_one_back(tmp_path: Path) -> None:
    done = run(
        """
        import os, signal, sys
        from shoal.checkpoint.files import load, save
        save(sys.argv[1], 1, {"n": 1}, {})
        rename = os.rename
        def then_interrupt(*args):
            os.rename = rename
            rename(*args)
            signal.raise_signal(signal.SIGINT)
        os.rename = then_interrupt
        try:
            save(sys.argv[1], 1, {"n": 2}, {})
        except KeyboardInterrupt:
            print(load(sys.argv[1])[0]["n"], os.listdir(sys.argv[1]))
        """,
        str(tmp_path),
    )
    assert done.stdout == "1 ['000000001']\n", done.stderr


def test_all_is_on_the_disk_before_the_name_is_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename
    written: dict[int, str] = {}

    def named(path: Any, *args: Any, **kwargs: Any) -> int:
        fd = os_open(path, *args, **kwargs)
        written[fd] = os.fspath(path)
        return fd

    def synced(fd: int) -> None:
        fsync(fd)
        events.append(("sync", written[fd]))

    def renamed(old: Any, new: Any) -> None:
        rename(old, new)
        events.append(("rename", os.fspath(new)))

    os_open = os.open
    monkeypatch.setattr(os, "open", named)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    root = tmp_path / "root"
    save(root, 1, state_of(1), {})
    new = str(root / f".tmp-1-{os.getpid()}")
    assert events == [
        ("sync", str(tmp_path)),  # where the root was made
        ("sync", f"{new}/learner.safetensors"),
        ("sync", f"{new}/workers.safetensors"),
        ("sync", f"{new}/manifest.json"),
        ("sync", new),
        ("rename", str(root / "000000001")),
        ("sync", str(root)),
    ]


def test_a_full_disk_is_told_and_costs_nothing(tmp_path: Path) -> None:
    done = run(
        """
        import resource, signal, sys
        import numpy as np
        from shoal.checkpoint.files import load, save
        from shoal.errors import CheckpointError
        save(sys.argv[1], 1, {"a": np.arange(3)}, {})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(sys.argv[1], 2, {"a": np.zeros(1_000_000)}, {})
        except CheckpointError as error:
            print(error)
        print(load(sys.argv[1])[0]["a"].tolist())
        """,
        str(tmp_path),
    )
    what, where, fix, loaded = done.stdout.splitlines()
    assert what.startswith("cannot write the checkpoint")
    assert where == f"  where: {tmp_path}/000000002"
    assert fix.startswith("  to do: make room on the disk: it takes 8.0 MB")
    assert loaded == "[0, 1, 2]"
    assert [path.name for path in tmp_path.iterdir()] == ["000000001"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write") as caught:
        save(tmp_path / "file" / "checkpoint", 1, {}, {})
    assert "make the folder writable" in str(caught.value.fix)
    assert caught.value.where == str(tmp_path / "file" / "checkpoint" / "000000001")


# ------------------------------------------------------------------ damage


def test_every_flipped_byte_is_noticed_and_its_file_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, state_of(1), {"system": "ppo"})
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == [
        "learner.safetensors",
        "manifest.json",
        "workers.safetensors",
    ]
    for path in files:
        good = path.read_bytes()
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= 1 << position % 8
            path.write_bytes(bad)
            with pytest.raises(CheckpointError, match=path.name):
                load(tmp_path)
        for bad_length in (good[:-1], good[: len(good) // 2], b"", good + b"\n"):
            path.write_bytes(bad_length)
            with pytest.raises(CheckpointError, match=path.name):
                load(tmp_path)
        path.write_bytes(good)
    assert same(load(tmp_path)[0], state_of(1))


@pytest.mark.parametrize("name", ["manifest.json", "learner.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (save(tmp_path, 1, state_of(1), {}) / name).unlink()
    for path in (tmp_path, tmp_path / "000000001"):
        with pytest.raises(CheckpointError, match=name):
            load(path)


def test_beside_a_damaged_one_the_newest_older_good_one_is_named(tmp_path: Path) -> None:
    folders = [save(tmp_path, n, state_of(n), {}, keep=9) for n in range(1, 5)]
    for folder in folders[2:]:
        (folder / "learner.safetensors").write_bytes(b"damaged")
    for path in (tmp_path, folders[3], folders[2]):
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value.fix).endswith(f"{folders[1]}")
    assert same(load(folders[1])[0], state_of(2))
    for folder in folders[:2]:
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert str(tmp_path) not in str(caught.value.fix)


def test_nothing_is_unpickled_on_the_way(tmp_path: Path) -> None:
    save(tmp_path, 1, state_of(1), {"config": {"a": 1}})
    done = run(
        """
        import _pickle, builtins, marshal, pickle, sys
        import numpy, safetensors.numpy
        from shoal.checkpoint.files import load
        def refuse(*args, **kwargs):
            raise AssertionError("code may run here")
        for module in (pickle, _pickle):
            for name in ("Unpickler", "load", "loads"):
                setattr(module, name, refuse)
        pickle._Unpickler = pickle._load = pickle._loads = numpy.load = numpy.fromfile = refuse
        marshal.loads = marshal.load = builtins.eval = builtins.exec = refuse
        state, meta = load(sys.argv[1])
        assert state["count"] == 1 and state["learner"]["layer/1"].sum() == 24
        heavy = {"jax", "torch", "ray", "yaml", "gymnasium"}.intersection(sys.modules)
        assert not heavy, heavy
        """,
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


def test_contents_that_do_not_fit_are_the_checkpoints_fault() -> None:
    with pytest.raises(CheckpointError, match="KeyError: 'weights'") as caught, blame("run"):
        dict[str, int]()["weights"]
    assert caught.value.where == "run"
    with pytest.raises(ConfigError, match="mine"), blame("run"):
        raise ConfigError("mine")
    with pytest.raises(KeyboardInterrupt), blame("run"):
        raise KeyboardInterrupt
