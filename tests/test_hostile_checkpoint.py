"""Does a checkpoint that someone forged end in one error, soon, and without running anything?"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint import files as checkpoint
from shoal.checkpoint.files import load, save
from shoal.errors import CheckpointError

REPOSITORY = Path(checkpoint.__file__).parents[1]


def forge(folder: Path, text: str | bytes, **files: bytes) -> Path:
    """A checkpoint whose checksums are right, whatever its manifest and files hold.

    ``text`` is the manifest without its opening brace and checksum; "FILES" in it becomes the true
    entries of ``files`` (named without ".safetensors").
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, content in files.items():
        (folder / f"{name}.safetensors").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries[f"{name}.safetensors"] = {"size": len(content), "sha256": digest}
    raw = text.encode() if isinstance(text, str) else text
    raw = raw.replace(b"FILES", json.dumps(entries).encode())
    head = b'{"sha256": "%s",\n' % hashlib.sha256(raw).hexdigest().encode()
    (folder / "manifest.json").write_bytes(head + raw)
    return folder


def manifest(state: str = "{}", files: str = "FILES", more: str = "") -> str:
    return f'"format_version": 1, {more} "files": {files}, "state": {state}}}'


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def test_a_forged_checkpoint_without_malice_loads(tmp_path: Path) -> None:
    """Else every test below would pass for the wrong reason."""
    data = tensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0\0\x80?")
    state = '{"a": {"w": {"$array": "w"}}, "n": 3}'
    loaded, meta = load(forge(tmp_path / "x", manifest(state, more='"system": "ppo",'), a=data))
    assert loaded["a"]["w"].tolist() == [1.0]
    assert (loaded["n"], meta["system"]) == (3, "ppo")


@pytest.mark.parametrize(
    "text",
    [
        "}",
        "",
        "[]}",
        '"format_version": 1}',
        '"format_version": 1, "files": {}}',
        '"format_version": 1, "files": [], "state": {}}',
        '"format_version": 1, "files": {}, "state": []}',
        '"format_version": 1, "files": {}, "state": null}',
        '"format_version": 1, "files": {}, "state": {}} trailing',
        '"format_version": 0, "files": {}, "state": {}}',
        '"format_version": -1, "files": {}, "state": {}}',
        '"format_version": 1.0, "files": {}, "state": {}}',
        '"format_version": true, "files": {}, "state": {}}',
        '"format_version": "1", "files": {}, "state": {}}',
        '"files": {}, "state": {}}',
        manifest('{"a": 1, "a": 2}'),
        manifest('{"a": {"b": [{"c": 1, "c": 1}]}}'),
        manifest(more='"files": {},'),
        manifest('{"a": NaN}'),
        manifest('{"a": -Infinity}'),
        manifest('{"a": 1e999}'),
        manifest('{"a": %s}' % ("9" * 33)),
        manifest('{"a": 0.%s}' % ("1" * 50)),
        manifest('{"a": {"$int": "1_0"}}'),
        manifest('{"a": {"$int": "0xzz"}}'),
        manifest('{"a": {"$int": 5}}'),
        manifest('{"a": {"$float": "1e3"}}'),
        manifest('{"a": {"$float": ["nan"]}}'),
        manifest('{"a": {"$array": "missing"}}'),
        manifest('{"a": {"$array": ["w"]}}'),
        manifest('{"a": {"$array": {"$array": "w"}}}'),
        manifest('{"a": {"$bytes": "missing"}}'),
        manifest('{"a": {"$tuple": "abc"}}'),
        manifest('{"a": {"$tuple": {"a": 1}}}'),
        manifest('{"a": {"$dict": [1]}}'),
        manifest('{"a": {"$scalar": ["float32", "00"]}}'),
        manifest('{"a": {"$scalar": ["object", "0000000000000000"]}}'),
        manifest('{"a": {"$scalar": ["float32", "zz00zz00"]}}'),
        manifest('{"a": {"$scalar": ["float32"]}}'),
        manifest('{"a": {"$scalar": [["float32"], {"a": 1}]}}'),
        manifest('{"a": {"$object": "os:system"}}'),
        manifest('{"a": {"$": 1}}'),
        manifest(more='"config": {"$array": "w"},'),
        manifest().encode() + b"\xff",
        '"\u00e9": 1, ' + manifest(),
    ],
)
def test_a_manifest_that_shoal_does_not_write_is_refused(tmp_path: Path, text: str | bytes) -> None:
    folder = forge(tmp_path / "x", text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "a/../../outside.safetensors",
        "sub/a.safetensors",
        "a.safetensors/",
        "./a.safetensors",
        "manifest.json",
        "a.pt",
        "",
        ".",
        "..",
        "a\u0000.safetensors",
        "A.safetensors",
    ],
)
def test_only_files_of_the_checkpoint_itself_are_opened(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tensors({})
    (tmp_path / "outside.safetensors").write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    state = json.dumps({"a": 1, "/etc/passwd": 1, "../outside": 1, name: 1})
    folder = forge(tmp_path / "x", manifest(state, json.dumps({name: entry})))
    opened = []
    os_open = os.open

    def recorded(path: Path, flags: int) -> int:
        opened.append(path.name)
        return os_open(path, flags)

    monkeypatch.setattr(os, "open", recorded)
    with pytest.raises(CheckpointError, match="no file of this checkpoint"):
        load(folder)
    assert opened == ["manifest.json"]


@pytest.mark.parametrize(
    "entry",
    [
        "null",
        "[]",
        "{}",
        '{"size": 10}',
        '{"size": "10", "sha256": "SHA"}',
        '{"size": 10, "sha256": null}',
        '{"size": 10, "sha256": ["SHA"]}',
        '{"size": -1, "sha256": "SHA"}',
        '{"size": 1000000000000000, "sha256": "SHA"}',
        '{"size": 10.5, "sha256": "SHA"}',
        '{"size": 10, "sha256": "sha"}',
    ],
)
def test_a_file_that_does_not_match_its_entry_is_refused(tmp_path: Path, entry: str) -> None:
    content = tensors({})
    entry = entry.replace("SHA", hashlib.sha256(content).hexdigest())
    assert len(content) == 10
    text = manifest('{"a": 1}', '{"a.safetensors": ' + entry + "}")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged"):
        load(forge(tmp_path / "x", text, a=content))


def spec(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        tensors({}, length=2**63),
        tensors({}, length=100),
        tensors(b"[]"),
        tensors(b"[" * 100_000),
        tensors(b'{"w":' * 100_000),
        tensors(b"\xff\xff"),
        tensors({"w": spec()}),
        tensors({"w": spec()}, b"\0" * 8),
        tensors({"w": spec(offsets=(4, 0))}, b"\0" * 4),
        tensors({"w": spec(offsets=(0, 2**63))}, b"\0" * 4),
        tensors({"w": spec(offsets=(-4, 0))}, b"\0" * 4),
        tensors({"w": spec(shape=(2**62, 4))}, b"\0" * 4),
        tensors({"w": spec(shape=(2**40,), offsets=(0, 2**42))}, b"\0" * 4),
        tensors({"w": spec(shape=(-1,))}, b"\0" * 4),
        tensors({"w": spec(shape="one")}, b"\0" * 4),
        tensors({"w": spec(dtype="O")}, b"\0" * 4),
        tensors({"w": spec(dtype="BF16", shape=(2,))}, b"\0" * 4),
        tensors({"w": spec(dtype="C64", shape=(1,), offsets=(0, 8))}, b"\0" * 8),
        tensors({"w": spec(), "x": spec()}, b"\0" * 4),
        tensors(b'{"w":%s,"w":%s}' % ((json.dumps(spec()).encode(),) * 2), b"\0" * 4),
        tensors(b'{"w":%s,"w":1}' % json.dumps(spec()).encode(), b"\0" * 4),
        tensors(b"{" + b'"a":0,' * 500_000 + b'"b":0}'),
        tensors({"w": spec(shape=[0] * 100, offsets=(0, 0))}),
        tensors({"w": spec(shape=[2**62, 0, 2**62], offsets=(0, 0))}),
        tensors({"x": spec()}, b"\0" * 4),
        tensors({"__metadata__": {"w": "text"}}),
        tensors({"w": spec(), "surplus": spec(offsets=(4, 8))}, b"\0" * 8),
    ],
)
def test_a_forged_tensor_file_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = forge(tmp_path / "x", manifest('{"a": {"$array": "w"}}'), a=content)
    with pytest.raises(CheckpointError):
        load(folder)


def test_one_array_cannot_stand_in_two_places(tmp_path: Path) -> None:
    content = tensors({"w": spec()}, b"\0" * 4)
    text = manifest('{"a": [{"$array": "w"}, {"$array": "w"}]}')
    with pytest.raises(CheckpointError, match="means nothing"):
        load(forge(tmp_path / "x", text, a=content))


class Exploit:
    """Touches a file as soon as anything unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("place", ["manifest", "tensors", "object array"])
def test_a_pickle_in_place_of_a_file_is_not_read_as_one(tmp_path: Path, place: str) -> None:
    target = tmp_path / "exploited"
    content = pickle.dumps(Exploit(target))
    if place == "object array":
        np.save(tmp_path / "a.npy", np.array([Exploit(target)]), allow_pickle=True)
        content = (tmp_path / "a.npy").read_bytes()
    folder = forge(tmp_path / "x", manifest('{"a": {"$array": "w"}}'), a=content)
    if place == "manifest":
        (folder / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        load(folder)
    assert not target.exists()
    pickle.loads(pickle.dumps(Exploit(target)))
    assert target.exists()  # the exploit itself works


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["manifest.json", "learner.safetensors"])
@pytest.mark.parametrize("turn_into", [link, pipe, folder])
def test_only_regular_files_are_read(
    tmp_path: Path, name: str, turn_into: Callable[[Path], None]
) -> None:
    turn_into(save(tmp_path, 1, {"learner": np.ones(3)}, {}) / name)
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path)


def test_links_in_a_root_are_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "other", 9, {"x": "forged"}, {})
    save(tmp_path / "root", 1, {"x": "own"}, {})
    (tmp_path / "root" / "000000009").symlink_to(tmp_path / "other" / "000000009")
    assert load(tmp_path / "root")[0] == {"x": "own"}


def test_a_newer_format_says_who_wrote_it_and_what_to_do(tmp_path: Path) -> None:
    save(tmp_path, 1, {}, {})
    forge(tmp_path / "000000002", '"format_version": 7, "shoal": "3.1", "unheard of": {"$new": 1}}')
    with pytest.raises(CheckpointError, match=r"format 7, written by Shoal 3\.1") as caught:
        load(tmp_path)
    assert "reads formats up to 1" in caught.value.what
    assert caught.value.fix == "install Shoal 3.1 or newer"


HUGE = {
    "nested lists": b'"a": ' + b"[" * (8 << 20),
    "nested dicts": b'"a": ' + b'{"a":' * (2 << 20),
    "nested and closed": manifest('{"a": ' + "[" * 900 + "]" * 900 + "}").encode(),
    "many empty lists": manifest('{"a": [%s[]]}' % ("[]," * (1 << 20))).encode(),
    "one long integer": manifest('{"a": %s}' % ("9" * (8 << 20))).encode(),
    "one long hexadecimal": manifest('{"a": {"$int": "0x%s"}}' % ("f" * (8 << 20))).encode(),
    "one long fraction": manifest('{"a": 0.%s}' % ("9" * (8 << 20))).encode(),
    "one long text": manifest('{"a": "%s"' % ("a" * (15 << 20))).encode(),
    "beyond the limit": manifest('{"a": "%s"}' % ("a" * (17 << 20))).encode(),
    "many tags": manifest('{"a": ' + '{"$tuple": [' * 400 + "]}" * 400 + "}").encode(),
}


@pytest.mark.parametrize("case", HUGE)
def test_size_alone_costs_neither_time_nor_memory(tmp_path: Path, case: str) -> None:
    """In 1.5 GB and 20 s at most; a text of 8 MB in decimal digits would take minutes."""
    forge(tmp_path / "x", HUGE[case])
    source = """if True:
        import resource, sys
        from shoal.checkpoint.files import load
        from shoal.errors import CheckpointError
        import safetensors
        resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        sys.set_int_max_str_digits(0)
        try:
            load(sys.argv[1])
            print("loaded")
        except CheckpointError as error:
            print(len(str(error)) < 2000)
    """
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", source, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    expected = "loaded" if case in ("many empty lists", "one long hexadecimal") else "True"
    assert done.stdout.strip() == expected, done.stderr[-2000:]


def test_any_forged_bytes_end_in_a_checkpoint_error_or_in_data(tmp_path: Path) -> None:
    """Random edits under right checksums: nothing but CheckpointError ever comes out."""
    rng = random.Random(0)
    state = {"a": {"w": np.arange(6, dtype=np.int16), "x": [np.float32(1), b"ab", (2**70, 1.5)]}}
    good = save(tmp_path / "good", 1, state, {"config": {"lr": 1e-3}})
    text = (good / "manifest.json").read_bytes().split(b"\n", 1)[1]
    content = (good / "a.safetensors").read_bytes()
    entry = json.dumps(json.loads(b"{" + text)["files"]).encode()
    text = text.replace(entry, b"FILES")
    assert b"FILES" in text
    snippets = [b"{", b"}", b"[", b"]", b'"', b"$", b",", b"0", b"-", b"null", b"\xff", b'"$array"']
    errors = 0
    for _ in range(500):
        parts = [bytearray(text), bytearray(content)]
        for _ in range(rng.randint(1, 3)):
            part = parts[rng.random() < 0.4]
            start = rng.randrange(min(len(part), 400))
            part[start : start + rng.randint(0, 3)] = rng.choice(snippets)
        try:
            load(forge(tmp_path / "x", bytes(parts[0]), a=bytes(parts[1])))
        except CheckpointError:
            errors += 1
    assert 300 < errors < 500, errors
